"""The pages of the site that nobody writes by hand: the book, from the notebooks and their stored outputs, and the reference, from the package.

`write` makes them in `docs/book` and `docs/reference` before Sphinx reads; the notebooks stay as they are. Nothing here needs Sphinx.
"""

import ast
import contextlib
import functools
import importlib
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
FLAGS = (
    "data",
    "gpu",
    "slow",
)  # of cells that are left out when the book is run: site.css says so above them
OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./[^)]*\)")  # [text](../file): not on the site
LINK = re.compile(
    r"\]\(([^()#\s]*)(?:#((?:[^()\s]|\([^()]*\))+))?\)"
)  # [text](file#anchor), the anchor with round brackets or without
MOVING = re.compile(r"<(script|svg|video|canvas)\b")


# ---------------------------------------------------------------- what the book says of itself


@dataclass(frozen=True)
class Part:
    """A part of the book: its rows in the table of `index.ipynb` as they stand there, and its notebooks in order."""

    name: str
    rows: tuple[str, ...]
    files: tuple[str, ...]


def markdown(cells):
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@functools.cache
def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def section(text, title):
    """What stands under the heading `## title`."""
    _, _, rest = text.partition(f"\n## {title}\n")
    return re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def parts(index):
    """The parts of the book, from the table under "The book" in the text of `index.ipynb`."""
    found = []
    for row in re.findall(r"^\|.*\|$", section(index, "The book"), re.MULTILINE)[2:]:
        files, name = re.findall(r"\]\(([^()#]+\.ipynb)\)", row), re.search(r"\*\*(.+?)\*\*", row)
        if files and found:  # a file that is not there is Sphinx's to tell of
            found[-1] = Part(
                found[-1].name,
                (*found[-1].rows, row),
                (*found[-1].files, *(file for file in files if (NBS / file).is_file())),
            )
        elif name:
            found.append(Part(name[1], (), ()))
    return found


def title(notebook):
    """The first heading."""
    return re.search(r"^# (.+)$", markdown(notebook["cells"]), re.MULTILINE)[1]


def short_title(path):
    """For the list at the side: the chapter's number and what its title says before a colon."""
    text = title(read(path)).removeprefix("Tutorial: ").split(": ")[0].replace("`", "")
    number = path.stem.split("_")[0]
    return f"{number} · {text[0].upper()}{text[1:]}" if number.isdigit() else text


# ---------------------------------------------------------------- a notebook becomes a page


def slug(anchor):
    """The site's anchor of a heading, from Jupyter's (or from its text)."""
    return re.sub(r"[^\w\- ]", "", unquote(anchor).lower()).replace(" ", "-")


def site_links(text):
    """Markdown whose links lead to the site's anchors; of links to files that are not on the site the text stays. Code is left alone."""

    def follow(match):
        file, anchor = match.groups()
        return match[0] if anchor is None or "://" in file else f"]({file}#{slug(anchor)})"

    pieces = re.split(
        r"(^```.*?^```|`[^`\n]*`)", OUTSIDE.sub(r"\1", text), flags=re.MULTILINE | re.DOTALL
    )
    # Code in a link's text stands between two pieces, but a link's target never does.
    return "".join(piece if i % 2 else LINK.sub(follow, piece) for i, piece in enumerate(pieces))


def directives(source):
    """({name: value}, code without those lines): nbdev's and Quarto's `#| name` and `#| name: value` at the head of a cell."""
    found, lines = {}, source.split("\n")
    while lines and lines[0].startswith("#|"):
        name, _, value = lines.pop(0)[2:].strip().partition(" ")
        found[name.rstrip(":")] = value.strip().strip("\"'")
    return found, "\n".join(lines)


def only_imports(code):
    """Whether there is nothing but imports."""
    try:
        body = ast.parse(code).body
    except SyntaxError:  # a line for the shell
        return False
    return bool(body) and all(isinstance(line, (ast.Import, ast.ImportFrom)) for line in body)


def shows_picture(output):
    data = output.get("data", {})
    return any(kind.startswith("image/") for kind in data) or bool(
        MOVING.search("".join(data.get("text/html", "")))
    )


