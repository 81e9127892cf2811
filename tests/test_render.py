"""Tests of nca_lib.show.figures: pixels against hand calculation, files against what decodes."""

import base64
import io
import re
import warnings
from html.parser import HTMLParser
from xml.etree import ElementTree

import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from matplotlib.colors import to_rgb as parse_colour
from matplotlib.scale import LogScale, register_scale
from nbclient import NotebookClient
from PIL import Image, ImageSequence

from nca_lib.lab import checkpoint, images
from nca_lib.show import figures

STYLE = matplotlib.rc_params_from_file(figures.STYLE, use_default_template=False)


def random_frames(number=5, height=6, width=7, channels=3, seed=0):
    shape = (number, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def decode(data, mode="RGB"):
    """All frames of an encoded clip, and the time in milliseconds that each is shown."""
    with Image.open(io.BytesIO(data)) as image:
        frames, durations = [], []
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert(mode)))
            durations.append(image.info.get("duration"))
        return np.stack(frames), durations, image.info


class Elements(HTMLParser):
    """Collects (tag, attributes) of everything, and fails on tags left open."""

    def __init__(self, source):
        super().__init__()
        self.found, self.open = [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("img", "input", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def from_uri(uri):
    kind, data = re.fullmatch(r"data:image/(\w+);base64,([A-Za-z0-9+/=]+)", uri).groups()
    return kind, base64.b64decode(data)


# --- states to pixels -------------------------------------------------------------------------


def test_to_rgb_composites_premultiplied_colour():
    # (0.2, 0.1, 0) at half alpha over (1, 0.4, 0): 0.2 + 0.5, 0.1 + 0.2, 0.
    pixel = np.float32([[[9.0, -9.0, 0.2, 0.1, 0.0, 0.5]]])
    np.testing.assert_array_equal(
        images.to_rgb(pixel, (1.0, 0.4, 0.0)), [[[round(0.7 * 255), round(0.3 * 255), 0]]]
    )


def test_to_rgb_composites_straight_colour():
    # (0.8, 0.4, 1) at alpha 0.25 over black: a quarter of each.
    pixel = np.float32([[[0.8, 0.4, 1.0, 0.25]]])
    rgb = images.to_rgb(pixel, (0, 0, 0), premultiplied=False)
    np.testing.assert_array_equal(rgb, [[[51, round(25.5), round(63.75)]]])


def test_to_rgba_undoes_premultiplication():
    straight = np.float32([[[1.0, 0.4, 0.0, 0.5]]])
    premultiplied = straight * [1, 1, 1, 0] * straight[..., 3:] + straight * [0, 0, 0, 1]
    expected = [[[255, 102, 0, 128]]]
    np.testing.assert_array_equal(images.to_rgba(premultiplied), expected)
    np.testing.assert_array_equal(images.to_rgba(straight, premultiplied=False), expected)


def test_rgba_laid_over_white_is_rgb():
    rng = np.random.default_rng(1)
    state = rng.uniform(0, 1, (8, 8, 4)).astype(np.float32)
    state[..., :3] *= state[..., 3:]
    image = Image.fromarray(images.to_rgba(state))
    white = Image.new("RGBA", image.size, "white")
    over = np.asarray(Image.alpha_composite(white, image))[..., :3].astype(int)
    assert np.abs(over - images.to_rgb(state)).max() <= 2  # two roundings to 8 bits


def test_leading_axes_and_jax_arrays():
    state = jnp.full((2, 3, 5, 4, 16), 0.5, jnp.float32)
    assert images.to_rgba(state).shape == (2, 3, 5, 4, 4)
    assert images.to_rgb(state).shape == (2, 3, 5, 4, 3)
    assert images.to_rgb(state).dtype == images.to_rgba(state).dtype == np.uint8


@pytest.mark.parametrize("premultiplied", [True, False])
def test_wild_values_render_without_warning(premultiplied):
    nan, inf = np.nan, np.inf
    state = np.float32(
        [[[nan, nan, nan, nan], [inf, -inf, 1e30, inf], [1, 1, 1, -2], [1, 1, 1, 1e-42]]]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rgba = images.to_rgba(state, premultiplied)
        rgb = images.to_rgb(state, (1, 1, 1), premultiplied)
    np.testing.assert_array_equal(rgba[0, :2], [[0, 0, 0, 0], [255, 0, 255, 255]])
    np.testing.assert_array_equal(rgb[0], [[255] * 3, [255, 0, 255], [255] * 3, [255] * 3])
    assert rgba[0, 2:, 3].tolist() == [0, 0]


def test_the_state_is_left_alone():
    state = np.full((2, 2, 4), 3.0, np.float32)
    images.to_rgb(state, premultiplied=False)
    images.to_rgba(state)
    assert (state == 3.0).all()


def test_checkerboard_shows_where_it_is_transparent():
    board = images.checkerboard(4, 6, cell=2)
    light, dark = 255, 204
    expected = np.array(
        [[light, light, dark, dark, light, light]] * 2
        + [[dark, dark, light, light, dark, dark]] * 2
    )
    np.testing.assert_array_equal(images.to_rgb(np.zeros((4, 6, 4)), board)[..., 1], expected)
    opaque = np.ones((4, 6, 4), np.float32) * [0, 0, 0, 1]
    assert not images.to_rgb(opaque, board).any()


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 4), (0, 8, 4)])
@pytest.mark.parametrize("convert", [images.to_rgb, images.to_rgba])
def test_states_of_a_wrong_shape(convert, shape):
    with pytest.raises(ValueError, match=re.escape(str(shape)) + ".*at least 4 channels"):
        convert(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    "background", [(1, 1), 0.5, (0, 0, 255), (0, 0, np.nan), np.ones((4, 5, 3))]
)
def test_wrong_backgrounds(background):
    with pytest.raises(ValueError, match=r"background .*expected"):
        images.to_rgb(np.zeros((5, 4, 4), np.float32), background)


