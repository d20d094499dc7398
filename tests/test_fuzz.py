"""A hundred damaged files for each reader, and a hundred command lines: success or one line, and what is not damaged is read as before.

`python tools/fuzz.py all --out data/trust/fuzz.json` tries thousands. What was found by thinking stands in test_attacks.py.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
from commands import assert_mistake, scdnet
from hypothesis import HealthCheck, given, settings, strategies as st

from scdnet.utils.files import InputError

spec = importlib.util.spec_from_file_location(
    "fuzz", Path(__file__).parents[1] / "tools" / "fuzz.py"
)
fuzz = sys.modules["fuzz"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)

COUNT = {"official": 40, "run": 25, "checkpoint": 60}  # slower than the others
many = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Each reader's good folder, made once."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / "good"
            folder.mkdir()
            made[name] = fuzz.READERS[name](folder)
        return made[name]

    return get


def read(case, seed, name):
    """Whether the input is read; False where it is refused. Anything else is raised."""
    with fuzz.limit(60):
        try:
            return fuzz.one(case, seed, name)()
        except InputError as error:
            assert str(error).isprintable() and 5 < len(str(error)) <= 2000
            return False


@pytest.mark.parametrize("name", fuzz.READERS)
def test_reader(name, cases):
    case, outcomes = cases(name), []
    assert all(case.read(case.folder, file) for file in case.files)  # undamaged

    @settings(max_examples=COUNT.get(name, 100), **many)
    @given(seed=st.integers(0, 2**32))
    def check(seed):
        outcomes.append(read(case, seed, name))

    check()
    assert outcomes.count(False) > len(outcomes) / 10  # the damage is felt


def test_a_careless_reader_is_found(cases, monkeypatch):
    """The net holds: a reader that takes any number for a coordinate, and one that loses a good clip."""
    from scdnet.data import prepare as module

    case = cases("nwucla")
    monkeypatch.setattr(
        "scdnet.data.readers.nwucla._frames",
        lambda skeletons, where: __import__("numpy").array(skeletons, "f4"),
    )
    with pytest.raises(Exception) as caught:
        for seed in range(400):
            read(case, seed, "nwucla")
    assert not isinstance(caught.value, InputError)
    monkeypatch.undo()
    ordered = module._ordered
    monkeypatch.setattr(module, "_ordered", lambda tasks: (ordered(tasks)[0][:-1], []))
    with pytest.raises(AssertionError, match="is lost"):
        for seed in range(20):
            read(case, seed, "nwucla")


def test_command_line(tmp_path, monkeypatch):
    folder = tmp_path / "good"
    folder.mkdir()
    fuzz.command_case(folder, monkeypatch.setattr, times=5)
    outcomes = []

    @settings(max_examples=100, **many)
    @given(data=st.data())
    def check(data):
        words = fuzz.command_line(data.draw, st)
        try:
            outcomes.append(fuzz.obey(folder, words))
        except InputError:
            outcomes.append(False)

    check()
    assert 5 < outcomes.count(True) < len(outcomes)


@pytest.mark.parametrize(
    "words",
    [
        "synthesize --out new --seed -1",
        "synthesize --out new --workers -1",
        "synthesize --out new --format pku --workers 0",
        "demo --out new --seed -1",
    ],
)
def test_found_by_fuzzing(words, tmp_path):
    """Command lines that once gave a traceback."""
    assert_mistake(scdnet(*words.split(), cwd=tmp_path), "expected")
    assert not (tmp_path / "new").exists()
