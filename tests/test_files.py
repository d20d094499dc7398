"""Folders and files that are whole or not there, and one process at a time."""

import json
import os
import subprocess
import sys
import threading

import pytest

from scdnet.utils.files import InputError, alone_in, new_folder, write_bytes, write_json

OTHER = """
import sys
from scdnet.utils.files import alone_in, new_folder
try:
    with new_folder(sys.argv[1], overwrite=True) as folder:
        (folder / "who").write_text("other")
except ValueError as error:
    sys.exit(str(error))
"""


def other(path):
    """Another process that makes the same folder."""
    words = [sys.executable, "-c", OTHER, str(path)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def test_another_process_does_not_take_a_folder_that_was_just_made(tmp_path, monkeypatch):
    """The other one looks for rubbish at the worst moment, directly after the temporary folder has been made."""
    make, said = os.mkdir, []

    def interrupted(path, *given, **options):
        make(path, *given, **options)
        if ".partial" in str(path):
            monkeypatch.undo()
            said.append(other(tmp_path / "store"))

    monkeypatch.setattr(os, "mkdir", interrupted)
    with new_folder(tmp_path / "store") as folder:
        (folder / "who").write_text("first")
    assert (tmp_path / "store/who").read_text() == "first" and os.listdir(tmp_path) == ["store"]
    assert said[0].returncode == 1 and f"process {os.getpid()} " in said[0].stderr


def test_a_killed_process_blocks_nobody(tmp_path):
    code = OTHER.replace(
        'write_text("other")', 'write_text("half"); import os; os.kill(os.getpid(), 9)'
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "store")], timeout=120)
    assert sorted(os.listdir(tmp_path)) == [".store.partial", ".store.partial.lock"]
    with new_folder(tmp_path / "store") as folder:
        assert os.listdir(folder) == []
    assert os.listdir(tmp_path) == ["store"]


def test_a_lock_leaves_with_the_folder_that_it_guarded(tmp_path):
    """A run that is overwritten: its own lock goes with the old folder, and the new folder's lock stays."""
    (tmp_path / "run").mkdir()
    with alone_in(tmp_path / "run"):
        with new_folder(tmp_path / "run", overwrite=True):
            pass
        again = alone_in(tmp_path / "run")
        with alone_in(tmp_path / "run"), pytest.raises(InputError, match="at work in it"), again:
            pass
        (tmp_path / "run/.lock").write_text("4711 on elsewhere")
    assert (tmp_path / "run/.lock").read_text() == "4711 on elsewhere"


def test_readers_of_a_file_see_the_old_or_the_new(tmp_path):
    path, stop, seen = write_json(tmp_path / "a.json", [0] * 5000), threading.Event(), set()

    def watch():
        while not stop.is_set():
            seen.add(tuple(json.loads(path.read_text())))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for i in range(40):
        write_json(path, [i] * 5000)
    stop.set()
    watcher.join()
    assert all(len({*found}) == 1 and len(found) == 5000 for found in seen)
    assert os.listdir(tmp_path) == ["a.json"]


def test_permissions_are_ordinary(tmp_path):
    """Not those of a temporary file, which nobody else may read."""
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    with new_folder(tmp_path / "store"):
        pass
    assert write_bytes(tmp_path / "a", b"").stat().st_mode == plain.stat().st_mode
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o777 & ~(
        0o666 ^ plain.stat().st_mode & 0o666
    )
