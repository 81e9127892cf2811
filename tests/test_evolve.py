"""Evolution in JavaScript against evolution.py: strategies, lives, workers, files and links."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_script
from jax.flatten_util import ravel_pytree
from py_mini_racer import JSEvalException, MiniRacer
from test_browser import ATOB, as_masks

from nca_lib import load_run
from nca_lib.evolution import second_moments
from nca_lib.lab.config import PRESETS
from nca_lib.lab.task import make_strategy, make_task
from nca_lib.rollout import fire_schedule
from nca_lib.show import page as demo

ENGINE = ("nca", "rollout", "evolve", "crew", "record")
SCRIPTS = "\n".join((demo.DEMO / f"{name}.js").read_text(encoding="utf-8") for name in ENGINE)
BTOA = "var btoa = (t) => Uint8Array.from(t, (c) => c.charCodeAt(0)).toBase64();"


@pytest.fixture(scope="module")
def v8():
    """V8 with the whole engine; `ask(code, **values)` evaluates code that names the values."""
    engine = MiniRacer()
    engine.eval(f"{ATOB}\n{BTOA}\n{SCRIPTS}")

    def ask(code, **values):
        given = "".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
        return json.loads(engine.eval(f"(() => {{{given} return JSON.stringify({code}); }})()"))

    yield ask
    engine.close()


def settings(config):
    return dataclasses.asdict(config) | {"pairs": True}


TELL = """(() => {
    const state = ES.init(settings, mean);
    return generations.map(({ moments, noise, fitness }) => {
        const seen = moments.map((m) => Float64Array.from(m));
        Evolution.finish(ES.look(settings, state, function* () { return seen; }));
        const shaken = ES.shake(settings, state, Float64Array.from(noise[1]));
        const member = [...ES.member(state, shaken)], mirrored = [...ES.member(state, shaken, -1)];
        const scores = fitness.map((f) => f ?? Infinity);
        const noiseAt = (i) => Float64Array.from(noise[i]);
        Evolution.finish(ES.tell(settings, state, scores, noiseAt));
        const std = [...ES.std(settings, state)];
        return { member, mirrored, mean: [...state.mean], coordinates: [...state.std], std };
    });
})()"""


@pytest.mark.parametrize("ranks", [True, False])
@pytest.mark.parametrize(("name", "rate"), [("open_es", 0.01), ("pgpe", 0.6), ("whitened", 0.6)])
def test_a_generation_of_each_strategy_is_that_of_python(v8, name, rate, ranks):
    told = {"channels": 5, "hidden": 6, "size": 8, "padding": 2, "population": 8, "generations": 4}
    told |= {"strategy": name, "ranks": ranks, "learning_rate": rate, "learning_rate_end": 0.3}
    config, rng = dataclasses.replace(PRESETS["quick"], **told), np.random.default_rng(0)
    task = make_task(config)
    strategy = make_strategy(config, task.params)
    mean = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), "float32"), task.params)
    state, generations, wanted = strategy.init(jax.random.key(0), mean), [], []

    def flat(params):
        return demo.flatten(params).tolist()

    for number in range(3):  # momentum and sigmas of the one before are in the next
        squares = (x.T @ x for x in (rng.normal(size=(40, 16)), rng.normal(size=(40, 7))))
        moments = dict(zip(("hidden", "output"), map(jnp.float32, squares), strict=True))
        state = strategy.look(state, lambda _, moments=moments: moments)
        asked, state = strategy.algorithm.ask(jax.random.key(number), state, strategy.params)
        centre, std = strategy.mean(state), strategy._coordinate_std(state)
        noise = jax.tree.map(lambda a, m, s: (a[:4] - m) / s, asked, centre, std)
        fitness = rng.uniform(size=8).astype(np.float32)
        fitness[[2, 5]] = np.inf  # two that exploded share a rank
        weights = jax.vmap(strategy.members(state))(asked)
        state, _ = strategy.tell(jax.random.key(0), asked, jnp.asarray(fitness), state)
        pairs = [flat(jax.tree.map(lambda z, i=i: z[i], noise)) for i in range(4)]
        scores = [float(f) if np.isfinite(f) else None for f in fitness]
        seen = [np.ravel(m).tolist() for m in moments.values()]
        generations.append({"moments": seen, "noise": pairs, "fitness": scores})
        trees = {"mean": strategy.mean(state), "std": strategy.std(state)}
        trees |= {"coordinates": strategy._coordinate_std(state)}
        for place, i in (("member", 1), ("mirrored", 5)):
            trees[place] = jax.tree.map(lambda w, i=i: w[i], weights)
        wanted.append({key: flat(tree) for key, tree in trees.items()})
    told = {"settings": settings(config), "mean": flat(mean), "generations": generations}
    for found, expected in zip(v8(TELL, **told), wanted, strict=True):
        for key, values in expected.items():
            np.testing.assert_allclose(found[key], values, rtol=0, atol=1e-5, err_msg=key)
    assert np.abs(np.subtract(wanted[-1]["mean"], told["mean"])).max() > 0.01


LIFE = """(() => {
    const world = Rollout.makeWorld(settings, target);
    const fires = masks.map((mask) => {
        const fire = new Uint8Array(world.area);
        mask.forEach((k) => { fire[(Math.floor(k / 32) + 1) * 34 + (k % 32) + 1] = 1; });
        return fire;
    });
    const losses = members.map((weights) =>
        Evolution.finish(world.live(weights, fires, settings.window)));
    const moments = Evolution.finish(world.moments(members[0], fires)).map((m) => [...m]);
    return { losses, moments };
})()"""


@pytest.mark.parametrize("mask", ["paired", "bernoulli"])
def test_lives_losses_and_what_cells_see_are_those_of_jax(v8, mask):
    run = load_run("lizard")
    fires = fire_schedule(jax.random.key(3), 32, 32, 32, mask)
    flat, unravel = ravel_pytree(run.params)
    noise = 0.003 * jax.random.normal(jax.random.key(4), (4, flat.size))
    members = [run.params, *map(unravel, flat + noise)]
    found = v8(
        LIFE,
        settings=settings(run.config),
        target=run.target.ravel().tolist(),
        masks=[np.flatnonzero(m).tolist() for m in as_masks(fires, 32, 32)],
        members=[demo.flatten(member).tolist() for member in members],
    )
    judge = jax.jit(lambda member: run.task.judge(member, run.task.start, fires)[0])
    losses = [judge(member) for member in members]
    np.testing.assert_allclose(found["losses"], losses, rtol=0, atol=1e-5)
    assert np.ptp(found["losses"]) > 1e-4
    seen = second_moments(run.task.merge(run.params), run.task.start, fires)
    for square, name in zip(found["moments"], ("hidden", "output"), strict=True):
        np.testing.assert_allclose(square, np.ravel(seen[name]), rtol=1e-4, atol=1e-5)


COMPARE = """(() => {
    let [worst, died, grew] = [0, 0, 0];
    const inner = Array.from({ length: 144 }, (_, k) => 14 * Math.floor(k / 12) + (k % 12) + 15);
    for (let seed = 0; seed < 60; seed++) {
        const settings = { ...Evolution.DEFAULTS, ...told, seed, std: seed % 3 ? 0.4 : 0.1 };
        const noise = ES.noiseOf(settings, ES.init(settings), 0);
        const weights = Float32Array.from(noise, (z) => settings.std * z);
        const model = NCA.open(NCA.encode({ ...settings, weights }, {}));
        const state = NCA.seedState(12, 12, 8);
        const world = Rollout.makeWorld(settings, new Float32Array(4 * 144));
        world.setWeights(weights);
        world.plant();
        for (const fire of Rollout.fireSchedule(ES.makeBits(seed, 0, ES.LUCK), settings)) {
            NCA.step(model, state, inner.map((k) => fire[k]));
            world.step(fire);
            const fast = inner.flatMap((k) => [...world.cells.subarray(8 * k, 8 * k + 8)]);
            state.cells.forEach((slow, i) => {
                const apart = Math.abs(fast[i] - slow) / Math.max(1, Math.abs(slow));
                worst = Math.max(worst, Number.isNaN(apart) ? 0 : apart);
            });
        }
        if (state.cells.every((value) => value === 0)) died++;
        if (NCA.plane(state, 7).filter((alpha) => alpha > 0.1).length > 20) grew++;
    }
    return { worst, died, grew };
})()"""


@pytest.mark.parametrize("mask", ["paired", "bernoulli"])
def test_the_fast_life_is_the_readable_one(v8, mask):
    """Of rules that were never trained, which flicker, die, and grow into every border."""
    told = {"size": 8, "padding": 2, "hidden": 10, "num_steps": 12, "mask": mask, "step_size": 0.5}
    found = v8(COMPARE, told=told)
    assert found["worst"] < 1e-5 and found["died"] > 3 and found["grew"] > 20


def sfc32(a, b, c):
    """The generator in Python, after its author's description."""
    counter, mask, drawn = 1, 2**32 - 1, []
    for _ in range(15 + 5):
        drawn.append((a + b + counter) & mask)
        counter += 1
        a = b ^ (b >> 9)
        b = (c + (c << 3)) & mask
        c = (((c << 21) | (c >> 11)) + drawn[-1]) & mask
    return drawn[15:]


