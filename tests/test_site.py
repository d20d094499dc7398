"""The site that `make docs` builds: the book is whole, links lead somewhere, every picture has a text alternative, and no page asks the network for anything.

The pages are built once, in a folder of this session's. What wants Sphinx or a Chromium is skipped where there is none.
"""

import functools
import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "browser"
SPEC = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
pages = importlib.util.module_from_spec(SPEC)
sys.modules["pages"] = pages  # its dataclass wants to be found
SPEC.loader.exec_module(pages)
NOTEBOOKS = sorted(pages.NBS.glob("*.ipynb"))
PARTS = pages.parts(pages.markdown(pages.read(pages.NBS / "index.ipynb")["cells"]))


# ---------------------------------------------------------------- without Sphinx


def test_every_notebook_stands_in_one_part():
    listed = ["index.ipynb", *(file for part in PARTS for file in part.files)]
    assert sorted(listed) == [path.name for path in NOTEBOOKS]


def test_the_readme_lists_the_same_chapters_in_the_same_parts():
    rows = re.findall(
        r"^\| (\w+) \| (\[.+) \|$",
        pages.section((ROOT / "README.md").read_text(encoding="utf-8"), "The book"),
        re.MULTILINE,
    )
    assert [(name, tuple(re.findall(r"\]\(nbs/([^()#]+)\)", row))) for name, row in rows] == [
        (part.name, part.files) for part in PARTS
    ]


def headings(notebook):
    """The anchors of a notebook, as Jupyter makes them."""
    text = re.sub(
        r"^```.*?^```",
        "",
        pages.markdown(pages.read(notebook)["cells"]),
        flags=re.MULTILINE | re.DOTALL,
    )
    return {
        title.strip().replace("`", "").replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


def test_links_between_notebooks_lead_to_headings():
    texts = {path: pages.markdown(pages.read(path)["cells"]) for path in NOTEBOOKS}
    texts[ROOT / "README.md"] = (ROOT / "README.md").read_text(encoding="utf-8")
    broken, count = [], 0
    for path, text in texts.items():
        for file, anchor in pages.LINK.findall(text):
            target = path.parent / file if file else path
            if anchor and target.suffix == ".ipynb" and "://" not in file:
                count += 1
                broken += (
                    [f"{path.name}: {file}#{anchor}"]
                    if not target.is_file() or unquote(anchor) not in headings(target)
                    else []
                )
    assert count > 40 and not broken


def test_every_module_is_in_the_reference():
    wanted = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for path in (ROOT / "scdnet").rglob("*.py")
        if not path.name.startswith("_")
    }
    assert set(pages.modules()) == wanted


def test_every_picture_has_a_text_alternative():
    assert pages.book()[1] == []


def test_a_link_follows_the_site():
    text = "See [blocks](30_gcn.ipynb#A-block,-and-three-of-them), [`views` (Eq. 9)](21_augment.ipynb#Eq.-9:-the-chain), [here](#The-loss-(Eq.-7)), [this](https://a.b/c#D).\n"
    assert pages.site_links(text) == (
        "See [blocks](30_gcn.ipynb#a-block-and-three-of-them), [`views` (Eq. 9)](21_augment.ipynb#eq-9-the-chain), "
        "[here](#the-loss-eq-7), [this](https://a.b/c#D).\n"
    )
    code = "```bash\nsee [x](a.ipynb#A-B)\n```\nand `[x](a.ipynb#A-B)`"
    assert pages.site_links(code) == code
    assert (
        pages.site_links("tested in [`test_ranks`](../tests/test_ranks.py).")
        == "tested in `test_ranks`."
    )


def code_cell(source, *outputs):
    return {
        "cell_type": "code",
        "id": "abc",
        "metadata": {},
        "source": source,
        "outputs": [{"output_type": "display_data", "data": data} for data in outputs],
    }