# --- pixels to pixels -------------------------------------------------------------------------


def test_upscale_repeats_each_pixel():
    frames = random_frames()
    large = images.upscale(frames, 3)
    assert large.shape == (5, 18, 21, 3)
    for dy in range(3):
        for dx in range(3):
            np.testing.assert_array_equal(large[:, dy::3, dx::3], frames)


@pytest.mark.parametrize("zoom", [0, -1, 1.5, "2"])
def test_upscale_wants_whole_factors(zoom):
    with pytest.raises(ValueError, match=f"zoom is {zoom!r}"):
        images.upscale(random_frames(), zoom)


def test_contact_sheet_geometry():
    images = random_frames(5, 6, 7)
    sheet = images.contact_sheet(images, columns=3, gap=2)
    assert sheet.shape == (2 * 8 - 2, 3 * 9 - 2, 3)
    seen = np.zeros(sheet.shape[:2], bool)
    for i, image in enumerate(images):
        y, x = i // 3 * 8, i % 3 * 9
        np.testing.assert_array_equal(sheet[y : y + 6, x : x + 7], image)
        seen[y : y + 6, x : x + 7] = True
    assert (sheet[~seen] == 255).all()


def test_contact_sheet_of_clips_is_a_clip_of_sheets():
    clips = random_frames(12, channels=4).reshape(3, 4, 6, 7, 4)
    sheets = images.contact_sheet(clips, gap=0)
    assert sheets.shape == (3, 12, 14, 4)
    for sheet, images in zip(sheets, clips, strict=True):
        np.testing.assert_array_equal(sheet, images.contact_sheet(images, columns=2, gap=0))


def test_contact_sheet_gap_is_transparent_in_rgba():
    sheet = images.contact_sheet(np.full((2, 3, 3, 4), 9, np.uint8), columns=2, gap=1)
    assert sheet.shape == (3, 7, 4)
    assert not sheet[:, 3].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, r"\(0, 4, 4, 3\)"),
        ({"images": np.zeros((2, 4, 4, 2), np.uint8)}, r"\(2, 4, 4, 2\)"),
        ({"images": np.zeros((4, 4, 3), np.uint8)}, r"\(4, 4, 3\)"),
        ({"images": np.zeros((2, 4, 4, 3), np.float32)}, "'float32', expected uint8"),
        ({"columns": 0}, "columns is 0"),
        ({"gap": -1}, "gap is -1"),
    ],
)
def test_contact_sheet_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        images.contact_sheet(**{"images": random_frames()} | arguments)


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["webp", "png", "apng", "WEBP"])
def test_clip_round_trip(tmp_path, extension):
    frames = random_frames()
    path = tmp_path / f"growth.{extension}"
    images.save_clip(path, frames, fps=25, hold=0.5)
    decoded, durations, info = decode(path.read_bytes())
    np.testing.assert_array_equal(decoded, frames)
    assert durations == [40, 40, 40, 40, 540]
    assert info["loop"] == 0


@pytest.mark.parametrize("extension", ["webp", "png"])
def test_transparent_clip_round_trip(tmp_path, extension):
    frames = random_frames(channels=4)
    frames[..., 3] |= 1  # colour under an alpha of 0 may be dropped
    images.save_clip(tmp_path / f"growth.{extension}", frames)
    decoded, _, _ = decode((tmp_path / f"growth.{extension}").read_bytes(), "RGBA")
    np.testing.assert_array_equal(decoded, frames)


