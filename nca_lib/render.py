"""Arrays to pictures, clips and figures.

Everything here takes arrays and gives arrays, files or something a notebook can show.
A *state* is float, shape `(..., H, W, C)`, its last four channels red, green, blue and alpha;
its values may lie anywhere, NaN and infinity included, because states in training do.
*Pixels* are uint8, shape `(..., H, W, 3)` or `(..., H, W, 4)`, the latter with straight alpha,
as PNG and WebP want it. Chapter 5 builds the conversion from one to the other by hand.

The usual path of a picture:

>>> import numpy as np
>>> frames = np.zeros((10, 32, 32, 16), np.float32)  # a rollout: ten dead grids
>>> pixels = to_rgb(frames)                          # (10, 32, 32, 3), white
>>> contact_sheet(pixels, columns=5, gap=1).shape
(65, 164, 3)
"""

import base64
import html
import io
import math
import os
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import HTML
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.scale import LogScale, register_scale
from numpy.typing import ArrayLike
from PIL import Image

from nca_lib.checkpoint import write_atomic

# The colours of Okabe and Ito (2008), told apart by readers with any common colour blindness.
# Their orange, sky blue and yellow are left out: on white they fall short of the contrast of 3:1
# that WCAG 2.2 asks of a line in a figure.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")

# Every figure is a white card with dark text, which reads the same on a light and a dark page; see
# also `use_style`.
STYLE = str(resources.files("nca_lib") / "data" / "book.mplstyle")

MAX_PIXELS = 2**30  # bytes of pixels, a gigabyte: more is a slip of the hand

