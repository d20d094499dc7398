"""Is anything lost? Kills, faults and soaks of the real command line, on stores and runs that are made for it and thrown away.

    python tools/measure_trust.py kills-pretrain --count 50     # SIGKILL at random moments, each followed by --resume
    python tools/measure_trust.py kills-prepare --count 50      # SIGKILL at random moments, each followed by the same command
    python tools/measure_trust.py faults                        # full disk, file-size limit, foreign and read-only folders, vanished folders; as root it tries all
    python tools/measure_trust.py same-numbers                  # two demos of one seed; twice the demo's minutes
    python tools/measure_trust.py soak --steps 2000             # memory and open files of the preset demo; ten minutes or more
    python tools/measure_trust.py deterministic                 # what the option costs

Each prints a table, writes data/trust/NAME.json (or --out) and ends with 1 where something was lost. Linux only. Kills and faults take some minutes of one core.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

import tyro
from small import TINY, random_walks

from scdnet.app.cli.main import main
from scdnet.app.cli.parsing import show
from scdnet.utils.files import digest, write_json
from scdnet.training.config import PRESETS
from scdnet.training.pretrain import Trainer, pretrain
from scdnet.utils.machine import machine
from scdnet.data.store import SkeletonStore
from scdnet.data.mannequin.ntu_files import synthesize
from scdnet.data.mannequin.perform import MannequinConfig

NOBODY = 65534  # an ordinary user
TIMES = ("seconds", "clips_per_second")  # of a line of metrics.jsonl
LEARN = [
    "--split",
    "half",
    "--preset",
    "demo",
    "--batch-size",
    8,
    "--queue-size",
    16,
    "--precision",
    "fp32",
    "--device",
    "cpu",
    "--save-every",
    1,
    "--view.crop-least",
    8,
    "--encoder.frames",
    16,
    "--encoder.channels",
    8,
    "--encoder.width",
    16,
    "--encoder.heads",
    4,
    "--encoder.projection",
    8,
]
SERVER = multiprocessing.get_context(
    "forkserver"
)  # a process with everything imported, from which each command is forked in no time
SERVER.set_forkserver_preload(
    [
        "measure_trust",
        "torch._dynamo",
        "scdnet.data.prepare",
        "scdnet.evaluation.linear",
        "encodings.utf_8_sig",
    ]
)  # an ordinary user may not import the rest


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
                    for path in out.parent.glob(f".{out.name}.*.partial/frames.npy")
                ),
                default=0,
            )
    time.sleep(moment.uniform(0, 0.05) if part > 1 else 0)
    job.send(signal.SIGKILL)


def kills_pretrain(count: int = 50, seed: int = 0, epochs: int = 40, ranks: int = 1) -> dict:
    """Runs killed again and again, half of the kills while a checkpoint is written, and resumed; compared with one that was left alone."""
    moment, found, runs, lost = random.Random(seed), Counter(), 0, []
    with workshop() as root:
        store = random_walks(root / "store", half=(slice(0, 24), slice(24, 32)))
        words = ["pretrain", "--store", store.path, *LEARN, "--epochs", epochs, "--resume", "--out"]
        lost += [
            f"the run never killed ended with {code}"
            for code, _ in [run(*words, root / "whole", ranks=ranks)]
            if code
        ]
        while found.total() < count and not lost:
            out, code = root / f"run-{runs}", None
            while code != 0 and not lost:
                job = Job(*words, out, ranks=ranks)
                if found.total() < count:
                    kill_run(job, out, moment)
                code, said = job.end()
                lost += [f"{out.name}: {name} was not whole" for name in broken(out)]
                if code == -signal.SIGKILL:
                    found[where(out)] += 1
                elif code:
                    lost.append(f"{out.name}: ended with {code}: {said[-1:]}")
            if not lost:
                lost += [f"{out.name}: {name} differs" for name in differences(root / "whole", out)]
                lost += [f"{out.name}: {path.name} was left" for path in out.rglob(".*")]
            runs += 1
        steps = metrics(root / "whole")[-1]["step"]
    return {
        "kills": found.total(),
        "moments": dict(found.most_common()),
        "runs": runs,
        "ranks": ranks,
        "steps of a run": steps,
        "lost or different": lost,
    }


def kills_prepare(count: int = 50, seed: int = 0) -> dict:
    """`prepare` killed and run again; a third of the times it replaces an older store."""
    moment, found, lost = random.Random(seed), Counter(), []
    with workshop() as root:
        raw = synthesize(
            root / "raw",
            config=MannequinConfig(actions=(5, 7), subjects=(1, 2, 3, 4)),
            workers=1,
            progress=False,
        )
        half = root / "half"
        half.mkdir()
        for file in sorted(raw.glob("*.skeleton"))[::2]:
            shutil.copy(file, half)
        out, words = root / "store", ["prepare", raw, "--workers", 2, "--format", "ntu", "--out"]
        lost += [
            f"the one never killed ended with {code}"
            for code, _ in [run(*words, root / "whole")]
            if code
        ]
        whole = content(root / "whole")
        run("prepare", half, "--out", root / "old")
        old = content(root / "old")
        while found.total() < count:
            shutil.rmtree(out, ignore_errors=True)
            replaces = moment.random() < 1 / 3
            if replaces:
                shutil.copytree(root / "old", out)
            job = Job(*words, out, *["--overwrite"] * replaces)
            kill_prepare(job, out, (root / "whole/frames.npy").stat().st_size, moment)
            if job.end()[0] != -signal.SIGKILL:
                continue
            there = content(out) if out.exists() else {}
            found[
                "the new store is there, whole"
                if there == whole
                else "the old store is there, whole"
                if there and there == old
                else "no store is there"
            ] += 1
            if there and there not in (whole, old):
                lost.append("a store that is not whole")
            code, said = run(*words, out, *["--overwrite"] * out.exists())
            if code or content(out) != whole:
                lost.append(f"run again it ended with {code}: {said[-1:]}")
        time.sleep(1)  # the last killed one's workers are gone by now
        run(*words, out, "--overwrite")
        lost += [f"{path.name} was left" for path in root.glob(".*")]
        clips = len(SkeletonStore.open(root / "whole"))
    return {
        "kills": found.total(),
        "moments": dict(found.most_common()),
        "clips": clips,
        "lost or different": lost,
    }


# faults


@contextlib.contextmanager
def small_disk(at: Path, size: str) -> Iterator[bool]:
    """A file system of that size; yields whether one could be mounted."""
    at.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", at],
            capture_output=True,
        ).returncode
        == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", at], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Fill a small disk up to so many bytes."""
    free = os.statvfs(folder)
    path = folder / "filler"
    with open(path, "wb") as file:
        file.write(bytes(max(0, free.f_bavail * free.f_frsize - leave)))
    return path