def test_random_numbers_are_our_own(v8):
    draw = "Array.from({ length: 5 }, ES.makeBits(2 ** 32 - 1, 7, 1, 3))"
    assert v8(draw) == sfc32(2**32 - 1, 7, (1 << 24) | 3)
    normal = v8("[...ES.fillNormal(ES.makeBits(5, 0, 1), new Float64Array(40001))]")
    moments = [np.mean(np.power(normal, power)) for power in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.1)
    told = {"size": 8, "padding": 2, "num_steps": 50}
    for mask in ("paired", "bernoulli"):
        code = "Rollout.fireSchedule(ES.makeBits(1, 2, 2), told).map((fire) => [...fire])"
        fires = np.array(v8(code, told=told | {"mask": mask})).reshape(50, 14, 14)
        inner = fires[:, 1:-1, 1:-1].reshape(50, 72, 2)
        assert fires.sum() == inner.sum() and 0.47 < inner.mean() < 0.53
        assert (inner.sum(axis=-1) == 1).all() == (mask == "paired")
        assert np.ptp(inner[:, :, 0].sum(axis=1)) > 5  # steps differ


def test_without_ranks_the_scale_is_that_of_ranks(v8):
    fitness = [3.0, 1.0, 2.0, 1.0, None]
    plain = v8("[...ES.shape(f.map((x) => x ?? Infinity), false)]", f=fitness)
    assert abs(np.mean(plain)) < 1e-12 and np.std(plain) == pytest.approx(np.sqrt(6 / 48))
    assert plain[0] == plain[4] == max(plain)


