"""What a notebook tests badly: `prepare` that is interrupted or killed, and its memory."""
import os
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from scdnet.synthetic import perform, skeleton_text

PROGRAM = "import sys; from scdnet.prepare import prepare; prepare(sys.argv[1], sys.argv[2], workers=2, progress=False)"
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A zip of 2 000 clips with the same content under different names: some seconds of work."""
    path = tmp_path_factory.mktemp("raw") / "raw.zip"
    content = skeleton_text(perform(7)).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for i in range(2000):
            file.writestr(f"S{i // 500 + 1:03}C001P{i // 50 % 10 + 1:03}R001A{i % 50 + 1:03}.skeleton", content)
    return path


def start(archive, out):
    """`prepare` in a process of its own, once it has begun to write."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(archive), str(out)], stderr=subprocess.PIPE, start_new_session=True)
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
            fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
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
    os.killpg(process.pid, signal.SIGINT)                      # as Ctrl-C does, to the whole group
    error = process.communicate(timeout=30)[1].decode()
    assert error.count("Traceback") == 1 and "KeyboardInterrupt" in error
    assert not group(process) and os.listdir(tmp_path) == []
