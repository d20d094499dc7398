"""The book: every notebook runs, is stored clean and with what it shows, and says the same as the package exported from it."""

import filecmp
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(
    p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)
TIME_LIMIT = 300  # seconds for one notebook; it should take under 60
BIN = Path(sys.executable).parent


def name(path):
    return path.relative_to(ROOT / "nbs").with_suffix("").as_posix()


def run(*command, cwd=ROOT, timeout=TIME_LIMIT):
    """Run in a session of its own, so that a time limit ends the children too. Returns (exit code, all output)."""
    process = subprocess.Popen(
        [str(c) for c in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
    )
    try:
        return process.communicate(timeout=timeout)[0], process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0] + f"\nstopped after {timeout} s", 124


def test_there_are_notebooks():
    assert NOTEBOOKS, f"no notebook under {ROOT / 'nbs'}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_runs(notebook):
    """In a process of its own: nbdev's workers share modules."""
    output, code = run(BIN / "nbdev_test", "--path", notebook, "--do_print", "--n_workers", "0")
    # nbdev_test says Success when it ran nothing: it must name the notebook.
    assert code == 0 and f"- Completed {notebook}" in output, output[-4000:]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_is_stored_with_its_outputs(notebook):
    cells = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs, "no outputs are stored: make notebooks"
    assert not [o for o in outputs if o["output_type"] == "error"], "a cell is stored with an error"
    assert notebook.stat().st_size < 500_000, (
        f"{notebook.stat().st_size} bytes; a notebook stays under 500 kB"
    )


@pytest.fixture(scope="session")
def copy(tmp_path_factory):
    """A copy of what nbdev reads and writes, to export and clean in."""
    folder = tmp_path_factory.mktemp("copy")
    for file in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / file, folder)
    for tree in ("nbs", "scdnet"):
        shutil.copytree(
            ROOT / tree,
            folder / tree,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
        )
    return folder


def modules(folder):
    return {p.relative_to(folder).as_posix() for p in (folder / "scdnet").rglob("*.py")}


def test_package_is_what_the_notebooks_export(copy):
    for module in modules(copy):
        if Path(module).name not in ("__init__.py", "__main__.py"):  # written by hand
            (copy / module).unlink()
    output, code = run(BIN / "nbdev_export", cwd=copy)
    assert code == 0, output
    assert modules(copy) == modules(ROOT), (
        "a module without a notebook, or a notebook that was never exported: nbdev_export"
    )
    different = [
        m for m in sorted(modules(ROOT)) if not filecmp.cmp(copy / m, ROOT / m, shallow=False)
    ]
    assert not different, f"not what the notebooks export: {different}; run nbdev_export"


def test_notebooks_are_clean(copy):
    output, code = run(BIN / "nbdev_clean", cwd=copy)
    assert code == 0, output
    different = [
        name(p) for p in NOTEBOOKS if not filecmp.cmp(copy / p.relative_to(ROOT), p, shallow=False)
    ]
    assert not different, f"nbdev_clean changes {different}"
    with_widgets = [
        name(p) for p in NOTEBOOKS if "widgets" in json.loads(p.read_text())["metadata"]
    ]
    assert not with_widgets, f"widget state is stored in {with_widgets}"


COMMAND_LINE = ROOT / "nbs/handbook/app/cli/06_main.ipynb"


def stored_help():
    """Words of a command -> the help that the command-line chapter holds."""
    cells = json.loads(COMMAND_LINE.read_text())["cells"]
    outputs = [o for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    text = "".join("".join(o.get("text", "")) for o in outputs if o.get("name") == "stdout")
    shown = re.split(r"^\$ (.+)\n", text, flags=re.MULTILINE)[1:]
    pairs = zip(shown[::2], shown[1::2], strict=True)
    return {command: said.strip() for command, said in pairs if command.endswith("--help")}


@pytest.mark.parametrize("command", ["scdnet --help", "scdnet pretrain --preset paper --help"])
def test_the_stored_help_is_what_the_command_prints(command):
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert done.stdout.strip() == stored_help()[command], f"make notebooks NOTEBOOKS={COMMAND_LINE}"


def test_links_between_notebooks_lead_somewhere():
    broken = []
    for notebook in NOTEBOOKS:
        text = "".join(
            "".join(c["source"])
            for c in json.loads(notebook.read_text())["cells"]
            if c["cell_type"] == "markdown"
        )
        broken += [
            (name(notebook), link)
            for link in re.findall(r"\]\(([^):#]+\.ipynb)", text)
            if not (notebook.parent / link).exists()
        ]
    assert not broken