class Faults:
    """A store, an older store, a finished run; and a row for each fault."""

    def __init__(self, root: Path, epochs: int):
        self.root, self.rows, self.epochs = root, [], epochs
        self.store = random_walks(root / "store", half=(slice(0, 24), slice(24, 32))).path
        self.raw = synthesize(
            root / "raw",
            config=MannequinConfig(actions=(5, 7), subjects=(1, 2)),
            workers=1,
            progress=False,
        )
        for path in (root / "raw", root / "store"):
            path.chmod(0o755)
        self.whole = root / "whole"
        assert run(*self.learn(self.whole))[0] == 0

    def learn(self, out: Path) -> list:
        return [
            "pretrain",
            "--store",
            self.store,
            *LEARN,
            "--epochs",
            self.epochs,
            "--resume",
            "--out",
            out,
        ]

    def prepare(self, out: Path) -> list:
        return ["prepare", self.raw, "--workers", 1, "--out", out]

    def begun(self, out: Path) -> Path:
        """A run that was stopped in its first epochs."""
        job = Job(*self.learn(out))
        job.wait_for(out, "checkpoint/step-*")
        job.send(signal.SIGTERM)
        assert job.end()[0] == 143
        return out

    def note(
        self,
        fault: str,
        command: str,
        ended: tuple[int, list[str]],
        codes: Sequence[int],
        *kept: bool,
    ) -> None:
        """A row: what it ended with and said, and whether what had to be kept was."""
        code, said = ended
        clear = (
            len(said) >= 1
            and said[-1].startswith("scdnet: ")
            and not any("Traceback" in line for line in said)
        )
        text = said[-1].replace(str(self.root), "...") if said else ""
        self.rows.append(
            {
                "fault": fault,
                "command": command,
                "exit code": code,
                "said": text,
                "as it should be": code in codes and clear and all(kept),
            }
        )

    def left(self, folder: Path) -> bool:
        """Whether nothing half-written lies about."""
        return not list(folder.rglob("*.partial*"))

    def resumed(self, out: Path) -> bool:
        """Whether a run goes on to where it would have come without the fault."""
        return run(*self.learn(out))[0] == 0 and not differences(self.whole, out)


