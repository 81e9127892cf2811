"""The demo under damaged and hostile input: weight files, and the links that set its controls.

`fuzz_demo(50_000, seed=1)` is the long form of what runs here.
"""

import base64
import contextlib
import json
import os
import random
import tempfile
import zlib
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from conftest import hear, load_script, open_chromium, write_page
from faults import mutate
from py_mini_racer import MiniRacer
from test_browser import ATOB, NCA_JS

from nca_lib.lab.record import DTYPES
from nca_lib.show import page as demo

NUMBER = int(os.environ.get("FUZZ_DEMO", "3000"))  # inputs, a tenth of them links
DEMO_EXTENSION = load_script("book/_ext/demo.py")
RECORD = {key: json.dumps(value) for key, value in demo.describe("lizard").items()}
MEGABYTES = 64  # more than the largest rule needs, less than any phone has

# Values in JavaScript: what JSON can say, and what else a script may hand over.
ODD = """
    null; true; false; undefined; NaN; Infinity; -Infinity; 0; -0; -1; 0.5; 3; 4; 8.5; 16; 64; 65;
    512; 513; 1e3; 1e9; 2147483647; 4294967296; 1e15; 9007199254740993; 1e308; 5e-324; 8n; -1n;
    ""; "8"; "0.1"; "NaN"; "zero"; "growing"; "paired"; "__proto__"; "<script>ran=1</script>";
    "<img src=x onerror=ran=1>"; "\\u0000"; "\\ud800"; "QUJD"; "Q"; "QQ=="; "QR=="; " QUJD"; "é";
    "A".repeat(1e5); "A".repeat(5e6); "AAAA".repeat(5e5); "AAA=".repeat(5e5); "=".repeat(1e6);
    []; [8]; ["8"]; [[]]; new Array(1e9); {}; {"__proto__": null}; {"__proto__": {"channels": 8}};
    {"length": 1e12}; {"toString": null}; {valueOf: () => 8}; {toString: () => "QUJD"};
    Object.create(null); Symbol("8"); () => 8; /8/; new Date(NaN); new Map(); new Float32Array(8);
    new String("paired"); new Number(8)
""".split(";")
ODD = [value.strip() for value in ODD]

# One weight file and what comes of it, judged in JavaScript. A broken file may fail by itself.
JUDGE = """
    function use(file) {
      try { (0, eval)(file); } catch {}
      let model;
      try {
        model = NCA.decode(NCA.records.get("lizard"));
      } catch (error) {
        const isClear = /^These weights cannot be used: .{5,200}[.]$/.test(error.message);
        return error.constructor === Error && isClear ? "" : `${error.name}: ${error.message}`;
      }
      const state = NCA.seedState(8, 8, model.channels);
      NCA.step(model, state, NCA.fireMask(NCA.makeRandom(1), 8, 8, model.mask));
      Math.min(model.num_steps, model.age) + `${model.title} ${model.emoji}`;
      return state.cells.length === 64 * model.channels ? "" : "a state of another size";
    }
    function judge(file) {
      NCA.records.clear();
      const found = use(file);
      if (typeof ran !== "undefined") return "a script ran";
      if (Object.keys(Object.prototype).length) return "a prototype was changed";
      return found;
    }
"""


def in_javascript(fields: dict[str, str]) -> str:
    """A weight file, from the values in JavaScript."""
    inner = ", ".join(f"{json.dumps(key)}: {value}" for key, value in fields.items())
    return f"NCA.register({{{inner}}});\n"


def with_odd_fields(rng):
    """A good record with two fields replaced; a few inherit a third instead of having it."""
    one, two, three = rng.sample(list(RECORD), 3)
    changed = RECORD | {one: rng.choice(ODD), two: rng.choice(ODD)}
    if rng.random() < 0.1:
        changed["__proto__"] = f"{{{json.dumps(three)}: {changed.pop(three)}}}"
    return in_javascript(changed)


def with_damaged_weights(rng):
    """Characters of the base64 replaced, lost, doubled or foreign; half the checksums mended."""
    text = mutate(json.loads(RECORD["weights"]).encode(), rng).decode("latin-1")
    changed = RECORD | {"weights": json.dumps(text)}
    if rng.random() < 0.5:
        with contextlib.suppress(ValueError):
            changed["crc32"] = str(zlib.crc32(base64.b64decode(text, validate=True)))
    return in_javascript(changed)


