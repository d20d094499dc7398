"""How a notebook becomes a page of the site. The notebooks stay as they are; Sphinx reads what `page` makes of their text."""

import ast
import html
import json
import re

FLAGS = ("data", "gpu", "slow")  # of cells that are left out when the book is run; see site.css
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+(?!book|handbook|tutorials|index)[^)]*\)")
MOVING = re.compile(r"<(script|svg|video|canvas)\b")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FOLD = 8  # lines of code above a picture that are shown; more are folded, as are imports


def anchor(title):
    """Of a heading, as Jupyter makes it: the text with hyphens for spaces."""
    return title.strip().replace("`", "").replace(" ", "-")


def directives(source):
    """({name: value}, code without those lines): the `#| name` and `#| name: value` at the head of a cell."""
    found, lines = {}, source.split("\n")
    while lines and lines[0].startswith("#|"):
        name, _, value = lines.pop(0)[2:].strip().partition(" ")
        found[name.rstrip(":")] = value.strip().strip("\"'")
    return found, "\n".join(lines).strip("\n")


def only_imports(code):
    try:
        body = ast.parse(code).body
    except SyntaxError:  # a line for the shell
        return False
    return bool(body) and all(isinstance(line, ast.Import | ast.ImportFrom) for line in body)


def shows_picture(output):
    data = output.get("data", {})
    moving = MOVING.search("".join(data.get("text/html", "")))
    return bool(moving) or any(kind.startswith("image/") for kind in data)


def labelled(output, alt):
    """An output whose moving picture says what it is; images get their text from the cell's metadata."""
    text = "".join(output.get("data", {}).get("text/html", ""))
    if not MOVING.search(text):
        return output
    text = f'<div role="group" aria-label="{html.escape(alt)}">{text}</div>'
    return output | {"data": {"text/html": text}}


def shown(cell, heading):
    """A code cell as the site shows it, or None for a hidden one, and whether a picture lacks its text.

    Directives are taken out, a flag becomes the cell's tag, imports and drawing code are folded, a picture leads to itself.
    """
    said, code = directives("".join(cell["source"]))
    if "hide" in said or "default_exp" in said or not code:
        return None, False
    outputs, tags, about = cell["outputs"], [flag for flag in FLAGS if flag in said], {}
    picture = any(map(shows_picture, outputs))
    if picture:
        alt = said.get("fig-alt") or f"Picture under the heading “{heading.replace('`', '')}”"
        outputs = [labelled(output, alt) for output in outputs]
        about["image"] = {"alt": alt, "scale": 100}  # a scaled image is a link to itself
    drawing = picture and "export" not in said and code.count("\n") >= FOLD
    if said.get("code-fold") == "true" or drawing or only_imports(code):
        word = "Imports" if only_imports(code) else "Code"
        about |= {"code_prompt_show": word, "code_prompt_hide": word}
        tags.append("hide-input")
    metadata = cell["metadata"] | {"tags": tags, "mystnb": about}
    cell = cell | {"source": code, "outputs": outputs, "metadata": metadata}
    return cell, picture and not said.get("fig-alt")


def page(text, name):
    """A notebook's text as the site shows it, and a line for each cell whose picture has no text alternative."""
    notebook, cells, missing, heading = json.loads(text), [], [], ""
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            kept, bare = shown(cell, heading)
            cells += [kept] if kept else []
            where = f"{name}: cell {number} ({cell.get('id')}), under {heading!r}"
            missing += [f"{where}: a picture without `#| fig-alt:`"] if bare else []
            continue
        prose = OUTSIDE.sub(r"\1", "".join(cell["source"]))  # files that are not on the site
        prose = re.sub(r"(\]\((?:\.\./)*)index\.ipynb", r"\1story.ipynb", prose)
        outside_code = re.sub(r"^```.*?^```", "", prose, flags=re.MULTILINE | re.DOTALL)
        heading = (HEADING.findall(outside_code) or [heading])[-1]
        cells.append(cell | {"source": prose})
    return json.dumps(notebook | {"cells": cells}, ensure_ascii=False), missing
