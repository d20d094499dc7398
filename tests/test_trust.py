"""Nothing is lost: commands are killed, stopped and given full disks for real; and what a run does with numbers that are none."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import TINY, random_walks

from scdnet.data.layouts import KINECT20
from scdnet.data.mannequin.ntu_files import synthesize
from scdnet.data.mannequin.perform import MannequinConfig
from scdnet.data.store import SkeletonStore
from scdnet.training.checkpoint import Checkpoints
from scdnet.training.pretrain import Trainer, pretrain
from scdnet.utils.files import InputError

if sys.platform != "linux":
    pytest.skip("looks at /proc, mounts and forks", allow_module_level=True)
import jobs

CONFIG = replace(TINY, epochs=3)  # nine steps


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return random_walks(
        tmp_path_factory.mktemp("store") / "store", half=(slice(0, 24), slice(24, 32))
    )


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """A run that nobody disturbed."""
    return pretrain(store, "half", CONFIG, tmp_path_factory.mktemp("whole") / "run", progress=False)


# kills and faults, for real: SCDNET_KILLS=50 tries harder

KILLS = int(os.environ.get("SCDNET_KILLS", "3"))


def test_killed_runs_end_as_the_one_that_was_left_alone():
    """SIGKILL at random moments, every other time while a checkpoint is written, each followed by --resume."""
    moment, kills, moments = random.Random(0), 0, set()
    with jobs.workshop() as root:
        store = random_walks(root / "store", half=(slice(0, 24), slice(24, 32))).path
        words = ["pretrain", "--store", store, *jobs.LEARN, "--epochs", 8, "--resume", "--out"]
        assert jobs.run(*words, root / "whole")[0] == 0
        while kills < KILLS:
            out, code = root / f"run-{kills}", None
            while code != 0:
                job = jobs.Job(*words, out)
                if kills < KILLS:
                    jobs.kill_run(job, out, moment)
                code, said = job.end()
                assert jobs.broken(out) == [] and code in (0, -signal.SIGKILL), said
                if code:
                    kills += 1
                    moments.add(jobs.where(out))
            assert jobs.differences(root / "whole", out) == [] and list(out.rglob(".*")) == []
    assert moments != {"before the first checkpoint"}


def test_prepare_that_is_killed_and_run_again_makes_the_same_store():
    """A third of the times it replaces an older store."""
    moment, kills = random.Random(0), 0
    with jobs.workshop() as root:
        few = MannequinConfig(actions=(5, 7), subjects=(1, 2, 3, 4))
        raw = synthesize(root / "raw", config=few, workers=1, progress=False)
        words = ["prepare", raw, "--workers", 2, "--format", "ntu", "--out"]
        assert jobs.run(*words, root / "whole")[0] == 0
        one = min(raw.glob("*.skeleton"))
        assert jobs.run("prepare", one, "--out", root / "old")[0] == 0
        whole, old = jobs.content(root / "whole"), jobs.content(root / "old")
        size, out = (root / "whole/frames.npy").stat().st_size, root / "store"
        while kills < KILLS:
            shutil.rmtree(out, ignore_errors=True)
            overwrite = ["--overwrite"] * (moment.random() < 1 / 3)
            if overwrite:
                shutil.copytree(root / "old", out)
            job = jobs.Job(*words, out, *overwrite)
            jobs.kill_prepare(job, out, size, moment)
            if job.end()[0] != -signal.SIGKILL:
                continue
            kills += 1
            assert not out.exists() or jobs.content(out) in (whole, old)
            again = partial(jobs.run, *words, out, *["--overwrite"] * out.exists())
            code, said = again()
            while code == 2 and "is at work" in said[-1]:  # its workers, which end in a moment
                time.sleep(0.1)
                code, said = again()
            assert code == 0 and jobs.content(out) == whole, said
        assert sorted(path.name for path in root.iterdir()) == ["old", "raw", "store", "whole"]


@pytest.fixture(scope="module")
def place():
    with jobs.workshop() as root:
        yield jobs.Workplace(root, epochs=6)


@pytest.fixture
def disk(place):
    """A disk of a few MB."""
    with jobs.small_disk(place.root / "disk") as mounted:
        if not mounted:
            pytest.skip("only root may mount")
        yield place.root / "disk"
    (place.root / "disk").rmdir()


def test_full_disk(place, disk):
    """Full while a checkpoint, a store and a result are written."""
    out = place.begun(disk / "run")
    before, filler = jobs.content(out / "checkpoint"), jobs.fill(disk, 20_000)
    assert jobs.told(jobs.run(*place.learn(out)), 1) and jobs.broken(out) == []
    assert jobs.content(out / "checkpoint") == before and not list(out.rglob("*.partial*"))
    filler.unlink()
    assert place.resumed(out)
    shutil.rmtree(out)
    store = disk / "store"
    jobs.run(*place.prepare(store))
    before, filler = jobs.content(store), jobs.fill(disk, 20_000)
    assert jobs.told(jobs.run(*place.prepare(store), "--overwrite"), 1)
    assert jobs.content(store) == before and not list(disk.rglob("*.partial*"))
    filler.unlink()
    jobs.fill(disk, 2000)
    words = ["embed", "--run", place.whole, "--store", place.store, "--device", "cpu"]
    assert jobs.told(jobs.run(*words, "--out", disk / "clues.npz"), 1)
    assert sorted(os.listdir(disk)) == ["filler", "store"]


def test_file_size_limit(place):
    """RLIMIT_FSIZE, as `ulimit -f` sets it; Python ignores SIGXFSZ, so that writing fails."""
    out, store = place.begun(place.root / "limited"), place.root / "limited-store"
    before = jobs.content(out / "checkpoint")
    assert jobs.told(jobs.run(*place.learn(out), limit=20_000), 1) and jobs.broken(out) == []
    assert jobs.content(out / "checkpoint") == before and not list(out.rglob("*.partial*"))
    assert place.resumed(out)
    jobs.run(*place.prepare(store))
    before = jobs.content(store)
    assert jobs.told(jobs.run(*place.prepare(store), "--overwrite", limit=20_000), 1)
    assert jobs.content(store) == before and not list(place.root.glob(".limited-store*"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_folders_of_another_user(place):
    theirs = place.root / "theirs"
    theirs.mkdir(mode=0o755)
    out = place.begun(theirs / "run")
    jobs.run(*place.prepare(theirs / "store"))
    before = jobs.content(theirs)
    for words in (
        place.learn(theirs / "new"),
        place.learn(out),
        place.prepare(theirs / "new"),
        [*place.prepare(theirs / "store"), "--overwrite"],
    ):
        assert jobs.told(jobs.run(*words, user=jobs.NOBODY), 1) and jobs.content(theirs) == before
    assert place.resumed(out)


def test_disk_that_may_only_be_read(place, disk):
    jobs.run(*place.prepare(disk / "store"))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    before = jobs.content(disk)
    for words in (place.learn(disk / "run"), [*place.prepare(disk / "store"), "--overwrite"]):
        assert jobs.told(jobs.run(*words), 1) and jobs.content(disk) == before


def test_folder_that_is_removed_while_a_command_fills_it(place):
    home = place.root / "vanishing"
    job = jobs.Job(*place.learn(home / "run"))
    job.wait_for(home / "run", "checkpoint/step-*")
    while (home / "run").exists():
        shutil.rmtree(home / "run", ignore_errors=True)
    assert jobs.told(job.end(), 1, 2) and not (home / "run").exists()
    job = jobs.Job(*place.prepare(home / "store"))
    job.wait_for(home, ".store.partial/frames.npy")
    job.send(signal.SIGSTOP)
    shutil.rmtree(home)
    job.send(signal.SIGCONT)
    assert jobs.told(job.end(), 1, 2) and not home.exists()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_or_two_at_once_or_damaged(number, code, place):
    """A signal; another process on the same run; a checkpoint that is damaged afterwards."""
    out = place.root / f"stopped-{code}"
    job = jobs.Job(*place.learn(out))
    job.wait_for(out, "checkpoint/step-*")
    job.send(signal.SIGSTOP)  # the run is short, and the second process takes seconds to start
    second = jobs.run(*place.learn(out))
    assert jobs.told(second, 2) and f"process {job.ranks[0].pid} " in second[1][-1]
    job.send(number)
    job.send(signal.SIGCONT)
    assert jobs.told(job.end(), code) and jobs.broken(out) == [] and not (out / ".lock").exists()
    newest = max(out.glob("checkpoint/step-*"))
    with open(newest / "model.safetensors", "r+b") as file:
        file.seek(1000)
        file.write(b"\x00\xff\x00\xff")
    code, said = jobs.run(*place.learn(out))
    assert code == 0 and any(f"{newest.name}: is damaged" in line for line in said)
    assert jobs.differences(place.whole, out) == []


# stopping anywhere


def test_stopped_after_every_step(store, whole, tmp_path, monkeypatch, caplog):
    """Each life does one step, and is asked to stop by turns in both ways."""

    class Asked(Trainer):
        def step(self):
            os.kill(os.getpid(), signal.SIGINT if self.steps_done % 2 else signal.SIGTERM)
            return super().step()

    monkeypatch.setattr("scdnet.training.pretrain.Trainer", Asked)
    for step in range(9):
        with pytest.raises(KeyboardInterrupt if step % 2 else SystemExit):
            pretrain(store, "half", CONFIG, tmp_path / "run", resume=True, progress=False)
        assert [path.name for path in sorted(tmp_path.glob("run/checkpoint/*"))] == [
            f"step-{n:08d}" for n in (step, step + 1) if n
        ]
    with caplog.at_level("INFO", logger="scdnet"):
        pretrain(store, "half", CONFIG, tmp_path / "run", resume=True, progress=False)
    assert "going on after step 9 of 9" in caplog.text
    assert jobs.metrics(tmp_path / "run") == jobs.metrics(whole) and len(jobs.metrics(whole)) == 3
    assert (tmp_path / "run/encoder.safetensors").read_bytes() == (
        whole / "encoder.safetensors"
    ).read_bytes()


def test_a_second_interrupt_does_not_wait(store, tmp_path, monkeypatch):
    class Slow(Trainer):
        def step(self):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the step was done")

    monkeypatch.setattr("scdnet.training.pretrain.Trainer", Slow)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        pretrain(store, "half", CONFIG, tmp_path / "run", progress=False)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_two_ranks_stop_at_one_step_and_go_on(store, tmp_path):
    words = ["pretrain", "--store", store.path, *jobs.LEARN, "--epochs", 4, "--resume", "--out"]
    with jobs.workshop():
        assert jobs.run(*words, tmp_path / "whole", ranks=2)[0] == 0
        job = jobs.Job(*words, tmp_path / "run", ranks=2)
        job.wait_for(tmp_path / "run", "checkpoint/step-*")
        job.send(signal.SIGTERM, rank=1)
        said = job.end()[1]
        assert [process.exitcode for process in job.ranks] == [143, 143] and sum(
            line.startswith("scdnet: terminated") for line in said
        ) == 1, said
        assert (
            jobs.run(*words, tmp_path / "run", ranks=2)[0] == 0
            and jobs.differences(tmp_path / "whole", tmp_path / "run") == []
        )


# checkpoints


@pytest.mark.parametrize("name", ["state.json", "model.safetensors", "optimizer.safetensors"])
def test_one_changed_bit_is_found(name, store, whole, tmp_path, caplog):
    state, checkpoints = Trainer(CONFIG, store, store.split("half")[0]), Checkpoints(tmp_path)
    checkpoints.save(state)
    state.step()
    newest = checkpoints.save(state)
    content = bytearray((newest / name).read_bytes())
    at = content.index(b'"steps_done": 1') + 14 if name == "state.json" else len(content) - 5
    content[at] ^= 2  # 1 becomes 3
    (newest / name).write_bytes(content)
    assert checkpoints.load(state) and state.steps_done == 0
    assert f"{newest}: is damaged" in caplog.text
    state.step()
    state.step()
    assert checkpoints.save(state).name == "step-00000002"
    kept = sorted(tmp_path.iterdir())  # the damaged one is gone, the one that was loaded is not
    assert [path.name for path in kept] == ["step-00000000", "step-00000002"]
    for path in kept:
        (path / name).unlink()
    assert not checkpoints.load(state)


def test_overwriting_a_run_keeps_what_is_not_its_own(store, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/diary.txt").write_text("dear diary")
    pretrain(
        store, "half", replace(CONFIG, epochs=1), tmp_path / "run", overwrite=True, progress=False
    )
    assert (tmp_path / "run.old/diary.txt").exists() and "kept as" in capsys.readouterr().err


# numbers


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_the_run(bad, store, tmp_path, monkeypatch):
    class Spoilt(Trainer):
        def step(self):
            if self.steps_done == 4:
                next(self.model.query.parameters()).register_hook(lambda g: torch.full_like(g, bad))
            return super().step()

    monkeypatch.setattr("scdnet.training.pretrain.Trainer", Spoilt)
    with pytest.raises(
        FloatingPointError,
        match=rf"^gradient is {bad} at step 4; its batch begins with the clips clip\d\d, .*dump-step-00000004$",
    ):
        pretrain(store, "half", CONFIG, tmp_path / "run", progress=False)
    dump = tmp_path / "run/dump-step-00000004"
    facts = json.loads((dump / "batch.json").read_text())
    assert (
        len(facts["clips"]) == 8 and set(facts["clips"]) < set(store.names) and facts["step"] == 4
    )
    names, views, weights = (
        facts["gradients that are not finite"],
        load_file(dump / "views.safetensors"),
        load_file(dump / "model.safetensors"),
    )
    assert names and all(
        not load_file(dump / "gradients.safetensors")[name].isfinite().all() for name in names
    )
    assert views["q"].shape == views["k"].shape == (8, 3, 16, 20, 1) and all(
        value.isfinite().all() for value in weights.values()
    )
    assert os.listdir(tmp_path / "run/checkpoint") == ["step-00000003"]


def test_clips_with_numbers_that_are_none_are_refused(tmp_path):
    clip = np.ones((9, 20, 3), np.float32)
    for value in (np.nan, np.inf, -np.inf):
        bad = clip.copy()
        bad[5, 3, 1] = value
        with pytest.raises(InputError, match="clip 'b': frame 5 holds a number that is not finite"):
            SkeletonStore.from_arrays(
                tmp_path / "store", [clip, bad], [0, 1], KINECT20, names=["a", "b"]
            )
    assert os.listdir(tmp_path) == []  # what prepare reads: tests/test_formats_*.py


def test_the_same_seed_gives_the_same_run(store, whole, tmp_path):
    again = pretrain(
        store, "half", replace(CONFIG, save_every=2), tmp_path / "again", progress=False
    )
    other = pretrain(store, "half", replace(CONFIG, seed=1), tmp_path / "other", progress=False)
    assert jobs.differences(whole, again) == [] and jobs.metrics(whole) != jobs.metrics(other)


def test_deterministic_algorithms(store, whole, tmp_path, monkeypatch):
    class Watched(Trainer):
        def step(self):
            assert torch.are_deterministic_algorithms_enabled()
            return super().step()

    monkeypatch.setattr("scdnet.training.pretrain.Trainer", Watched)
    run = pretrain(
        store, "half", replace(CONFIG, deterministic=True), tmp_path / "run", progress=False
    )
    assert jobs.differences(whole, run) == [] and not torch.are_deterministic_algorithms_enabled()


def test_memory_and_open_files_stay(store, tmp_path, monkeypatch):
    """After the first fifth of 100 steps, checkpoints included."""
    notes = []

    class Watched(Trainer):
        def step(self):
            result = super().step()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            notes.append(
                (pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd")))
            )
            return result

    monkeypatch.setattr("scdnet.training.pretrain.Trainer", Watched)
    pretrain(store, "half", replace(CONFIG, epochs=34), tmp_path / "run", progress=False)
    memory, files = zip(*notes[20:], strict=True)
    assert max(memory) - min(memory) < 20 and max(files) == files[0]
