"""The book's figures as readers see them, judged by their pixels, in both themes."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import skip_or_fail
from PIL import Image, ImageOps
from test_book import HTML, PAGES

from nca_lib.show import figures

READABLE = 4.5  # least contrast of text, by WCAG 2.2
VISIBLE = 1.5  # what differs less from the card is a grid line
STRIP = 0.022  # of a figure's larger side: about a line of text
STROKES = 6  # of a word: less are curves that end at the border, say
SCALE = 2  # pixels of the screen for one of the page, as on most phones
DAZZLING = 0.8  # luminance; white has 1
# Images load when they come into view, and solutions are folded: show all of it now.
PREPARE = """async () => {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    for (const fold of document.querySelectorAll(".toggle-hidden"))
        fold.classList.remove("toggle-hidden");
    for (const image of document.images) image.loading = "eager";
    await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
}"""
FIGURES = ".bd-article div.cell_output img[src*='_images/']"  # clips and rows of images are inline


def luminance(colours):
    """Relative luminance of sRGB colours (..., 3), values 0 to 255, by WCAG 2.2: (...)."""
    values = np.asarray(colours) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    """Contrast ratio of two colours, 1 to 21, by WCAG 2.2; broadcast over leading axes."""
    a, b = luminance(a), luminance(b)
    return (np.maximum(a, b) + 0.05) / (np.minimum(a, b) + 0.05)


def ring_colour(pixels, depth):
    """The most frequent colour along the rectangle that lies `depth` pixels inside the border."""
    inner = pixels[depth : len(pixels) - depth, depth : pixels.shape[1] - depth]
    ring = np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]])
    colours, counts = np.unique(ring, axis=0, return_counts=True)
    return colours[counts.argmax()]


def text_contrast(pixels, card):
    """Contrast of a figure's outermost lines of text with its card; None where it has none.

    Titles, labels and legends are what lies highest and lowest in a figure. Seen from there, the
    first strip that is not card is taken for text if some line through it is crossed by many
    strokes. The fainter of the two counts.
    """
    ratios, found = contrast(pixels, card), []
    for side in (ratios, ratios[::-1]):  # from above and from below
        inked = np.flatnonzero((side > VISIBLE).any(axis=1))
        if len(inked):
            strip = side[inked[0] : inked[0] + max(4, round(STRIP * max(pixels.shape)))]
            ink = strip > VISIBLE
            strokes = np.count_nonzero(ink[:, 1:] & ~ink[:, :-1], axis=1).max()
            if strokes >= STROKES and ink.mean() < 0.5:
                # Edges of strokes are blended with the card, their cores are not.
                found.append(float(np.quantile(strip[ink], 0.95)))
    return min(found, default=None)


def judge(pixels, page, dark, padding=0):
    """What troubles a reader of the figure `pixels` (H, W, 3) on a page's colour, and its contrast.

    `padding` is the width, in pixels, of the frame that the page puts around the figure.
    """
    depth = padding + 2  # past the frame, and past pixels that straddle its edge
    frame, card = ring_colour(pixels, 2), ring_colour(pixels, depth)
    ratio = text_contrast(pixels[depth:-depth, depth:-depth], card)
    troubles = {
        "a frame unlike its card": contrast(frame, card) > 1.05,
        "a card unlike its page": not dark and contrast(card, page) > 1.05,
        "a card that dazzles": dark and luminance(card) > DAZZLING,
        "faint text": ratio is not None and ratio < READABLE,
    }
    return [trouble for trouble, is_so in troubles.items() if is_so], ratio


WHITE, NIGHT = (255, 255, 255), (18, 18, 24)


@pytest.mark.parametrize(
    ("text", "card", "page", "frame", "troubles"),
    [
        ("#222222", "#ffffff", WHITE, WHITE, []),
        ("#222222", "#dbdbdb", NIGHT, (219, 219, 219), []),
        ("#888888", "#ffffff", WHITE, WHITE, ["faint text"]),
        ("#ffb000", "#ffffff", WHITE, WHITE, ["faint text"]),
        ("#222222", "#dddddd", WHITE, (221, 221, 221), ["a card unlike its page"]),
        ("#222222", "#ffffff", NIGHT, WHITE, ["a card that dazzles"]),
        ("#222222", "#dbdbdb", NIGHT, (160, 170, 180), ["a frame unlike its card"]),
    ],
)
def test_what_troubles_readers_is_found_beside_dark_curves(text, card, page, frame, troubles):
    settings = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), text)
    with plt.style.context([figures.STYLE, settings]):
        figure, axes = plt.subplots(facecolor=card)
        axes.set(xlabel="generation", ylabel="loss of the mean", title="a chart", facecolor=card)
        axes.plot([[0, 0, 0], [1, 2, 3]], color="black")
        buffer = io.BytesIO()
        figure.savefig(buffer, bbox_inches="tight")
        plt.close(figure)
    pixels = np.asarray(ImageOps.expand(Image.open(buffer).convert("RGB"), 8, frame))
    assert judge(pixels, page, page == NIGHT, padding=8)[0] == troubles


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_of_the_book_can_be_read(chromium, theme):
    if not PAGES:
        skip_or_fail(f"no book at {HTML}; build it first with `make book`")
    context = chromium.new_context(offline=True, color_scheme=theme, device_scale_factor=SCALE)
    found, ratios = {}, []
    for page in PAGES:
        if "_images/" not in (HTML / page).read_text(encoding="utf-8"):
            continue
        tab = context.new_page()
        tab.goto((HTML / page).as_uri())
        tab.evaluate(PREPARE)
        tab.wait_for_function("() => document.getAnimations().length === 0")  # colours fade in
        colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        colour = [float(value) for value in colour.strip("rgba()").split(",")[:3]]
        for width in (1280, 390):
            tab.set_viewport_size({"width": width, "height": 900})
            for image in tab.locator(FIGURES).all():
                pixels = np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("RGB"))
                frame = image.evaluate("(image) => parseFloat(getComputedStyle(image).paddingLeft)")
                trouble, ratio = judge(pixels, colour, theme == "dark", round(frame * SCALE))
                ratios.append(ratio)
                if trouble:
                    found[image.get_attribute("alt")[:60], width] = trouble
        tab.close()
    context.close()
    assert found == {}
    assert len(ratios) >= 80
    assert ratios.count(None) <= 10, "the measure overlooks text; few figures have none"