def labelled(output, alt):
    """An output whose moving picture says what it is. (Images get their text from the cell's metadata.)"""
    html = "".join(output.get("data", {}).get("text/html", ""))
    if not MOVING.search(html):
        return output
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return output | {"data": {"text/html": f'<div role="group" aria-label="{label}">{html}</div>'}}


def page(notebook, name):
    """A notebook as the site shows it, and a line for each cell whose picture has no text alternative.

    Hidden cells are gone and so are directives, a flag becomes the cell's tag; imports are folded; links lead to the site's anchors;
    the text of `#| fig-alt:` is the picture's, and where there is none it is made from the heading above. A picture leads to itself, to be enlarged.
    """
    cells, missing, heading = [], [], title(notebook)
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = (
                re.findall(
                    r"^#+ (.+)$",
                    re.sub(r"^```.*?^```", "", source, flags=re.MULTILINE | re.DOTALL),
                    re.MULTILINE,
                )
                or [heading]
            )[-1]
            cells.append(cell | {"source": site_links(source)})
            continue
        said, code = directives(source)
        if "hide" in said or "default_exp" in said or not code.strip():
            continue
        outputs, metadata = cell["outputs"], dict(cell["metadata"])
        if any(map(shows_picture, outputs)):
            if not said.get("fig-alt"):
                missing.append(
                    f"nbs/{name}: cell {number} ({cell.get('id')}), under {heading!r}: a picture without `#| fig-alt:`"
                )
            alt = said.get("fig-alt") or f"Picture under the heading “{heading.replace('`', '')}”"
            outputs, metadata["mystnb"] = (
                [labelled(output, alt) for output in outputs],
                {"image": {"alt": alt, "scale": 100}},
            )  # a scaled image is a link to it
        if flags := [flag for flag in FLAGS if flag in said]:
            metadata["tags"] = flags
        if only_imports(code):
            metadata |= {
                "tags": ["hide-input"],
                "mystnb": {"code_prompt_show": "Imports", "code_prompt_hide": "Imports"},
            }
        cells.append(cell | {"source": code.strip("\n"), "outputs": outputs, "metadata": metadata})
    return notebook | {"cells": cells}, missing


def part_page(part):
    """The page of a part: its chapters and what they answer."""
    entries = "\n".join(f"{short_title(NBS / file)} <{Path(file).stem}>" for file in part.files)
    rows = "\n".join(part.rows)
    return f"# {part.name}\n\n| | Chapter | What it answers |\n|---|---|---|\n{rows}\n\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"


def first_page(found):
    """For the first page: a row for each part, and the list at the side."""
    rows = "\n".join(
        f"| [{part.name}](book/{part.name.lower()}.md) | "
        + ", ".join(
            f"[{short_title(NBS / file).split(' · ')[-1]}](book/{file})" for file in part.files
        )
        + " |"
        for part in found
    )
    entries = "\n".join(f"book/{part.name.lower()}" for part in found)
    return f"| Part | Chapters |\n|---|---|\n{rows}\n\n```{{toctree}}\n:hidden:\n:caption: The book\n\nThe story <book/index>\n{entries}\n```\n"


def paper_page(index):
    """The table of equations, tables and figures, as a page of its own."""
    return f"# Where the paper is\n{site_links(section(index, 'Where the paper is'))}"


# ---------------------------------------------------------------- the reference


def modules():
    """Module -> its notebook, in the order of the book."""
    found = {}
    for part in parts(markdown(read(NBS / "index.ipynb")["cells"])):
        for file in part.files:
            for cell in read(NBS / file)["cells"]:
                if cell["cell_type"] == "code" and (
                    match := re.match(r"#\| default_exp (\S+)", "".join(cell["source"]))
                ):
                    found[f"scdnet.{match[1]}"] = file
    return found


def module_page(module, file):
    return (
        f"# {module}\n\nMade by chapter [{short_title(NBS / file)}](../book/{file}).\n\n"
        f"```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n   :member-order: bysource\n```\n"
    )