def test_a_notebook_becomes_a_page():
    picture, player = (
        {"image/png": "aaaa"},
        {"text/html": ["<div><script>", "play()</script></div>"], "text/plain": "<HTML>"},
    )
    notebook = {
        "cells": [
            {
                "cell_type": "markdown",
                "source": "# Title\n\nText\n\n## A part\n```python\n# a comment\n```",
            },
            code_cell("#| default_exp module"),
            code_cell("#| hide\nassert True"),
            code_cell("#| export\nimport os\nfrom pathlib import Path"),
            code_cell('#| fig-alt: "A <hand>: it waves"\ndraw(1)', picture),
            code_cell("#| data\n#| export\ndraw(2)", picture),
            code_cell("#| fig-alt: two hands\ndraw(3)", player),
            code_cell("table", {"text/html": "<table></table>"}),
        ]
    }
    shown, missing = pages.page(notebook, "x.ipynb")
    _, imports, first, second, third, table = shown["cells"]
    assert (
        imports["metadata"]["tags"] == ["hide-input"]
        and imports["source"] == "import os\nfrom pathlib import Path"
    )
    assert (
        first["source"] == "draw(1)"
        and first["metadata"]["mystnb"]["image"]["alt"] == "A <hand>: it waves"
    )
    assert (
        second["source"] == "draw(2)"
        and second["metadata"]["tags"] == ["data"]
        and second["metadata"]["mystnb"]["image"]["alt"] == "Picture under the heading “A part”"
    )
    assert third["outputs"][0]["data"] == {
        "text/html": '<div role="group" aria-label="two hands"><div><script>play()</script></div></div>'
    }
    assert (
        table["outputs"][0]["data"] == {"text/html": "<table></table>"}
        and "mystnb" not in table["metadata"]
    )
    assert missing == ["nbs/x.ipynb: cell 5 (abc), under 'A part': a picture without `#| fig-alt:`"]


def test_a_long_line_of_help_is_folded():
    assert pages.fold("short", 20) == "short"
    assert (
        pages.fold("usage: scdnet [-h] {demo,prepare,inspect}", 30)
        == "usage: scdnet [-h] {demo,\n  prepare,inspect}"
    )
    assert (
        pages.fold("  --epochs 36  --seed 0  --stream joint", 26)
        == "  --epochs 36  --seed 0\n  --stream joint"
    )
    for width in (100, 42):
        assert max(map(len, pages.help_text(("pretrain",), width).split("\n"))) <= width


# ---------------------------------------------------------------- the pages


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the site; what Sphinx complained of lies beside it, in `warnings`."""
    for name in ("sphinx", "myst_nb", "furo", "sphinx-mathjax-offline"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"no {name}: pip install -c constraints.txt -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-j",
            "2",
            "-w",
            folder / "warnings",
            "-d",
            folder / "doctrees",
            ROOT / "docs",
            folder / "html",
        ],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_sphinx_has_nothing_to_complain_of(site):
    lines = (site.parent / "warnings").read_text(encoding="utf-8").splitlines()
    assert not [
        line for line in lines if line.strip() and "[scdnet.alt]" not in line
    ]  # those, test_every_picture_has_a_text_alternative counts


class Page(HTMLParser):
    """What a page holds: ids, links, pictures, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.pictures, self.loaded = set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a.get("id"), a.get("name")}
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag == "img":
            self.pictures.append((a.get("src", ""), a.get("alt") or ""))
        if tag in ("img", "script", "iframe", "source", "video", "audio") and a.get("src"):
            self.loaded.append(a["src"])
        if tag == "link" and a.get("href") and a.get("rel") != "canonical" and a["href"] != "#":
            self.loaded.append(a["href"])


def test_no_link_is_broken_and_no_picture_missing(site):
    found = {path: Page(path) for path in site.rglob("*.html")}
    assert {f"book/{path.stem}.html" for path in NOTEBOOKS} | {
        "index.html",
        "search.html",
        "book/paper.html",
        "reference/commands.html",
        "reference/masking.html",
    } <= {path.relative_to(site).as_posix() for path in found}
    wrong, pictures = [], 0
    for path, page in found.items():
        name = path.relative_to(site).as_posix()
        pictures += len(page.pictures)
        wrong += [
            f"{name}: no text for {source}" for source, alt in page.pictures if not alt.strip()
        ]
        wrong += [
            f"{name}: asks for {source}"
            for source in page.loaded
            if re.match(r"(https?:)?//", source)
        ]
        wrong += [
            f"{name}: no file {source}"
            for source in page.loaded
            if not re.match(r"data:|(https?:)?//", source)
            and not (path.parent / unquote(source.split("?")[0])).is_file()
        ]
        for link in page.links:
            file, anchor = urldefrag(link)
            target = (path.parent / unquote(file.split("?")[0])).resolve() if file else path
            if re.match(r"[a-z]+:", link):
                continue
            if not target.is_file():
                wrong.append(f"{name}: no page {link}")
            elif anchor and target in found and unquote(anchor) not in found[target].ids:
                wrong.append(f"{name}: no place {link}")
    assert not wrong and pictures > 80
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", styles)


