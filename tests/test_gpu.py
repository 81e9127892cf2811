"""Lives on a graphics card, in software: they equal the workers', and when it fails these go on."""

import numpy as np
import pytest
from conftest import hear, load_script, no_long_task, open_chromium, write_page
from readers import opening
from test_evolve import SCRIPTS
from test_evolve_page import Evolver

from nca_lib import load_run
from nca_lib.show import page as demo

pytestmark = pytest.mark.browser

WORKERS = {"1 worker", *(f"{count} workers" for count in range(2, 9))}
SOURCE = load_script("book/_ext/demo.py").worker_source()
GPU_JS = (demo.DEMO / "gpu.js").read_text(encoding="utf-8")
# What is wrong with the card that a worker opens, each in JavaScript before its own.
NO_CARD = "GPU.prototype.requestAdapter = async () => null;"
FEW_BUFFERS = """
    const { get } = Object.getOwnPropertyDescriptor(GPUAdapter.prototype, "limits");
    Object.defineProperty(GPUAdapter.prototype, "limits", {
        get() { return { maxBufferSize: get.call(this).maxBufferSize }; },
    });
"""
# The third generation, of 32 steps, is the first on the card: that is where it is lost.
LOST = """
    const { requestDevice } = GPUAdapter.prototype;
    const { clearBuffer } = GPUCommandEncoder.prototype;
    const { submit } = GPUQueue.prototype;
    let [device, begun, given] = [null, 0, 0];
    GPUAdapter.prototype.requestDevice = async function () {
        return (device = await requestDevice.call(this));
    };
    GPUCommandEncoder.prototype.clearBuffer = function (...told) {
        begun++; // twice a generation
        return clearBuffer.apply(this, told);
    };
    GPUQueue.prototype.submit = function (...told) {
        submit.apply(this, told);
        if (begun === 6 && ++given === 6) device.destroy();
    };
"""
HARDWARE = """
    Object.defineProperty(GPUAdapter.prototype, "info", { value: { isFallbackAdapter: false } });
"""
WRONG = """
    const { getMappedRange } = GPUBuffer.prototype;
    GPUBuffer.prototype.getMappedRange = function () {
        const numbers = getMappedRange.call(this);
        new Float32Array(numbers)[3] += 0.01; // one life in fifteen
        return numbers;
    };
"""


@pytest.fixture(scope="module")
def adapter():
    """Chromium with a graphics card in software."""
    with open_chromium("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader") as browser:
        yield browser


@pytest.fixture
def load(tmp_path):
    """Opens an empty page with the engine in a browser; the console must stay empty."""
    tabs = []

    def open_tab(browser, before=""):
        tab = browser.new_page()
        tabs.append((tab, hear(tab)))
        tab.goto(write_page(tmp_path))
        source = demo.to_json(before + SOURCE)
        tab.add_script_tag(content=f"{SCRIPTS}\n{GPU_JS}\nEvolution.source = {source};")
        return tab

    yield open_tab
    for tab, troubles in tabs:
        assert troubles == []
        tab.close()


BOTH = """async ([told, weights, target]) => {
    const settings = Evolution.check(told);
    const [given, goal] = [Float32Array.from(weights), Float32Array.from(target)];
    const made = { settings, target: goal, weights: weights.length ? given : null };
    const share = new Evolution.Share({ ...made, index: 0, count: 1 });
    const wait = async (work) => {
        let now = work.next();
        while (!now.done) now = work.next(await now.value);
        return now.value;
    };
    const asked = { pictures: true, measures: true };
    const workers = await wait(share.evaluate(asked));
    const trouble = await wait(share.open("on"));
    const card = await wait(share.evaluate({ ...asked, onCard: true }));
    share.card.close();
    const tell = ({ found, drawn }) => ({
        losses: found.sort((a, b) => a[0] - b[0]).map(([, loss]) => loss),
        numbers: found.map(([number]) => number),
        drawn: drawn.map((pixels) => [...pixels]),
    });
    return { trouble, workers: tell(workers), card: tell(card) };
}"""
SMALL = {"size": 8, "padding": 2, "num_steps": 12, "population": 14, "std": 0.2, "hidden": 10}


@pytest.mark.parametrize(
    "told",
    [
        {"population": 100, "std": 0.003, "num_steps": 20, "size": 16},  # around a lizard
        SMALL | {"channels": 6, "step_size": 0.5, "shared_luck": False, "mask": "bernoulli"},
        SMALL | {"channels": 5, "pairs": False, "padding": 3, "population": 9},
    ],
)
def test_lives_are_those_of_the_workers(adapter, load, told):
    run, side = load_run("lizard"), told["size"] + 2 * told.get("padding", 4)
    weights = [] if "channels" in told else demo.flatten(run.params).tolist()
    target = np.random.default_rng(0).random(4 * side**2) / 2
    found = load(adapter).evaluate(BOTH, [told, weights, target.tolist()])
    assert found["trouble"] == "" and found["card"]["numbers"] == found["workers"]["numbers"]
    ours, theirs = (np.array(found[who]["losses"], float) for who in ("workers", "card"))
    apart = np.abs(ours - theirs) / np.maximum(1, np.abs(ours))
    assert np.mean(apart <= 1e-4) >= 0.99 and np.ptp(ours) > 1e-4
    pictures = [np.array(found[who]["drawn"], float) for who in ("workers", "card")]
    assert pictures[0].shape == (told["population"], 4 * side * side)
    far = np.abs(pictures[0] - pictures[1]).max(axis=1) > 2  # of 255
    assert np.mean(far) <= 0.01 and pictures[0].max() == 255


