"""The house around the package: what an import costs, what the wheel holds, what the files promise each other."""

import ast
import configparser
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import scdnet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
BIN = Path(sys.executable).parent


def pins(file):
    lines = [
        line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")
    ]
    found = {
        canonicalize_name(name): version for name, version in (line.split("==") for line in lines)
    }
    assert len(found) == len(lines), "a package is there twice"
    return found


def brought_by(wanted):
    """Names of the installed distributions that requirements ask for, directly or through others."""
    found, left = set(), [(Requirement(text), "") for text in wanted]
    while left:
        requirement, extra = left.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for asked in {"", *requirement.extras}:
            if (name, asked) not in found:
                found.add((name, asked))
                left += [(Requirement(text), asked) for text in metadata.requires(name) or []]
    return {name for name, _ in found}


def python(code, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **kwargs
    )


def test_import_is_light():
    heavy = {
        "matplotlib",
        "pandas",
        "sklearn",
        "seaborn",
        "scipy",
        "IPython",
        "ipywidgets",
        "tyro",
        "pydantic",
        "nbdev",
        "fastcore",
    }
    shown = python("import scdnet, sys; print(*{m.split('.')[0] for m in sys.modules})")
    assert shown.returncode == 0, shown.stderr
    assert not heavy & set(shown.stdout.split())


def test_help_does_not_import_torch():
    shown = python(
        "import sys\nfrom scdnet.app.cli.main import main\n"
        "code = main(['--help'])\nprint(code, 'torch' in sys.modules)"
    )
    assert shown.stdout.split()[-2:] == ["0", "False"], shown.stdout + shown.stderr