def with_other_sizes(rng):
    """Any bits as weights, in the right number or nearly so, of rules up to the largest."""
    channels, hidden = rng.choice([3, 4, 5, 8, 16, 64, 65]), rng.choice([0, 1, 2, 32, 33, 512, 513])
    if rng.random() < 0.9:  # the large ones are slow
        channels, hidden = min(channels, 16), min(hidden, 33)
    dtype = rng.choice(DTYPES)
    count = 4 * channels * hidden + hidden + channels + rng.choice([0, 0, 0, 0, -1, 1])
    data = rng.randbytes(count * np.dtype(dtype).itemsize)
    if rng.random() < 0.7:  # finite
        values = np.frombuffer(data, dtype)
        data = np.where(np.isfinite(values), values, 0).astype(dtype).tobytes()
    changed = {"channels": channels, "hidden": hidden, "dtype": dtype, "crc32": zlib.crc32(data)}
    changed["weights"] = base64.b64encode(data).decode()
    return in_javascript(RECORD | {key: json.dumps(value) for key, value in changed.items()})


def with_damaged_text(rng):
    """The file itself cut short, or with bytes changed in front of the weights."""
    text = in_javascript(RECORD)
    rest = rng.choice([text[600:], text[600:], ""])
    return mutate(text[:600].encode(), rng).decode("latin-1") + rest


def without_record(rng):
    """Something else in place of a record, under the name or without one."""
    value = rng.choice(ODD)
    return rng.choice([f"NCA.register({value});", f'NCA.records.set("lizard", {value});', value])


KINDS = (with_odd_fields, with_damaged_weights, with_other_sizes, with_damaged_text, without_record)


def judge(files):
    """Give weight files to the decoder; each is used, or refused in words."""
    engine = MiniRacer()
    engine.set_hard_memory_limit(MEGABYTES * 2**20)
    engine.eval(f"{ATOB}\n{NCA_JS}\n{JUDGE}")
    for file in files:
        try:
            found = engine.eval(f"judge({json.dumps(file)})", timeout_sec=10)
        except Exception as error:  # out of time or memory, or a model that cannot be used
            found = f"{type(error).__name__}: {error}"
        assert found == "", f"{found}\n{file[:700]}"
    engine.close()


def fuzz_weights(number: int, seed: int) -> None:
    """Give damaged weight files to the decoder."""
    rng = random.Random(seed)
    for start in range(0, number, 200):  # V8 keeps what it compiles: a new one now and then
        judge(KINDS[i % len(KINDS)](rng) for i in range(start, min(start + 200, number)))


# Names and values of a link, good and bad, as they stand in an address.
KEYS = ["grid", "seeds", "speed", "rate", "angle", "view", "run", "controls", "link", "__proto__"]
KEYS += ["constructor", "", "%", "<b>", "alive", "grid[]"]
VALUES = """
    lizard lizard+lizard-backprop heart newt lizard+newt lizard++heart ../../x __proto__ constructor
    toString https://example.com/x javascript:ran=1 data:text/javascript,ran=1 weights/heart.js
    <img/src=x/onerror=ran=1> <script>ran=1</script> %3Cscript%3Eran=1%3C/script%3E ";ran=1;"
    NaN Infinity -Infinity 1e999 -1e999 1e-999 0 -0 -1 0x40 64 0.5 .5 5. 1_000 1e3 4294967296 ٣ １６
    9007199254740993 99999999999999999999999999 8;ran=1 hidden+2 hidden+99 living+mask alpha colour
    % %% %E0%A4%A %00 %FF%FE %u0041 + & = # ?a=b [] {} null undefined true \u202e \ud83e\udd8e
""".split()


