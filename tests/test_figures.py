"""The book's figures as readers see them, judged by their pixels, in both themes."""

import io

import numpy as np
import pytest
from conftest import skip_or_fail
from PIL import Image
from test_book import COMPLETE, HTML, PAGES, STILL

SCALE = 2  # pixels of the screen for one of the page, as on most phones
DAZZLING = 0.8  # luminance; white has 1
# Solutions are folded: show them now.
UNFOLD = """() => {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    for (const fold of document.querySelectorAll(".toggle-hidden"))
        fold.classList.remove("toggle-hidden");
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


def judge(pixels, page, dark, padding=0):
    """What troubles a reader of the figure `pixels` (H, W, 3) on a page's colour.

    `padding` is the width, in pixels, of the frame that the page puts around the figure. Whether
    text can be read on the card, test_show.py asks of the style.
    """
    frame, card = ring_colour(pixels, 2), ring_colour(pixels, padding + 2)
    troubles = {
        "a frame unlike its card": contrast(frame, card) > 1.05,
        "a card unlike its page": not dark and contrast(card, page) > 1.05,
        "a card that dazzles": dark and luminance(card) > DAZZLING,
    }
    return [trouble for trouble, is_so in troubles.items() if is_so]


@pytest.mark.browser
def test_figures_of_the_book_can_be_read(chromium):
    if not PAGES:
        skip_or_fail(f"no book at {HTML}; build it first with `make book`")
    context = chromium.new_context(offline=True, device_scale_factor=SCALE)
    context.set_default_timeout(60_000)  # milliseconds; only a failure takes as long
    found, seen = {}, 0
    for page in PAGES:
        if "_images/" not in (HTML / page).read_text(encoding="utf-8"):
            continue
        tab = context.new_page()
        tab.goto((HTML / page).as_uri())
        tab.evaluate(UNFOLD)
        tab.evaluate(COMPLETE)
        for theme, width in (("light", 1280), ("dark", 390)):
            tab.set_viewport_size({"width": width, "height": 900})
            tab.emulate_media(color_scheme=theme)
            tab.wait_for_function("(t) => document.documentElement.dataset.theme === t", arg=theme)
            tab.wait_for_function(STILL)  # colours fade in
            colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            colour = [float(value) for value in colour.strip("rgba()").split(",")[:3]]
            for image in tab.locator(FIGURES).all():
                pixels = np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("RGB"))
                frame = image.evaluate("(image) => parseFloat(getComputedStyle(image).paddingLeft)")
                seen += 1
                if trouble := judge(pixels, colour, theme == "dark", round(frame * SCALE)):
                    found[image.get_attribute("alt")[:60], theme, width] = trouble
        tab.close()
    context.close()
    assert found == {} and seen >= 30
