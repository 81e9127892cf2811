"""Circuits of logic gates: evaluated, pruned, evolved, shipped, and the same in JavaScript."""

import itertools
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import hear, load_script
from py_mini_racer import MiniRacer

from nca_lib.lab import gates
from nca_lib.lab.goals import life_step
from nca_lib.show.page import DEMO, show_gates

script = load_script("book/experiments/circuits.py")
throwers = script.throwers


def shipped(name):
    """The result of each seed, and its circuit."""
    files = sorted(script.FOLDER.glob(f"{name}-*.json"))
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [(result, gates.Circuit(**result["circuit"])) for result in results]


def some_circuit(seed=0, bits=3):
    return gates.random_circuit(random.Random(seed), 9 * bits, 40, bits)


def test_pruning_keeps_the_function():
    rng, values = random.Random(1), np.random.default_rng(1).random((27, 50)) < 0.5
    for seed in range(20):
        circuit = some_circuit(seed)
        pruned = script.prune(circuit)
        assert len(pruned.gates) == len(gates.active(circuit)[1]) == len(gates.active(pruned)[1])
        expected = np.array(gates.evaluate(circuit, list(values)))
        np.testing.assert_array_equal(gates.evaluate(pruned, list(values)), expected)
        child = gates.mutate(circuit, set(gates.active(circuit)[1]), rng)
        assert script.prune(child) != pruned  # something in use has changed


@pytest.mark.parametrize("seed", range(3))
def test_packed_worlds_grow_as_plain_ones_do(seed):
    """Integers of packed bits against arrays of bools."""
    circuit, state = some_circuit(seed), np.random.default_rng(seed).random((3, 2, 6, 9)) < 0.5
    packed = [throwers.pack_grid(bits) for bits in state]
    grown = throwers.grow(circuit, packed, throwers.pack_grid(np.ones((2, 6, 9), bool)), 9)
    for bits in itertools.islice(grown, 4):
        state = np.stack([gates.step(circuit, state[:, w], wrap=False) for w in range(2)], axis=1)
        assert bits == [throwers.pack_grid(plane) for plane in state]


def test_evolution_improves_and_is_the_same_again():
    """Three bits of which an odd number is set: wrong for half of all at first."""
    bits = np.arange(8) >> np.arange(3)[:, None] & 1 == 1
    values, want = [gates.pack(row) for row in bits], gates.pack(bits.sum(axis=0) % 2 == 1)

    def errors(circuit, used):
        return ((gates.evaluate(circuit, values, used)[0] ^ want) & 255).bit_count()

    def run():
        parents = [gates.random_circuit(random.Random(seed), 3, 12, 1) for seed in range(3)]
        return list(itertools.islice(script.evolve(errors, parents, seed=0, generations=100), 8))

    found = run()
    assert found == run()
    assert [row[0] for row in found] == [3 + 1200 * (i + 1) for i in range(8)]
    assert [row[1] for row in found] == sorted((row[1] for row in found), reverse=True)
    assert found[-1][1] == (0, 2)  # two gates, as few as can be


def test_a_shipped_circuit_plays_life():
    grid = np.random.default_rng(0).random((40, 30)) < 0.4
    solved = [circuit for result, circuit in shipped("life") if result["wrong"] == 0]
    assert solved
    for circuit in solved:
        expected = np.asarray(life_step(jnp.asarray(grid, jnp.float32))) > 0.5
        np.testing.assert_array_equal(gates.step(circuit, grid[None], wrap=True)[0], expected)


def test_a_turned_circuit_knows_no_direction():
    circuit, state = some_circuit(), np.random.default_rng(6).random((3, 9, 9)) < 0.5
    turned, views = gates.turned(circuit), [np.rot90(state, turn, (1, 2)) for turn in range(4)]
    found, seen = [[gates.step(c, v, wrap=False) for v in views] for c in (turned, circuit)]
    either = np.any([np.rot90(bits, -turn, (1, 2)) for turn, bits in enumerate(seen)], axis=0)
    for turn, bits in enumerate(found):
        np.testing.assert_array_equal(bits, np.rot90(either, turn, (1, 2)))


