"""The site that `make docs` builds: the book is whole, links lead somewhere, every picture has a text alternative, and no page asks the network for anything.

The pages are built once, in a folder of this session's. What wants Sphinx or a Chromium is skipped where there is none.
"""

import functools
import http.server
import importlib.util
import json
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
NBS = ROOT / "nbs"
SPEC = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pages)
NOTEBOOKS = sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
LINK = re.compile(r"\]\(([^()#\s]*)(?:#((?:[^()\s]|\([^()]*\))+))?\)")  # [text](file#anchor)


def markdown(path):
    """The prose of a notebook or a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def page(cells):
    """What the site shows of a notebook with these cells, and what it says of missing texts."""
    text, missing = pages.page(json.dumps({"cells": cells}), "x.ipynb")
    return json.loads(text)["cells"], missing


# ---------------------------------------------------------------- without Sphinx


def test_the_table_of_contents_holds_every_notebook_once():
    _, _, contents = markdown(NBS / "index.ipynb").partition("\n## The book, the tutorials")
    listed = [file for file, _ in LINK.findall(contents.split("\n## ")[0])]
    assert sorted(listed) == [p.relative_to(NBS).as_posix() for p in NOTEBOOKS if p.parent != NBS]


def test_the_readme_lists_the_book_and_the_tutorials():
    linked = {file for file, _ in LINK.findall(markdown(ROOT / "README.md"))}
    wanted = [p.relative_to(ROOT) for part in ("book", "tutorials") for p in (NBS / part).iterdir()]
    assert not {p.as_posix() for p in wanted if p.suffix == ".ipynb"} - linked


@functools.cache
def headings(notebook):
    """The anchors of a notebook, as Jupyter makes them."""
    text = re.sub(r"^```.*?^```", "", markdown(notebook), flags=re.MULTILINE | re.DOTALL)
    return {pages.anchor(title) for title in pages.HEADING.findall(text)}


def test_links_between_notebooks_lead_to_headings():
    broken, count = [], 0
    for path in [*NOTEBOOKS, ROOT / "README.md"]:
        for file, anchor in LINK.findall(markdown(path)):
            target = path.parent / file if file else path
            if "://" in file or not (file or anchor):
                continue
            count += 1
            if not target.exists():
                broken.append(f"{path.name}: no file {file}")
            elif anchor and target.suffix == ".ipynb" and unquote(anchor) not in headings(target):
                broken.append(f"{path.name}: {file}#{anchor}")
    assert count > 40 and not broken


def test_every_room_is_on_the_site():
    """Each folder of the handbook is on its page, and each subpackage in the reference."""
    folders = {p.parent.relative_to(NBS).as_posix() for p in NOTEBOOKS if "handbook" in p.parts}
    assert {f"{folder}/*" for folder in folders} == set(
        re.findall(r"^(handbook/.+)$", (ROOT / "docs/handbook.md").read_text(), re.MULTILINE)
    )
    rooms = {f"scdnet.{p.parent.name}" for p in (ROOT / "scdnet").glob("*/__init__.py")}
    assert rooms <= set((ROOT / "docs/reference.md").read_text().split())


def test_every_command_is_on_the_site():
    from scdnet.app.cli.evaluate import PROTOCOLS
    from scdnet.app.cli.main import COMMANDS

    words = [*COMMANDS, *(f"evaluate {protocol}" for protocol in PROTOCOLS)]
    text = (ROOT / "docs" / "commands.md").read_text()
    assert sorted(re.findall(r"^## scdnet (.+)$", text, re.MULTILINE)) == sorted(words)
    assert sorted(re.findall(r"\{scdnet-help\} (.+)$", text, re.MULTILINE)) == sorted(words)


def test_every_picture_has_a_text_alternative():
    missing = [pages.page(path.read_text(encoding="utf-8"), path.name)[1] for path in NOTEBOOKS]
    assert not [line for lines in missing for line in lines]


def test_links_to_what_is_not_on_the_site_are_taken_out():
    text = "[`test_ranks`](../../../tests/test_ranks.py), [loss](../book/07_loss.ipynb#A-(Eq.-8)), [i](../index.ipynb)"
    ((cell,), _) = page([{"cell_type": "markdown", "source": text}])
    assert (
        cell["source"]
        == "`test_ranks`, [loss](../book/07_loss.ipynb#A-(Eq.-8)), [i](../story.ipynb)"
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
    long = "\n".join(f"draw({i})" for i in range(12))
    cells, missing = page(
        [
            {
                "cell_type": "markdown",
                "source": "# Title\n\n## A part\n```python\n# a comment\n```",
            },
            code_cell("#| default_exp module"),
            code_cell("#| hide\nassert True"),
            code_cell("#| export\nimport os\nfrom pathlib import Path"),
            code_cell('#| fig-alt: "A <hand>: it waves"\ndraw(1)', picture),
            code_cell("#| data\n#| export\ndraw(2)", picture),
            code_cell(f"#| fig-alt: two hands\n{long}", player),
            code_cell("#| code-fold: true\ntable", {"text/html": "<table></table>"}),
            code_cell(f"#| export\n{long}"),
        ]
    )
    _, imports, first, second, third, table, plain = cells
    assert imports["metadata"]["tags"] == ["hide-input"]
    assert imports["source"] == "import os\nfrom pathlib import Path"
    assert first["source"] == "draw(1)" and first["metadata"]["tags"] == []
    assert first["metadata"]["mystnb"]["image"] == {"alt": "A <hand>: it waves", "scale": 100}
    assert second["source"] == "draw(2)" and second["metadata"]["tags"] == ["data"]
    said = second["metadata"]["mystnb"]["image"]["alt"]
    assert said == "Picture under the heading “A part”"
    assert third["metadata"]["tags"] == ["hide-input"]  # drawing code is folded
    html = '<div role="group" aria-label="two hands"><div><script>play()</script></div></div>'
    assert third["outputs"][0]["data"] == {"text/html": html}
    assert table["metadata"]["tags"] == ["hide-input"]
    assert table["outputs"][0]["data"] == {"text/html": "<table></table>"}
    assert plain["metadata"] == {"tags": [], "mystnb": {}} and plain["source"] == long
    assert missing == ["x.ipynb: cell 5 (abc), under 'A part': a picture without `#| fig-alt:`"]


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
    wanted = {p.relative_to(NBS).with_suffix(".html").as_posix() for p in NOTEBOOKS}
    wanted = wanted - {"index.html"} | {"index.html", "story.html", "search.html", "commands.html"}
    wanted |= {"reference.html", "reference/scdnet.views.masks.html"}
    assert wanted <= {path.relative_to(site).as_posix() for path in found}
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
    masks = (site / "book/03_masks.html").read_text(encoding="utf-8")
    assert 'image-reference" href="../_images/' in masks  # a picture leads to itself, enlarged
    assert "#| " not in masks and "<details" in masks  # imports and drawing code are folded
    loss = (site / "reference/scdnet.training.loss.html").read_text(encoding="utf-8")
    assert "(K, D), unit norm, no gradient." in loss  # a parameter's text as it was written
    assert 'href="../book/07_loss.html"' in loss  # a module leads to its chapter
    help_text = (site / "commands.html").read_text(encoding="utf-8")
    assert "usage: scdnet evaluate semi" in help_text


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
    "story",
    "handbook",
    "handbook/data/mannequin/03_perform",
    "book/03_masks",
    "book/07_loss",
    "handbook/paper/03_tables",
    "commands",
    "reference",
    "reference/scdnet.views.transforms",
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
                seen["raw"] > 5 or name != "book/07_loss"
            ), (name, seen)
            assert seen["canvases"] > 0 or name != "handbook/data/mannequin/03_perform", (
                name,
                seen,
            )
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