def reference_page(made_by):
    """What `scdnet` itself offers, and every module."""
    import scdnet

    names = [
        f"| {entry(name, home, getattr(scdnet, name))} |" for name, home in scdnet._HOMES.items()
    ]
    rows = [
        f"| [{module}]({module.removeprefix('scdnet.')}.md) | {said(importlib.import_module(module))} |"
        for module in made_by
    ]
    entries = "\n".join(f"{module} <{module.removeprefix('scdnet.')}>" for module in made_by)
    return (
        "# The package\n\nEach module is exported from one chapter of the book. A class, a function: what goes in, what comes out, with shapes and units.\n\n"
        "## `import scdnet`\n\n| Name | |\n|---|---|\n"
        + "\n".join(names)
        + "\n\nThe modules below are imported when they are first asked for: `scdnet.views.masks.spatial_mask`.\n\n"
        "## Modules\n\n| Module | |\n|---|---|\n"
        + "\n".join(rows)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n"
    )


def entry(name, home, thing):
    """Two cells of a table: a name with its link, and what it is."""
    if callable(thing):
        return f"{{py:obj}}`scdnet.{name} <scdnet.{home}.{name}>` | {said(thing)}"
    return f"[`scdnet.{name}`]({home}.md) | a {type(thing).__name__}"


def said(thing):
    """The first line of a docstring, for a cell of a table."""
    return (thing.__doc__ or "").strip().split("\n")[0].replace("|", "\\|")


def help_text(words, width):
    """What `scdnet WORDS --help` prints in a terminal of `width` columns; it leaves the long lines at the top to the terminal."""
    from scdnet.app.cli.main import parse

    shown, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            parse([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    return "\n".join(fold(line.rstrip(), width) for line in shown.getvalue().splitlines()).strip(
        "\n"
    )


def fold(line, width):
    """A line of help in several, if it is too long: between options, between words, in a list of choices after a comma."""
    parts, lines = (
        re.findall(r"(?:--\S+ [^\s-]\S*|[^\s,]+,?|,)\s*", line[len(line) - len(line.lstrip()) :]),
        [line[: len(line) - len(line.lstrip())]],
    )
    for part in parts:
        if len((lines[-1] + part).rstrip()) > width and lines[-1].strip():
            lines.append("  ")
        lines[-1] += part
    return "\n".join(map(str.rstrip, lines))


def commands_page():
    """Every command's help."""
    from scdnet.app.cli.evaluate import PROTOCOLS
    from scdnet.app.cli.main import COMMANDS

    words = [(command,) for command in COMMANDS]
    words[words.index(("evaluate",)) + 1 : 1 + words.index(("evaluate",))] = [
        ("evaluate", protocol) for protocol in PROTOCOLS
    ]
    shown = [f"## scdnet {' '.join(w)}\n\n{both_widths(w)}" for w in words]
    return (
        "# The command line\n\nWhat `scdnet COMMAND --help` prints. [Chapter 63](../book/63_cli.ipynb) says how a command is built.\n\n"
        + both_widths(())
        + "\n\n"
        + "\n\n".join(shown)
        + "\n"
    )


def both_widths(words):
    """The help for a window and for a phone; site.css shows the one or the other."""
    return "\n\n".join(
        f"```{{code-block}} text\n:class: {name}\n\n{help_text(words, width)}\n```"
        for name, width in (("wide", 100), ("narrow", 42))
    )


# ---------------------------------------------------------------- all of them


def book():
    """({file under docs/: content}, lines on pictures without a text alternative)."""
    index, made, missing = markdown(read(NBS / "index.ipynb")["cells"]), {}, []
    for path in sorted(NBS.glob("*.ipynb")):
        shown, without = page(read(path), path.name)
        made[f"book/{path.name}"] = json.dumps(shown, indent=1, ensure_ascii=False)
        missing += without
    made |= {f"book/{part.name.lower()}.md": part_page(part) for part in parts(index)}
    return made | {
        "book/paper.md": paper_page(index),
        "book/parts.inc": first_page(parts(index)),
    }, missing


def reference():
    """{file under docs/: content}."""
    made_by = modules()
    made = {
        f"reference/{module.removeprefix('scdnet.')}.md": module_page(module, file)
        for module, file in made_by.items()
    }
    return made | {
        "reference/package.md": reference_page(made_by),
        "reference/commands.md": commands_page(),
    }


def write(folder):
    """Make the folders `book` and `reference` there say what they should; what is the same is left, for Sphinx reads only what changed."""
    made, missing = book()
    made |= reference()
    for file, content in made.items():
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
    for path in [*folder.glob("book/*"), *folder.glob("reference/*")]:
        if path.relative_to(folder).as_posix() not in made:
            path.unlink()
    return missing