def test_transparent_frames_do_not_pile_up(tmp_path):
    # What one frame shows and the next does not must be gone.
    frames = np.zeros((2, 4, 4, 4), np.uint8)
    frames[0, 0, 0] = frames[1, 3, 3] = 255
    for name in ("a.webp", "a.png"):
        images.save_clip(tmp_path / name, frames)
        decoded, _, _ = decode((tmp_path / name).read_bytes(), "RGBA")
        np.testing.assert_array_equal(decoded[..., 3], frames[..., 3])


def test_png_round_trip_replaces_the_old_file(tmp_path):
    path = tmp_path / "final.png"
    for channels in (3, 4):
        image = random_frames(channels=channels)[0]
        images.save_png(path, image)
        with Image.open(path) as saved:
            np.testing.assert_array_equal(np.asarray(saved), image)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["write", "replace"])
def test_a_failed_save_leaves_the_old_file_alone(tmp_path, monkeypatch, failing):
    path = tmp_path / "growth.webp"
    images.save_clip(path, random_frames(seed=0))
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError("no space left on device")

    target = (checkpoint.os, "fsync") if failing == "write" else (figures.Path, "replace")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(*target, fail)
        images.save_clip(path, random_frames(seed=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("growth.gif", {}, r"growth\.gif'.*\.webp, \.png, \.apng"),
        ("growth", {}, r"expected a name ending in one of"),
        ("a.webp", {"frames": np.zeros((0, 4, 4, 3), np.uint8)}, r"\(0, 4, 4, 3\)"),
        ("a.webp", {"frames": np.zeros((4, 4, 3), np.uint8)}, r"\(4, 4, 3\)"),
        ("a.webp", {"frames": np.zeros((2, 4, 4, 3))}, "'float64', expected uint8"),
        ("a.webp", {"fps": 0}, "fps is 0"),
        ("a.webp", {"fps": float("nan")}, "fps is nan"),
        ("a.webp", {"fps": 1000}, "fps is 1000"),
        ("a.webp", {"hold": -1}, "hold is -1"),
    ],
)
def test_save_clip_errors(tmp_path, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        images.save_clip(tmp_path / name, **{"frames": random_frames()} | arguments)
    assert list(tmp_path.iterdir()) == []


def test_save_png_errors(tmp_path):
    with pytest.raises(ValueError, match=r"final\.jpg.*\.png"):
        images.save_png(tmp_path / "final.jpg", random_frames()[0])
    with pytest.raises(ValueError, match=r"\(5, 6, 7, 3\), expected \(H, W, 3 or 4\)"):
        images.save_png(tmp_path / "final.png", random_frames())


# --- pages ------------------------------------------------------------------------------------


def test_show_clip_moves_or_stands_still():
    frames = random_frames()
    page = Elements(figures.show_clip(frames, "a lizard grows", zoom=4).data)
    (source,) = page.all("source")
    moving, paused = page.all("img")
    assert source["media"] == "(prefers-reduced-motion: reduce)"
    kind, data = from_uri(moving["src"])
    assert kind == "webp"
    np.testing.assert_array_equal(decode(data)[0], frames)
    for still in (source["srcset"], paused["src"]):
        kind, data = from_uri(still)
        assert kind == "png"
        np.testing.assert_array_equal(decode(data)[0], frames[-1:])
    for image in (moving, paused):
        assert image["alt"] == "a lizard grows"
        assert (image["width"], image["height"]) == ("28", "24")
        for rule in ("max-width:100%", "height:auto", "image-rendering:pixelated"):
            assert rule in image["style"]


def test_show_clip_pauses_without_scripts_and_without_ids():
    source = figures.show_clip(random_frames(), "a lizard grows").data
    page = Elements(source)
    order = [tag for tag, _ in page.found]
    assert order == ["figure", "style", "label", "input", "span", "picture", "source", "img", "img"]
    assert page.all("input")[0]["type"] == "checkbox"
    assert not any("id" in attributes or "for" in attributes for _, attributes in page.found)
    assert "input:checked~picture" in source  # the rule that the order above serves
    assert source == figures.show_clip(random_frames(), "a lizard grows").data


def test_texts_are_escaped():
    text = '"><script>alert(1)</script>&'
    for shown in (
        figures.show_clip(random_frames(), text, title=text),
        figures.show_images(random_frames(1), text, titles=[text]),
    ):
        page = Elements(shown.data)
        assert all(image["alt"] == text for image in page.all("img"))
        assert page.all("script") == []
        assert "<figcaption>&quot;&gt;&lt;script&gt;" in shown.data


def test_show_images_of_several_sizes():
    images = [random_frames(1, 4, 8)[0], random_frames(1, 10, 5, channels=4)[0]]
    page = Elements(figures.show_images(images, ["wide", "tall"], height=40).data)
    shown = page.all("img")
    assert [(i["alt"], i["width"], i["height"]) for i in shown] == [
        ("wide", "80", "40"),
        ("tall", "20", "40"),
    ]
    for image, element in zip(images, shown, strict=True):
        with Image.open(io.BytesIO(from_uri(element["src"])[1])) as decoded:
            np.testing.assert_array_equal(np.asarray(decoded), image)


def test_show_images_numbers_a_common_alt():
    page = Elements(figures.show_images(random_frames(3), "lizard").data)
    assert [i["alt"] for i in page.all("img")] == [f"lizard ({i} of 3)" for i in (1, 2, 3)]


@pytest.mark.parametrize("alt", ["", "  ", None])
def test_alt_is_mandatory(alt):
    with pytest.raises(ValueError, match="alt is"):
        figures.show_clip(random_frames(), alt)
    with pytest.raises(ValueError, match="alt is"):
        figures.show_images(random_frames(1), [alt])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "number of images is 0"),
        ({"images": random_frames().astype(float)}, "'float64', expected uint8"),
        ({"alt": ["one"]}, r"alt is \['one'\], expected one text for each of 5"),
        ({"titles": ["one"]}, r"titles is \['one'\], expected one text for each of 5"),
        ({"height": 0}, "height is 0"),
    ],
)
def test_show_images_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        figures.show_images(**{"images": random_frames(), "alt": "lizard"} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": np.zeros((0, 4, 4, 3), np.uint8)}, r"\(0, 4, 4, 3\)"),
        ({"fps": -5}, "fps is -5"),
        ({"zoom": 0}, "zoom is 0"),
    ],
)
def test_show_clip_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        figures.show_clip(**{"frames": random_frames(), "alt": "lizard"} | arguments)


