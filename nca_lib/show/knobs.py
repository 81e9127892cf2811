"""What the widgets are made of: knobs, messages, pictures and tables as HTML.

Knobs are described as name: (value, choice), where the choice is a range (low, high, step) to slide
in, a list to choose from, or a type of value to type in. They are made only where a kernel answers.
"""

import base64
import contextlib
import html
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import ipywidgets
import matplotlib
import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from nca_lib.show import figures

LABELS = {"another": "or type", "std": "σ", "num_steps": "steps"}  # where names do not say it


def explorer(
    draw: Callable[..., str],
    chapter: str,
    compiles: Sequence[str] = (),
    extra: Callable | None = None,
    **knobs: tuple,
) -> ipywidgets.VBox | HTML:
    """Redraw whenever a knob is turned.

    Args:
        draw: values of all knobs, by name -> HTML.
        chapter: the notebook this is for.
        compiles: knobs whose every new combination makes `draw` compile anew.
        extra: knobs -> further widgets, to stand below the knobs.
        knobs: (value, choice) by name.

    Returns:
        A box of the knobs, the message and the picture.
    """
    if is_static():
        return still(draw(**{k: value for k, (value, _) in knobs.items()}), knobs, chapter)
    message, picture, compiled = ipywidgets.HTML(), ipywidgets.HTML(), set()

    def update(_=None):
        values = {name: knob.value for name, knob in made.items()}
        shape = ", ".join(f"{name} {values[name]}" for name in compiles)
        with refusals(message):
            if compiled and shape not in compiled:
                message.value = notice(f"Compiling anew for {shape}: a moment.")
            picture.value = draw(**values)
            compiled.add(shape)

    made = make_knobs(knobs, update)
    below = extra(made) if extra else []
    update()
    return ipywidgets.VBox([row_of(made.values()), row_of(below), message, picture])


@contextlib.contextmanager
def refusals(message: ipywidgets.HTML) -> Iterator[None]:
    """Empty the message area, and leave there why the library refuses something."""
    message.value = ""
    try:
        yield
    except (ValueError, OSError) as error:
        message.value = notice(error)


def make_knobs(knobs: Mapping[str, tuple], changed: Callable) -> dict[str, ipywidgets.Widget]:
    """Make the knobs, by name."""
    fields = {int: ipywidgets.IntText, float: ipywidgets.FloatText, str: ipywidgets.Text}
    sliders, made = {int: ipywidgets.IntSlider, float: ipywidgets.FloatSlider}, {}
    for name, (value, choice) in knobs.items():
        if isinstance(choice, list):
            knob = ipywidgets.Dropdown(options=choice, value=value)
        elif isinstance(choice, tuple):
            options = dict(zip(("min", "max", "step"), choice, strict=True))
            knob = sliders[type(value)](value, continuous_update=False, **options)
        else:
            knob = fields[choice](value, continuous_update=False)
        knob.description, knob.style.description_width = label(name), "auto"
        knob.observe(changed, "value")
        made[name] = knob
    return made


def button_for(name: str, click: Callable) -> ipywidgets.Button:
    """A button, and what a click does."""
    button = ipywidgets.Button(description=name)
    button.on_click(click)
    return button


def row_of(widgets: Iterable[ipywidgets.Widget]) -> ipywidgets.HBox:
    """Lay widgets in a row that wraps."""
    return ipywidgets.HBox(list(widgets), layout=ipywidgets.Layout(flex_flow="row wrap"))


def label(name: str) -> str:
    """What stands before a knob."""
    return LABELS.get(name, name.replace("_", " "))


def is_static() -> bool:
    """Whether the book is built: no kernel will answer."""
    return bool(os.environ.get("NCA_BOOK"))


def still(content: str, knobs: Mapping[str, tuple], chapter: str) -> HTML:
    """Show a widget on a static page: its picture, where its knobs stand, and where it is live."""
    values = [f"{label(k)} <b>{value}</b>" for k, (value, _) in knobs.items() if value != ""]
    caption, address = "Live in Colab or Jupyter.", os.environ["NCA_BOOK"]
    if address.startswith("https://"):
        link = html.escape(f"{address.rstrip('/')}/{chapter}.ipynb")
        caption = f'<a class="nca-launch" href="{link}">{caption}</a>'
    style = "border:1px solid #888;border-radius:4px;padding:.75rem;margin:0 0 1rem"
    return HTML(
        f'<figure class="nca-widget" style="{style}"><p>{" · ".join(values)}</p>{content}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def notice(text: object) -> str:
    """A message, on yellow."""
    style = "background:#fff3cd;color:#222;padding:.25em .5em;margin:0"
    return f'<p role="status" style="{style}">{html.escape(str(text))}</p>'


def pictures_of(pictures: Sequence[np.ndarray], titles: Sequence[str], height: int) -> str:
    """Pictures with titles, as HTML."""
    return figures.show_images(pictures, titles, titles, height).data


def figure_of(figure: Figure, alt: str) -> str:
    """A figure as an image."""
    buffer, style = io.BytesIO(), "max-width:100%;height:auto"
    figure.savefig(buffer, format="png")
    address = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return f'<img src="{address}" alt="{html.escape(alt)}" style="{style}">'


def heat(values: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Colour values of either sign: uint8 (..., 3), orange below zero, purple above."""
    values = np.nan_to_num(np.asarray(values, np.float64)).clip(-1e300, 1e300)
    limit = limit or np.abs(values).max() or 1.0
    colours = matplotlib.colormaps["PuOr"](0.5 + values / (2 * limit))
    return np.rint(255 * colours[..., :3]).astype(np.uint8)


def table_of(
    values: np.ndarray, title: str, columns: Sequence[str] = (), rows: Sequence[str] = ()
) -> str:
    """A small matrix as a table, each number on its colour; name its columns, or both sides."""
    cell = "padding:.1em .4em;text-align:right;font-variant-numeric:tabular-nums"
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    body = f"<tr><td></td>{head}</tr>" if columns else ""
    for i, (line, colours) in enumerate(zip(values, heat(values), strict=True)):
        body += f'<tr><th scope="row">{rows[i]}</th>' if rows else "<tr>"
        for value, colour in zip(line, colours.tolist(), strict=True):
            luminance = np.dot((0.2126, 0.7152, 0.0722), np.divide(colour, 255) ** 2.2)
            ink = "#fff" if luminance < 0.18 else "#000"  # as WCAG 2.2 measures contrast
            look = f"{cell};background:rgb{tuple(colour)};color:{ink}"
            body += f'<td style="{look}">{value:.2f}</td>'
        body += "</tr>"
    return (
        '<div tabindex="0" style="overflow-x:auto">'
        '<table style="border-collapse:collapse;margin:.5em 0">'
        f'<caption style="text-align:left;white-space:nowrap">{title}</caption>{body}</table></div>'
    )