def full_disk(faults: Faults) -> None:
    """A disk of a few MB: full while a checkpoint, a store and a result are written."""
    disk = faults.root / "disk"
    with small_disk(disk, "6m") as mounted:
        if not mounted:
            return
        out = faults.begun(disk / "run")
        before, filler = content(out / "checkpoint"), fill(disk, 20_000)
        ended = run(*faults.learn(out))
        faults.note(
            "disk full",
            "pretrain",
            ended,
            (1,),
            content(out / "checkpoint") == before,
            not broken(out),
            faults.left(out),
        )
        filler.unlink()
        faults.rows[-1]["as it should be"] &= faults.resumed(out)
        shutil.rmtree(out)
        run(*faults.prepare(disk / "store"))
        before, filler = content(disk / "store"), fill(disk, 20_000)
        ended = run(*faults.prepare(disk / "store"), "--overwrite")
        faults.note(
            "disk full",
            "prepare --overwrite",
            ended,
            (1,),
            content(disk / "store") == before,
            faults.left(disk),
        )
        filler.unlink()
        filler = fill(disk, 2000)
        ended = run(
            "embed",
            "--run",
            faults.whole,
            "--store",
            faults.store,
            "--out",
            disk / "clues.npz",
            "--device",
            "cpu",
        )
        faults.note(
            "disk full", "embed", ended, (1,), sorted(os.listdir(disk)) == ["filler", "store"]
        )


def file_limit(faults: Faults) -> None:
    """RLIMIT_FSIZE, as `ulimit -f` sets it; Python ignores SIGXFSZ, so that writing fails."""
    out = faults.begun(faults.root / "limited")
    before = content(out / "checkpoint")
    ended = run(*faults.learn(out), limit=20_000)
    faults.note(
        "file-size limit",
        "pretrain",
        ended,
        (1,),
        content(out / "checkpoint") == before,
        not broken(out),
        faults.left(out),
        faults.resumed(out),
    )
    run(*faults.prepare(faults.root / "limited-store"))
    before = content(faults.root / "limited-store")
    ended = run(*faults.prepare(faults.root / "limited-store"), "--overwrite", limit=20_000)
    faults.note(
        "file-size limit",
        "prepare --overwrite",
        ended,
        (1,),
        content(faults.root / "limited-store") == before,
        not list(faults.root.glob(".limited-store*")),
    )


def foreign_folder(faults: Faults) -> None:
    """Folders of another user, tried as an ordinary one; and a disk that is mounted to be read only."""
    if os.getuid() != 0:
        return
    theirs = faults.root / "theirs"
    theirs.mkdir(mode=0o755)
    out = faults.begun(theirs / "run")
    run(*faults.prepare(theirs / "store"))
    before = content(theirs)
    for command, words in {
        "pretrain": faults.learn(theirs / "new"),
        "pretrain --resume": faults.learn(out),
        "prepare": faults.prepare(theirs / "new"),
        "prepare --overwrite": [*faults.prepare(theirs / "store"), "--overwrite"],
    }.items():
        ended = run(*words, user=NOBODY)
        faults.note("another user's folder", command, ended, (1,), content(theirs) == before)
    faults.rows[-3]["as it should be"] &= faults.resumed(out)
    with small_disk(faults.root / "frozen", "6m") as mounted:
        if mounted:
            run(*faults.prepare(faults.root / "frozen/store"))
            subprocess.run(["mount", "-o", "remount,ro", faults.root / "frozen"], check=True)
            before = content(faults.root / "frozen")
            for command, words in {
                "pretrain": faults.learn(faults.root / "frozen/run"),
                "prepare --overwrite": [
                    *faults.prepare(faults.root / "frozen/store"),
                    "--overwrite",
                ],
            }.items():
                faults.note(
                    "read-only disk",
                    command,
                    run(*words),
                    (1,),
                    content(faults.root / "frozen") == before,
                )


def vanished_folder(faults: Faults) -> None:
    """The folder is removed while a command fills it."""
    out = faults.root / "vanishing" / "run"
    job = Job(*faults.learn(out))
    job.wait_for(out, "checkpoint/step-*")
    while out.exists():
        shutil.rmtree(out, ignore_errors=True)
    faults.note("folder vanished", "pretrain", job.end(), (1, 2), not out.exists())
    job = Job(*faults.prepare(faults.root / "vanishing" / "store"))
    job.wait_for(faults.root / "vanishing", ".store.*/frames.npy")
    job.send(signal.SIGSTOP)
    shutil.rmtree(faults.root / "vanishing")
    job.send(signal.SIGCONT)
    faults.note(
        "folder vanished", "prepare", job.end(), (1, 2), not (faults.root / "vanishing").exists()
    )


