"""Evolve the circuits of chapter 9, three seeds each, and race them against two surrogates.

    python book/experiments/circuits.py [--only TASK ...]

Each result goes to nca_lib/data/circuits/: TASK-SEED.json with the circuit and how it came about,
races.csv with the surrogates. Times are seconds of one core, as the processor counts them. A
surrogate has the time that evolution took with the same seed, but at least `LEAST` seconds (those
of the first three tasks had a minute), compilation included, and is measured as a circuit of whole
gates. What is there already is left alone, so it
can be stopped and taken up again.
"""

import argparse
import csv
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from nca_lib.lab import gates
from nca_lib.lab.checkpoint import write_atomic, write_table
from nca_lib.lab.goals import life_step
from nca_lib.lab.machine import describe_device, versions

sys.path.insert(0, str(Path(__file__).parent))  # where it was imported from elsewhere
import throwers

FOLDER = Path(__file__).parents[2] / "nca_lib" / "data" / "circuits"
SIZE, STEPS = 16, 20  # of the grids that patterns grow on, in cells, and of their growth
LETTER = """\
................
................
..RRG.......BB..
..RRGG......BB..
..RRGGG.....BB..
..RR.GGG....BB..
..RR..GGG...BB..
..RR...GGG..BB..
..RR....GGG.BB..
..RR.....GGGBB..
..RR......GGBB..
..RR.......GBB..
..RR........BB..
..RR........BB..
................
................
""".splitlines()
COLOURS = ".RBG"  # by the number that a cell's first two bits spell, the second one counting two


# A creature that walks to the right, one cell every other step: its legs apart, and together.
CREATURE = """\
.......YYY.....
.......YKYOO...
YY....YYYY.....
YYYYYYYYYY.....
.YYYYYYYY......
..YYYYYY.......
""".splitlines()
LEGS = ["...O..O........\n...OO.OO.......".splitlines()]
LEGS += ["....OO.........\n....OOO........".splitlines()]
BODY = ".YOK"  # as in COLOURS


class Task(NamedTuple):
    """What a circuit has to do, and what it and its evolution may spend."""

    start: np.ndarray  # bools (inputs, examples), or (C, worlds, H, W) to grow from
    # Bools (outputs, examples), or (visible bits, worlds, H, W) with an axis in front if each step
    # has its own; None where gliders count.
    target: np.ndarray | None
    gates: int  # of each circuit, in use or not
    islands: int
    steps: int = STEPS
    window: int = 1  # the last steps of growth, which are judged
    weight: int = 1  # of a cell that should not be 0
    limit: float = 60.0  # seconds of one core
    generations: int = 1000  # of each island, before the worse half is given up

    @property
    def grows(self) -> bool:
        """Whether it is of cells that grow, and not of examples."""
        return self.start.ndim == 4

    @property
    def wires(self) -> tuple[int, int]:
        """How many inputs and outputs a circuit for it has."""
        bits = len(self.start)
        return (9 * bits, bits) if self.grows else (bits, len(self.target))


def life() -> Task:
    """Give all 512 neighbourhoods, and what becomes of their middle in Conway's Life."""
    near = np.arange(512) >> np.arange(9)[:, None] & 1 == 1
    around = near.sum(axis=0) - near[4]
    return Task(
        near, ((around == 3) | ((around == 2) & near[4]))[None], gates=100, islands=2, limit=75.0
    )


def checkerboard(seed: int = 0, worlds: int = 4, size: int = SIZE) -> Task:
    """Give random bits, four a cell, to become squares of two by two cells."""
    start = np.random.default_rng(seed).random((4, worlds, size, size)) < 0.5
    row, column = np.indices((size, size)) // 2
    target = np.broadcast_to((row + column) % 2 == 1, (1, worlds, size, size))
    return Task(start, target, gates=150, islands=4, window=3, limit=30.0)


