"""What a notebook tests badly: `prepare` that is interrupted or killed, and its memory."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from scdnet.data.mannequin.ntu_files import skeleton_text
from scdnet.data.mannequin.perform import perform
from scdnet.data.prepare import prepare
from scdnet.data.store import SkeletonStore

PROGRAM = "import sys; from scdnet.data.prepare import prepare; prepare(sys.argv[1], sys.argv[2], workers=2, progress=False)"
KILLS = int(os.environ.get("SCDNET_KILLS", 5))
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


def zip_of(path, clips):
    """A zip of clips with the same content under different names."""
    content = skeleton_text(perform(7)).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for i in range(clips):
            file.writestr(
                f"S{i // 500 + 1:03}C001P{i // 50 % 10 + 1:03}R001A{i % 50 + 1:03}.skeleton",
                content,
            )
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """2 000 clips: some seconds of work."""
    return zip_of(tmp_path_factory.mktemp("raw") / "raw.zip", 2000)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """100 clips: a fraction of a second."""
    return zip_of(tmp_path_factory.mktemp("small") / "raw.zip", 100)


def start(archive, out):
    """`prepare` in a process of its own, once it has begun to write."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(archive), str(out)],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    for _ in range(600):
        if any(file.stat().st_size > 10**6 for file in out.parent.glob(".store.*/frames.npy")):
            return process
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    raise AssertionError("prepare did not begin to write")


def group(process):
    """Ids of the living processes of a session."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == process.pid and fields[0] != "Z":
            found.append(int(pid))
    return found


@linux
def test_killed_leaves_no_store_and_no_workers(archive, tmp_path):
    process = start(archive, tmp_path / "store")
    assert len(group(process)) == 3
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(100):
        if not group(process):
            break
        time.sleep(0.1)
    assert not group(process) and not (tmp_path / "store").exists()


@linux
def test_interrupt_leaves_nothing(archive, tmp_path):
    process = start(archive, tmp_path / "store")
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does, to the whole group
    error = process.communicate(timeout=30)[1].decode()
    assert error.count("Traceback") == 1 and "KeyboardInterrupt" in error
    assert not group(process) and os.listdir(tmp_path) == []


def begin(source, out):
    """`prepare` in a process of its own, once it has made its temporary folder; and the time."""
    before = set(out.parent.iterdir())
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(source), str(out)])
    while set(out.parent.iterdir()) <= before:
        assert process.poll() is None
        time.sleep(0.001)
    return process, time.perf_counter()


@linux
def test_killed_at_any_moment_a_store_is_whole_or_not_there(small, tmp_path):
    """Kills from the first trace of work to some time after the last. SCDNET_KILLS=30 tries harder."""
    out, moment = tmp_path / "store", random.Random(0)
    process, start = begin(small, out)
    assert process.wait() == 0
    took, digest = time.perf_counter() - start, SkeletonStore.open(out).digest
    for _ in range(KILLS):
        shutil.rmtree(out, ignore_errors=True)
        process, _ = begin(small, out)
        time.sleep(moment.uniform(0, 1.1 * took))
        process.kill()
        process.wait()
        assert not out.exists() or SkeletonStore.open(out, check_digest=True).digest == digest
    shutil.rmtree(out, ignore_errors=True)
    assert begin(small, out)[0].wait() == 0  # what the kills have left does not disturb
    assert SkeletonStore.open(out, check_digest=True).digest == digest
    assert os.listdir(tmp_path) == ["store"]


def die_at_rename(number, before, *arguments, **options):
    """`prepare` that is killed just before or after its rename of that number."""
    rename, seen = os.rename, []

    def deadly(old, new):
        seen.append(new)
        if len(seen) == number and before:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(old, new)
        if len(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.rename = deadly
    prepare(*arguments, workers=1, progress=False, **options)


@linux
@pytest.mark.parametrize(
    "overwrite, number, before, clips",
    [
        (False, 1, True, None),
        (False, 1, False, 3),
        (True, 1, True, 2),
        (True, 1, False, None),
        (True, 2, True, None),
        (True, 2, False, 3),
    ],
)
def test_killed_at_a_rename(overwrite, number, before, clips, tmp_path):
    """Also where a store of 2 clips is replaced by one of 3: the old, the new, or none for a moment, in which both lie beside it, whole."""
    old, new, out = (
        zip_of(tmp_path / "old.zip", 2),
        zip_of(tmp_path / "new.zip", 3),
        tmp_path / "store",
    )
    if overwrite:
        prepare(old, out, progress=False)
    arguments = dict(
        target=die_at_rename, args=(number, before, new, out), kwargs={"overwrite": overwrite}
    )
    child = multiprocessing.get_context("fork").Process(**arguments)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert clips == (len(SkeletonStore.open(out, check_digest=True)) if out.exists() else None)
    found = {
        len(SkeletonStore.open(path, check_digest=True))
        for path in tmp_path.glob("*store*")
        if path.is_dir()
    }
    assert found == ({2, 3} if overwrite else {3})
    assert len(prepare(new, out, overwrite=True, progress=False)) == 3


@linux
def test_memory_of_all_processes_stays_below_600_mb(archive, tmp_path):
    """Resident memory, shared pages counted for each process. tools/measure_prepare.py compares 500 clips with 20 000."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(archive), str(tmp_path / "store")],
        start_new_session=True,
    )
    peak = 0
    while process.poll() is None:
        pages = []
        for pid in group(process):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                pages.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]))
        peak = max(peak, sum(pages) * os.sysconf("SC_PAGE_SIZE"))
        time.sleep(0.05)
    assert process.returncode == 0 and 50e6 < peak < 600e6, peak