def stopped(faults: Faults) -> None:
    """SIGTERM and SIGINT; another process on the same run; a checkpoint that is damaged."""
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        out = faults.root / f"stopped-{code}"
        job = Job(*faults.learn(out))
        job.wait_for(out, "checkpoint/step-*")
        ended = run(*faults.learn(out))
        faults.note(
            "another process is at work",
            "pretrain --resume",
            ended,
            (2,),
            f"process {job.ranks[0].pid} " in ended[1][-1],
        )
        job.send(number)
        ended = job.end()
        newest = max(out.glob("checkpoint/step-*"))
        faults.note(
            signal.Signals(number).name,
            "pretrain",
            ended,
            (code,),
            not broken(out),
            not (out / ".lock").exists(),
        )
        with open(newest / "model.safetensors", "r+b") as file:
            file.seek(1000)
            file.write(b"\x00\xff\x00\xff")
        code, said = run(*faults.learn(out))
        taken = any(f"{newest.name}: is damaged" in line for line in said)
        faults.rows.append(
            {
                "fault": "newest checkpoint damaged",
                "command": "pretrain --resume",
                "exit code": code,
                "said": next(iter(said), "").replace(str(faults.root), "..."),
                "as it should be": code == 0 and taken and not differences(faults.whole, out),
            }
        )


def faults(seed: int = 0, epochs: int = 12) -> dict:
    """Each fault for real."""
    with workshop() as root:
        found = Faults(root, epochs)
        for fault in (full_disk, file_limit, foreign_folder, vanished_folder, stopped):
            fault(found)
    return {
        "faults": found.rows,
        "lost or different": [
            f"{row['fault']}, {row['command']}: ended with {row['exit code']}: {row['said']}"
            for row in found.rows
            if not row["as it should be"]
        ],
    }


# the same numbers


