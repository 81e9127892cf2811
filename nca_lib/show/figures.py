"""Pictures, clips, figures and tables in a notebook; how the book's figures look (chapter 6)."""

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

import matplotlib.pyplot as plt
import mediapy
import numpy as np
from IPython import get_ipython
from IPython.display import HTML
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import ArrayLike

from nca_lib.lab.images import as_pixels, check, encode

# The colours of Okabe and Ito (2008), told apart by readers with any common colour blindness.
# Their orange, sky blue and yellow are left out: on white they fall short of the contrast of 3:1
# that WCAG 2.2 asks of a line in a figure.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")

# Every figure is a white card with dark text, which reads the same on a light and a dark page; see
# also `use_style`.
STYLE = str(resources.files("nca_lib") / "data" / "book.mplstyle")

# Inline, so that it wins over the padding and the filter that dark themes put on images.
_PIXELATED = (
    "max-width:100%;height:auto;image-rendering:pixelated;padding:0;background:none;filter:none"
)

_CLIP_CSS = (resources.files("nca_lib") / "data" / "clip.css").read_text(encoding="utf-8")


def show_images(
    images: ArrayLike | Sequence[ArrayLike],
    alt: str | Sequence[str],
    titles: Sequence[str] | None = None,
    height: int = 128,
) -> HTML:
    """Show pictures in a row that wraps on narrow screens.

    Explained in chapter 6, "Eight lizards".

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
    check(np.iterable(images), "images", images, "pictures")
    images = [as_pixels(image, 3) for image in images]
    count = len(images)
    check(count, "number of images", count, "at least 1")
    if isinstance(alt, str):
        _check_alt(alt)
        alt = [alt] if count == 1 else [f"{alt} ({i} of {count})" for i in range(1, count + 1)]
    titles = [""] * count if titles is None else titles
    for name, texts in (("alt", alt), ("titles", titles)):
        check(np.shape(texts) == (count,), name, texts, f"one text for each of {count} images")
    figures = ""
    for image, text, title in zip(images, alt, titles, strict=True):
        width = round(height * image.shape[1] / image.shape[0])
        picture = _img(_data_uri(image[None], "PNG"), text, width, height)
        figures += f'<figure style="margin:0;max-width:100%">{picture}{_caption(title)}</figure>'
    return HTML(f'<div style="display:flex;flex-wrap:wrap;gap:.75rem">{figures}</div>')


def show_clip(
    frames: ArrayLike, alt: str, title: str = "", fps: float = 20.0, zoom: int = 4, still: int = -1
) -> HTML:
    """Show a looping clip that can be paused, in a notebook and in a built page, without scripts.

    A checkbox (or a tap on the picture) exchanges the clip for one of its frames. Readers whose
    system asks for reduced motion get that frame only. The last frame stays for a second more.

    Explained in chapter 6, "A clip".

    Args:
        frames: pixels `(T, H, W, 3 or 4)`, T >= 1.
        alt: what the clip shows, for readers who cannot see it.
        title: a caption.
        fps: frames per second, at most 60.
        zoom: CSS pixels per pixel, where the page is wide enough.
        still: index of the frame that stands for the clip; by default the last.

    Returns:
        HTML with the clip inside, to be the last value of a notebook cell.

    Raises:
        ValueError: no frames, an empty `alt`, or fps out of range.
    """
    frames = as_pixels(frames, 4)
    picture = _data_uri(frames[still][None], "PNG")
    moving = _data_uri(frames, "WEBP", fps)
    size = (frames.shape[2] * zoom, frames.shape[1] * zoom)
    # The label holds everything: no ids are needed, so clips on one page cannot collide.
    return HTML(
        f'<figure class="nca-clip"><style>{_CLIP_CSS}</style>'
        '<label><input type="checkbox" autocomplete="off"><span>Pause</span>'
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{picture}">'
        f"{_img(moving, alt, *size)}</picture>{_img(picture, alt, *size)}</label>"
        f"{_caption(title)}</figure>"
    )


def use_style() -> None:
    """Give every figure from here on the look of the book; each chapter does so in its first cell.

    That is `STYLE`, numbers such as 0.01 and 1e6 on logarithmic axes and, in a notebook, figures as
    SVG, which is sharp at any size. What consists of very many parts can still be drawn as pixels,
    with `rasterized=True`.
    """
    plt.style.use(STYLE)
    if get_ipython() is not None:
        # IPython brings this package. Its import sets up the backend: not before it is asked for.
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        # No date, so that one figure gives one file; the resolution is that of rasterized parts.
        set_matplotlib_formats("svg", metadata={"Date": None}, dpi=200)


def plot_losses(
    histories: Mapping[str, Mapping[str, ArrayLike]],
    x: str = "rollouts",
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Draw loss curves, the loss on a logarithmic axis.

    The figure is none of pyplot's: it appears once, where it is the last value of a cell, and may
    be drawn in any thread.

    Explained in chapter 5, "Noise that the cells shape".

    Args:
        histories: for each curve its name and its columns, as a history file has them.
        x: the column to lay along the horizontal axis, such as `rollouts` or `generation`. A loss
            that is not finite and positive leaves a gap.
        levels: losses to compare with, each a dotted horizontal line.

    Returns:
        The figure.

    Raises:
        ValueError: no history, or columns of unequal length.
        KeyError: a missing column.

    Example:
        >>> history = {"rollouts": [64, 128, 192], "loss": [0.05, 0.03, 0.02]}
        >>> figure = plot_losses({"pocket": history}, levels={"untouched": 0.052})
    """
    fine = isinstance(histories, Mapping) and histories
    check(fine, "histories", histories, "at least one, by name")
    with plt.style.context(STYLE):
        figure = Figure()
        axes = figure.subplots()
        for name, history in histories.items():
            loss = np.asarray(history["loss"], np.float64)
            axes.plot(history[x], np.where((loss > 0) & (loss < np.inf), loss, np.nan), label=name)
        for name, value in (levels or {}).items():
            axes.axhline(value, color="#666666", linewidth=1.2, linestyle=":", label=name)
        axes.set(xlabel=x, ylabel="loss", yscale="log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.locator_params(axis="x", nbins=5)  # room for numbers in the millions
        axes.legend()
    return figure


def pictures_of(pictures: Sequence[np.ndarray], titles: Sequence[str], height: int) -> str:
    """Pictures with titles, as HTML, each with a border: what is empty has one, too."""
    shown, line = show_images(pictures, titles, titles, height).data, "1px solid #8888"
    return shown.replace("image-rendering:", f"outline:{line};image-rendering:")


def curves_of(histories: Mapping, x: str, empty: float, alt: str, spans: Iterable = ()) -> str:
    """Loss curves as SVG, over steps or, on a logarithmic axis, over what else; spans in grey."""
    figure = plot_losses(histories, x, {"empty grid": empty})
    axes, plain = figure.axes[0], {"major_formatter": "{x:g}", "minor_locator": NullLocator()}
    # Training waits for this: nothing is laid out or typeset that has to be measured before.
    rows = -(-(len(histories) + 1) // 3)  # of the legend, which lies above
    figure.set(layout_engine="none", size_inches=(6, 2.2))
    axes.set(position=(0.14, 0.25, 0.83, 0.71 - 0.1 * rows))
    axes.set_xscale("linear" if x == "step" else "log")
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, frameon=False, borderaxespad=0
    )
    axes.xaxis.set(**plain)
    axes.yaxis.set(**plain, major_locator=LogLocator(subs=(1, 2, 5)))
    for span in spans:
        axes.axvspan(*span, color="#808080", alpha=0.4, linewidth=2, linestyle="--")
    return figure_of(figure, alt)


def bars_of(counts: np.ndarray, names: Sequence[str], colours: Sequence[tuple]) -> str:
    """A histogram: above each bar how many it has, below what they are."""
    bars = ""
    for n, name, colour in zip(counts, names, colours, strict=True):
        bar = f'<div style="height:{120 * n // counts.max()}px;background:rgb{colour}"></div>'
        bars += f'<div style="flex:1;width:0">{n or ""}{bar}{name or "&nbsp;"}</div>'
    look = "display:flex;flex:1 0 16em;align-items:end;gap:3px;font-size:x-small;padding-right:2em"
    return f'<div style="{look}">{bars}</div>'


def figure_of(figure: Figure, alt: str) -> str:
    """A figure as SVG, in the colours of the page around it."""
    buffer = io.StringIO()
    for part in (figure, *figure.axes):
        part.patch.set_visible(False)
    with plt.rc_context({"svg.fonttype": "none"}, STYLE):
        # Not `savefig`, which draws everything twice.
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    # Its style would be for all of a page.
    drawing = re.sub(r"<(style|metadata).*?</\1>", "", buffer.getvalue(), flags=re.S)
    drawing = re.sub("#(222222|444444|666666|000000)", "currentColor", drawing)
    drawing = drawing.replace("#dddddd", "rgba(128,128,128,.3)")
    look = 'style="max-width:100%;height:auto;fill:currentColor;stroke-linejoin:round"'
    return f'<svg role="img" aria-label="{html.escape(alt)}" {look} {drawing.partition("<svg ")[2]}'


def heat(values: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Colour values of either sign: uint8 (..., 3), orange below zero, purple above."""
    values = np.nan_to_num(np.asarray(values, np.float32))
    limit = limit or np.abs(values).max() or 1.0
    return mediapy.to_uint8(mediapy.to_rgb(values, vmin=-limit, vmax=limit, cmap="PuOr"))


def table_of(values: np.ndarray, title: str, columns: Sequence = (), rows: Sequence = ()) -> str:
    """A small matrix as a table, each number on its colour; name its columns, or both sides."""
    cell = "padding:.1em .4em;text-align:right;font-variant-numeric:tabular-nums;color:#000"
    head = "<td></td>" * bool(rows) + "".join(f'<th scope="col">{name}</th>' for name in columns)
    body, pale = f"<tr>{head}</tr>", heat(values, 2.2 * np.abs(np.nan_to_num(values)).max())
    for name, line, colours in zip(rows or [""] * len(values), values, pale.tolist(), strict=True):
        body += "<tr>" + f'<th scope="row">{name}</th>' * bool(rows)
        for value, colour in zip(line, colours, strict=True):
            body += f'<td style="{cell};background:rgb{tuple(colour)}">{value:.3f}</td>'
        body += "</tr>"
    return (
        '<div tabindex="0" style="overflow-x:auto"><table style="border-collapse:collapse">'
        f'<caption style="text-align:left;white-space:nowrap">{title}</caption>{body}</table></div>'
    )


def _check_alt(text: str) -> None:
    check(isinstance(text, str) and text.strip(), "alt", text, "what the picture shows, in words")


def _data_uri(frames: np.ndarray, kind: str, *timing: float) -> str:
    data = base64.b64encode(encode(frames, kind, *timing)).decode("ascii")
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
