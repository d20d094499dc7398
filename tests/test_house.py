"""The house around the package: what an import costs, what the wheel holds, what the files promise each other."""
import configparser
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import scdnet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def python(code, **kwargs):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **kwargs)


def test_import_is_light():
    heavy = {"matplotlib", "pandas", "sklearn", "seaborn", "scipy", "IPython", "ipywidgets", "tyro", "nbdev", "fastcore"}
    shown = python("import scdnet, sys; print(*{m.split('.')[0] for m in sys.modules})")
    assert shown.returncode == 0, shown.stderr
    assert not heavy & set(shown.stdout.split())


def test_help_does_not_import_torch():
    shown = python("import sys\nfrom scdnet.cli import main\n"
                   "code = main(['--help'])\nprint(code, 'torch' in sys.modules)")
    assert shown.stdout.split()[-2:] == ["0", "False"], shown.stdout + shown.stderr


def test_one_version():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    assert PROJECT["version"] == scdnet.__version__ == settings["DEFAULT"]["version"]


def test_every_dependency_has_a_tested_version():
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])
    names = {w.replace(">", "=").split("=")[0].lower().replace("_", "-") for w in wanted}
    assert names <= pinned, f"not in constraints.txt: {sorted(names - pinned)}"


def test_wheel_holds_the_data(tmp_path):
    built = subprocess.run([sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--no-build-isolation", "--quiet", "-w", tmp_path],
                           capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f"scdnet/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "data").rglob("*") if p.is_file()}
    assert shipped and shipped <= inside
    assert {f"scdnet/{p.relative_to(ROOT / 'scdnet').as_posix()}" for p in (ROOT / "scdnet").rglob("*.py")} <= inside

    # What is in the wheel finds its data with no checkout near.
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    found = python("import sys; sys.path.insert(0, 'site')\nfrom scdnet.files import shipped\nprint(shipped('class_names.csv'))", cwd=tmp_path)
    assert str(Path("site/scdnet/data/class_names.csv")) in found.stdout, found.stderr


def test_ruff_finds_no_mistake():
    found = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "scdnet", "tests"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
