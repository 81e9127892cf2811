"""What a build adds to every page: footer, description, card, links, policy; 404 page, sitemap."""

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import add_remote, load_script
from PIL import Image, ImageOps
from test_book import leads_on, parse
from test_publishing import BOOK, COLAB, publishing, read, sources
from test_security import policy_of

ADDRESS = "https://jane.github.io/lizards/"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The sources of the book, with chapters that need not run, in a repository of their own."""
    here, root = BOOK.parent, tmp_path_factory.mktemp("book")
    shutil.copytree(here / "book", root / "book", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(here / "_toc.yml", root)
    (root / "nca_lib").symlink_to(here / "nca_lib")
    executed = [sys.executable, here / ".ci" / "executed_config.py", here / "_config.yml"]
    subprocess.run([*executed, root / "_config.yml"], check=True)
    git = ["git", "-C", root, "-c", "user.name=Jane", "-c", "user.email=jane@localhost"]
    for command in ("init -q", "commit -q --allow-empty -m Book"):
        subprocess.run([*git, *command.split()], check=True)
    return root


@pytest.fixture(scope="module", params=["none", "remote"])
def built(request, root):
    """The built book, and the repository it should know; what was read once is only written."""
    repository = "jane/lizards" if request.param == "remote" else ""
    if repository:
        add_remote(root, f"git@github.com:{repository}.git")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BOOK_REPOSITORY", raising=False)
        command = [Path(sys.executable).with_name("jupyter-book"), "build", root, "-W", "-n", "-q"]
        subprocess.run(command, check=True, capture_output=True)
    return (root / "_build" / "html").rename(root / "_build" / request.param), repository


def pages(html: Path) -> list[Path]:
    return [path for path in (html / "book").glob("*.html") if not leads_on(path)]


def words(element) -> str:
    return " ".join(element.get_text().split())


@pytest.mark.parametrize(
    ("repository", "url", "address"),
    [
        ("Jane/Lizards", None, "https://jane.github.io/Lizards/"),
        ("jane/Jane.github.io", None, "https://jane.github.io/"),
        ("jane/lizards", "https://lizards.example", "https://lizards.example/"),
        ("jane/lizards", "", ""),
        ("", None, ""),
    ],
)
def test_address_is_that_of_pages_or_given(monkeypatch, repository, url, address):
    monkeypatch.syspath_prepend(BOOK / "_ext")
    book_site = load_script("book/_ext/book_site.py")
    monkeypatch.delenv("BOOK_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("BOOK_URL", url)
    assert book_site.find_address(repository) == address
    monkeypatch.setenv("BOOK_URL", "lizards.example")
    with pytest.raises(ValueError, match=r"'lizards\.example'"):
        book_site.find_address(repository)


def test_every_page_says_what_it_was_built_from(built):
    html, repository = built
    git = ["git", "-C", str(html), "log", "-1", "--format=commit %h of %cs"]
    commit = subprocess.check_output(git, text=True).strip()
    needed = [f"{name} {metadata.version(name)}" for name in ("jax", "flax", "evosax")]
    for path in [html / "404.html", html / "search.html", *pages(html)]:
        (footer,) = parse(path).select(".extra_footer p")
        said = [commit, *needed, "CC BY 4.0", "MIT License"]
        assert [text for text in said if text not in words(footer)] == []
        front = footer.select_one("[href$='#how-to-cite']")["href"].partition("#")[0]
        assert parse(path.parent / front if front else path).find(id="how-to-cite")
        assert bool(footer.select("[href*='github.com/jane/lizards/commit/']")) == bool(repository)


def test_robots_read_descriptions_and_where_an_address_is_known_cards(built):
    html, repository = built
    for source in [*BOOK.glob("*.ipynb"), *BOOK.glob("*.md")]:
        page = parse(html / "book" / f"{source.stem}.html")
        tags = page.select("meta[content]")
        named = {tag.get("name", tag.get("property")): tag["content"] for tag in tags}
        described = page.select("meta[name=description]")
        assert all(tag["content"][:20] in words(page.article) for tag in described)
        assert len(described) == 1 or source.stem == "references"
        image, canonical = named.get("og:image"), page.select("link[rel=canonical]")
        assert image == (f"{ADDRESS}_static/card.png" if repository else None)
        assert not repository or named["og:title"] in words(page.article.h1)
        own = [f"{ADDRESS}book/{source.stem}.html"] if repository else []
        assert [link["href"] for link in canonical] == own
    assert (html / "_static" / "card.png").exists() == bool(repository)
    if repository:
        with Image.open(html / "_static" / "card.png") as card:
            assert card.size == (1200, 630)
            left, top, right, bottom = ImageOps.invert(card.convert("L")).getbbox()
            assert 20 < left < 600 and 800 < right < 1190, "a lizard, and a title beside it"
            assert top > 20 and bottom < 610


def test_sitemap_names_every_page_where_an_address_is_known(built):
    html, repository = built
    assert (html / "sitemap.xml").exists() == bool(repository)
    if repository:
        texts = ElementTree.parse(html / "sitemap.xml").getroot().itertext()
        places = {f"{ADDRESS}book/{path.name}" for path in pages(html)}
        assert {text for text in texts if text.strip()} == places


def test_missing_pages_lead_back_from_any_depth(built):
    html, repository = built
    tags = parse(html / "404.html").select("base, [href], [src]")
    bases = [tag["href"] for tag in tags if tag.name == "base"]
    assert bases == ([f"{ADDRESS}404.html"] if repository else [])
    assert not repository or tags[0].name == "base"  # it counts for what comes after it
    targets = {re.split(r"[?#]", tag.get("href") or tag.get("src"))[0] for tag in tags}
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (html / target).exists()] == []


def test_addresses_of_the_first_edition_lead_on(built):
    html, _ = built
    names = "04_es_training 05_visualization 06_es_vs_backprop 07_beyond_gradients 08_scaling_out"
    for name in names.split():
        page = parse(html / "book" / f"{name}.html")
        (target,) = [link["href"] for link in page.select("a[href]")]
        assert page.select_one("meta[http-equiv=refresh]")["content"] == f"0; url={target}"
        assert name[3:] in target and not leads_on(html / "book" / target)
        assert words(page.h1) in words(parse(html / "book" / target).h1)


def test_each_page_ends_with_what_it_cites(built):
    html, _ = built
    entries = parse(html / "book" / "references.html").select("div.citation[id]")
    known = {f"references.html#{entry['id']}": words(entry) for entry in entries}
    for path in pages(html):
        page = parse(path)
        links = page.select("article a[href^='references.html#']:not(#references a)")
        cited = {link["href"]: known[link["href"]] for link in links if path.stem != "index"}
        listed = bool(cited and page.select(".page-toc"))  # some pages have no contents
        assert len(page.select(".page-toc a[href='#references']")) == listed, path.stem
        items = page.select("article section#references:last-child li")
        assert {item.a["href"]: words(item) for item in items} == cited, path.stem
        numbers = [int(item.a.get_text().strip("[]")) for item in items]
        assert numbers == sorted(set(numbers))
        assert cited or not re.match(r"(0[3-9]|10)_", path.stem)


def test_each_page_leads_to_its_own_notebook_which_runs_anywhere(built):
    html, repository = built
    links = r'href="(https://(?:colab\.research\.google\.com|github\.com/jane)[^"?]*)'
    title = r'id="(exercise-\w+-\d+)">\s*<p [^>]*><span class="caption-number">(.*?) ?</span>'
    for path in pages(html):
        text, source = path.read_text(encoding="utf-8"), BOOK / f"{path.stem}.ipynb"
        buttons = [f"{COLAB}/{source.name}"] if source.exists() else []
        buttons += [f"https://github.com/jane/lizards{end}" for end in ("", "/issues/new")]
        found = [link for link in re.findall(links, text) if "/commit/" not in link]
        assert sorted(found) == (buttons if repository else []), path.stem
        numbers = re.findall(title, text)
        assert all(publishing.exercise_name(label) == name for label, name in numbers)
        if source.exists():
            assert numbers or "{exercise}" not in source.read_text(encoding="utf-8")
            download = read(html / "_sources" / "book" / source.name)
            library = publishing.wheel_address(repository) if repository else ""
            assert f'LIBRARY = "{library}"\n' in sources(download, "code")[0]
            assert not re.search(r"\{(cite|term)\}", "".join(sources(download, "markdown")))


def test_previews_are_definitions(built):
    """That each link has one, and what it shows: see test_book.py."""
    html, _ = built
    written = (html / "_static" / "previews-data.js").read_text(encoding="utf-8")
    texts = json.loads(written.removeprefix("window.bookPreviews = ").removesuffix(";\n"))
    # Two names, one definition; the link to the section is no part of it.
    assert texts["glossary#term-NCA"] == texts["glossary#term-neural-cellular-automaton"]
    assert not [key for key, text in texts.items() if "Explained in" in text or len(text) < 30]


def test_every_page_that_is_built_has_its_policy(built):
    html, repository = built
    pages = [path for path in html.rglob("*.html") if path.parent.name != "_static"]
    assert len(pages) > 30
    for path in pages:
        text = path.read_text(encoding="utf-8")
        page, policy = parse(path), policy_of(text)
        assert policy["default-src"] == ["'none'"] and not page.select("[onclick]")
        inline = {script.string for script in page.find_all("script", src=False)}
        assert len(policy.pop("script-src")) == 1 + len(inline)
        assert policy.pop("style-src") == ["'self'", "'unsafe-inline'"]
        assert policy.pop("worker-src") == ["blob:"]
        has_base = path.name == "404.html" and repository
        assert policy["base-uri"] == ["'self'" if has_base else "'none'"]
        assert {x for sources in policy.values() for x in sources} <= {"'none'", "'self'", "data:"}