def letter() -> Task:
    """Give one cell, all eight bits of it set, to become a letter in three colours."""
    numbers = np.array([[COLOURS.index(colour) for colour in row] for row in LETTER])
    start = np.zeros((8, 1, SIZE, SIZE), bool)
    start[..., SIZE // 2, SIZE // 2] = True
    target = np.stack([numbers & 1, numbers >> 1])[:, None] == 1
    return Task(start, target, gates=150, islands=8, weight=2)


def poses(count: int, height: int = 12, width: int = 26) -> np.ndarray:
    """Draw the creature at steps 0, 1 and so on: bools (count, 2, 1, height, width)."""
    drawn = np.zeros((count, height, width), int)
    for step, grid in enumerate(drawn):
        rows = CREATURE + LEGS[step % 2]
        body = np.array([[BODY.index(colour) for colour in row] for row in rows])
        left = 4 + step // 2  # there is room for what it might leave behind
        grid[2 : 2 + len(body), left : left + body.shape[1]] = body
    return np.stack([drawn & 1, drawn >> 1], axis=1)[:, :, None] == 1


def bird(steps: int = 11, judged: int = 8) -> Task:
    """Give a creature, two bits of each cell hidden and 0, to walk on; how it starts is free."""
    pictures = poses(steps + 1)
    start = np.concatenate([pictures[0], np.zeros_like(pictures[0])])
    task = Task(start, pictures[-judged:], gates=120, islands=4, steps=steps, window=judged)
    return task._replace(limit=100.0, generations=10_000)


def thrower() -> Task:
    """Give one cell, to grow a pattern from which Life makes gliders."""
    side = 2 * throwers.GROWTH + 1
    start = np.zeros((4, 1, side, side), bool)
    start[..., throwers.GROWTH, throwers.GROWTH] = True
    task = Task(start, None, gates=60, islands=4, steps=throwers.GROWTH)
    return task._replace(limit=40.0, generations=100)


TASKS = {
    "life": life,
    "checkerboard": checkerboard,
    "letter": letter,
    "thrower": thrower,
    "bird": bird,
}


def make_errors(task: Task) -> Callable[..., int]:
    """Count what a circuit gets wrong: examples, or cells in the last steps of growth."""
    if task.target is None:
        return throwers.make_throws(task.start)
    pack = throwers.pack_grid if task.grows else gates.pack
    mask, start = pack(np.ones(task.start.shape[1:], bool)), [pack(bits) for bits in task.start]
    wanted = task.target if task.target.ndim == 5 else [task.target] * task.window
    wanted = [([pack(bits) for bits in target], pack(target.any(axis=0))) for target in wanted]

    def wrong(bits: list[int], target: list[int], lit: int) -> int:
        different = 0
        for have, want in zip(bits, target, strict=False):  # hidden bits are free
            different |= (have ^ want) & mask
        return different.bit_count() + (task.weight - 1) * (different & lit).bit_count()

    def errors(circuit: gates.Circuit, used: gates.Used | None = None) -> int:
        if not task.grows:
            return wrong(gates.evaluate(circuit, start, used), *wanted[0])
        states = throwers.grow(circuit, start, mask, task.start.shape[-1], used)
        states = [next(states) for _ in range(task.steps)]
        return sum(
            wrong(bits, *want) for bits, want in zip(states[-task.window :], wanted, strict=True)
        )

    return errors


def prune(circuit: gates.Circuit) -> gates.Circuit:
    """Leave out the gates that no output depends on. The function stays the same."""
    inputs, (_, wires) = circuit.inputs, gates.active(circuit)
    new = dict(enumerate(range(inputs)))
    new |= {wire: inputs + number for number, wire in enumerate(wires)}
    kept = (circuit.gates[wire - inputs] for wire in wires)
    kept = tuple((function, new[a], new[b]) for function, a, b in kept)
    return gates.Circuit(inputs, kept, tuple(new[wire] for wire in circuit.outputs))


Score = tuple[int, int]  # wrong bits, and where none is, active gates
CHILDREN = 4  # of each parent in a generation


def evolve(
    errors: Callable[[gates.Circuit, gates.Used], int],
    parents: list[gates.Circuit],
    seed: int,
    generations: int = 1000,
) -> Iterator[tuple[int, Score, gates.Circuit]]:
    """Evolve circuits that make fewer errors; those that make none, with fewer gates. Never ends.

    Each parent is an island, a (1 + 4) evolution strategy. A round takes so many generations for
    each island; those that remain when the worse half has been dropped share the time of all. After
    each round (evaluations so far, score, circuit) of the best one is given.
    """
    rng = random.Random(seed)

    def scored(circuit: gates.Circuit) -> tuple[Score, gates.Circuit, set[int]]:
        used = gates.active(circuit)
        wrong = errors(circuit, used)
        return (wrong, 0 if wrong else len(used[1])), circuit, set(used[1])

    islands, evaluations = [scored(parent) for parent in parents], len(parents)
    while True:
        for number, parent in enumerate(islands):
            for _ in range(generations * len(parents) // len(islands)):
                children = [scored(gates.mutate(*parent[1:], rng)) for _ in range(CHILDREN)]
                child = min(children, key=lambda one: one[0])
                parent = child if child[0] <= parent[0] else parent
                evaluations += CHILDREN
            islands[number] = parent
        islands.sort(key=lambda island: island[0])
        islands = islands[: (len(islands) + 1) // 2]
        yield evaluations, *islands[0][:2]


def train(name: str, seed: int) -> dict:
    """Evolve until the limit, or until some time after everything is right."""
    task, rng = TASKS[name](), random.Random(seed)
    inputs, outputs = task.wires
    parents = [gates.random_circuit(rng, inputs, task.gates, outputs) for _ in range(task.islands)]
    begin, history, solved = time.process_time(), [], None
    rounds = evolve(make_errors(task), parents, seed, task.generations)
    for evaluations, (wrong, _), circuit in rounds:
        seconds, count = time.process_time() - begin, len(gates.active(circuit)[1])
        if not history or history[-1][2:] != [wrong, count]:
            history.append([evaluations, round(seconds, 2), wrong, count])
        if wrong == 0 and solved is None:
            solved = {"evaluations": evaluations, "seconds": round(seconds, 2), "gates": count}
        if seconds > min(task.limit, 1.3 * solved["seconds"] + 4 if solved else np.inf):
            break
    about = {"device": describe_device(), "versions": versions()}
    config = task._asdict() | {"start": task.start.shape, "target": np.shape(task.target)}
    told = {"task": name, "seed": seed, "config": config, "evaluations": evaluations}
    told |= {"seconds": round(seconds, 2), "wrong": wrong, "solved": solved, "history": history}
    return told | about | {"circuit": prune(circuit)._asdict()}


# The answers of each gate to 00, 01, 10 and 11.
TABLES = np.arange(16)[:, None] >> np.arange(4) & 1
PASS = 12  # the gate that passes its first bit on, which all gates of a surrogate begin near
WIDEST = 256  # gates of a surrogate's first layer; each layer has half as many as the one before
RATES = (0.02, 0.06, 0.2)  # of Adam
SURROGATES = ("straight", "soft")
LEAST = 40.0  # seconds of one core that a surrogate has, however quick evolution was


def draw_layers(rng: np.random.Generator, inputs: int, outputs: int) -> list[np.ndarray]:
    """Draw fixed wires (2, gates) for each layer; as far as there are enough, all are read."""
    layers, width = [], WIDEST
    while width >= outputs:
        ends = [rng.permutation(inputs) for _ in range(-(-2 * width // inputs))]
        layers.append(np.concatenate(ends)[: 2 * width].reshape(2, width))
        inputs, width = width, width // 2
    return layers


def soft_outputs(logits: list, layers: list, values: jax.Array, surrogate: str) -> jax.Array:
    """Compute layers of gates that are mixtures of all 16, weighted by a softmax of the logits.

    The mixture is taken of their answers, and between 0 and 1 an answer is interpolated, as in
    "Deep Differentiable Logic Gate Networks" (Petersen and others 2022). For "straight" the way
    forward has the likeliest gates, whole ones.
    """
    for logit, (a, b) in zip(logits, layers, strict=True):
        answers = jax.nn.softmax(logit) @ TABLES.astype(np.float32)
        if surrogate == "straight":
            hard = jnp.asarray(TABLES, jnp.float32)[logit.argmax(axis=-1)]
            answers += jax.lax.stop_gradient(hard - answers)
        t00, t01, t10, t11 = answers.T.reshape(4, -1, *[1] * (values.ndim - 1))
        a, b = values[a], values[b]
        values = t00 * (1 - a) * (1 - b) + t01 * (1 - a) * b + t10 * a * (1 - b) + t11 * a * b
    return values


def harden(logits: list, layers: list, inputs: int) -> gates.Circuit:
    """Take the likeliest gate of each mixture."""
    chosen, before, first = [], 0, inputs
    for logit, ends in zip(logits, layers, strict=True):
        wires = np.asarray(ends) + before
        functions = np.asarray(logit).argmax(axis=-1)
        chosen += zip(functions.tolist(), *wires.tolist(), strict=True)
        before, first = first, first + len(functions)
    return gates.Circuit(inputs, tuple(chosen), tuple(range(before, first)))


def make_loss(task: Task, layers: list, surrogate: str) -> Callable[[list], jax.Array]:
    """Judge mixtures of gates, by mean squared errors or by how much lives how far away.

    The count of gliders has no slope, nor has the number of cells outside of the box, while there
    are none. So each living cell counts by its squared distance from the middle, at each of the
    first `SLOPES` steps of Life.
    """
    start = jnp.asarray(task.start, jnp.float32)
    far = jnp.square(throwers.distance() / throwers.HALF)

    def ask(logits: list, state: jax.Array) -> jax.Array:
        (height, width), padded = state.shape[-2:], jnp.pad(state, [(0, 0)] * 2 + [(1, 1)] * 2)
        near = [padded[..., 1 + y :, 1 + x :][..., :height, :width] for y, x in gates.NEIGHBOURS]
        near = jnp.stack(near, axis=1).reshape(task.wires[0], *state.shape[1:])
        return soft_outputs(logits, layers, near, surrogate)

    def ask_turned(logits: list, state: jax.Array) -> jax.Array:
        views = [jnp.rot90(state, turn, (2, 3)) for turn in range(4)]
        answers = [jnp.rot90(ask(logits, v), -turn, (2, 3)) for turn, v in enumerate(views)]
        return 1 - jnp.prod(1 - jnp.stack(answers), axis=0)

    def grown(logits: list, step: Callable) -> jax.Array:
        def scanned(state, _):
            return (step(logits, state),) * 2

        return jax.lax.scan(scanned, start, length=task.steps)[1]

    def thrown(logits: list) -> jax.Array:
        grid = jnp.pad(grown(logits, ask_turned)[-1, 0, 0], throwers.HALF - throwers.GROWTH)

        def live(grid, _):
            grid = life_step(grid, surrogate)
            return grid, (grid * far).sum()

        return -jax.lax.scan(live, grid, length=throwers.SLOPES)[1].mean()

    if task.target is None:
        return thrown
    target = jnp.asarray(task.target, jnp.float32)
    target = target if target.ndim == 5 else target[None]
    heavy = 1 + (task.weight - 1) * target.max(axis=1, keepdims=True)

    def loss(logits: list) -> jax.Array:
        once = not task.grows
        values = (
            soft_outputs(logits, layers, start, surrogate)[None] if once else grown(logits, ask)
        )
        return (heavy * jnp.square(values[-task.window :, : target.shape[1]] - target)).mean()

    return loss


def descend(name: str, surrogate: str, rate: float, seed: int, limit: float) -> Iterator[tuple]:
    """Train for `limit` seconds; yields (seconds, steps, errors in whole gates) on the way."""
    begin, task, rng = time.process_time(), TASKS[name](), np.random.default_rng(seed)
    errors, (inputs, outputs) = make_errors(task), task.wires
    layers = draw_layers(rng, inputs, outputs)
    logits = [rng.normal(size=(ends.shape[1], 16)).astype(np.float32) for ends in layers]
    logits = [jnp.asarray(logit).at[:, PASS].add(5.0) for logit in logits]
    # Behind hundreds of steps of Life gradients have any length; their direction is what is used.
    normed = [optax.normalize_by_update_norm(), optax.zero_nans()] if task.target is None else []
    adam, loss = optax.chain(*normed, optax.adam(rate)), make_loss(task, layers, surrogate)

    @jax.jit
    def update(logits: list, state: optax.OptState) -> tuple:
        change, state = adam.update(jax.grad(loss)(logits), state)
        return optax.apply_updates(logits, change), state

    state, steps, shown = adam.init(logits), 0, 0.0
    while (seconds := time.process_time() - begin) < limit:
        logits, state = jax.block_until_ready(update(logits, state))
        steps += 1
        if seconds > shown:
            shown = seconds + limit / 40
            yield seconds, steps, errors(harden(logits, layers, inputs))


def read_races() -> list[list[str]]:
    """Read the rows of the races that are there, without the header."""
    path = FOLDER / "races.csv"
    return list(csv.reader(path.read_text("utf-8").splitlines()))[1:] if path.exists() else []


def race(name: str, surrogate: str) -> None:
    """Try each step size with seed 0, and the best with two more seeds; write after each run."""
    best = {}
    for rate, seed in [*((rate, 0) for rate in RATES), (None, 1), (None, 2)]:
        rate = rate or min(best, key=best.get)
        label, rows = [name, surrogate, f"{rate:g}", str(seed)], read_races()
        if not any(row[:4] == label for row in rows):
            evolved = json.loads((FOLDER / f"{name}-{seed}.json").read_text("utf-8"))
            limit = max((evolved["solved"] or evolved)["seconds"], LEAST)
            for seconds, steps, wrong in descend(name, surrogate, rate, seed, limit):
                rows.append([*label, f"{seconds:.1f}", str(steps), str(wrong)])
            write_table(FOLDER / "races.csv", [HEADER, *rows])
        if seed == 0:
            best[rate] = min(int(row[-1]) for row in rows if row[:4] == label)


HEADER = ["task", "surrogate", "rate", "seed", "seconds", "steps", "wrong"]


def main() -> None:
    """Run what is missing and write after each run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    FOLDER.mkdir(exist_ok=True)
    given = parser.parse_args()
    for name, seed in tqdm([(name, seed) for seed in range(3) for name in given.only]):
        path = FOLDER / f"{name}-{seed}.json"
        if not path.exists():
            write_atomic(path, (json.dumps(train(name, seed)) + "\n").encode())
    for name, surrogate in tqdm([(n, s) for n in given.only for s in SURROGATES]):
        race(name, surrogate)


if __name__ == "__main__":
    main()