# --- figures ----------------------------------------------------------------------------------


def contrast(one, other):
    """Contrast ratio of WCAG 2.2, 1 to 21."""

    def luminance(colour):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in parse_colour(colour)
        ]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    lighter, darker = sorted([luminance(one), luminance(other)], reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_formula():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


def test_figures_are_cards_that_read_on_light_and_dark_pages():
    assert parse_colour(STYLE["figure.facecolor"]) == (1, 1, 1)  # opaque: own background
    for card in ("figure.facecolor", "axes.facecolor"):
        for text in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color"):
            assert contrast(STYLE[text], STYLE[card]) >= 4.5
        for line in figures.PALETTE:
            assert contrast(line, STYLE[card]) >= 3


@pytest.fixture
def book_style():
    """The look of the book, until the test is over."""
    with plt.rc_context():
        figures.use_style()
        yield
    with warnings.catch_warnings():  # matplotlib's own scale names the parameter that it gave up
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        register_scale(LogScale)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (1e-3, 1e4, ["0.001", "0.01", "0.1", "1", "10", "100", "1000", "10000"]),
        (1e-6, 1e-3, ["1e-6", "1e-5", "0.0001", "0.001"]),
        (1e4, 1e7, ["10000", "1e5", "1e6", "1e7"]),
        (0.011, 0.04, ["0.02", "0.03", "0.04"]),  # between the powers of ten
    ],
)
def test_logarithmic_axes_have_numbers_without_raised_exponents(book_style, low, high, shown):
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    axes.plot([low, high], [0, 1])
    axes.set(xscale="log", xlim=(low, high))
    figure.savefig(io.BytesIO())
    labels = axes.get_xticklabels() + axes.get_xticklabels(minor=True)
    seen = [label.get_text().replace("$\\mathdefault{", "").replace("}$", "") for label in labels]
    assert not any("^" in text for text in seen)
    assert set(shown) <= set(seen)


