"""Settings for every test: two CPU devices, strict dtypes for our own rule, and the browser."""

import contextlib
import functools
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

# Notebooks run on this environment's kernel, even where another "python3" is registered.
os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"

import jax
import pytest
from faults import keep_compiled

pytest.register_assert_rewrite("readers")
jax.config.update("jax_num_cpu_devices", 2)
if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
COMPILED = tempfile.TemporaryDirectory()
keep_compiled(COMPILED.name)


def pytest_unconfigure():
    COMPILED.cleanup()


@pytest.fixture
def strict_dtypes():
    """Refuse silent promotion between dtypes; optax and evosax themselves need it."""
    with jax.numpy_dtype_promotion("strict"):
        yield


def load_script(path: str):
    """Import a script of the repository that belongs to no package."""
    path = Path(__file__).parents[1] / path
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel as a release makes it, by way of the source distribution, which lies beside it."""
    folder, root = tmp_path_factory.mktemp("dist"), Path(__file__).parents[1]
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, root]
    subprocess.run(build, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Whatever opens a browser is a browser test, though nobody has marked it."""
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):  # a notebook has none
            item.add_marker("browser")


def add_remote(folder, url):
    subprocess.run(["git", "-C", str(folder), "remote", "add", "origin", url], check=True)


def skip_or_fail(reason: str):
    """Skip a browser test with a notice, or fail it where a browser is required."""
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason} (REQUIRE_BROWSER=1)", pytrace=False)
    pytest.skip(reason)


@contextlib.contextmanager
def open_chromium(*flags: str):
    """A headless Chromium, the one already on the machine, with flags of its command line.

    Where a page of the book is to reach a state, Playwright's wait_for_function takes a function:
    it would evaluate an expression time and again, which the page's policy does not allow.
    """
    executable = load_script("book/_ext/pdf.py").find_chromium()
    if executable is None:
        skip_or_fail("no Chromium found; name one with CHROMIUM=/path/to/chromium")
    from playwright.sync_api import sync_playwright

    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable,
            # Chromium's sandbox does not start for root, as in most containers.
            args=[*flags, "--no-sandbox"] if is_root else [*flags],
            ignore_default_args=["--hide-scrollbars"],  # they take room, as many readers' do
        )
        yield browser
        browser.close()


# Not of session scope: Playwright keeps an event loop running, and nbmake needs the thread's own.
@pytest.fixture(scope="module")
def chromium():
    with open_chromium() as browser:
        yield browser


LOOP = "() => { let x = 1; for (let i = 0; i < 3e7; i++) x = Math.fround(x + i / 3); return x; }"


@contextlib.contextmanager
def no_long_task(chromium):
    """No page of a file opened in here keeps its thread for three turns of `LOOP` at a time.

    That is 300 milliseconds on a core where the longest tasks take 40 to 100. By the time that a
    task computes, not by the clock: others may keep the machine busy. Pages of the browser's own,
    such as the one that its address bar opens, have threads beside these.
    """
    chromium.start_tracing(categories=["toplevel", "devtools.timeline"])
    yield
    events = json.loads(chromium.stop_tracing())["traceEvents"]
    opened = [event for event in events if event["name"] == "CommitLoad"]
    pages = [event for event in opened if event["args"]["data"]["url"].startswith("file:")]
    threads = {(page["pid"], page["tid"]) for page in pages}
    tasks = [event for event in events if (event["pid"], event["tid"]) in threads]
    longest = max(task.get("tdur", 0) for task in tasks) / 1e6

    with chromium.new_page() as tab:
        session = tab.context.new_cdp_session(tab)
        session.send("Performance.enable")

        def seconds() -> float:
            metrics = session.send("Performance.getMetrics")["metrics"]
            return next(each["value"] for each in metrics if each["name"] == "ThreadTime")

        before = seconds()
        tab.evaluate(LOOP)
        assert longest <= 3 * (seconds() - before)


CHATTER = ("[PST]", "[SBT]", "[togglebutton]")  # what the theme itself writes into the console


def hear(tab) -> list[str]:
    """What goes wrong in a tab from now on: errors of scripts, and all that it complains of."""
    troubles = []
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("console", lambda m: m.text.startswith(CHATTER) or troubles.append(m.text))
    return troubles


def write_page(folder: Path, body: str = "") -> str:
    """A page with nothing else in it; gives its address."""
    page = folder / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><title>x</title>{body}", "utf-8")
    return page.as_uri()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(folder: Path):
    """Serve a folder on this machine; gives the address of its root, without a slash."""
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
