"""The command line in a test: run it, and look at what it says and leaves."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from scdnet.app.cli.main import main


def scdnet(*words, cwd="."):
    """Run a command in this process, which saves the imports; its output and exit code as `subprocess.run` gives them."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(w) for w in words])
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def program(*words, **options):
    """The same in a process of its own, as a shell would."""
    return subprocess.run(
        [sys.executable, "-m", "scdnet", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def tree(folder):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*"))


def table(done):
    """The rows that a command that went well has printed, by their names."""
    assert done.returncode == 0, done.stderr
    return {
        name.strip(): value
        for name, value in (line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if line)
    }


def assert_mistake(done, *parts):
    """Exit code 2, nothing on stdout, one line on stderr that says where and what."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("scdnet: ") and len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert str(part) in done.stderr, done.stderr
