"""Dashboard and duel of chapter 5 in a real JupyterLab, in a browser: move, start, compare."""

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import ipywidgets
import nbformat
import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        ipywidgets.__version__.startswith("7."),
        reason="JupyterLab 4 shows the widgets of ipywidgets 8",
    ),
]

SCREENSHOTS = Path(__file__).parents[1] / "_build" / "screenshots"  # of failures
PATIENCE = 240_000  # milliseconds until something is deemed not to happen
SETTINGS = """
import dataclasses
import nca_lib
from nca_lib.show import dashboard
from nca_lib.train import PRESETS

nca_lib.use_cores()
short = dict(size=16, num_steps=16, window=4, population=32, generations=100_000)
short = dataclasses.replace(PRESETS["pocket"], **short)
""".strip()
CELL = f"{SETTINGS}\ndashboard.evolution_dashboard(short)"
DUEL = f"""{SETTINGS}
sides = {{f"σ {{std}}": dataclasses.replace(short, std=std) for std in (0.03, 2, 0.01)}}
dashboard.duel(sides)"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server of its own with a notebook for each widget: its address."""
    folder, own = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("jupyter")
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    for name, cell in {"dashboard": CELL, "duel": DUEL}.items():
        cells = [nbformat.v4.new_code_cell(cell)]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
        nbformat.write(notebook, folder / f"{name}.ipynb")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    places = ("CONFIG_DIR", "RUNTIME_DIR", "DATA_DIR")
    environment = os.environ | {f"JUPYTER_{place}": str(own / place) for place in places}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(own / "settings")}
    environment |= {"JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces")}
    environment.pop("NCA_BOOK", None)  # here the widgets are to live
    options = [
        "--no-browser",
        "--allow-root",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}",
        "--IdentityProvider.token=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = []
    for line in process.stderr:
        said.append(line)
        if f":{port}/lab" in line:
            break
    else:
        pytest.fail("JupyterLab did not start:\n" + "".join(said[-20:]))
    reader = threading.Thread(target=lambda: said.extend(process.stderr))  # or the pipe fills up
    reader.start()
    yield f"http://127.0.0.1:{port}/lab/tree"
    process.terminate()
    process.wait(60)
    reader.join(60)
    process.stderr.close()


@pytest.fixture
def tab(chromium, lab, request):
    """A notebook, opened and its cell run; a screenshot is kept if the test fails."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1400})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    failed_before = request.session.testsfailed
    page.goto(f"{lab}/{request.param}.ipynb?reset")
    page.locator(".jp-CodeCell .cm-content").first.click()
    # Before the kernel answers, a cell that is to run is forgotten.
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    page.locator(".jp-Notebook.jp-mod-editMode").wait_for()
    page.keyboard.press("Shift+Enter")
    yield page
    if request.session.testsfailed > failed_before:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{request.node.name}.png")
    context.close()


def button(page, name):
    return page.locator(".jp-OutputArea button", has_text=re.compile(f"^{name}$"))


def wait_until_enabled(page, name):
    """Buttons carry their next name while what the last click began still goes on."""
    page.wait_for_function(
        """(name) => [...document.querySelectorAll(".jp-OutputArea button")]
            .some((button) => button.textContent === name && !button.disabled)""",
        arg=name,
    )


def click(page, name):
    wait_until_enabled(page, name)
    button(page, name).click()


def numbers(page, condition="true"):
    """Generation and loss, as the dashboard shows them, once they fulfil a condition."""
    found = page.wait_for_function(
        rf"""() => {{
            const lines = [...document.querySelectorAll(".jp-OutputArea .widget-html")];
            const text = lines.map((line) => line.textContent).join().replaceAll(",", "");
            const found = text.match(/generation (\d+) of .* loss ([\d.]+) .*rollouts.s/);
            if (!found) return null;
            const [generation, loss] = found.slice(1).map(Number);
            return ({condition}) && [generation, loss];
        }}"""
    )
    return found.json_value()


OFFSPRING = '.jp-OutputArea img[alt*="members at σ"]'
CURVE = '.jp-OutputArea svg[aria-label^="Loss against rollouts"]'
DIFFERS = "([what, old]) => document.querySelector(what).getAttribute('src') !== old"


def slide(page, name, key):
    """Move a knob with the keyboard."""
    page.locator(".widget-hslider", has_text=name).first.locator(".noUi-handle").press(key)


@pytest.mark.parametrize("tab", ["dashboard"], indirect=True)
def test_a_reader_moves_sigma_trains_rewinds_and_lays_trials_over(tab):
    button(tab, "Start").wait_for()
    slide(tab, "Noise σ", "ArrowRight")
    tab.locator(OFFSPRING).wait_for()
    tab.get_by_text("members at σ 0.035").wait_for()
    old = tab.locator(OFFSPRING).get_attribute("src")
    slide(tab, "Noise σ", "ArrowLeft")  # nothing trains, and the offspring are others
    tab.wait_for_function(DIFFERS, arg=[OFFSPRING, old])
    tab.get_by_text("members at σ 0.03 by loss").wait_for()
    tab.get_by_text("Before the first generation").wait_for()

    click(tab, "Start")
    assert numbers(tab)[1] < 0.06  # an empty grid scores 0.04
    numbers(tab, "loss < 0.024")
    for knob in ("Noise σ", "Rate of σ", "Learning rate"):
        slide(tab, knob, "ArrowLeft")
    changed = numbers(tab)[0]
    numbers(tab, f"generation > {changed}")  # it goes on
    click(tab, "Pause")
    wait_until_enabled(tab, "Resume")
    tab.locator(CURVE).wait_for()

    paused, _ = numbers(tab)
    click(tab, "Rewind")
    numbers(tab, f"generation < {paused}")
    click(tab, "Reset")
    click(tab, "Start")
    numbers(tab, f"generation < {paused}")  # from the beginning
    click(tab, "Pause")
    wait_until_enabled(tab, "Resume")
    tab.locator(".jp-OutputArea select[multiple]").select_option(index=[0])
    tab.locator(f'{CURVE}[aria-label*="trial 1: loss"][aria-label*="trial 3 ends"]').wait_for()


@pytest.mark.parametrize("tab", ["duel"], indirect=True)
def test_of_three_sigmas_that_race_one_dies_and_two_go_on(tab):
    click(tab, "Start")
    tab.locator(".jp-OutputArea [role=status]", has_text="generation 1: ").wait_for()
    tab.wait_for_function(
        r"""() => {
            const text = document.querySelector(".jp-OutputArea").innerText.replaceAll(",", "");
            const done = [...text.matchAll(/generation (\d+) of/g)].map((found) => found[1]);
            return done.filter((generation) => generation > 9).length === 2;
        }"""
    )
