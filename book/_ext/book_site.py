"""What surrounds the text of every page: footer, description, social card, 404 page and sitemap.

Card, sitemap and canonical addresses need to know where the book will stand. That is BOOK_URL or,
without it, the Pages of the repository on GitHub; where neither is known they are left out.
Jupyter Book loads this file as a Sphinx extension (`_config.yml`).
"""

import html
import os
import re
import textwrap
from importlib import metadata
from pathlib import Path

from docutils import nodes
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from publishing import ROOT, find_repository, git

GROWN = ROOT / "nca_lib" / "data" / "runs" / "lizard-regenerating"
CARD = "card.png"  # under _static
# Pages of the first edition, and where what they held is now.
MOVED = {
    "04_es_training": "05_es_training",
    "05_visualization": "06_visualization",
    "06_es_vs_backprop": "08_es_vs_backprop",
    "07_beyond_gradients": "09_beyond_gradients",
    "08_scaling_out": "10_scaling_out",
}
CARD_SIZE = (1200, 630)  # pixels, what those who show cards ask for
CARD_ALT = "A small green lizard in square cells beside the title of the book"


def find_address(repository: str) -> str:
    """Find where the book will stand: an address that ends in a slash, or "".

    Args:
        repository: "owner/name", or "".

    Raises:
        ValueError: BOOK_URL is set, not empty, and no address.
    """
    given = os.environ.get("BOOK_URL")
    if given is not None:
        if given and not given.startswith(("https://", "http://")):
            raise ValueError(f"BOOK_URL must begin with https://, got {given!r}")
        return given.rstrip("/") + "/" if given else ""
    if not repository:
        return ""
    owner, name = repository.split("/")
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def footer(front_page: str, repository: str, commit: str, date: str) -> str:
    """The line at the foot of a page: what it was built from, licence, how to cite.

    Args:
        front_page: link to it from this page.
        repository: "owner/name", or "" for no link to the commit.
        commit: short hash, or "" to leave it out.
        date: of the commit.
    """
    versions = [f"{name} {metadata.version(name)}" for name in ("jax", "flax", "evosax")]
    source = f"commit {commit}" if commit else ""
    if commit and repository:
        source = f'<a href="https://github.com/{repository}/commit/{commit}">{source}</a>'
    built = f"Built from {source} of {date} with" if commit else "Built with"
    return (
        f"<p>{built} {', '.join(versions)}. Text and figures under "
        '<a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>, code under the MIT '
        f'License. <a href="{front_page}#how-to-cite">How to cite</a>.</p>'
    )


def describe(doctree: nodes.document | None) -> str:
    """The first paragraph of a page, which in a chapter is its promise."""
    paragraphs = doctree.findall(nodes.paragraph) if doctree else ()
    text = next((node.astext() for node in paragraphs), "")
    return " ".join(text.split())[:300]


def meta_tags(title: str, description: str, address: str) -> str:
    """What search engines and those who show cards read.

    Args:
        title: of the page, plain text.
        description: of the page, plain text; may be empty.
        address: where the book will stand, or "": then there is no card.
    """
    tags = [("name", "description", description)] if description else []
    if address:
        tags += [
            ("property", "og:type", "article"),
            ("property", "og:title", title),
            ("property", "og:description", description),
            ("property", "og:image", f"{address}_static/{CARD}"),
            ("property", "og:image:alt", CARD_ALT),
            ("name", "twitter:card", "summary_large_image"),
        ]
    return "".join(
        f'<meta {kind}="{key}" content="{html.escape(value)}">' for kind, key, value in tags
    )


def redirect(title: str, target: str, icon: str, tags: str) -> str:
    """A page that leads on to another at once: from the root of the book, or from an old address.

    Args:
        title: of the other page, plain text.
        target: the other page, from this one.
        icon: a picture, from this one.
        tags: from `meta_tags`.
    """
    title = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8" /><title>{title}</title>'
        f'<meta http-equiv="refresh" content="0; url={target}">{tags}'
        f'<link rel="icon" href="{icon}"></head>'
        f'<body><h1><a href="{target}">{title}</a></h1></body></html>\n'
    )