@pytest.mark.parametrize("knob", ["pairs", "shared_luck", "ranks"])
def test_evolution_goes_on_without(v8, knob):
    """Each knob changes what is computed, and none of them breaks it."""
    code = """(() => {
        const settings = Evolution.check({ ...told });
        const target = new Float32Array(4 * 12 * 12).fill(0.5);
        const share = new Evolution.Share({ settings, target, index: 0, count: 1 });
        for (let g = 0; g < 2; g++) {
            const { found } = Evolution.finish(share.evaluate({ pictures: g === 1 }));
            const fitness = new Float32Array(8);
            for (const [number, value] of found) fitness[number] = value;
            Evolution.finish(share.tell({ fitness }));
        }
        return [...share.state.mean];
    })()"""
    told = {"size": 8, "padding": 2, "num_steps": 12, "population": 8, "std": 0.2}
    usual, without = (v8(code, told=told | {knob: value}) for value in (True, False))
    assert np.isfinite(without).all() and np.abs(np.subtract(usual, without)).max() > 1e-4


def test_settings_that_cannot_run_are_refused_in_words(v8):
    for name, value in [("size", 7.5), ("std", -1), ("mask", "all"), ("pairs", 1), ("window", 33)]:
        with pytest.raises(JSEvalException, match=f"{name} must be .*, not"):
            v8("Evolution.check(told)", told={name: value})
    ours = v8("Evolution.DEFAULTS")
    quick = dataclasses.asdict(PRESETS["quick"])
    shared = {name for name in ours if name in quick} - {"emoji"}
    assert {name: ours[name] for name in shared} == {name: quick[name] for name in shared}


def test_weights_go_to_python_and_back(v8, tmp_path):
    run, path = load_run("lizard"), tmp_path / "mine.nca.json"
    text = demo.export("lizard", tmp_path / "lizard.nca.json").read_text()
    target = np.random.default_rng(0).integers(0, 256, run.target.shape) / 255
    told = "{ emoji: '', title: '<b>', target, loss: 1 }"
    code = f"NCA.encode(NCA.open(NCA.readRecord(text)), {told})"
    path.write_text(json.dumps(v8(code, text=text, target=target.ravel().tolist())))
    own = load_run(path)
    assert "target" not in demo.describe("lizard")
    assert own.config.emoji == "" and own.info["loss"]["mean"] == 1
    jax.tree.map(np.testing.assert_array_equal, own.params, run.params)
    np.testing.assert_allclose(own.target, target, atol=1e-6)
    key = jax.random.key(0)
    np.testing.assert_array_equal(own.frames(key, 3), run.frames(key, 3))
    code = "(({ weights, target }) => [[...weights], [...target]])(NCA.open(record))"
    weights, picture = v8(code, record=demo.describe(own))
    np.testing.assert_array_equal(np.float32(weights), demo.flatten(run.params))
    np.testing.assert_allclose(picture, target.ravel(), atol=1e-6)


def test_a_link_holds_the_pattern(v8):
    run = load_run("lizard")
    code = "(({ weights, ...told }) => ({ ...told, weights: [...weights] }))(NCA.fromLink(link))"
    link = v8("NCA.toLink(NCA.open(record))", record=demo.describe("lizard"))
    found = v8(code, link=f"#{link}")
    exact = demo.flatten(run.params)
    np.testing.assert_array_equal(found["weights"], exact.astype(np.float16).astype(float))
    assert found["emoji"] == "🦎" and found["window"] == 8 and len(link) < 3_000
    assert v8("NCA.fromLink('#run=lizard&grid=32')") is None


