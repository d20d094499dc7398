"""The site: `make docs` builds it from the stored outputs of the notebooks, with no kernel and no network, and its pages ask for none."""

import dataclasses
import importlib.util
import inspect
import re
import sys
from pathlib import Path

from sphinx.util import logging

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pages  # noqa: E402

import scdnet  # noqa: E402

project, author, version = "scdnet", "The scdnet authors", scdnet.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_static"]
language = "en"

# the book
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"
nb_ipywidgets_js = {}  # widgets are stored as pictures
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
(MATHJAX,) = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations
mathjax_path = "tex-svg.js"  # MathJax in one file, out of that package

# the reference
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
add_module_names = False
maximum_signature_line_length = 100
napoleon_preprocess_types = False
default_role = "code"  # our docstrings write names as in Markdown

# the look
html_theme = "furo"
html_title = "scdnet"
html_static_path = ["_static", "views.gif", "view.png", f"{MATHJAX}/static/mathjax/tex-svg.js"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_copy_source = html_show_sourcelink = html_show_sphinx = False
show_copyright = html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5394", "color-brand-content": "#0b5394"},
    "dark_css_variables": {"color-brand-primary": "#7fb8f0", "color-brand-content": "#7fb8f0"},
}


def one_text(app, what, name, thing, options, lines):
    """Our docstrings say of a parameter `name : shape, unit, constraint`. Napoleon takes that for a type; here it is the text, for types stand in the signature."""
    text = "\n".join(lines)
    text = re.sub(
        r"^:param (.+?):(.*(?:\n .*)*)\n:type \1: (.*(?:\n .*)*)$",
        lambda m: f":param {m[1]}: {m[3]}{'. ' * bool(m[2].strip())}{m[2].strip()}",
        text,
        flags=re.MULTILINE,
    )
    text = re.sub(r"^:rtype: ", ":returns: ", text, flags=re.MULTILINE)
    lines[:] = text.split("\n")


def fields(app, what, name, thing, options, lines):
    """Of a dataclass, what the comments beside its fields say."""
    if (
        what != "class"
        or not dataclasses.is_dataclass(thing)
        or any(line.startswith(":param") for line in lines)
    ):
        return
    said = dict(re.findall(r"^    (\w+): [^#\n]*#:? (.+)$", inspect.getsource(thing), re.MULTILINE))
    told = [
        f":param {field.name}: " + re.sub(r"([*|\\])", r"\\\1", said[field.name])
        for field in dataclasses.fields(thing)
        if field.name in said
    ]
    lines += ["", *told, ""] if told else []


def not_ours(app, what, name, thing, skip, options):
    """Leave out what other packages put into our classes."""
    return skip or not (getattr(thing, "__module__", None) or "scdnet").startswith("scdnet")


def setup(app):
    missing = pages.write(HERE)
    app.connect(
        "builder-inited",
        lambda app: [
            logging.getLogger("scdnet").warning(line, type="scdnet", subtype="alt")
            for line in missing
        ],
    )
    app.connect("autodoc-skip-member", not_ours)
    app.connect("autodoc-process-docstring", one_text, priority=800)  # after napoleon
    app.connect("autodoc-process-docstring", fields, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
