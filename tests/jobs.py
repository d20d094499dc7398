"""Commands of scdnet in processes of their own, to be killed, stopped and given full disks; and what must be equal afterwards. Linux only."""

import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from small import random_walks

from scdnet.app.cli.main import main
from scdnet.data.mannequin.ntu_files import synthesize
from scdnet.data.mannequin.perform import MannequinConfig
from scdnet.utils.files import digest

NOBODY = 65534  # an ordinary user
TIMES = ("seconds", "clips_per_second")  # of a line of metrics.jsonl
LEARN = (
    "--split half --preset demo --batch-size 8 --queue-size 16 "
    "--precision fp32 --device cpu --save-every 1 --view.crop-least 8 "
    "--encoder.frames 16 --encoder.channels 8 --encoder.width 16 --encoder.heads 4 "
    "--encoder.projection 8 "
).split()
# a process with everything imported, from which each command is forked in no time; an ordinary user may not import the rest
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "jobs",
        "torch._dynamo",
        "scdnet.data.prepare",
        "scdnet.evaluation.linear",
        "encodings.utf_8_sig",
    ]
)


# processes


def _command(
    words: Sequence[str], log: str, user: int | None, limit: int | None, environment: dict[str, str]
) -> None:
    os.environ |= environment
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), stream)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if user:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    sys.exit(main(words))


def _rank(number: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank."""
    return (
        {
            "RANK": str(number),
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        if ranks > 1
        else {}
    )


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


class Job:
    """A command of scdnet in a process of its own, or in several that share the work."""

    def __init__(
        self, *words: object, user: int | None = None, limit: int | None = None, ranks: int = 1
    ):
        handle, self.log = tempfile.mkstemp(prefix="trust-", suffix=".log")
        os.fchmod(handle, 0o666)
        os.close(handle)
        port, words = _free_port(), [str(word) for word in words]
        self.ranks = [
            SERVER.Process(
                target=_command, args=(words, self.log, user, limit, _rank(number, ranks, port))
            )
            for number in range(ranks)
        ]
        for process in self.ranks:
            process.start()

    def send(self, signal_number: int, rank: int | None = None) -> None:
        """Send a signal to all ranks, or to one."""
        for process in self.ranks if rank is None else [self.ranks[rank]]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal_number)

    def wait_for(self, folder: Path, pattern: str) -> None:
        """Wait until there is such a file in the folder, or the process has ended."""
        while self.ranks[0].is_alive() and not list(folder.glob(pattern)):
            time.sleep(0.0005)

    def end(self) -> tuple[int, list[str]]:
        """Exit code of the first rank and what was said, once all have ended."""
        for process in self.ranks:
            process.join()
        said = Path(self.log).read_text().splitlines()
        os.unlink(self.log)
        return self.ranks[0].exitcode, said


def run(*words: object, **options) -> tuple[int, list[str]]:
    return Job(*words, **options).end()


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """A folder that everybody may enter, gone afterwards."""
    os.environ |= {
        "TQDM_DELAY": "600",
        "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning",
    }  # killed processes leave semaphores behind
    run("inspect", "--help")  # the server has started by then
    with tempfile.TemporaryDirectory(prefix="trust-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


# what must be equal


def metrics(run: Path) -> list[dict]:
    """The epochs of metrics.jsonl but for times."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [
        {key: value for key, value in line.items() if key not in TIMES}
        for line in lines
        if "epoch" in line
    ]


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def differences(one: Path, other: Path) -> list[str]:
    """What two finished runs differ in: weights, queues, optimiser, metrics but for times."""
    a, b = (
        {
            name: value
            for name, value in content(run).items()
            if name not in ("config.json", "metrics.jsonl")
        }
        for run in (one, other)
    )
    return [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)] + [
        "metrics.jsonl"
    ] * (metrics(one) != metrics(other))