WORLD = """async ([record, height, width]) => {
    const model = NCA.open(record);
    const { channels, hidden, weights, stepSize, aliveThreshold } = model;
    const random = NCA.makeRandom(1);
    const state = NCA.seedState(height, width, channels, 2);
    const card = await Card.open();
    const sizes = { height, width, channels, hidden, steps: 20, grids: 1 };
    const life = card.makeLife({ ...sizes, step_size: stepSize, alive_threshold: aliveThreshold });
    life.setWeights(0, weights);
    life.setCells(state.cells);
    const differences = [];
    for (let part = 0; part < 2; part++) {
        const draw = () => NCA.fireMask(random, height, width, "bernoulli");
        const fires = Array.from({ length: 20 }, draw);
        life.setFires(0, fires);
        life.run(20);
        for (const fire of fires) NCA.step(model, state, fire);
        const cells = await life.readCells();
        const apart = cells.map((value, k) => Math.abs(value - state.cells[k]));
        differences.push(apart.reduce((most, value) => Math.max(most, value), 0));
    }
    const grown = state.cells.filter((value) => value !== 0).length;
    const odd = card.makeLife({ ...sizes, channels: 5, step_size: 1, alive_threshold: 0.1 });
    const given = Float32Array.from({ length: 5 * height * width }, random);
    odd.setCells(given);
    const same = (await odd.readCells()).every((value, k) => value === given[k]);
    let refused = "";
    try {
        card.makeLife({ ...sizes, height: 2048, width: 2048, step_size: 1, alive_threshold: 0.1 });
    } catch (error) {
        refused = error.message;
    }
    card.close();
    const lost = await life.readCells();
    return { differences, grown, same, refused, lost, length: state.cells.length };
}"""


def test_a_world_lives_as_the_readable_rule_says(adapter, load):
    found = load(adapter).evaluate(WORLD, [demo.describe("lizard"), 40, 52])
    assert max(found["differences"]) < 1e-3 and found["same"] and found["lost"] is None
    assert "grids must be at most 0" in found["refused"]
    assert 2_000 < found["grown"] < found["length"]


RUN = """async (gpu) => {
    const target = Float32Array.from({ length: 4 * 12 * 12 }, (_, k) => (k % 7) / 7);
    const told = { size: 8, padding: 2, channels: 6, hidden: 9, num_steps: 10, population: 14 };
    const evolution = Evolution.create(told, target, { workers: 2, gpu });
    const [cards, reports] = [[], []];
    for (let g = 0; g < 4; g++) {
        reports.push(await evolution.step());
        cards.push(evolution.card);
    }
    evolution.change({ population: 10, std: 0.02 });
    reports.push(await evolution.step());
    cards.push(evolution.card);
    evolution.stop();
    const fitness = reports.map((report) => [...report.fitness]);
    const { cardTrouble: trouble, rollouts } = evolution;
    return { cards, trouble, told: { rollouts, fitness, mean: [...evolution.mean] } };
}"""


def test_the_card_is_switched_on_where_it_agrees(adapter, load):
    tab = load(adapter)
    workers, card = tab.evaluate(RUN, "off"), tab.evaluate(RUN, "on")
    assert workers["cards"] == ["off"] * 5
    # Tried again where the number of lives has changed.
    assert card["cards"] == ["trying", "on", "on", "on", "trying"]
    assert card["told"]["fitness"][:2] == workers["told"]["fitness"][:2]
    assert card["told"]["fitness"][2] != workers["told"]["fitness"][2]
    for ours, theirs in zip(workers["told"]["fitness"], card["told"]["fitness"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
    assert tab.evaluate(RUN, "auto")["cards"] == ["none"] * 5  # a program, slower than the workers
    tab = load(adapter, HARDWARE)
    assert tab.evaluate(RUN, "auto")["cards"][2] in ("on", "slower")  # whatever is faster here


@pytest.mark.parametrize(
    ("broken", "cards", "trouble"),
    [
        (NO_CARD, ["none"] * 5, "no graphics card"),
        (FEW_BUFFERS, ["none"] * 5, "maxStorageBuffersPerShaderStage"),
        (LOST, ["trying", "on", "lost", "lost", "lost"], ""),
        (WRONG, ["differs"] * 5, ""),
    ],
)
def test_the_workers_go_on_whatever_fails_and_nothing_is_lost(
    adapter, load, broken, cards, trouble
):
    tab = load(adapter, broken)
    workers, card = tab.evaluate(RUN, "off"), tab.evaluate(RUN, "on")
    assert card["cards"] == cards and trouble in card["trouble"]
    assert card["told"] == workers["told"]


@pytest.mark.parametrize(("broken", "card"), [("", "on"), (LOST, "lost"), (FEW_BUFFERS, "none")])
def test_the_page_says_which_is_at_work_and_stays_awake(adapter, broken, card):
    with opening(Evolver, adapter, "evolve") as read, no_long_task(adapter):
        reader = read("?gpu=on")
        reader.tab.evaluate("(text) => { Evolution.source = text + Evolution.source; }", broken)
        for knob in ("population", "size"):
            reader.choose(knob, 0)  # the smallest
        said = set()
        for _ in range(3):
            reader.step()
            said.add(reader.tab.inner_text(".evolve-figures div:last-child dd"))
        assert reader.data("card") == card and said <= {"graphics card", *WORKERS}
        assert ("graphics card" in said) == (broken != FEW_BUFFERS) and (said & WORKERS)
