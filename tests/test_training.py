"""What a run keeps and tells: initial weights, starts, hours, options of a resumed run, messages."""

import json
import os
import signal
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import TINY, random_walks
from torch import nn

from scdnet.training import pretrain as chapter
from scdnet.training.config import PRESETS, OptimConfig, PretrainConfig
from scdnet.training.cross_domain import CrossDomainLoss, loss_pairs
from scdnet.training.moco import MomentumContrast
from scdnet.training.pretrain import build_model, pretrain
from scdnet.training.run import Run, load_encoder, run_changes
from scdnet.utils.files import InputError
from scdnet.utils.machine import check_memory, commit
from scdnet.utils.records import from_dict

CONFIG = replace(TINY, epochs=3)  # nine steps


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return random_walks(
        tmp_path_factory.mktemp("store") / "store", half=(slice(0, 24), slice(24, 32))
    )


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return pretrain(store, "half", CONFIG, tmp_path_factory.mktemp("run") / "run", progress=False)


# a run as an object


def test_loading_leaves_the_random_numbers_of_the_caller_alone(run):
    heads = []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        load_encoder(run)
        Run.open(run).initial()
        heads.append(nn.Linear(4, 2).weight)
    assert not torch.equal(heads[0], heads[1]) and not torch.equal(heads[1], heads[2])
    torch.manual_seed(3)
    assert torch.equal(heads[2], nn.Linear(4, 2).weight)