def broken(run: Path) -> list[str]:
    """Files of a run under their final names that are not whole; the last checkpoint but two may be on its way out."""
    found = []
    for step in sorted(run.glob("checkpoint/step-*"))[-2:]:
        with contextlib.suppress(OSError, ValueError, KeyError):
            digests = json.loads((step / "state.json").read_text())["digests"]
            if all(
                digest(step / name) == value for name, value in digests.items() if name != "numbers"
            ):
                continue
        found.append(step.name)
    for name, read in (
        ("metrics.jsonl", metrics),
        ("config.json", lambda run: json.loads((run / "config.json").read_text())),
    ):
        try:
            read(run)
        except FileNotFoundError:
            pass
        except ValueError:
            found.append(name)
    return found


# kills


def where(run: Path) -> str:
    """What a run was doing when it died, as its folder tells."""
    if list(run.glob("checkpoint/.step-*")):
        return "writing a checkpoint"
    if list(run.glob(".*.partial")):
        return "writing another file"
    return (
        "between two writes"
        if list(run.glob("checkpoint/step-*"))
        else "before the first checkpoint"
    )


def kill_run(job: Job, run: Path, moment: random.Random) -> None:
    """Kill it up to five checkpoints on, at any moment between two of them, or, every other time, while it writes one."""
    pace = 1.0  # seconds; of the first moments of a process
    for _ in range(moment.randrange(6)):
        began, newest = time.perf_counter(), max(run.glob("checkpoint/step-*"), default=None)
        while (
            job.ranks[0].is_alive() and max(run.glob("checkpoint/step-*"), default=None) == newest
        ):
            time.sleep(0.0005)
        pace = time.perf_counter() - began
    if moment.random() < 0.5:
        job.wait_for(run, "checkpoint/.step-*")
        pace = 0.01
    time.sleep(moment.uniform(0, pace))
    job.send(signal.SIGKILL)


def kill_prepare(job: Job, out: Path, size: int, moment: random.Random) -> None:
    """Kill it when it has written some part of `size` bytes of frames, or, in one of six cases, about when it has written all."""
    part, written = moment.uniform(0, 1.2), 0
    while job.ranks[0].is_alive() and written < min(part, 1) * size:
        time.sleep(0.0005)
        with contextlib.suppress(OSError):  # it has just been renamed
            written = max(
                (
                    path.stat().st_size
                    for path in out.parent.glob(f".{out.name}.partial/frames.npy")
                ),
                default=0,
            )
    time.sleep(moment.uniform(0, 0.05) if part > 1 else 0)
    job.send(signal.SIGKILL)


# faults


@contextlib.contextmanager
def small_disk(at: Path, size: str = "6m") -> Iterator[bool]:
    """A file system of that size; yields whether one could be mounted."""
    at.mkdir()
    options = f"size={size},mode=777"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", at]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", at], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Fill a small disk up to so many bytes."""
    free = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - leave)))
    return folder / "filler"


class Workplace:
    """A store, recordings, a finished run, and the commands that make such."""

    def __init__(self, root: Path, epochs: int):
        self.root, self.epochs, self.whole = root, epochs, root / "whole"
        self.store = random_walks(root / "store", half=(slice(0, 24), slice(24, 32))).path
        few = MannequinConfig(actions=(5, 7), subjects=(1, 2))
        self.raw = synthesize(root / "raw", config=few, workers=1, progress=False)
        for path in (self.raw, self.store):
            path.chmod(0o755)
        assert run(*self.learn(self.whole))[0] == 0

    def learn(self, out: Path) -> list:
        words = ["pretrain", "--store", self.store, *LEARN, "--epochs", self.epochs]
        return [*words, "--resume", "--out", out]

    def prepare(self, out: Path) -> list:
        return ["prepare", self.raw, "--workers", 1, "--out", out]

    def begun(self, out: Path) -> Path:
        """A run that was stopped in its first epochs."""
        job = Job(*self.learn(out))
        job.wait_for(out, "checkpoint/step-*")
        job.send(signal.SIGTERM)
        assert job.end()[0] == 143
        return out

    def resumed(self, out: Path) -> bool:
        """Whether a run goes on to where it would have come without the fault."""
        return run(*self.learn(out))[0] == 0 and not differences(self.whole, out)


def told(ended: tuple[int, list[str]], *codes: int) -> bool:
    """Whether a command ended with one of the codes and one line that says why."""
    code, said = ended
    clear = said and said[-1].startswith("scdnet: ") and not any("Traceback" in s for s in said)
    assert code in codes and clear, ended
    return True