_SAVE_AS = {".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}

# Inline, so that it wins over the padding and the filter that dark themes put on images.
_PIXELATED = (
    "max-width:100%;height:auto;image-rendering:pixelated;padding:0;background:none;filter:none"
)

_CLIP_CSS = (resources.files("nca_lib") / "data" / "clip.css").read_text(encoding="utf-8")


def to_rgba(state: ArrayLike, premultiplied: bool = True) -> np.ndarray:
    """Convert states to straight-alpha pixels, transparency kept.

    A premultiplied colour `c` with alpha `a` becomes `min(c, a) / a`; where `a` is 0 it is black.

    Explained in chapter 5, "Eight lizards".

    Args:
        state: `(..., H, W, C)` with C >= 4, RGBA last. Clipped to [0, 1], NaN counts as 0.
        premultiplied: whether the colour channels are already multiplied by alpha.

    Returns:
        uint8 pixels `(..., H, W, 4)`.

    Raises:
        ValueError: the state has fewer than three axes or fewer than four channels.
    """
    rgb, alpha = _split(state)
    if premultiplied:
        rgb = np.divide(np.minimum(rgb, alpha), alpha, out=np.zeros_like(rgb), where=alpha > 0)
    return _to_uint8(np.concatenate([rgb, alpha], axis=-1))


def to_rgb(
    state: ArrayLike, background: ArrayLike = (1.0, 1.0, 1.0), premultiplied: bool = True
) -> np.ndarray:
    """Lay states over a background.

    With premultiplied colour `c` the result is `c + (1 - a) * background`, with straight colour
    `a * c + (1 - a) * background`; the "over" operator of Porter and Duff (1984).

    Explained in chapter 5, "From state to pixels".

    Args:
        state: `(..., H, W, C)` with C >= 4, RGBA last. Clipped to [0, 1], NaN counts as 0.
        background: a colour `(3,)` or a picture `(H, W, 3)`, values in [0, 1].
        premultiplied: whether the colour channels are already multiplied by alpha.

    Returns:
        uint8 pixels `(..., H, W, 3)`.

    Raises:
        ValueError: the state or the background has the wrong shape, or the background leaves
            [0, 1].
    """
    rgb, alpha = _split(state)
    behind = _numbers("background", background)
    picture = (*rgb.shape[-3:-1], 3)
    _check(behind.shape in ((3,), picture), "background shape", behind.shape, f"(3,) or {picture}")
    _check(np.all((behind >= 0) & (behind <= 1)), "background", background, "values in [0, 1]")
    if not premultiplied:
        rgb = rgb * alpha
    return _to_uint8(rgb + (1 - alpha) * behind)


def checkerboard(height: int, width: int, cell: int = 4) -> np.ndarray:
    """Draw the grey checks that stand for transparency, as a `background` for `to_rgb`.

    Explained in chapter 1, "Laying it over a background".

    Args:
        height: in pixels.
        width: in pixels.
        cell: side of one check, in pixels.

    Returns:
        float32 `(height, width, 3)`, values 0.8 and 1.

    Raises:
        ValueError: a size is below 1, or the picture would be larger than `MAX_PIXELS`.
    """
    for name, value in (("height", height), ("width", width), ("cell", cell)):
        _check_count(name, value)
    _check_bytes(12, height, width)
    y, x = np.mgrid[:height, :width] // cell
    checks = np.where((x + y) % 2 == 0, np.float32(1), np.float32(0.8))
    return np.repeat(checks[..., None], 3, axis=-1)


def upscale(pixels: ArrayLike, zoom: int) -> np.ndarray:
    """Enlarge pixels by a whole factor, each becoming a sharp square.

    Explained in chapter 5, "Keeping a picture".

    Args:
        pixels: `(H, W, 3 or 4)`, with up to two more axes in front.
        zoom: the factor, at least 1.

    Returns:
        Pixels, with `H * zoom` and `W * zoom`.

    Raises:
        ValueError: the array is not pixels, `zoom` is not a whole number of at least 1, or the
            result would be larger than `MAX_PIXELS`.
    """
    _check_count("zoom", zoom)
    pixels = _pixels(pixels, 3, 4, 5)
    _check_bytes(pixels.size, zoom, zoom)
    return pixels.repeat(zoom, axis=-3).repeat(zoom, axis=-2)


def contact_sheet(images: ArrayLike, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Lay N images out in a grid, row by row; with a leading time axis, N clips as one.

    Explained in chapter 5, "A clip".

    Args:
        images: pixels `(N, H, W, 3 or 4)`, or `(T, N, H, W, 3 or 4)` for a clip of sheets.
        columns: images in a row; by default the grid is about square.
        gap: pixels between two images, white in RGB and transparent in RGBA.

    Returns:
        Pixels `(H', W', 3 or 4)`, or `(T, H', W', 3 or 4)`, where
        `H' = rows * (H + gap) - gap` and `W' = columns * (W + gap) - gap`.

    Raises:
        ValueError: no images, not pixels, `columns` below 1, `gap` below 0, or a sheet larger than
            `MAX_PIXELS`.
    """
    images = _pixels(images, 4, 5)
    *lead, number, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(number)) if columns is None else columns
    _check_count("columns", columns)
    _check_count("gap", gap, least=0)
    rows, tall, wide = math.ceil(number / columns), height + gap, width + gap
    _check_bytes(*lead, rows, columns, tall, wide, channels)
    blank = np.uint8(255 if channels == 3 else 0)
    cells = np.full((*lead, rows * columns, tall, wide, channels), blank)
    cells[..., :number, :height, :width, :] = images
    grid = cells.reshape(*lead, rows, columns, tall, wide, channels).swapaxes(-4, -3)
    sheet = grid.reshape(*lead, rows * tall, columns * wide, channels)
    return sheet[..., : rows * tall - gap, : columns * wide - gap, :]


def save_png(path: str | os.PathLike, pixels: ArrayLike) -> None:
    """Write one picture; an existing file is replaced only once the new one is complete.

    Explained in chapter 5, "Keeping a picture".

    Args:
        path: file name ending in `.png`.
        pixels: `(H, W, 3 or 4)`.

    Raises:
        ValueError: another file extension, or not the pixels of one picture.
    """
    _check(_suffix(path) == ".png", "path", str(path), "a name ending in .png")
    write_atomic(path, _encode(_pixels(pixels, 3)[None], "PNG"))


def save_clip(
    path: str | os.PathLike,
    frames: ArrayLike,
    fps: float = 20.0,
    hold: float = 1.0,
) -> None:
    """Write an endlessly looping clip; a file is replaced only once the new one is complete.

    Every pixel is kept. Neighbouring frames that are equal are stored once and shown for longer.

    Explained in chapter 5, "Keeping a picture".

    Args:
        path: file name ending in `.webp`, or in `.png` or `.apng` for animated PNG.
        frames: pixels `(T, H, W, 3 or 4)`, T >= 1.
        fps: frames per second, at most 60; browsers slow down clips that ask for more.
        hold: seconds that the last frame stays longer than the others.

    Raises:
        ValueError: another file extension, no frames, or a number out of range.
    """
    kind = _SAVE_AS.get(_suffix(path))
    _check(kind, "path", str(path), f"a name ending in one of {', '.join(_SAVE_AS)}")
    write_atomic(path, _encode(_pixels(frames, 4), kind, fps, hold))


def show_images(
    images: ArrayLike | Sequence[ArrayLike],
    alt: str | Sequence[str],
    titles: Sequence[str] | None = None,
    height: int = 128,
) -> HTML:
    """Show pictures in a row that wraps on narrow screens.

    Explained in chapter 5, "Eight lizards".

    Args:
        images: pixels `(N, H, W, 3 or 4)`, or N pictures of different sizes.
        alt: what the pictures show, for readers who cannot see them: one text for each, or one
            for all, which is then numbered.
        titles: one caption for each picture.
        height: height on the page, in CSS pixels, where the page is wide enough.

    Returns:
        HTML with the pictures inside, to be the last value of a notebook cell.

    Raises:
        ValueError: no images, an empty `alt`, or as many texts as there are not pictures.
    """
    _check(np.iterable(images), "images", images, "pictures")
    images = [_pixels(image, 3) for image in images]
    count = len(images)
    _check(count, "number of images", count, "at least 1")
    _check_count("height", height)
    if isinstance(alt, str):
        _check_alt(alt)
        alt = [alt] if count == 1 else [f"{alt} ({i} of {count})" for i in range(1, count + 1)]
    titles = [""] * count if titles is None else titles
    for name, texts in (("alt", alt), ("titles", titles)):
        fine = isinstance(texts, Collection) and len(texts) == count
        fine = fine and all(isinstance(text, str) for text in texts)
        _check(fine, name, texts, f"one text for each of {count} images")
    figures = ""
    for image, text, title in zip(images, alt, titles, strict=True):
        width = round(height * image.shape[1] / image.shape[0])
        picture = _img(_data_uri(image[None], "PNG"), text, width, height)
        figures += f'<figure style="margin:0;max-width:100%">{picture}{_caption(title)}</figure>'
    return HTML(f'<div style="display:flex;flex-wrap:wrap;gap:.75rem">{figures}</div>')


def show_clip(
    frames: ArrayLike,
    alt: str,
    title: str = "",
    fps: float = 20.0,
    hold: float = 1.0,
    zoom: int = 4,
) -> HTML:
    """Show a looping clip that can be paused, in a notebook and in a built page, without scripts.

    A checkbox (or a tap on the picture) exchanges the clip for its last frame. Readers whose
    system asks for reduced motion get the last frame only.

    Explained in chapter 5, "A clip".

    Args:
        frames: pixels `(T, H, W, 3 or 4)`, T >= 1.
        alt: what the clip shows, for readers who cannot see it.
        title: a caption.
        fps: frames per second, at most 60.
        hold: seconds that the last frame stays longer than the others.
        zoom: CSS pixels per pixel, where the page is wide enough.

    Returns:
        HTML with the clip inside, to be the last value of a notebook cell.

    Raises:
        ValueError: no frames, an empty `alt`, or a number out of range.
    """
    frames = _pixels(frames, 4)
    _check_count("zoom", zoom)
    still = _data_uri(frames[-1:], "PNG")
    moving = _data_uri(frames, "WEBP", fps, hold)
    size = (frames.shape[2] * zoom, frames.shape[1] * zoom)
    # The label holds everything: no ids are needed, so clips on one page cannot collide.
    return HTML(
        f'<figure class="nca-clip"><style>{_CLIP_CSS}</style>'
        '<label><input type="checkbox" autocomplete="off"><span>Pause</span>'
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{still}">'
        f"{_img(moving, alt, *size)}</picture>{_img(still, alt, *size)}</label>"
        f"{_caption(title)}</figure>"
    )


def use_style() -> None:
    """Give every figure from here on the look of the book; each chapter does so in its first cell.

    That is `STYLE`, numbers such as 0.01 and 1e6 on logarithmic axes and, in a notebook, figures as
    SVG, which is sharp at any size. What consists of very many parts can still be drawn as pixels,
    with `rasterized=True`.
    """
    plt.style.use(STYLE)
    register_scale(_PlainLogScale)
    if get_ipython() is not None:
        # IPython brings this package. Its import sets up the backend: not before it is asked for.
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        # No date, so that one figure gives one file; the resolution is that of rasterized parts.
        set_matplotlib_formats("svg", metadata={"Date": None}, dpi=200)


def plot_losses(
    histories: Mapping[str, Mapping[str, ArrayLike]],
    x: str = "rollouts",
    y: str = "loss",
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Draw loss curves, the loss on a logarithmic axis.

    The figure is none of pyplot's: it appears once, where it is the last value of a cell, and may
    be drawn in any thread.

    Explained in chapter 4, "Half a minute of evolution".

    Args:
        histories: for each curve its name and its columns, as a history file has them.
        x: the column to lay along the horizontal axis, such as `rollouts` or `generation`.
        y: the column to draw; values that are not finite and positive leave a gap.
        levels: losses to compare with, each a dotted horizontal line.

    Returns:
        The figure.

    Raises:
        ValueError: no history, a missing column, columns of unequal length, or nothing to draw.

    Example:
        >>> history = {"rollouts": [64, 128, 192], "loss": [0.05, 0.03, 0.02]}
        >>> figure = plot_losses({"pocket": history}, levels={"untouched": 0.052})
    """
    fine = isinstance(histories, Mapping) and histories
    _check(fine, "histories", histories, "at least one, by name")
    curves = {name: _curve(name, history, x, y) for name, history in histories.items()}
    with plt.style.context(STYLE):
        figure = Figure()
        axes = figure.subplots()
        for name, (across, loss) in curves.items():
            axes.plot(across, loss, label=name)
        for name, value in (levels or {}).items():
            axes.axhline(value, color="#666666", linewidth=1.2, linestyle=":", label=name)
        axes.set(xlabel=x, ylabel=y, yscale="log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.locator_params(axis="x", nbins=5)  # room for numbers in the millions
        axes.legend()
    return figure


def plot_channels(state: ArrayLike, limit: float | None = None) -> Figure:
    """Draw each channel of one state as a small image, on one diverging scale around 0.

    Explained in chapter 5, "Below the surface".

    Args:
        state: `(H, W, C)` with C >= 4, hidden channels first, RGBA last. Values that are not
            finite are drawn grey.
        limit: the value at the ends of the colour scale; by default the largest magnitude.

    Returns:
        The figure, closed, so that it appears once, where it is the last value of a cell.

    Raises:
        ValueError: the state has the wrong shape, or `limit` is not positive.
    """
    state = _state(state)
    _check(state.ndim == 3, "state shape", state.shape, "one state (H, W, C)")
    # In double precision, where the width of the scale is finite even around float32's largest.
    state = np.where(np.isfinite(state), state, np.nan).astype(np.float64)
    if limit is None:
        limit = np.abs(np.nan_to_num(state)).max() or 1.0
    _check(0 < limit < math.inf, "limit", limit, "a finite number above 0")
    names = [f"hidden {i}" for i in range(state.shape[-1] - 4)] + ["R", "G", "B", "alpha"]
    rows = math.ceil(len(names) / 4)
    colours = plt.get_cmap("PuOr").with_extremes(bad="#808080")
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(rows, 4, figsize=(6.0, 0.4 + 1.5 * rows), squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for i, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
            image = axes.imshow(state[..., i], cmap=colours, vmin=-limit, vmax=limit)
            axes.set_title(name, fontsize="small")
        figure.colorbar(image, ax=grid, location="bottom", shrink=0.6, aspect=30)
        plt.close(figure)
    return figure


def _check(fine: object, name: str, value: object, expected: str) -> None:
    if not fine:
        raise ValueError(f"{name} is {value!r}, expected {expected}")


def _check_count(name: str, value: int, least: int = 1) -> None:
    whole = isinstance(value, int | np.integer)
    _check(whole and value >= least, name, value, f"a whole number of at least {least}")


def _check_bytes(*sizes: int) -> None:
    total = math.prod(map(int, sizes))
    _check(total <= MAX_PIXELS, "number of bytes", total, f"at most {MAX_PIXELS}")


def _suffix(path: str | os.PathLike) -> str:
    _check(isinstance(path, str | os.PathLike), "path", path, "a path")
    return Path(path).suffix.lower()


def _check_alt(text: str) -> None:
    _check(isinstance(text, str) and text.strip(), "alt", text, "what the picture shows, in words")


def _numbers(name: str, values: ArrayLike) -> np.ndarray:
    values = np.asarray(values)
    fine = np.can_cast(values.dtype, np.float64)
    _check(fine, f"{name} dtype", values.dtype.name, "real numbers")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _state(state: ArrayLike) -> np.ndarray:
    state = _numbers("state", state)
    fine = state.ndim >= 3 and state.shape[-1] >= 4 and state.size
    _check(fine, "state shape", state.shape, "(..., H, W, C) with at least 4 channels")
    return state


def _split(state: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    rgba = np.nan_to_num(_state(state)[..., -4:], nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    return rgba[..., :3], rgba[..., 3:]


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


def _pixels(images: ArrayLike, *ndims: int) -> np.ndarray:
    images = np.asarray(images)
    _check(images.dtype == np.uint8, "dtype", images.dtype.name, "uint8 from to_rgb or to_rgba")
    fine = images.ndim in ndims and images.shape[-1] in (3, 4) and images.size
    shapes = {3: "(H, W, 3 or 4)", 4: "(N, H, W, 3 or 4)", 5: "(T, N, H, W, 3 or 4)"}
    _check(fine, "shape", images.shape, f"{' or '.join(shapes[n] for n in ndims)}, not empty")
    return images


def _encode(frames: np.ndarray, kind: str, fps: float = 20, hold: float = 0) -> bytes:
    for name, value, low in (("fps", fps, 1), ("hold", hold, 0)):  # hold is in seconds
        number = isinstance(value, int | float) and low <= value <= 60
        _check(number, name, value, f"a number from {low} to 60")
    first, *others = (Image.fromarray(frame) for frame in frames)
    options = {"lossless": True} if kind == "WEBP" else {}
    if others:
        duration = [round(1000 / fps)] * len(frames)  # milliseconds
        duration[-1] += round(1000 * hold)
        options |= {"save_all": True, "append_images": others, "duration": duration, "loop": 0}
    buffer = io.BytesIO()
    first.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _data_uri(frames: np.ndarray, kind: str, *timing: float) -> str:
    data = base64.b64encode(_encode(frames, kind, *timing)).decode("ascii")
    return f"data:image/{kind.lower()};base64,{data}"


def _img(uri: str, alt: str, width: int, height: int) -> str:
    _check_alt(alt)
    # dark-light: the Jupyter Book theme leaves such images as they are in dark mode.
    return (
        f'<img class="dark-light" src="{uri}" alt="{html.escape(alt)}" '
        f'width="{width}" height="{height}" style="{_PIXELATED}">'
    )


def _caption(title: str) -> str:
    return f"<figcaption>{html.escape(title)}</figcaption>" if title else ""


class _PlainLogScale(LogScale):
    """Its numbers stand on one line: a raised exponent is too small to be read on a phone."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        # From 3.11 on matplotlib gives a scale no axis, and warns where the parameters name one.
        super().__init__(*args, **kwargs)

    def set_default_locators_and_formatters(self, axis: Axis) -> None:
        super().set_default_locators_and_formatters(axis)
        axis.set_major_formatter(_plain_number)


def _plain_number(value: float, position: int | None = None) -> str:
    """As Python writes it, without padding: 0.0001, 10000, 1e5, 1e-5."""
    mantissa, _, exponent = f"{value:.5g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _curve(name: str, history: Mapping[str, ArrayLike], x: str, y: str) -> np.ndarray:
    try:
        across, loss = np.asarray([history[x], history[y]], np.float64)
    except (
        KeyError,
        TypeError,
        ValueError,
    ) as error:  # no such column, not numbers, unequal lengths
        expected = f"two columns of numbers of one length, {x!r} and {y!r}"
        raise ValueError(f"history {name!r} cannot be drawn, expected {expected}") from error
    drawable = np.isfinite(loss) & (loss > 0)
    _check(drawable.any(), f"{y!r} of history {name!r}", loss, "a finite positive number in it")
    return np.stack([across, np.where(drawable, loss, np.nan)])