def random_link(rng) -> str:
    """A fragment without its hash sign."""
    if rng.random() < 0.1:
        return "run=lizard&" + quote(rng.randbytes(rng.choice([1, 10, 1000])))
    pairs = [("run", rng.choice(["lizard", "heart", rng.choice(VALUES)]))]
    pairs += [(rng.choice(KEYS), rng.choice(VALUES)) for _ in range(rng.randrange(8))]
    rng.shuffle(pairs)
    text = "&".join(f"{key}={value}" for key, value in pairs)
    if rng.random() < 0.1:
        text += rng.choice(["9", "&run=", "%", "é"]) * rng.choice([100, 20_000])
    if rng.random() < 0.2:
        at = rng.randrange(len(text))
        text = text[:at] + chr(rng.choice([37, 38, 61, 0, 0x2028, 0x1F98E])) + text[at + 1 :]
    return text


# Follow links one after the other and look at the page each time, and once more a moment later.
FOLLOW = """async (links) => {
    const root = document.querySelector(".nca-player");
    const look = () => {
        const foreign = "img, iframe, object, script[src], .nca-player script";
        if (document.querySelector(foreign)) return "a foreign element";
        if (window.ran) return "a script ran";
        for (const slider of root.querySelectorAll("input[type=range]")) {
            const says = slider.getAttribute("aria-valuetext");
            if (!/^(\\d+(\\.\\d+)?( |°|$)|as fast)/.test(says)) return `${slider.min}: ${says}`;
        }
        for (const { width, height } of root.querySelectorAll("canvas")) {
            if (width !== height || width < 16 || width > 128 || width % 8) return `${width} cells`;
        }
        if (!root.querySelector("input[name=picture]:checked")) return "no pattern";
        return root.querySelector("select").value ? null : "no view";
    };
    for (const [i, link] of links.entries()) {
        location.hash = link;
        dispatchEvent(new HashChangeEvent("hashchange"));
        const found = look() ?? (i % 8 || (await new Promise(requestAnimationFrame)), look());
        if (found) return `${found}: ${link}`;
    }
    return "";
}"""


def fuzz_links(number: int, seed: int, folder: Path) -> None:
    """Lead the demo, in Chromium, through links; each leaves it as its controls allow."""
    records = DEMO_EXTENSION.shipped_records()
    nca, *interface = ((demo.DEMO / name).read_text("utf-8") for name in demo.SCRIPTS)
    catalogue = f"NCA.catalogue = {json.dumps(DEMO_EXTENSION.catalogue(records))};"
    scripts = [nca, catalogue, *map(demo.script, records), *interface]
    player = '<div class="nca-player" data-run="lizard" data-controls="all" data-link></div>'
    page = write_page(folder, player + "".join(f"<script>{script}</script>" for script in scripts))
    rng = random.Random(seed)
    with open_chromium("--disable-ipc-flooding-protection") as chromium:  # for many links a second
        tab = chromium.new_page()
        troubles = hear(tab)
        for _ in range(0, number, 50):
            tab.goto("about:blank")
            tab.goto(f"{page}#{random_link(rng)}")
            tab.locator("canvas").first.wait_for()
            found = tab.evaluate(FOLLOW, [random_link(rng) for _ in range(50)])
            assert found == "" and troubles == [], (found[:500], troubles)
        tab.evaluate("location.hash = 'run=heart&grid=64&view=alpha'")  # it is still alive
        tab.get_by_role("application", name="Heart").wait_for()
        assert tab.evaluate("document.querySelector('canvas').width") == 64


def fuzz_demo(number: int, seed: int) -> int:
    """Give the demo damaged weight files, and a tenth as many links.

    Args:
        number: of inputs.
        seed: of what they are.

    Returns:
        How many it survived: all of them.

    Raises:
        AssertionError: one did harm, was refused without a clear word, or took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        fuzz_links(number // 10, seed, Path(folder))
    fuzz_weights(number - number // 10, seed)
    return number


def test_every_field_may_be_anything():
    for key in RECORD:
        judge(in_javascript(RECORD | {key: value}) for value in ODD)


def test_damaged_weight_files_are_used_or_refused_in_words():
    fuzz_weights(NUMBER - NUMBER // 10, seed=0)


@pytest.mark.browser
def test_links_lead_only_to_what_the_controls_allow(tmp_path):
    fuzz_links(NUMBER // 10, 0, tmp_path)
