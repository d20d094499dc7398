"""Readers from outside, archives that are kept open, and arrays whose form nobody knows."""

import multiprocessing
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from commands import assert_mistake, scdnet

from scdnet.data.prepare import prepare
from scdnet.data.readers import base
from scdnet.data.readers.base import Clip, Format, Scan, formats, list_entries, register
from scdnet.data.skeleton import Skeleton
from scdnet.utils.files import InputError


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr(base, "_registered", [])


# a reader of one's own in a few lines


def recognise(entry):
    return entry.file.endswith(".txy")


def scan(entries):
    tasks = [entry for entry in entries if recognise(entry)]
    rod = Skeleton("rod", ("foot", "tip"), bones=((1, 0),), pairs=(), center=0)
    return Scan(tasks, rod, ["swing"], persons=1, coords=2, normalise=False)


def read(entry):
    numbers = np.array(entry.read(2**20).split(), np.float32)
    return [Clip(entry.name, numbers.reshape(-1, 1, 2, 2), label=0)]


RODS = Format("rods", "files of four numbers a frame, .txy", recognise, scan, read)


def test_a_registered_reader_comes_after_the_built_in_ones():
    register(RODS)
    register(RODS)  # twice does no harm
    assert [format.name for format in formats()] == [*base.BUILT_IN, "rods"]
    with pytest.raises(InputError, match="there is a reader of that name"):
        register(Format("ntu", "", recognise, scan, read))


def test_a_registered_reader_prepares(tmp_path):
    register(RODS)
    for i in range(3):
        (tmp_path / f"{i}.txy").write_text(f"0 0 {i} 1\n" * (i + 1))
    found = RODS.scan(list_entries(tmp_path))
    assert [len(clip.frames) for task in found.tasks for clip in RODS.read(task)] == [1, 2, 3]
    if "FORMATS" in vars(sys.modules["scdnet.data.prepare"]):
        pytest.skip("prepare has a list of its own")
    store = prepare(tmp_path, tmp_path / "store", workers=2, progress=False)
    assert store.lengths.tolist() == [1, 2, 3] and store.meta["source"]["format"] == "rods"


def test_a_reader_of_an_installed_package(tmp_path):
    """An entry point is enough; nothing has to be imported."""
    package = tmp_path / "mocap-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mocap\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[scdnet.readers]\nmocap = mocap:FORMAT\n")
    (tmp_path / "mocap.py").write_text(
        "from scdnet.data.readers.nwucla import recognise, scan, read\n"
        "from scdnet.data.readers.base import Format\n"
        "FORMAT = Format('mocap', 'such files', recognise, scan, read)\n"
    )
    code = "from scdnet.data.readers.base import formats\nprint(formats()[-1].name)"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "mocap\n", done.stderr


# arrays whose form nobody knows


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_unknown_arrays_are_named_and_the_way_is_shown(save, tmp_path):
    save(tmp_path / "mine.npz", clips=np.zeros((2, 3)), labels=np.zeros(2))
    done = scdnet("prepare", tmp_path / "mine.npz", "--out", tmp_path / "store", "--workers", 1)
    assert_mistake(done, "mine.npz: holds clips, labels", "x_train", "SkeletonStore.from_arrays")


# archives


def test_a_zip_that_changes_is_listed_anew(tmp_path):
    for name in ("a.txt", "b.txt"):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr(name, name * 9)
        (entry,) = list_entries(tmp_path / "x.zip")
        assert entry.read() == (name * 9).encode()


def read_it(entry, results):
    results.put(entry.read())


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_processes_do_not_share_a_place_in_an_archive(tmp_path):
    """A forked process opens the archive itself, so that neither moves the other's position."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"{i}.txt", os.urandom(10**6))
    entries = list_entries(tmp_path / "x.zip")
    expected, context = [entry.read() for entry in entries], multiprocessing.get_context("fork")
    for _ in range(3):
        results = context.Queue()
        workers = [context.Process(target=read_it, args=(e, results)) for e in entries]
        for worker in workers:
            worker.start()
        found = {results.get(timeout=60) for _ in workers}
        assert found == set(expected)
        for worker in workers:
            worker.join()


def test_numbers_are_read_as_python_reads_them():
    """To the last bit, also where more than one block of words is read and a word is no plain decimal."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=30_000) * 10.0 ** rng.integers(-9, 5, 30_000)
    words = [repr(float(value)) for value in values]
    words += [
        f"{value:.{places}f}"
        for value, places in zip(values, rng.integers(0, 9, 30_000), strict=True)
    ]
    words += (
        "5. .5 -.5 0 -0 -0.0 007 1e3 -2.5E-3 +7 999999.999999999 1_0 123456.7890123456789".split()
    )
    text = base.Text(" ".join(words).encode(), "a.txt")
    numbers = text.metres(np.array([0]), len(words))[0].tolist()
    assert [repr(number) for number in numbers] == [repr(float(word)) for word in words]


@pytest.mark.parametrize(
    "word",
    [
        "-",
        ".",
        "-.",
        "1.2.3",
        "0.1.2.3.4.5.6.7",
        "...............",
        "--1",
        "1-",
        "x",
        "1e",
        "nan",
        "-inf",
        "1e6",
        "1\x002",
        "\xe9",
    ],
)
def test_a_word_that_is_no_number_of_metres_is_named_with_its_line(word):
    text = base.Text(f"1 2 3\n4\t{word}  6 \r\n".encode("latin-1"), "a.txt")
    with pytest.raises(InputError, match=r"^a\.txt, line 2: found .*, expected x, y, z in metres$"):
        text.metres(np.arange(2), 3)
