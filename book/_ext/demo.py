"""The live demo in the built book: its scripts, and the weights of all shipped runs.

The weight files are made by the build, so that the repository holds each run's weights once.
Jupyter Book loads this file as a Sphinx extension (`_config.yml`).
"""

import shutil
from pathlib import Path

import jax

from nca_lib import list_runs, load_run
from nca_lib.lab.checkpoint import write_atomic
from nca_lib.show.page import DEMO, FORMAT, SCRIPTS, describe, script, to_json

LARGE = 4_000  # weights; a rule that has more goes into the book as float16
# Runs to be seen side by side in the playground.
COMPARISONS = {
    "Growing, persistent, regenerating": ("lizard", "lizard-persistent", "lizard-regenerating"),
    "Evolution, backpropagation": ("lizard", "lizard-backprop"),
}


def shipped_records() -> list[dict]:
    """Make the records of all shipped runs that grow a picture, by name; of large ones in half."""
    shipped = [run for run in map(load_run, list_runs()) if run.config.goal == "target"]
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
    for name in (SCRIPTS[0], "catalogue.js", *SCRIPTS[1:]):
        app.add_js_file(name, loading_method="defer")
    app.add_css_file("playground.css")

    def add_folders(app, config):
        config.html_static_path = [*config.html_static_path, str(DEMO), str(folder)]

    app.connect("config-inited", add_folders)
    return {"version": str(FORMAT), "parallel_read_safe": True, "parallel_write_safe": True}