def test_packed_life_and_its_gliders():
    """Against plain Life, and four gliders that fly apart with something else between them."""
    grid, row = np.zeros((48, 48), bool), 49
    glider = np.array([[0, 1, 0], [0, 0, 1], [1, 1, 1]], bool)
    grid[30:33, 30:33], grid[15:18, 15:18] = glider, np.rot90(glider, 2)
    grid[30:33, 15:18], grid[15:18, 30:33] = np.rot90(glider, -1), np.rot90(glider, 1)
    grid[23:25, 20:28] = True
    mask, where = throwers.pack_grid(np.ones_like(grid)), np.ones_like(grid)
    where[:, 24:] = False
    where, packed = throwers.pack_grid(where), throwers.pack_grid(grid)
    for _ in range(24):
        assert packed == throwers.pack_grid(grid)
        assert throwers.count_gliders(packed, mask, row) == 4
        assert throwers.count_gliders(packed, where, row) == 2
        packed = throwers.life_packed(packed, mask, row)
        grid = np.asarray(life_step(jnp.asarray(grid, jnp.float32))) > 0.5


def test_a_shipped_creature_walks_on():
    """Beyond what was judged, and around a ring."""
    pictures = script.poses(2, width=30)[:, :, 0]
    for result, circuit in shipped("bird"):
        state = np.concatenate([pictures[0], np.zeros_like(pictures[0])])
        for _ in range(100):
            state = gates.step(circuit, state, wrap=True)
        right = (state[:2] == np.roll(pictures[0], 50, axis=-1)).all()
        assert right or result["wrong"]


@pytest.mark.parametrize("name", ["life", "checkerboard", "letter", "thrower", "bird"])
def test_shipped_circuits_do_what_their_files_say(name):
    for result, circuit in shipped(name):
        assert script.make_errors(script.TASKS[name]())(circuit) == result["wrong"]
        assert len(circuit.gates) == result["history"][-1][3]
        assert (result["solved"] is not None) == (result["wrong"] == 0)


STEP = """var step = (circuit, planes, height, width, wrap) =>
    GateCells.step(circuit, planes.map((p) => Uint8Array.from(p)), height, width, wrap)
        .map((plane) => [...plane])"""


@pytest.mark.parametrize("wrap", [False, True])
def test_javascript_takes_the_same_step(wrap):
    v8 = MiniRacer()
    v8.eval(f"{(DEMO / 'gates.js').read_text(encoding='utf-8')}\n{STEP}")
    for circuit in (some_circuit(), shipped("letter")[0][1]):
        bits = len(circuit.outputs)
        state = np.random.default_rng(2).random((bits, 7, 5)) < 0.5
        planes = state.reshape(bits, -1).astype(int).tolist()
        found = np.array(v8.call("step", circuit._asdict(), planes, 7, 5, wrap))
        expected = gates.step(circuit, state, wrap)
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)
    v8.close()


def test_figures_show_their_bits_take_clicks_and_change_circuits(chromium):
    """One stands still; another has two bits that stay, then one that moves to the right."""
    tab, start = chromium.new_page(), np.random.default_rng(4).random((2, 16, 16)) < 0.5
    troubles, stay = hear(tab), gates.Circuit(18, (), (4, 13))
    still = {"circuit": stay, "start": start, "wrap": True, "seconds": 1e6, "life": 0}
    still |= {"colours": ["#000000", "#ffffff"], "alt": "noise", "title": "Noise"}
    moving = still | {"then": gates.Circuit(9, (), (3,)), "after": 3, "seconds": 0}
    tab.set_content(show_gates(still, moving).data)
    data = "canvas.getContext('2d').getImageData(0, 0, 16, 16).data"
    reds = f"canvas => [...{data}].filter((_, i) => i % 4 === 0)"

    def bits():
        return np.reshape(tab.locator("canvas").first.evaluate(reds), (16, 16)) == 255

    np.testing.assert_array_equal(bits(), start[0])
    assert troubles == []
    for _ in range(5):  # by chance a click may leave bits as they were, if hardly five
        tab.locator("canvas").first.click(position={"x": 20, "y": 20})
    assert (bits() != start[0]).any()
    shown = f"String(({reds})(document.querySelectorAll('canvas')[1]))"
    moved = ",".join(map(str, 255 * np.roll(start[0], 1, axis=1).ravel()))
    tab.wait_for_function(f"(moved) => {shown} === moved", arg=moved)
    tab.close()


def test_a_hardened_surrogate_computes_what_the_straight_one_does():
    """In whole gates, and on bits, the two are one circuit."""
    rng = np.random.default_rng(3)
    layers = script.draw_layers(rng, 9, 2)
    logits = [jnp.asarray(rng.normal(size=(ends.shape[1], 16)), jnp.float32) for ends in layers]
    values = rng.random((9, 30)) < 0.5
    soft_outputs = jax.jit(script.soft_outputs, static_argnums=3)
    found = soft_outputs(logits, layers, jnp.asarray(values, jnp.float32), "straight")
    expected = gates.evaluate(script.harden(logits, layers, 9), list(values))
    np.testing.assert_allclose(found, np.array(expected, np.float32), atol=1e-5)