def test_training_leaves_the_random_numbers_of_the_caller_alone(store, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pretrain(store, "half", TINY, tmp_path / "run", progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_the_initial_weights_are_kept_and_not_made_again(run, tmp_path):
    stored = load_file(run / "initial.safetensors")
    initial = Run.open(run).initial()
    assert all(torch.equal(initial.state_dict()[name], value) for name, value in stored.items())
    facts = json.loads((run / "config.json").read_text())
    facts["config"]["seed"] = 99
    other = tmp_path / "run"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(facts))
    (other / "initial.safetensors").write_bytes((run / "initial.safetensors").read_bytes())
    again = Run.open(other).initial().state_dict()
    assert all(torch.equal(again[name], value) for name, value in stored.items())
    (other / "initial.safetensors").unlink()  # an older run: made from the seed
    drawn = Run.open(other).initial().state_dict()
    assert drawn.keys() == stored.keys() and any(
        not torch.equal(drawn[name], value) for name, value in stored.items()
    )


def test_a_run_knows_the_form_of_its_clips(store, tmp_path):
    path = pretrain(
        store, None, replace(TINY, stream="motion"), tmp_path / "run", progress=False, preset="demo"
    )
    run = Run.open(path)
    assert (run.split, run.preset, run.config.stream) == ("", "demo", "motion")
    assert run.format.stream == "motion" and run.format.shape == (3, 16, 20, 1)
    assert run.encoder().format == run.initial().format == run.format
    assert run.results() == [] and list(run.metrics()["epoch"]) == [1]
    assert Run.open(run) is run
    with pytest.raises(FileNotFoundError, match="not a run"):
        Run.open(tmp_path)


# resuming


def test_resume_takes_the_options_of_the_run(store, tmp_path, caplog):
    def interrupt(trainer):
        trainer.signals.append(signal.SIGTERM)

    stop = type("Stop", (), {"on_epoch": staticmethod(interrupt)})()
    with pytest.raises(SystemExit):
        pretrain(store, "half", CONFIG, tmp_path / "run", preset="demo", callbacks=[stop])
    with caplog.at_level("INFO", logger="scdnet"):
        pretrain(store, None, None, tmp_path / "run", resume=True, progress=False)
    assert "going on after step 4" in caplog.text
    run = Run.open(tmp_path / "run")
    assert (run.config, run.split, run.preset) == (CONFIG, "half", "demo")
    assert [start["step"] for start in run.starts()] == [0, 4]
    assert [start["ranks"] for start in run.starts()] == [1, 1]


def test_a_run_of_the_preset_small_is_resumed_to_the_bit(store, tmp_path):
    """With its own parts: an auxiliary loss from the configuration, aligned clips, fused inputs, positions."""
    small = PRESETS["small"]
    sizes = {"frames": 16, "width": 16, "heads": 2, "projection": 8}
    config = replace(
        small, epochs=2, batch_size=8, queue_size=16, encoder=replace(small.encoder, **sizes)
    )
    stop = type("Stop", (), {"on_epoch": staticmethod(lambda t: t.signals.append(signal.SIGTERM))})
    with pytest.raises(SystemExit):
        pretrain(store, "half", config, tmp_path / "cut", preset="small", callbacks=[stop()])
    pretrain(store, None, None, tmp_path / "cut", resume=True, progress=False)
    whole = Run.open(pretrain(store, "half", config, tmp_path / "whole", progress=False))
    weights = [load_file(tmp_path / n / "encoder.safetensors") for n in ("cut", "whole")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert "decouple_t.position" in weights[0] and whole.format.align
    assert whole.metrics()["auxiliary"].iloc[-1] < whole.metrics()["auxiliary"].iloc[0]


def test_differences_are_named_by_flag(run, store):
    facts = Run.open(run).facts
    other = replace(
        CONFIG, epochs=5, view=replace(CONFIG.view, p=0.25), device="cuda", save_every=7
    )
    assert run_changes(run, {**facts, "config": asdict(other)}) == [
        "--epochs (was 3, now 5)",
        f"--view.p (was {CONFIG.view.p}, now 0.25)",
    ]
    with pytest.raises(InputError, match=r"cannot resume with other options: --split"):
        pretrain(store, None, CONFIG, run, resume=True)


def test_hours_count_what_came_before_a_stop(store, tmp_path, monkeypatch):
    """A clock that moves one second per step: stopped in mid-epoch or not, an epoch of three steps takes three."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(chapter.time, "perf_counter", lambda: float(next(ticks)))

    class Stop:
        def on_step(self, trainer):
            if trainer.steps_done == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        pretrain(store, "half", CONFIG, tmp_path / "run", progress=False, callbacks=[Stop()])
    pretrain(store, "half", CONFIG, tmp_path / "run", progress=False, resume=True)
    assert Run.open(tmp_path / "run").metrics()["seconds"].tolist() == [3, 3, 3]


def test_a_log_has_one_line_per_epoch(store, tmp_path, capsys):
    pretrain(store, "half", CONFIG, tmp_path / "run")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"epoch {n} of 3" for n in (1, 2, 3)]
    assert all("\r" not in line and len(line) < 120 for line in lines)


# the loss


@pytest.mark.parametrize("granularity", ["stg", "st"])
@pytest.mark.parametrize("kind", ["interactive", "instance", "both"])
def test_the_value_of_collapsed_embeddings(granularity, kind):
    loss, one = CrossDomainLoss(loss_pairs(granularity, kind)), torch.eye(4)[:1]
    same, queue = ({d: one.expand(n, -1) for d in loss.clues} for n in (6, 40))
    result = loss(same, same, queue)
    assert result.loss.item() == pytest.approx(loss.collapsed(40), rel=1e-5)
    assert result.accuracy == 0 and loss.clues == granularity


def test_each_loss_trains_all_that_there_is(store):
    for granularity in ("stg", "st"):
        for kind in ("interactive", "instance", "both"):
            config = replace(CONFIG, granularity=granularity, loss=kind)
            model = build_model(config, store.skeleton, store.persons, store.coords)
            view_q, view_k = torch.randn(2, 6, 3, 16, 20, 1)
            model(view_q, view_k).loss.backward()
            assert all(p.grad is not None for p in model.query.parameters())
            assert all(p.grad is None for p in model.key.parameters())
            assert list(model.queues) == list(granularity)
            assert isinstance(model, MomentumContrast)


# configuration and machine


@pytest.mark.parametrize(
    "name, value",
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("queue_size", 10**10),
        ("key_momentum", 1.5),
        ("temperature", 0.0),
        ("seed", -1),
        ("precision", "fp8"),
        ("surprise", 1),
    ],
)
def test_options_out_of_bounds(name, value):
    with pytest.raises(InputError, match=name):
        PretrainConfig(**{name: value})
    with pytest.raises(InputError, match=f"config.json: config.{name}"):
        from_dict(PretrainConfig, {name: value}, "config.json: config")


@pytest.mark.parametrize(
    "name, value",
    [
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("drops", (1.5,)),
        ("warmup", 1.0),
    ],
)
def test_optimisers_out_of_bounds(name, value):
    with pytest.raises(InputError, match=name):
        OptimConfig(**{name: value})


def test_a_system_that_does_not_tell_its_memory(store, monkeypatch):
    """Windows has no os.sysconf."""
    layout = store.skeleton, store.persons, store.coords
    big = replace(CONFIG, encoder=replace(CONFIG.encoder, width=999_992))
    with pytest.raises(InputError, match=r"expected less than the .* GB of this machine"):
        build_model(big, *layout)
    monkeypatch.delattr(os, "sysconf")
    check_memory(lambda: pytest.fail("nothing to compare with"))
    build_model(CONFIG, *layout)


def test_the_commit_of_this_checkout():
    """It is that of the folder that holds the package, not of the package's own."""
    git = ["git", "-C", str(Path(__file__).parents[1]), "rev-parse", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True)
    assert commit() == (done.stdout.strip() or None)
