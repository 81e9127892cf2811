"""The live demo in the built book: its scripts, and the weights of all shipped runs.

The weight files are made by the build, so that the repository holds each run's weights once; so is
what pages with evolution need, the bundled emoji and the histories to compare with. Jupyter Book
loads this file as a Sphinx extension (`_config.yml`).
"""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from nca_lib import list_runs, load_run
from nca_lib.lab.checkpoint import write_atomic
from nca_lib.lab.record import FORMAT
from nca_lib.show.page import DEMO, SCRIPTS, describe, script, to_json
from nca_lib.target import DATA

LARGE = 4_000  # weights; a rule that has more goes into the book as float16
# Runs to be seen side by side in the playground.
COMPARISONS = {
    "Growing, persistent, regenerating": ("lizard", "lizard-persistent", "lizard-regenerating"),
    "Evolution, backpropagation": ("lizard", "lizard-backprop"),
}
STAGES = ("lizard-aged",)  # runs that others began with, and nobody needs to see
WORKER = ("rollout", "gpu", "evolve", "crew")  # what a worker runs
# What a page with evolution loads in addition, in this order.
EVOLUTION = ("rollout", "evolve", "crew", "record", "evolve-data")
EVOLUTION += ("evolve_target", "evolve_views", "evolve_knobs", "evolve_pad", "evolve_page")
BREEDING = ("rollout", "evolve", "record", "breed")
WORLD = ("rollout", "world", "world_page")
RIVALS = ("lizard", "lizard-pgpe", "lizard-backprop")  # drawn beside a reader's own lizard
POINTS = 80  # of a history, evenly spread on a logarithmic axis
SIDE, ACROSS = 128, 6  # pixels of an emoji, and emoji in a row of the sheet


def shipped_records() -> list[dict]:
    """Make the records of all shipped runs that grow a picture, by name; of large ones in half."""
    named = [name for name in list_runs() if name not in STAGES]
    shipped = [run for run in map(load_run, named) if run.config.goal == "target"]
    shipped = [run for run in shipped if run.config.cells == "smooth"]
    kinds = ["float16" if run.info["parameters"] > LARGE else "float32" for run in shipped]
    return [describe(run, dtype=kind) for run, kind in zip(shipped, kinds, strict=True)]


def catalogue(records: list[dict]) -> list[dict]:
    """List what the playground offers: each run, then what is worth comparing.

    Args:
        records: from `shipped_records`.

    Returns:
        For each choice its label and the names of its runs.
    """
    choices = [{"label": r["title"], "runs": [r["name"]]} for r in records]
    return choices + [{"label": label, "runs": list(runs)} for label, runs in COMPARISONS.items()]


def emoji_sheet(manifest: list[dict]) -> str:
    """Draw all bundled emoji on one opaque sheet: rows of colours, below each their alphas.

    Without transparency every browser decodes it to the same numbers. Returns a data: address of
    lossless WebP.
    """
    rows = -(-len(manifest) // ACROSS)
    sheet = np.zeros((rows, 2, SIDE, ACROSS, SIDE, 3), np.uint8)
    for number, entry in enumerate(manifest):
        picture = np.array(Image.open(DATA / entry["file"]).convert("RGBA"))
        picture[picture[..., 3] == 0] = 0  # colours that nobody sees
        row, column = divmod(number, ACROSS)
        sheet[row, 0, :, column] = picture[..., :3]
        sheet[row, 1, :, column] = picture[..., 3:]
    file = io.BytesIO()
    image = Image.fromarray(sheet.reshape(rows * 2 * SIDE, ACROSS * SIDE, 3))
    image.save(file, "WEBP", lossless=True, quality=100, method=6)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def thin_history(name: str) -> list[list[float]]:
    """Thin a shipped run's history to pairs of rollouts and loss."""
    history = load_run(name).history
    rollouts, loss = history["rollouts"], history["loss"]
    wanted = np.geomspace(rollouts[0], rollouts[-1], POINTS)
    rows = np.unique(np.searchsorted(rollouts, wanted * (1 - 1e-9)))
    return [[int(rollouts[row]), float(f"{loss[row]:.3g}")] for row in rows]


def evolution_data() -> dict:
    """Collect what evolution in the page starts from, and is compared with."""
    manifest = json.loads((DATA / "manifest.json").read_text(encoding="utf-8"))["emoji"]
    emoji = [
        {
            "emoji": e["emoji"],
            "name": e["name"].lower().replace(" ", "-"),
            "title": e["name"].capitalize(),
        }
        for e in manifest
    ]
    runs = [
        {"kind": load_run(name).config.strategy, "points": thin_history(name)} for name in RIVALS
    ]
    return {"emoji": emoji, "sheet": emoji_sheet(manifest), "runs": runs}


def worker_source() -> str:
    """Join what a worker runs, since on disk it can load no file: without comments and indents."""
    texts = [(DEMO / f"{name}.js").read_text(encoding="utf-8") for name in WORKER]
    text = "\n".join([*texts, "Evolution.serve(self);"])
    text = re.sub(r"^\s*(/\*.*?\*/|//.*?$)", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r" +// .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n\s*", "\n", text)


def add_scripts(app, pagename, templatename, context, doctree):
    """Hook for Sphinx: load evolution, breeding and the world where a page has a place for it."""
    body = context.get("body", "")
    if 'class="nca-player nca-world"' in body:
        app.add_css_file("world.css", priority=600)
        for name in WORLD:
            app.add_js_file(f"{name}.js", loading_method="defer", priority=600)
    scripts = EVOLUTION if 'class="nca-evolve"' in body else ()
    if 'class="nca-evolve nca-breed"' in body:
        scripts = dict.fromkeys((*scripts, *BREEDING))  # each once
        app.add_css_file("breed.css", priority=600)
    for name in scripts:
        app.add_js_file(f"{name}.js", loading_method="defer", priority=600)
    if scripts:
        app.add_css_file("evolve.css")


def setup(app):
    """Hook for Sphinx: put the demo and the weights of all shipped runs into the built book."""
    jax.config.update("jax_platforms", "cpu")  # a GPU is for the chapters, which run beside this
    folder = Path(app.doctreedir) / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "weights").mkdir(parents=True)
    records = shipped_records()
    for description in records:
        name = description["name"]
        write_atomic(folder / "weights" / f"{name}.js", script(description).encode())
        shutil.copy(load_run(name).folder / "final.png", folder / "weights" / f"{name}.png")
    choices = to_json(catalogue(records))
    write_atomic(folder / "catalogue.js", f"NCA.catalogue = {choices};\n".encode())
    data = f"NCA.evolveData = {to_json(evolution_data())};\n"
    data += f"Evolution.source = {to_json(worker_source())};\n"
    write_atomic(folder / "evolve-data.js", data.encode())
    for name in (SCRIPTS[0], "catalogue.js", *SCRIPTS[1:]):
        app.add_js_file(name, loading_method="defer")
    app.add_css_file("playground.css")

    def add_folders(app, config):
        config.html_static_path = [*config.html_static_path, str(DEMO), str(folder)]

    app.connect("config-inited", add_folders)
    app.connect("html-page-context", add_scripts)
    return {"version": str(FORMAT), "parallel_read_safe": True, "parallel_write_safe": True}
