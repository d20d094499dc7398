"""Nothing is lost and nothing is let in: small versions of what tools/measure_trust.py measures, and what a run does with numbers that are none."""

import json
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import TINY, random_walks

from scdnet.utils.files import InputError
from scdnet.training.pretrain import Trainer, pretrain
from scdnet.data.layouts import KINECT20
from scdnet.data.store import SkeletonStore

sys.path.append(str(Path(__file__).parents[1] / "tools"))
if sys.platform != "linux":
    pytest.skip("looks at /proc, mounts and forks", allow_module_level=True)
import measure_trust as trust

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


# kills and faults, for real


def test_killed_runs_end_as_the_one_that_was_left_alone():
    found = trust.kills_pretrain(count=3, epochs=8)
    assert found["lost or different"] == [] and found["kills"] == 3 and found["runs"] > 0
    assert found["moments"].get("before the first checkpoint", 0) < 3


def test_prepare_that_is_killed_and_run_again_makes_the_same_store():
    found = trust.kills_prepare(count=2)
    assert found["lost or different"] == [] and found["kills"] == 2


@pytest.fixture(scope="module")
def faults():
    with trust.workshop() as root:
        yield trust.Faults(root, epochs=6)


@pytest.mark.parametrize(
    "fault",
    [trust.full_disk, trust.file_limit, trust.foreign_folder, trust.vanished_folder, trust.stopped],
    ids=lambda fault: fault.__name__,
)
def test_faults(fault, faults):
    faults.rows.clear()
    fault(faults)
    assert [row for row in faults.rows if not row["as it should be"]] == []
    if not faults.rows:
        pytest.skip("only root may mount, or become somebody else")


# stopping anywhere


def test_stopped_after_every_step(store, whole, tmp_path, monkeypatch, capsys):
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
    pretrain(store, "half", CONFIG, tmp_path / "run", resume=True, progress=False)
    assert "finished already, after step 9" in capsys.readouterr().err
    assert (
        trust.metrics(tmp_path / "run") == trust.metrics(whole) and len(trust.metrics(whole)) == 3
    )
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
    words = ["pretrain", "--store", store.path, *trust.LEARN, "--epochs", 4, "--resume", "--out"]
    with trust.workshop():
        assert trust.run(*words, tmp_path / "whole", ranks=2)[0] == 0
        job = trust.Job(*words, tmp_path / "run", ranks=2)
        job.wait_for(tmp_path / "run", "checkpoint/step-*")
        job.send(signal.SIGTERM, rank=1)
        said = job.end()[1]
        assert [process.exitcode for process in job.ranks] == [143, 143] and sum(
            line.startswith("scdnet: terminated") for line in said
        ) == 1, said
        assert (
            trust.run(*words, tmp_path / "run", ranks=2)[0] == 0
            and trust.differences(tmp_path / "whole", tmp_path / "run") == []
        )


# checkpoints


@pytest.mark.parametrize("name", ["state.json", "model.safetensors", "optimizer.safetensors"])
def test_one_changed_bit_is_found(name, store, whole, tmp_path, capsys):
    state = Trainer(CONFIG, store, store.split("half")[0])
    state.save(tmp_path)
    state.step()
    newest = state.save(tmp_path)
    content = bytearray((newest / name).read_bytes())
    at = content.index(b'"steps_done": 1') + 14 if name == "state.json" else len(content) - 5
    content[at] ^= 2  # 1 becomes 3
    (newest / name).write_bytes(content)
    assert state.load(tmp_path) and state.steps_done == 0
    assert f"{newest}: is damaged" in capsys.readouterr().err
    state.step()
    state.step()
    assert state.save(tmp_path).name == "step-00000002" and sorted(os.listdir(tmp_path)) == [
        "step-00000001",
        "step-00000002",
    ]
    (newest / name).unlink()
    (tmp_path / "step-00000002" / name).unlink()
    assert not state.load(tmp_path)


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
    assert trust.differences(whole, again) == [] and trust.metrics(whole) != trust.metrics(other)


def test_deterministic_algorithms(store, whole, tmp_path, monkeypatch):
    class Watched(Trainer):
        def step(self):
            assert torch.are_deterministic_algorithms_enabled()
            return super().step()

    monkeypatch.setattr("scdnet.training.pretrain.Trainer", Watched)
    run = pretrain(
        store, "half", replace(CONFIG, deterministic=True), tmp_path / "run", progress=False
    )
    assert trust.differences(whole, run) == [] and not torch.are_deterministic_algorithms_enabled()


def test_memory_and_open_files_stay():
    assert trust.soak(steps=100, tiny=True)["lost or different"] == []