def test_a_notebook_s_figures_are_sharp_and_reproducible():
    draw = "_, (a, b) = plt.subplots(1, 2); a.imshow([[1, 2, 3, 4]] * 3); b.loglog([1, 2], [3, 4]);"
    show = "figures.plot_losses({'a': {'rollouts': [1, 2], 'loss': [2.0, 1.0]}})"
    cells = ["import matplotlib.pyplot as plt\nfrom nca_lib import render", draw]
    cells += ["plt.close('all'); figures.use_style()", draw, draw, show, show]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(notebook, kernel_name="python3").execute()
    before, *figures = (cell.outputs[0]["data"] for cell in notebook.cells if cell.outputs)
    assert "image/png" in before and len(figures) == 4
    assert not any("image/png" in figure for figure in figures)
    first, again, losses, losses_again = (figure["image/svg+xml"] for figure in figures)
    assert first == again and losses == losses_again  # no date, no random names
    svg = "{http://www.w3.org/2000/svg}"
    assert not list(ElementTree.fromstring(losses).iter(f"{svg}text"))  # needs no font
    (image,) = ElementTree.fromstring(first).iter(f"{svg}image")
    data = base64.b64decode(image.get("{http://www.w3.org/1999/xlink}href").partition(",")[2])
    with Image.open(io.BytesIO(data)) as pixels:
        assert pixels.size == (4, 3)  # a pixel for each cell, enlarged by who looks at it
    assert "pixelated" in image.get("style")


def test_no_two_of_ten_curves_look_alike():
    history = {"rollouts": [1, 2], "loss": [0.2, 0.1]}
    figure = figures.plot_losses({f"run {i}": history for i in range(10)})
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 10


def test_style_does_not_leak():
    before = plt.rcParams["text.color"]
    with plt.style.context(figures.STYLE):
        assert plt.rcParams["text.color"] == STYLE["text.color"] != before
    figures.plot_channels(np.zeros((4, 4, 4)))
    assert plt.rcParams["text.color"] == before
    assert plt.get_fignums() == []  # figures are returned closed


def test_plot_losses_draws_the_numbers():
    dtype = [("generation", int), ("loss", float)]
    history = np.array([(0, 0.05), (1, np.nan), (2, np.inf), (3, 0.02)], dtype)
    figure = figures.plot_losses({"ours": history}, x="generation", levels={"untouched": 0.052})
    (axes,) = figure.axes
    curve, level = axes.lines
    np.testing.assert_array_equal(curve.get_xdata(), [0, 1, 2, 3])
    np.testing.assert_array_equal(curve.get_ydata(), [0.05, np.nan, np.nan, 0.02])
    assert set(level.get_ydata()) == {0.052}
    assert (axes.get_yscale(), axes.get_xlabel(), axes.get_ylabel()) == (
        "log",
        "generation",
        "loss",
    )
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["ours", "untouched"]
    figure.savefig(io.BytesIO())  # drawing warns of nothing


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ({}, "histories is {}, expected at least one"),
        ({"a": {"loss": [1.0]}}, "history 'a' cannot be drawn.* 'rollouts' and 'loss'"),
        ({"a": {"rollouts": ["x"], "loss": [1.0]}}, "history 'a' cannot be drawn"),
        (
            {"a": {"rollouts": [1, 2], "loss": [1.0]}},
            "expected two columns of numbers of one length",
        ),
        ({"a": {"rollouts": [1], "loss": [np.nan]}}, "'loss' of history 'a' .*finite positive"),
    ],
)
def test_plot_losses_errors(histories, message):
    with pytest.raises(ValueError, match=message):
        figures.plot_losses(histories)


def test_plot_channels_draws_every_channel_on_one_scale():
    state = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    state[0, 0, 0], state[1, 1, 1] = np.nan, np.inf
    state[2, 2, 6] = -9.0
    figure = figures.plot_channels(state)
    images = [image for axes in figure.axes for image in axes.images]
    drawn = [axes.get_title() for axes in figure.axes if axes.images]
    assert drawn == ["hidden 0", "hidden 1", "hidden 2", "R", "G", "B", "alpha"]
    for channel, image in enumerate(images):
        values = np.ma.masked_invalid(state[..., channel])
        np.testing.assert_array_equal(image.get_array().mask, values.mask)
        np.testing.assert_array_equal(image.get_array().compressed(), values.compressed())
        assert image.get_clim() == (-9.0, 9.0)
    figure.savefig(io.BytesIO())


def test_plot_channels_of_an_empty_grid():
    figure = figures.plot_channels(np.zeros((4, 4, 4)))
    assert figure.axes[0].images[0].get_clim() == (-1, 1)
    figure.savefig(io.BytesIO())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state": np.zeros((4, 4, 3))}, r"\(4, 4, 3\), expected .* at least 4 channels"),
        ({"state": np.zeros((2, 4, 4, 8))}, r"\(2, 4, 4, 8\), expected one state"),
        ({"limit": -1.0}, r"limit is -1\.0"),
        ({"limit": np.inf}, "limit is inf"),
    ],
)
def test_plot_channels_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        figures.plot_channels(**{"state": np.zeros((4, 4, 8))} | arguments)
