"""Pictures, clips and figures in a notebook: HTML as a browser reads it, figures as drawn."""

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.colors import to_rgb as parse_colour
from nbclient import NotebookClient
from PIL import Image
from test_book import contrast
from test_images import decode, random_frames

from nca_lib.show import figures

STYLE = matplotlib.rc_params_from_file(figures.STYLE, use_default_template=False)


def parse(shown):
    return BeautifulSoup(shown.data, "html.parser")


def from_uri(uri):
    kind, data = re.fullmatch(r"data:image/(\w+);base64,([A-Za-z0-9+/=]+)", uri).groups()
    return kind, base64.b64decode(data)


def test_clips_move_or_stand_still_without_scripts_and_without_ids():
    frames = random_frames()
    shown = figures.show_clip(frames, "a lizard grows", zoom=4, still=2)
    page = parse(shown)
    order = [tag.name for tag in page.find_all(True)]
    assert order == ["figure", "style", "label", "input", "span", "picture", "source", "img", "img"]
    assert "input:checked~picture" in shown.data  # the rule that the order above serves
    assert page.input["type"] == "checkbox" and not page.select("[id], [for]")
    source, (moving, paused) = page.source, page.find_all("img")
    assert source["media"] == "(prefers-reduced-motion: reduce)"
    for uri, kind, expected in (
        (moving["src"], "webp", frames),
        (paused["src"], "png", frames[2:3]),
        (source["srcset"], "png", frames[2:3]),
    ):
        found, data = from_uri(uri)
        assert found == kind
        np.testing.assert_array_equal(decode(data)[0], expected)
    for image in (moving, paused):
        assert [image[key] for key in ("alt", "width", "height")] == ["a lizard grows", "28", "24"]
        for rule in ("max-width:100%", "height:auto", "image-rendering:pixelated"):
            assert rule in image["style"]


def test_texts_are_escaped():
    text = '"><script>alert(1)</script>&'
    for shown in (
        figures.show_clip(random_frames(), text, title=text),
        figures.show_images(random_frames(1), text, titles=[text]),
    ):
        page = parse(shown)
        assert all(image["alt"] == text for image in page.find_all("img"))
        assert page.find_all("script") == []
        assert "<figcaption>&quot;&gt;&lt;script&gt;" in shown.data


def test_pictures_of_several_sizes_and_a_common_alt():
    pictures = [random_frames(1, 4, 8)[0], random_frames(1, 10, 5, channels=4)[0]]
    shown = parse(figures.show_images(pictures, ["wide", "tall"], height=40)).find_all("img")
    looks = [(i["alt"], i["width"], i["height"]) for i in shown]
    assert looks == [("wide", "80", "40"), ("tall", "20", "40")]
    for picture, element in zip(pictures, shown, strict=True):
        with Image.open(io.BytesIO(from_uri(element["src"])[1])) as decoded:
            np.testing.assert_array_equal(np.asarray(decoded), picture)
    page = parse(figures.show_images(random_frames(3), "lizard"))
    assert [i["alt"] for i in page.find_all("img")] == [f"lizard ({i} of 3)" for i in (1, 2, 3)]


def test_figures_are_cards_that_read_on_light_and_dark_pages():
    def against_card(colour):
        return contrast(255 * np.array(parse_colour(colour)), [255, 255, 255])

    for card in ("figure.facecolor", "axes.facecolor"):
        assert parse_colour(STYLE[card]) == (1, 1, 1)  # opaque: own background
    for text in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color"):
        assert against_card(STYLE[text]) >= 4.5
    assert min(map(against_card, figures.PALETTE)) >= 3


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (1e-6, 1e-3, "1e-06 1e-05 0.0001 0.001"),
        (1e4, 1e7, "10000 100000 1e+06 1e+07"),
        (0.011, 0.04, "0.02 0.03 0.04"),  # between the powers of ten
    ],
)
def test_logarithmic_axes_have_numbers_without_raised_exponents(low, high, shown):
    axes = matplotlib.figure.Figure().subplots()
    axes.plot([low, high], [0, 1])
    axes.set(xscale="log", xlim=(low, high))
    with plt.rc_context():
        figures.use_style()
        axes.figure.savefig(io.BytesIO())
        labels = axes.get_xticklabels() + axes.get_xticklabels(minor=True)
    seen = [label.get_text().replace("$\\mathdefault{", "").replace("}$", "") for label in labels]
    assert not any("^" in text for text in seen)
    assert set(shown.split()) <= set(seen)


def test_a_notebook_s_figures_are_sharp_and_reproducible():
    draw = "_, (a, b) = plt.subplots(1, 2); a.imshow([[1, 2, 3, 4]] * 3); b.loglog([1, 2], [3, 4]);"
    show = "figures.plot_losses({'a': {'rollouts': [1, 2], 'loss': [2.0, 1.0]}})"
    cells = ["import matplotlib.pyplot as plt\nfrom nca_lib.show import figures", draw]
    cells += ["plt.close('all'); figures.use_style()", draw, draw, show, show]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, kernel_name="python3").execute()
    before, *after = (cell.outputs[0]["data"] for cell in notebook.cells if cell.outputs)
    assert "image/png" in before and len(after) == 4
    assert not any("image/png" in figure for figure in after)
    first, again, losses, losses_again = (figure["image/svg+xml"] for figure in after)
    assert first == again and losses == losses_again  # no date, no random names
    svg = "{http://www.w3.org/2000/svg}"
    assert not list(ElementTree.fromstring(losses).iter(f"{svg}text"))  # needs no font
    (image,) = ElementTree.fromstring(first).iter(f"{svg}image")
    data = image.get("{http://www.w3.org/1999/xlink}href").partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(data))) as pixels:
        assert pixels.size == (4, 3)  # a pixel for each cell, enlarged by who looks at it
    assert "pixelated" in image.get("style")


def test_losses_are_drawn_as_they_are_and_told_apart():
    dtype, before = [("generation", int), ("loss", float)], plt.rcParams["text.color"]
    history = np.array([(0, 0.05), (1, np.nan), (2, np.inf), (3, 0.02)], dtype)
    names = [f"run {i}" for i in range(10)]
    levels = {"untouched": 0.052}
    figure = figures.plot_losses(dict.fromkeys(names, history), x="generation", levels=levels)
    (axes,) = figure.axes
    *curves, level = axes.lines
    assert len({(line.get_color(), line.get_linestyle()) for line in curves}) == 10
    np.testing.assert_array_equal(curves[0].get_xdata(), [0, 1, 2, 3])
    np.testing.assert_array_equal(curves[0].get_ydata(), [0.05, np.nan, np.nan, 0.02])
    assert set(level.get_ydata()) == {0.052} and axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("generation", "loss")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [*names, *levels]
    figure.savefig(io.BytesIO())  # drawing warns of nothing
    assert plt.rcParams["text.color"] == before != STYLE["text.color"]  # the look does not leak
