"""Where the paper is: each of its equations, tables and figures has a row in the book and the README, with a heading that exists and a command that `scdnet` knows."""

import functools
import json
import re
import shlex
from pathlib import Path

import pytest

from scdnet.app.cli.main import parse
from scdnet.app.cli.train import Pretrain
from scdnet.training.config import PRESETS
from scdnet.utils.files import InputError

ROOT = Path(__file__).parents[1]
PAPER = (
    [f"Eq. {n}" for n in range(1, 10)]
    + [f"Table {n}" for n in range(1, 9)]
    + [f"Figure {n}" for n in range(1, 5)]
)
TITLE = "## Where the paper is"
WANTED = {  # what a command always asks for and the table leaves out
    "pretrain": "--store s --split xsub --preset paper --out r",
    "evaluate": "--run r --store s --split xsub",
    "ablate": "--store s --split xsub --preset paper --out a",
    "demo": "--out d",
    "figures": "--run r --store s --out f",
    "results": "",
}


def markdown(path):
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(
        "".join(cell["source"])
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "markdown"
    )


def rows(path):
    """The rows of the table under TITLE: (what, links, command), links without the folder nbs/."""
    _, _, part = markdown(path).partition(TITLE + "\n")
    lines = [line for line in part.split("\n## ")[0].splitlines() if line.startswith("|")][2:]
    return [
        tuple(cell.strip().replace("](nbs/", "](") for cell in line.strip("|").split("|"))
        for line in lines
    ]


@functools.cache
def anchors(notebook):
    """Of the headings, as Jupyter makes them: the text with hyphens for spaces."""
    text = re.sub(r"^```.*?^```", "", markdown(notebook), flags=re.MULTILINE | re.DOTALL)
    return {
        title.strip().replace("`", "").replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


def complaints(table):
    """What is wrong with a table of such rows, a line each."""
    found = [
        f"{name}: not in the table"
        for name in PAPER
        if sum(re.match(rf"{re.escape(name)}\b", row[0]) is not None for row in table) != 1
    ]
    for what, links, command in table:
        targets = re.findall(r"\]\(([^()#]+)(?:#((?:[^()]|\([^()]*\))+))?\)", links)
        if not targets:
            found.append(f"{what}: no link")
        for file, anchor in targets:
            if not (ROOT / "nbs" / file).is_file():
                found.append(f"{what}: no notebook {file}")
            elif anchor not in anchors(ROOT / "nbs" / file):
                found.append(f"{what}: {file} has no heading {anchor!r}")
        found += [f"{what}: {said}" for said in [wrong_command(command)] if said]
    return found


@functools.cache
def wrong_command(cell):
    """Why `scdnet` would not take the command in a cell, or None. It is parsed, with what it always asks for, and not run."""
    match = re.fullmatch(r"`scdnet (.+)`", cell)
    words = shlex.split(match[1]) if match else []
    if not words or words[0] not in WANTED:
        return f"no command in {cell!r}"
    try:
        command = parse([*words, *WANTED[words[0]].split()])
    except (InputError, SystemExit) as error:
        return f"{cell}: {error}"
    if isinstance(command, Pretrain) and command.config != PRESETS["paper"]:
        return f"{cell}: not the paper's value"


def test_every_equation_table_and_figure_leads_somewhere():
    table = rows(ROOT / "nbs" / "index.ipynb")
    assert len(table) == len(PAPER) and complaints(table) == []


def test_the_readme_says_the_same():
    assert rows(ROOT / "README.md") == rows(ROOT / "nbs" / "index.ipynb")


BREAK = {  # a slip -> what is said of it
    "a row is gone": (lambda table: table[1:], "Eq. 1: not in the table"),
    "a row twice": (lambda table: [table[0], *table], "Eq. 1: not in the table"),
    "no such notebook": (
        lambda table: [(table[0][0], "[9](book/09_mocco.ipynb#One-step)", table[0][2]), *table[1:]],
        "no notebook book/09_mocco.ipynb",
    ),
    "no such heading": (
        lambda table: [(table[0][0], "[9](book/09_moco.ipynb#Two-steps)", table[0][2]), *table[1:]],
        "no heading 'Two-steps'",
    ),
    "no heading at all": (
        lambda table: [(table[0][0], "[9](book/09_moco.ipynb)", table[0][2]), *table[1:]],
        "no heading ''",
    ),
    "no link": (lambda table: [(table[0][0], "chapter 9", table[0][2]), *table[1:]], "no link"),
    "an unknown command": (
        lambda table: [(*table[0][:2], "`scdnet pretraim`"), *table[1:]],
        "no command",
    ),
    "an unknown flag": (
        lambda table: [(*table[0][:2], "`scdnet pretrain --momentum 0.999`"), *table[1:]],
        "--momentum",
    ),
    "an unknown protocol": (
        lambda table: [(*table[0][:2], "`scdnet evaluate linearly`"), *table[1:]],
        "linearly",
    ),
    "another value than the paper's": (
        lambda table: [(*table[0][:2], "`scdnet pretrain --key-momentum 0.99`"), *table[1:]],
        "not the paper's value",
    ),
}


@pytest.mark.parametrize("slip", BREAK)
def test_a_slip_is_found(slip):
    (change, said), table = BREAK[slip], rows(ROOT / "nbs" / "index.ipynb")
    (complaint,) = set(complaints(change(table))) - set(complaints(table))
    assert said in complaint


def test_a_readme_that_says_something_else_is_found(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for there, here in (
        ("Eq. 1:", "Eq. 1 :"),
        ("`scdnet evaluate knn`", "`scdnet evaluate linear`"),
        ("#InfoNCE-(Eq.-8)", "#Queues"),
    ):
        assert text.count(there) == 1
        (tmp_path / "README.md").write_text(text.replace(there, here), encoding="utf-8")
        assert rows(tmp_path / "README.md") != rows(ROOT / "nbs" / "index.ipynb")