def test_one_version():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    newest = re.search(
        r"^## \[([0-9.]+)\] - (unreleased|\d{4}-\d\d-\d\d)$",
        (ROOT / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )[1]
    assert {
        PROJECT["version"],
        scdnet.__version__,
        settings["DEFAULT"]["version"],
        cited,
        newest,
    } == {scdnet.__version__}
    assert re.fullmatch(r"\d+\.\d+\.\d+", scdnet.__version__)


def test_the_lock_is_whole():
    wanted = brought_by([*PROJECT["dependencies"], *EXTRAS["dev"], *EXTRAS["docs"]]) - {
        "pip",
        "scdnet",
    }
    assert {"torch", "sympy", "nbdev", "pyzmq"} <= wanted
    assert not wanted - set(pins("constraints.txt"))


def test_the_oldest_versions_are_the_floors():
    floors = {
        canonicalize_name(r.name): max(s.version for s in r.specifier)
        for r in map(Requirement, PROJECT["dependencies"])
    }
    oldest = pins("constraints-oldest.txt")
    assert set(floors) == set(oldest)
    assert not [name for name in floors if Version(oldest[name]) != Version(floors[name])]


def test_bill_of_materials(tmp_path):
    """As `make sbom` writes it, without the check against CycloneDX's schema, which takes twenty seconds."""
    made = subprocess.run(
        [
            BIN / "cyclonedx-py",
            "environment",
            sys.executable,
            "--pyproject",
            ROOT / "pyproject.toml",
            "--output-reproducible",
            "--no-validate",
            "-o",
            tmp_path / "sbom.json",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert made.returncode == 0, made.stderr
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert (
        bill["bomFormat"],
        bill["metadata"]["component"]["name"],
        bill["metadata"]["component"]["version"],
    ) == ("CycloneDX", "scdnet", scdnet.__version__)
    listed = {canonicalize_name(part["name"]): part["version"] for part in bill["components"]}
    assert {
        name: metadata.version(name) for name in brought_by(PROJECT["dependencies"])
    }.items() <= listed.items()


def imports(file):
    """Top-level names of what a module imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_nothing_is_imported_that_the_package_does_not_bring():
    homes, brought = metadata.packages_distributions(), brought_by(PROJECT["dependencies"])
    ours = sys.stdlib_module_names | {"scdnet"}
    strangers = {
        (file.name, name)
        for file in (ROOT / "scdnet").rglob("*.py")
        for name in imports(file)
        if name not in ours
        and not brought & {canonicalize_name(home) for home in homes.get(name, [])}
    }
    notebooks = {"ipywidgets", "anywidget", "traitlets", "IPython"}  # of the extra `notebook`
    files = {"player.py", "explorers.py", "draw.py"}  # draw imports IPython inside a function
    assert not {s for s in strangers if s[0] not in files or s[1] not in notebooks}
    assert "nbdev" not in brought and "pytest" not in brought


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that holds what the wheel holds, with no checkout near."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            ROOT,
            "--no-deps",
            "--no-build-isolation",
            "--quiet",
            "-w",
            folder,
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_the_data(site):
    inside = {path.relative_to(site).as_posix() for path in site.rglob("*")}
    shipped = {
        f"scdnet/assets/{p.relative_to(ROOT / 'data').as_posix()}"
        for p in (ROOT / "data").rglob("*")
        if p.is_file()
    }
    assert shipped and shipped <= inside
    assert {
        f"scdnet/{p.relative_to(ROOT / 'scdnet').as_posix()}"
        for p in (ROOT / "scdnet").rglob("*.py")
    } <= inside
    assert {"scdnet/viz/static/" + p.name for p in (ROOT / "scdnet/viz/static").glob("*")} <= inside
    assert "scdnet/py.typed" in inside  # or nobody's type checker looks at the annotations
    found = python(
        "import sys; sys.path.insert(0, '.')\nfrom scdnet.utils.files import shipped\nprint(shipped('class_names.csv'))",
        cwd=site,
    )
    assert str(Path("scdnet/assets/class_names.csv")) in found.stdout, found.stderr


CLEAN = """
import importlib, pkgutil, sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent)
sys.path.insert(0, ".")
import scdnet
widgets = ("scdnet.viz.player", "scdnet.viz.explorers")
names = [m.name for m in pkgutil.walk_packages(scdnet.__path__, "scdnet.") if m.name != "scdnet.__main__"]
for name in names:
    if name not in widgets:
        importlib.import_module(name)
for name in widgets:
    try:
        importlib.import_module(name)
    except ImportError as error:
        assert "pip install 'scdnet[notebook]'" in str(error), error
        assert len(str(error).splitlines()) == 1
    else:
        raise AssertionError(name)
from scdnet.app.cli.main import main
print(len(names), scdnet.__file__, main(["demo", "--help"]))
"""


def test_wheel_works_without_what_is_for_development(site):
    """Every module of the wheel is imported and the command line answers, in a process in which nothing else than the package brings can be imported."""
    homes, brought = metadata.packages_distributions(), brought_by(PROJECT["dependencies"])
    absent = {
        name for name, found in homes.items() if not brought & set(map(canonicalize_name, found))
    } - {"scdnet"}
    development = {"nbdev", "fastcore", "execnb", "jupyterlab", "nbconvert", "pytest"}
    assert development | {"ipywidgets", "anywidget"} <= absent and "torch" not in absent
    shown = python(CLEAN.replace("{absent}", repr(absent)), cwd=site)
    count, home, code = (
        shown.stdout.split()[-3:] if shown.returncode == 0 else (0, "", shown.stderr)
    )
    assert int(count) > 60 and Path(home).parents[1] == site and code == "0", code


TEXTS = [
    "nbs",
    "tests",
    "tools",
    "docs",
    *(["benchmarks"] if (ROOT / "benchmarks").is_dir() else []),
]


@pytest.mark.parametrize("words", [["check", "scdnet"], ["format", "--check"]], ids=" ".join)
def test_ruff_finds_nothing(words):
    found = subprocess.run(
        [BIN / "ruff", words[0], "--no-cache", *words[1:], *TEXTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_mypy_is_told_of_no_module_of_ours():
    """Only packages of others are excepted from mypy's checks."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    named = [name for group in settings["overrides"] for name in group["module"]]
    assert not [name for name in named if name.startswith("scdnet")]


def test_make_lab_passes_its_options_and_explains_root(tmp_path):
    """As root, as in a container, Jupyter wants --allow-root: make says so before anything is started."""
    jupyter = tmp_path / "bin" / "jupyter"
    jupyter.parent.mkdir()
    jupyter.write_text('#!/bin/sh\necho "$@"')
    jupyter.chmod(0o755)
    identity = tmp_path / "id"
    for user, options, said in (
        ("0", "", "--allow-root"),
        ("0", "--allow-root", "lab --allow-root nbs/index.ipynb"),
        ("1000", "--no-browser", "lab --no-browser nbs/index.ipynb"),
    ):
        identity.write_text(f"#!/bin/sh\necho {user}")
        identity.chmod(0o755)
        make = [
            "make",
            "-s",
            "-o",
            tmp_path / ".installed",
            "lab",
            f"VENV={tmp_path}",
            f"LAB={options}",
        ]
        (tmp_path / ".installed").touch()
        done = subprocess.run(
            make,
            cwd=ROOT,
            env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        assert said in done.stdout + done.stderr and (done.returncode == 0) == ("lab" in said)


def test_mypy_finds_no_mistake(tmp_path):
    found = subprocess.run(
        [BIN / "mypy", "--cache-dir", tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr


def bare(function):
    """Which parameters of a function, and whether its result, have no annotation."""
    named = function.args
    all_of_them = [
        *named.posonlyargs,
        *named.args,
        *named.kwonlyargs,
        *filter(None, (named.vararg, named.kwarg)),
    ]
    result = [] if function.returns or function.name == "__init__" else ["its result"]
    return [
        a.arg for a in all_of_them if not a.annotation and a.arg not in ("self", "cls")
    ] + result


def public_functions(tree):
    for node in tree.body:
        within = (
            node.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
            else [node]
        )
        yield from (
            f
            for f in within
            if isinstance(f, ast.FunctionDef)
            and (not f.name.startswith("_") or f.name in ("__init__", "__call__"))
        )


def test_everything_public_is_annotated():
    said = [
        f"{file.name}, line {function.lineno}: {function.name}: {', '.join(missing)}"
        for file in sorted((ROOT / "scdnet").rglob("*.py"))
        for function in public_functions(ast.parse(file.read_text()))
        if (missing := bare(function))
    ]
    assert not said
    (function,) = public_functions(ast.parse("class A:\n  def f(self, a: int, *b, c=0, **d): pass"))
    assert bare(function) == ["c", "b", "d", "its result"]
