"""What the widgets are made of: knobs, clicks, messages, and stills for the static book.

Knobs are described as name: (value, choice), where the choice is a range (low, high, step), a list,
or what else `ipywidgets.interact` makes a widget of. They are made only where a kernel answers.
"""

import contextlib
import functools
import html
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources

import ipywidgets
from IPython import get_ipython
from IPython.display import HTML, display

from nca_lib.lab.config import Config

Shown = ipywidgets.Widget | HTML  # in a notebook, or in the static book
_boxes: dict[str, tuple] = {}  # of each cell its last execution, and the box that it made


def explorer(draw: Callable, chapter: str, click: Callable | None = None, **knobs: tuple) -> Shown:
    """Redraw whenever a knob is turned.

    Args:
        draw: values of all knobs, by name -> HTML.
        chapter: the notebook this is for.
        click: (knobs, x, y) -> values of knobs to change, where what `clickable` made is clicked.
        knobs: (value, choice) by name.

    Returns:
        A box of the knobs, the message and the picture.
    """
    if is_static():
        return still(draw(**{k: value for k, (value, _) in knobs.items()}), knobs, chapter)
    message, picture = ipywidgets.HTML(), ipywidgets.HTML()

    def update(*_):
        with refusals(message):
            picture.value = draw(**{name: knob.value for name, knob in made.items()})

    def hit(change):
        x, y = map(float, change.new.split()[:2])
        if 0 <= x < 1 and 0 <= y < 1:
            with contextlib.ExitStack() as stack:  # all of them change before anything is drawn
                for name, value in click(made, x, y).items():
                    stack.enter_context(made[name].hold_trait_notifications())
                    made[name].value = value

    made, place = make_knobs(knobs, update), ipywidgets.Text(layout={"display": "none"})
    place.observe(hit, "value")
    update()
    return kept(ipywidgets.VBox([grid_of([*made.values(), place], 280), message, picture]))


def clickable(picture: str) -> str:
    """Let a click on a picture tell the `explorer` where: shares of its width and height."""
    if is_static():
        return picture
    script = (
        "const b = this.querySelector('img, svg').getBoundingClientRect(),"
        "i = this.closest('.nca-box').querySelector('.widget-text input');"
        "i.value = [(event.x - b.x) / b.width, (event.y - b.y) / b.height, event.timeStamp]"
        ".join(' '); i.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    return f'<div onclick="{script}" style="cursor:crosshair;display:table">{picture}</div>'


def kept(box: ipywidgets.Box) -> ipywidgets.Box:
    """Close what the cell has made when it last ran, and say what to do where no kernel answers."""
    note = f"nca-{box.model_id}"
    box.children = [*box.children, ipywidgets.HTML(f"<style>.{note} {{display: none}}</style>")]
    box.add_class("nca-box")
    if kernel := getattr(get_ipython(), "kernel", None):
        display(HTML(f'<p class="{note}">Run this cell to bring its widget to life.</p>'))
        run, cell = (kernel.get_parent().get(part, {}) for part in ("header", "metadata"))
        place = cell.get("cellId", run.get("msg_id"))
        before, old = _boxes.get(place, (run, None))
        if before != run:
            close(old)
        _boxes[place] = run, box
    return box


def close(widget: ipywidgets.Widget) -> None:
    """Close a widget and all in it; the notebook's `Out` keeps the widget, and nothing else."""
    looks = [getattr(widget, name) for name in ("layout", "style") if widget.has_trait(name)]
    for part in (*looks, *getattr(widget, "children", ())):
        close(part)
    if isinstance(widget, ipywidgets.Box):
        widget.children = ()
    widget.close()
    widget.unobserve_all()


@contextlib.contextmanager
def refusals(message: ipywidgets.HTML) -> Iterator[None]:
    """Empty the message area, and leave there why the library refuses something."""
    message.value = ""
    try:
        yield
    except (ValueError, OSError) as error:
        message.value = notice(error)


def make_knobs(knobs: Mapping[str, tuple], changed: Callable) -> dict[str, ipywidgets.Widget]:
    """Make the knobs, by name; `changed` is told the name and the new value."""
    made = {}
    for name, (value, choice) in knobs.items():
        if isinstance(choice, list) and not isinstance(value, str):  # a scale, and no menu
            choice = ipywidgets.SelectionSlider(options=choice, value=value)
        knob = made[name] = ipywidgets.interactive.widget_from_abbrev(choice, value)
        knob.description, knob.layout.width = label(name), "auto"
        knob.style.description_width, knob.tooltip = "auto", page_knobs().get(name, [""])[-1]
        knob.continuous_update = name == "step"  # which is scrubbed through
        knob.observe(lambda change, name=name: changed(name, change.new), "value")
    return made


@functools.cache
def page_knobs() -> dict[str, tuple]:
    """Label, values and sentence of each knob of the page that evolves, by name."""
    text = (resources.files("nca_lib") / "data/demo/evolve_knobs.js").read_text("utf-8")
    knob = r'(\w+): \{\s+label: "(.*?)",(?:\s+values: \[(.*?)\],)?.*?says:\s+"(.*?)"'
    found = {k: (a, json.loads(f"[{v}]"), b) for k, a, v, b in re.findall(knob, text, re.S)}
    counts = [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
    return found | {"generations": ("Generations", counts, "When it ends, in ever smaller steps.")}


def settings(config: Config, names: Iterable[str]) -> dict[str, tuple]:
    """Describe knobs of the page for settings of a configuration."""
    values = {name: vars(config)[name] for name in names}
    return {k: (value, sorted({*page_knobs()[k][1], value})) for k, value in values.items()}


def grid_of(widgets: Iterable[ipywidgets.Widget], width: int) -> ipywidgets.GridBox:
    """Lay widgets in as many columns of at least this width as there is room for."""
    columns = f"repeat(auto-fit, minmax(min({width}px, 100%), 1fr))"
    layout = {"grid_template_columns": columns, "grid_gap": "0 1em", "align_items": "flex-start"}
    return ipywidgets.GridBox(list(widgets), layout=layout)


def label(name: str) -> str:
    """What stands before a knob: the page's word for it, if it has one."""
    return page_knobs().get(name, [name.replace("_", " ")])[0]


def is_static() -> bool:
    """Whether the book is built: no kernel will answer."""
    return bool(os.environ.get("NCA_BOOK"))


def still(content: str, knobs: Mapping[str, tuple], chapter: str) -> HTML:
    """Show a widget on a static page: its picture, where its knobs stand, and where it is live."""
    told = " · ".join(f"{label(k)} <b>{v}</b>" for k, (v, _) in knobs.items() if v != "")
    address = html.escape(f"{os.environ['NCA_BOOK'].rstrip('/')}/{chapter}.ipynb")
    link = f'href="{address}"' if address.startswith("https://") else ""
    style = "border:1px solid #888;border-radius:4px;padding:.75rem;margin:0 0 1rem"
    return HTML(
        f'<figure class="nca-widget" style="{style}"><p>{told}</p>{content}<figcaption>'
        f'<a class="nca-launch" {link}>Live in Colab or Jupyter.</a></figcaption></figure>'
    )


def notice(text: object) -> str:
    """A message, on yellow."""
    style = "background:#fff3cd;color:#222;padding:.25em .5em;margin:0;flex:1 15em;align-self:start"
    return f'<p role="status" style="{style}">{html.escape(str(text))}</p>'