BAD = {"format": 3, "rule": "other", "crc32": 1, "hidden": 31, "channels": 10**9}
BAD |= {"weights": "é", "target": "AAAA", "dtype": "float64", "num_steps": None}


@pytest.mark.parametrize("name", BAD)
def test_python_refuses_damaged_records_in_words(tmp_path, name):
    path = tmp_path / "bad.nca.json"
    path.write_text(json.dumps(demo.describe("lizard") | {name: BAD[name]}))
    with pytest.raises(ValueError, match="cannot read the record"):
        load_run(path)


DAMAGE = """(() => {
    const bits = ES.makeBits(1, 2, 3);
    const pick = (list) => list[bits() % list.length];
    const odd = ["", " ", null, 0, -1, 1e999, NaN, [], {}, "<img>", "x".repeat(9000), "%", "%ff",
        true, 2 ** 53, "1e9", "0x10", "=", "&", "\\u2028", "\\ud800", "é", "__proto__"];
    const found = { read: 0, refused: 0, wrong: [] };
    const attempt = (use) => {
        try {
            const model = use();
            if (model !== null && !model.weights.every(Number.isFinite)) found.wrong.push("odd");
            found.read++;
        } catch (error) {
            const words = /^(This pattern|These weights) cannot be used: [^]*\\.$/;
            if (!words.test(error.message)) found.wrong.push(String(error));
            found.refused++;
        }
    };
    const cut = (text) => {
        const at = bits() % (bits() % 2 ? text.length : Math.min(text.length, 300));
        return text.slice(0, at) + pick([...odd.map(String), pick(text)]) +
            text.slice(at + pick([0, 1, 1, 5, 1e9]));
    };
    for (let n = 0; n < 25000; n++) {
        const fields = { ...record };
        for (let k = bits() % 3; k >= 0; k--) fields[pick(Object.keys(fields))] = pick(odd);
        const text = n % 2 ? JSON.stringify(fields) : cut(JSON.stringify(record));
        attempt(() => NCA.open(NCA.readRecord(text)));
        const damaged = n % 3 ? cut(link) : cut(cut(link));
        attempt(() => NCA.fromLink(damaged));
    }
    return { ...found, prototype: Object.keys(Object.prototype) };
})()"""


def test_fifty_thousand_damaged_files_and_links(v8):
    small = {"size": 8, "padding": 0, "channels": 4, "hidden": 3, "emoji": "🦎", "title": "Mine"}
    code = "{ ...Evolution.DEFAULTS, ...told, weights: Float32Array.from(weights), target }"
    told = {"told": small, "weights": [0.1] * 55, "target": [0.5] * 256}
    record, link = (v8(f"NCA.{make}({code})", **told) for make in ("encode", "toLink"))
    found = v8(DAMAGE, record=record, link=link)
    assert found["wrong"][:5] == [] and found["prototype"] == []
    assert found["read"] + found["refused"] == 50_000 and min(found["read"], found["refused"]) > 999


RUN = """async (workers) => {
    const target = Float32Array.from({ length: 4 * 12 * 12 }, (_, k) => (k % 7) / 7);
    const told = { size: 8, padding: 2, channels: 6, hidden: 9, num_steps: 10, population: 14 };
    const evolution = Evolution.create(told, target, { workers });
    const reports = [];
    for (let g = 0; g < 4; g++) reports.push(await evolution.step());
    evolution.change({ population: 10, std: 0.02, mask: "bernoulli" });
    for (let g = 0; g < 2; g++) reports.push(await evolution.step());
    evolution.stop();
    const history = evolution.history.map(({ seconds, ...row }) => row);
    const pictures = [...reports[0].pictures];
    const { state, workers: hired } = evolution;
    const fitness = reports.map((report) => [...report.fitness]);
    return { hired, told: { state, history, pictures, fitness, mean: [...evolution.mean] } };
}"""


def test_the_history_does_not_depend_on_how_many_workers_there_are(chromium, tmp_path):
    extension = load_script("book/_ext/demo.py")
    source = f"{SCRIPTS}\nEvolution.source = {demo.to_json(extension.worker_source())};"
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><meta charset=utf-8><title>x</title>")
    tab = chromium.new_page()
    tab.goto(page.as_uri())
    tab.add_script_tag(content=source)
    none, one, three = (tab.evaluate(RUN, workers) for workers in (0, 1, 3))
    assert [found["hired"] for found in (none, one, three)] == [0, 1, 3]
    assert none["told"] == one["told"] == three["told"]
    assert none["told"]["state"] == "paused" and len(none["told"]["history"]) == 6
    tab.close()