def draw_card(title: str) -> Image.Image:
    """A grown lizard, each cell a square, beside the title: an RGB picture of CARD_SIZE."""
    card = Image.new("RGB", CARD_SIZE, "white")
    lizard = Image.open(GROWN / "final.png").convert("RGB")
    side = CARD_SIZE[1] - 60
    card.paste(lizard.resize((side, side), Image.Resampling.NEAREST), (30, 30))
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans:bold"), 58)
    ImageDraw.Draw(card).multiline_text(
        (side + 60, CARD_SIZE[1] / 2),
        textwrap.fill(title, 14),
        fill="#1b3a1b",
        font=font,
        anchor="lm",
        spacing=18,
    )
    return card


def number_exercises(app, env):
    """Number an appendix's exercises as a chapter's: A2.1, where Sphinx counts on through all."""
    for page, kinds in env.toc_fignumbers.items():
        code = page.split("/")[-1].partition("_")[0].upper()
        for index, label in enumerate(kinds.get("exercise", {}), 1):
            if len(kinds["exercise"][label]) == 1:
                kinds["exercise"][label] = (code, index)


def setup(app):
    """Hook for Sphinx."""
    repository = find_repository()
    address = find_address(repository)
    commit, _, date = git(ROOT, "log", "-1", "--format=%h %cs").partition(" ")

    def know_address(app, config):
        if address:
            config.html_baseurl = address

    def add_to_page(app, page, template, context, doctree):
        root = app.config.root_doc
        front_page = "" if page == root else context["pathto"](root)
        context["theme_extra_footer"] = footer(front_page, repository, commit, date)
        own = app.env.titles.get(page)
        title = own.astext() if own else app.config.html_title
        tags = meta_tags(title, describe(doctree), address)
        if page == "search":
            app.add_js_file("scripts/search.js", loading_method="defer")
        if page == "404" and address:  # shown at any depth: its links count from the book's root
            tags += f'<base href="{html.escape(address)}404.html">'
        context["metatags"] = context.get("metatags", "") + tags

    def add_404(app):
        front_page = f"{app.config.root_doc}.html"
        picture = Path(app.config.html_favicon).name  # a lizard, too
        body = (
            "<h1>No page here</h1>"
            f'<p><img class="pixelated" src="_static/{picture}" width="192" alt="A lizard"></p>'
            "<p>Nothing has grown at this address. It may have moved.</p>"
            f'<p><a href="{front_page}">Begin at the front page</a>, or '
            '<a href="search.html">search the book</a>.</p>'
        )
        yield "404", {"title": "No page here", "body": body}, "page.html"

    def write_files(app, exception):
        if exception is not None or app.builder.name != "html":
            return
        title = app.config.html_title
        front_page = Path(app.outdir) / f"{app.config.root_doc}.html"
        text = front_page.read_text(encoding="utf-8")
        description = re.search('<meta name="description" content="([^"]*)">', text)[1]
        tags = meta_tags(title, html.unescape(description), address)
        icon = f"_static/{Path(app.config.html_favicon).name}"
        leads_on = {"index": redirect(title, f"{app.config.root_doc}.html", icon, tags)}
        for old, new in MOVED.items():
            heading = app.env.titles[f"book/{new}"].astext()
            leads_on[f"book/{old}"] = redirect(heading, f"{new}.html", f"../{icon}", "")
        for name, page in leads_on.items():
            (Path(app.outdir) / f"{name}.html").write_text(page, encoding="utf-8")
        if address:
            card = Path(app.outdir) / "_static" / CARD
            draw_card(app.config.html_title).save(card, optimize=True)
            places = (f"{address}{name}.html" for name in sorted(app.env.found_docs))
            urls = "".join(f"<url><loc>{html.escape(place)}</loc></url>\n" for place in places)
            scheme = "http://www.sitemaps.org/schemas/sitemap/0.9"
            text = f'<urlset xmlns="{scheme}">\n{urls}</urlset>\n'
            (Path(app.outdir) / "sitemap.xml").write_text(text, encoding="utf-8")

    app.connect("config-inited", know_address)
    app.connect("env-check-consistency", number_exercises)
    app.connect("html-page-context", add_to_page)
    app.connect("html-collect-pages", add_404)
    app.connect("build-finished", write_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