def same_numbers(seed: int = 0, first: Path | None = None) -> dict:
    """`scdnet demo` twice with one seed: results but for times, metrics but for times, weights. `first`: a demo of this seed that is there already."""
    with workshop() as root:
        if first:
            (root / "one").symlink_to(first.resolve())
        for name in ("one", "other")[first is not None :]:
            subprocess.run(
                [sys.executable, "-m", "scdnet", "demo", "--out", root / name, "--seed", str(seed)],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        one, other = (
            json.loads((root / name / "results.json").read_text()) for name in ("one", "other")
        )
        minutes = [round(result["seconds"] / 60, 1) for result in (one, other)]
        for result in (one, other):
            for key in ("seconds", "stages", "command"):
                result.pop(key)
            result["machine"].pop("date")
        lost = [
            f"results.json: {key}"
            for key in one.keys() | other.keys()
            if one.get(key) != other.get(key)
        ]
        lost += [f"run: {name}" for name in differences(root / "one/run", root / "other/run")]
        lost += ["store"] * (content(root / "one/store") != content(root / "other/store"))
    return {
        "minutes": minutes,
        "linear top-1 (%)": one["linear"]["pretrained"]["top1"],
        "lost or different": lost,
    }


# soak


def resident() -> float:
    """MB of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Counts(ctypes.Structure):
    """What glibc's `mallinfo2` counts, in bytes."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def in_use() -> float:
    """MB that this process has asked `malloc` for and not given back; 0 where the C library does not say."""
    count = getattr(ctypes.CDLL(None), "mallinfo2", Counts)
    count.restype = Counts
    found = count()
    return (found.uordblks + found.hblkhd) / 1e6


class Watched(Trainer):
    """Notes memory and open files every hundredth of a run.

    A batch computes those persons of its clips that are there. For each number of them that it has not met, oneDNN makes kernels and keeps them (29 MB at the size of the preset demo), and a batch
    of more persons than any before needs more room; both are bounded, and come seldom and late. So the warm-up begins with one batch of each size that this run will meet.
    """

    notes: ClassVar[list[tuple[int, float, float, int]]] = []

    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        sizes = {
            int((view != 0).flatten(1, 3).any(1).sum()): step
            for step in range(self.steps)
            for view in self.batches(step)[1:3]
        }
        for _, step in sorted(sizes.items()):
            self.model(*self.batches(step)[1:3]).loss.backward()

    def step(self):
        result = super().step()
        if self.steps_done % max(1, self.steps // 100) == 0:
            self.notes.append(
                (
                    self.steps_done,
                    round(resident(), 1),
                    round(in_use(), 1),
                    len(os.listdir("/proc/self/fd")),
                )
            )
        return result


def soak(steps: int = 2000, seed: int = 0, tiny: bool = False, warm_up: float = 0.2) -> dict:
    """Memory and open files over the steps of a run, checkpoints included; after the warm-up memory, resident and in use, may move by 20 MB."""
    import scdnet.training.pretrain

    config = replace(TINY if tiny else PRESETS["demo"], device="cpu", seed=seed)
    with workshop() as root:
        if tiny:
            store = random_walks(root / "store", half=(slice(0, 24), slice(24, 32)))
        else:
            raw = synthesize(root / "raw", workers=1, progress=False)
            main(["prepare", str(raw), "--out", str(root / "store"), "--workers", "1"])
            store = SkeletonStore.open(root / "store")
        split = "half" if tiny else "xsub"
        epochs = -(-steps // (len(store.split(split)[0]) // config.batch_size))
        config = replace(config, epochs=epochs, save_every=max(1, epochs // 20))
        Watched.notes, before = [], scdnet.training.pretrain.Trainer
        scdnet.training.pretrain.Trainer = Watched
        try:
            pretrain(store, split, config, root / "run", progress=False)
        finally:
            scdnet.training.pretrain.Trainer = before
    warm = [note for note in Watched.notes if note[0] > warm_up * steps]
    memory, used, files = ([note[i] for note in warm] for i in (1, 2, 3))
    lost = [f"memory between {min(memory)} and {max(memory)} MB"] * (
        max(memory) - min(memory) > 20
    ) + [f"in use between {min(used)} and {max(used)} MB"] * (max(used) - min(used) > 20)
    lost += [f"{files[0]} to {files[-1]} open files"] * (max(files) > files[0])
    return {
        "steps": Watched.notes[-1][0],
        "steps of warm-up": int(warm_up * steps),
        "memory after it (MB)": [min(memory), max(memory)],
        "in use after it (MB)": [min(used), max(used)],
        "open files after it": [min(files), max(files)],
        "step, MB, MB in use, open files": Watched.notes[:: max(1, len(Watched.notes) // 20)],
        "lost or different": lost,
    }


# what the option costs


def deterministic(steps: int = 10, rounds: int = 7, seed: int = 0) -> dict:
    """Milliseconds of a step of the preset demo without and with `deterministic`, in turn; and whether both give the same weights on this device."""
    import torch

    with workshop() as root:
        store = random_walks(root / "store", half=(slice(0, 31), slice(31, 32)))
        config = replace(PRESETS["demo"], seed=seed, batch_size=16, epochs=100)
        states = {
            on: Trainer(replace(config, deterministic=on), store, store.split("half")[0])
            for on in (False, True)
        }
        took = {on: [] for on in states}
        for _ in range(rounds):
            for on, state in states.items():
                torch.use_deterministic_algorithms(on)
                began = time.perf_counter()
                for _ in range(steps):
                    state.step()
                took[on].append(1000 * (time.perf_counter() - began) / steps)
        torch.use_deterministic_algorithms(False)
        a, b = (states[on].model.state_dict() for on in states)
    median = {on: statistics.median(times[1:]) for on, times in took.items()}
    return {
        "without (ms a step)": round(median[False], 1),
        "with (ms a step)": round(median[True], 1),
        "times": round(median[True] / median[False], 3),
        "same weights": all(torch.equal(a[name], b[name]) for name in a),
        "lost or different": [],
    }


MEASURES = {
    "kills-pretrain": kills_pretrain,
    "kills-prepare": kills_prepare,
    "faults": faults,
    "same-numbers": same_numbers,
    "soak": soak,
    "deterministic": deterministic,
}


def measure() -> int:
    """Run the measure that the command line names; print, write, and tell whether something was lost."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    out = ROOT / "data/trust" / f"{name}.json"
    words = sys.argv[1:]
    if "--out" in words:
        at = words.index("--out")
        out, words = Path(words[at + 1]), words[:at] + words[at + 2 :]
    result = tyro.extras.subcommand_cli_from_dict(
        MEASURES, args=words, prog="python tools/measure_trust.py"
    )
    rows = result.get("faults", [])
    show(
        [
            (key, json.dumps(value) if isinstance(value, (dict, list)) else value)
            for key, value in result.items()
            if key != "faults"
        ]
    )
    if rows:
        show([tuple(rows[0]), *(tuple(str(value) for value in row.values()) for row in rows)])
    out.parent.mkdir(parents=True, exist_ok=True)
    spoken = [
        Path(word).name if "/" in word else word for word in words
    ]  # the file says nothing of where things lay
    write_json(
        out,
        {
            "command": " ".join(["python tools/measure_trust.py", *spoken]),
            **result,
            "machine": machine(),
        },
    )
    return int(bool(result["lost or different"]))


if __name__ == "__main__":
    sys.exit(measure())