def test_what_was_said_is_there(site):
    masks = (site / "book" / "20_masking.html").read_text(encoding="utf-8")
    assert (
        'image-reference" href="../_images/' in masks
    )  # a picture leads to itself, to be enlarged
    assert "#| " not in masks and "#| " not in (site / "book" / "53_finetune.html").read_text(
        encoding="utf-8"
    )
    loss = (site / "reference" / "contrast.html").read_text(encoding="utf-8")
    assert (
        "<strong>queue</strong> – (K, D), unit norm, no gradient." in loss
    )  # a parameter's text as it was written
    assert "scdnet evaluate semi" in (site / "reference" / "commands.html").read_text(
        encoding="utf-8"
    )


@pytest.fixture(scope="session")
def served(site):
    """The address of the site on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=site)
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


LOOKED_AT = (
    "index",
    "book/index",
    "book/data",
    "book/paper",
    "book/11_synthetic",
    "book/20_masking",
    "book/40_contrast",
    "book/66_results",
    "reference/commands",
    "reference/package",
    "reference/augment",
)
TROUBLE = """async () => {                                   // what a reader would trip over
    if (window.MathJax?.startup) await MathJax.startup.promise;
    const images = [...document.images];
    images.forEach(image => { image.loading = "eager"; });
    await Promise.all(images.map(image => image.decode().catch(() => {})));
    return {wide: document.documentElement.scrollWidth - window.innerWidth,
            broken: images.filter(image => !image.naturalWidth || !image.alt.trim()).map(image => image.src),
            formulas: document.querySelectorAll("mjx-container").length, bad: document.querySelectorAll("[data-mml-node=merror]").length,
            raw: document.querySelectorAll(".math").length, canvases: document.querySelectorAll("canvas").length}; }"""


@pytest.mark.parametrize(
    ("screen", "width", "height"), [("desktop", 1280, 900), ("phone", 390, 844)]
)
def test_the_pages_in_a_browser(served, chromium, screen, width, height):
    page, said, asked = chromium.new_page(viewport={"width": width, "height": height}), [], []
    page.on(
        "console",
        lambda message: said.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    KEPT.mkdir(exist_ok=True)
    try:
        for name in LOOKED_AT:
            page.goto(f"{served}/{name}.html", wait_until="load")
            seen = page.evaluate(TROUBLE)
            page.screenshot(path=KEPT / f"site_{screen}_{name.replace('/', '_')}.png")
            assert seen["wide"] <= 0 and not seen["broken"] and not seen["bad"], (name, seen)
            assert seen["formulas"] == seen["raw"] and (
                seen["raw"] > 5 or name != "book/40_contrast"
            ), (name, seen)
            assert seen["canvases"] > 0 or name != "book/11_synthetic", (name, seen)
        page.goto(f"{served}/index.html", wait_until="load")
        moving, moment = page.locator(".moving"), page.locator(".moment")
        assert moving.is_visible() and not moment.is_visible()
        page.get_by_label("Hold the picture still").press("Space")  # by keyboard
        assert moment.is_visible() and not moving.is_visible()
        page.goto(f"{served}/search.html?q=momentum", wait_until="load")
        page.locator("#search-results li").first.wait_for()
        assert "omentum" in page.locator("#search-results").text_content()
    finally:
        page.close()
    assert not [
        line for line in said if "Anchored content block" not in line
    ]  # Sphinx's search does not find anchors with a dot in them, and shows its results all the same
    assert not [url for url in asked if not url.startswith((served, "data:", "blob:"))]
