"""The dashboard of chapter 4 in a real JupyterLab, in a browser: start, pause, change, reset."""

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
CELL = """
import dataclasses
import nca_lib
from nca_lib.show import dashboard
from nca_lib.train import PRESETS

nca_lib.use_cores()
short = dict(learning_rate=0.5, learning_rate_end=1.0, generations=100_000)
dashboard.evolution_dashboard(dataclasses.replace(PRESETS["pocket"], **short))
""".strip()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server of its own with one notebook: the address of that."""
    folder, own = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("jupyter")
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(CELL)],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        ),
        folder / "dashboard.ipynb",
    )
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
    yield f"http://127.0.0.1:{port}/lab/tree/dashboard.ipynb?reset"
    process.terminate()
    process.wait(60)
    reader.join(60)
    process.stderr.close()


@pytest.fixture
def tab(chromium, lab, request):
    """The notebook, opened and its cell run; a screenshot is kept if the test fails."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1400})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    failed_before = request.session.testsfailed
    page.goto(lab)
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.locator(
        ".jp-NotebookPanel-toolbar .jp-Toolbar-kernelStatus, .jp-Notebook"
    ).first.wait_for()
    page.keyboard.press("Shift+Enter")
    yield page
    if request.session.testsfailed > failed_before:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{request.node.name}.png")
    context.close()


def button(page, name):
    return page.locator(".jp-OutputArea button", has_text=re.compile(f"^{name}$"))


def click(page, name):
    page.wait_for_function(
        """(name) => [...document.querySelectorAll(".jp-OutputArea button")]
            .some((button) => button.textContent === name && !button.disabled)""",
        arg=name,
    )
    button(page, name).click()


def numbers(page):
    """Generation and loss, as the dashboard shows them."""
    found = page.locator(".jp-OutputArea p", has_text="rollouts/s").inner_text()
    generation, loss = re.search(r"generation ([\d,]+) of .* loss ([\d.]+)", found).groups()
    return int(generation.replace(",", "")), float(loss)


def wait_for_loss(page, below):
    page.wait_for_function(
        r"""(below) => [...document.querySelectorAll(".jp-OutputArea p")].some((line) => {
            const loss = line.textContent.match(/ loss ([\d.]+)/);
            return loss && Number(loss[1]) < below;
        })""",
        arg=below,
    )


def picture(page):
    return page.locator('.jp-OutputArea img[alt="what the mean grows"]').get_attribute("src")


def test_a_reader_trains_pauses_changes_resumes_and_resets(tab):
    click(tab, "Start")
    tab.locator('.jp-OutputArea img[alt="what the mean grows"]').wait_for()
    untrained = picture(tab)
    tab.locator(".jp-OutputArea p", has_text="rollouts/s").wait_for()
    _, first = numbers(tab)
    assert 0.04 < first < 0.06  # an empty grid scores 0.053
    wait_for_loss(tab, 0.45 * first)
    assert picture(tab) != untrained
    assert tab.locator('.jp-OutputArea img[alt^="Loss against rollouts"]').is_visible()

    click(tab, "Pause")
    button(tab, "Resume").wait_for()
    paused, loss = numbers(tab)
    assert loss < first

    sigma = tab.get_by_label("σ")
    sigma.fill("0")
    sigma.press("Enter")
    tab.get_by_text("std must be 1e-09 to 1000.0, got 0").wait_for()
    sigma.fill("0.02")
    sigma.press("Enter")
    tab.get_by_text("Resume will compile anew").wait_for()
    click(tab, "Resume")
    tab.wait_for_function(
        r"""(before) => [...document.querySelectorAll(".jp-OutputArea p")].some((line) => {
            const found = line.textContent.match(/generation ([\d,]+) of/);
            return found && Number(found[1].replaceAll(",", "")) > before;
        })""",
        arg=paused,
    )
    click(tab, "Pause")
    button(tab, "Resume").wait_for()
    assert numbers(tab)[0] > paused

    click(tab, "Reset")
    button(tab, "Start").wait_for()
    assert tab.locator(".jp-OutputArea img").count() == 0
    click(tab, "Start")  # from the beginning
    tab.locator(".jp-OutputArea p", has_text="rollouts/s").wait_for()
    assert numbers(tab)[0] < paused
    click(tab, "Pause")
    button(tab, "Resume").wait_for()
