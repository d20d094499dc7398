"""The plan of the house: which subpackage may import which, how long a module may be, and what `import scdnet` offers."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import scdnet

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scdnet"
ORDER = "utils data views model training evaluation viz paper app".split()  # design.md
MODULES = {
    ".".join(("scdnet", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in PACKAGE.rglob("*.py")
    if path.stem not in ("__init__", "__main__", "_modidx")
}
CONTRACT = (
    "Run features pretrain load_encoder SkeletonStore Skeleton NTU25 KINECT20 InputError".split()
)


def imported(module, path):
    """Modules of scdnet that a module imports when it runs, anywhere in it, by their full names."""
    package, tree = module.split(".")[:-1], ast.parse(path.read_text())
    for_types = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)
    ]
    aside = {id(node) for block in for_types for node in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in aside:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            home = ".".join([*base, *filter(None, [node.module])])
            names = [home, *(f"{home}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name in MODULES)


IMPORTS = {module: sorted(set(imported(module, path))) for module, path in MODULES.items()}


def room(module):
    return ORDER.index(module.split(".")[1])


def test_a_module_imports_only_from_its_own_subpackage_and_those_before_it():
    wrong = [f"{a} imports {b}" for a in IMPORTS for b in IMPORTS[a] if room(b) > room(a)]
    assert not wrong


def circle(imports):
    """A list of modules each of which imports the next and the last the first, or None."""
    done, path = set(), []

    def visit(module):
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        path.append(module)
        found = next(filter(None, map(visit, imports[module])), None)
        path.pop()
        done.add(module)
        return found

    return next(filter(None, map(visit, imports)), None)


def test_no_modules_import_each_other_in_a_circle():
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert circle(IMPORTS) is None


def code_lines(path):
    """Lines with code: neither blank, nor a comment, nor part of a docstring."""
    text = path.read_text()
    lines = {
        number
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    }
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            lines -= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    return len(lines)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_is_longer_than_450_lines(module):
    assert code_lines(MODULES[module]) <= 450


def test_there_are_many_modules_and_each_belongs_to_a_subpackage():
    assert len(MODULES) > 60
    assert {module.split(".")[1] for module in MODULES} == set(ORDER)
    assert set(scdnet._PACKAGES) == set(ORDER)


def test_every_name_of_the_contract_is_there_and_is_what_its_module_defines():
    assert set(CONTRACT) <= set(scdnet.__all__)
    for name, home in scdnet._HOMES.items():
        module = importlib.import_module(f"scdnet.{home}")
        assert getattr(scdnet, name) is getattr(module, name), name
    assert callable(scdnet.pretrain) and callable(scdnet.features)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = scdnet.nonsense


def test_every_module_can_be_reached_from_the_package():
    """In a new process, in which only scdnet itself is imported: `scdnet.views.masks.spatial_mask` just works."""
    names = [name for name in MODULES if not name.endswith(("viz.player", "viz.explorers"))]
    code = f"import scdnet\nfor name in {names}:\n    eval(name)\nprint('all')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "all\n", done.stderr
    assert all(init.read_text().count("_lazy(") for init in PACKAGE.glob("*/**/__init__.py"))
    walked = {m.name for m in pkgutil.walk_packages(scdnet.__path__, "scdnet.") if not m.ispkg}
    assert walked - {"scdnet.__main__", "scdnet._modidx"} == set(MODULES)
