"""Fine-tuning: draws that keep their promises for any store, ranks that share fits, and mistakes that are told in one line.

Started by torchrun, this file is the program of a rank: it fine-tunes and notes what came of it.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_mistake, scdnet
from hypothesis import given, settings, strategies as st

from scdnet.data.layouts import KINECT20
from scdnet.data.store import SkeletonStore
from scdnet.evaluation.few_labels import draw_labelled, read_draws, write_draws
from scdnet.evaluation.finetune import (
    FinetuneConfig,
    SemiConfig,
    evaluate_finetune,
    evaluate_semi,
    mean_result,
)
from scdnet.evaluation.fusion import WEIGHTS, by_stream, evaluate_streams
from scdnet.evaluation.linear import LinearConfig, linear_config
from scdnet.model.encoder import EncoderConfig
from scdnet.training.config import PRESETS, OptimConfig
from scdnet.training.pretrain import pretrain
from scdnet.utils.distributed import joined, rank
from scdnet.utils.files import InputError
from scdnet.utils.records import Result
from scdnet.views.config import ViewConfig

SHORT = dict(
    epochs=3,
    batch_size=6,
    look_every=2,
    view=replace(FinetuneConfig().view, crop_least=8),
    optim=OptimConfig(name="adamw", lr=0.003),
)
CONTRACT = "protocol split top1 top5 best_top1 seed config store per_class confusion".split()
FINETUNE, SEMI = FinetuneConfig(**SHORT), SemiConfig(**SHORT, fraction=0.4, draws=3)


def evaluate(folder):
    """All protocols of the module on the fixture's run, on any number of ranks."""
    store = SkeletonStore.open(folder / "store")
    return {
        "finetune": evaluate_finetune(folder / "joint", store, "half", FINETUNE, device="cpu"),
        "semi": evaluate_semi(folder / "joint", store, "half", SEMI, device="cpu"),
        "streams": evaluate_streams(
            "linear", [folder / stream for stream in WEIGHTS], store, "half", epochs=3, device="cpu"
        ),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of 21 training clips in seven classes, and a run of each stream that is hardly one."""
    folder = tmp_path_factory.mktemp("finetune")
    rng = np.random.default_rng(0)
    clips = [
        np.cumsum(rng.normal(size=(rng.integers(10, 30), 20, 3)), 0).astype(np.float32) / 5
        for _ in range(42)
    ]
    names = [f"clip{i:02}" for i in range(42)]
    splits = {"half": (names[:21], names[21:]), "gap": (names[:6], names[6:])}
    store = SkeletonStore.from_arrays(
        folder / "store", clips, np.arange(42) % 7, KINECT20, names=names, splits=splits
    )
    config = replace(
        PRESETS["demo"],
        epochs=1,
        batch_size=7,
        queue_size=14,
        precision="fp32",
        device="cpu",
        view=ViewConfig(crop_least=8, p=0),
        encoder=EncoderConfig(
            frames=16, channels=4, width=16, heads=2, projection=8, projector_norm=True
        ),
    )
    for stream in WEIGHTS:
        pretrain(
            store,
            "half",
            replace(config, stream=stream),
            folder / stream,
            preset="demo",
            progress=False,
        )
    return folder


def test_two_ranks_give_what_one_does(folder):
    """Whole fits are shared out, so not a digit may differ."""
    for name, launcher in (
        ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]),
        ("one", []),
    ):
        command = [sys.executable, *launcher, __file__, folder, name]
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
    first, second, one = (
        torch.load(folder / f"{name}.pt", weights_only=False)
        for name in ("two-0", "two-1", "one-0")
    )
    assert first == second == one and set(one) == {"finetune", "semi", "streams"}


def test_results_have_the_fields_of_the_contract(folder):
    for protocol, result in evaluate(folder).items():
        kinds = ["pretrained", "untrained"] + ["raw"] * (protocol == "streams")
        assert list(result.kinds) == kinds
        assert (result.draws, result.fraction) == ((3, 0.4) if protocol == "semi" else (None, None))
        for one in result.kinds.values():
            assert set(CONTRACT) <= set(one.to_dict()) and one.top5 >= one.top1 >= 0
            assert len(one.guesses) == 21 * (3 if protocol == "semi" else 1)
    assert result.seed == 0


def test_mean_of_one_draw_has_no_deviation():
    one = Result(
        "semi",
        "half",
        40.0,
        best_top1=50.0,
        per_class={"a": 40.0},
        confusion={"a": {"a": 2, "b": 3}},
        looks={"1": 40.0},
    )
    assert mean_result([one]).top1_std is None and mean_result([one]).top5 is None
    other = replace(one, confusion={"a": {"b": 5}}, top1=50.0)
    mean = mean_result([one, other])
    assert mean.confusion == {"a": {"a": 2, "b": 8}} and mean.looks == {}
    assert mean.top1 == 45 and mean.top1_std == pytest.approx(50**0.5) and mean.each == (40, 50)


class Sides:
    """As much of a store as a draw looks at."""

    path, splits = Path("store"), ["all"]

    def __init__(self, counts):
        self.labels = np.repeat(np.arange(len(counts)), counts)
        self.classes, self.names = (
            [str(c) for c in range(len(counts))],
            [f"clip{i:04}" for i in range(len(self.labels))],
        )

    def split(self, name):
        return np.arange(len(self.labels)), np.arange(1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12),
    st.floats(0.01, 1),
    st.integers(1, 7),
    st.integers(0, 10**6),
)
def test_draws_keep_their_promises(counts, fraction, draws, seed):
    store, clips = Sides(counts), sum(counts)
    if int(fraction * clips + 0.5) < len(counts):
        with pytest.raises(InputError, match="one clip for each class"):
            draw_labelled(store, "all", fraction, draws, seed)
        return
    found = draw_labelled(store, "all", fraction, draws, seed)
    for chosen in found:
        sizes = np.bincount(store.labels[chosen], minlength=len(counts))
        assert (
            len(set(chosen)) == len(chosen) == int(fraction * clips + 0.5) and sizes.min() >= 1
        )  # exact, and every class
        share = len(chosen) * np.array(counts) / clips
        assert (share < 1).any() or np.abs(
            sizes - share
        ).max() < 1  # as large as its class, to the clip
        assert (sizes - share).max() < 1 and (
            np.diff(sizes[np.argsort(counts, kind="stable")]) >= -1
        ).all()  # and never much larger, nor of more clips fewer, but for a tie
    used = np.bincount(np.concatenate(found), minlength=clips)
    for c in range(len(counts)):
        assert np.ptp(used[store.labels == c]) <= 1  # no clip twice more often than it must be
    again = draw_labelled(store, "all", fraction, draws + 1, seed)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=False))


@pytest.mark.parametrize(
    "text, complaint",
    [
        (
            "draw,name,class\n0,clip00,0\n0,clip30,2\n",
            "line 3: clip 'clip30' is not in the training side of split 'half'",
        ),
        ("draw,name,class\n", "it has no draw"),
        ("name,class\nclip00,0\n", "expected the columns draw, name, class"),
        (b"\xff\xfe\x00", "expected the columns draw, name, class"),
        ("draw,name,class\n0,clip00,0\n0,clip04,0\n", "draw 0 has no clip of class"),
        (
            "draw,name,class\n"
            + "".join(
                f"{draw},clip{i:02},{i % 7}\n"
                for draw, clips in enumerate((7, 8))
                for i in range(clips)
            ),
            "its draws hold from 7 to 8 clips",
        ),
    ],
    ids=["test clip", "empty", "columns", "bytes", "a class", "sizes"],
)
def test_a_bad_index_is_named(folder, tmp_path, text, complaint):
    store, path = SkeletonStore.open(folder / "store"), tmp_path / "index.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=complaint) as told:
        read_draws(path, store, "half")
    assert str(told.value).startswith(str(path))


def test_a_result_says_the_share_of_its_draws(folder):
    """Whatever share the configuration names; one that rounds to as many clips is taken as it is."""
    store, draws = SkeletonStore.open(folder / "store"), [np.arange(7), np.arange(7, 14)]
    said = {
        share: evaluate_semi(
            folder / "joint",
            store,
            "half",
            replace(SEMI, fraction=share, epochs=1),
            draws,
            ["pretrained"],
            "cpu",
        )
        for share in (0.1, 0.34)
    }
    assert {share: (result.fraction, result.labelled) for share, result in said.items()} == {
        0.1: (0.3333, 7),
        0.34: (0.34, 7),
    }


def test_only_runs_that_belong_together_are_added(folder, tmp_path):
    """A stream that has learned from another split, or by another recipe, is refused; another seed is not."""
    store, strange = SkeletonStore.open(folder / "store"), tmp_path / "bone"
    for split, seed, complaint in (("gap", 0, r"split \(was half, now gap\)"), ("half", 1, "")):
        shutil.copytree(folder / "bone", strange, dirs_exist_ok=True)
        about = json.loads((strange / "config.json").read_text())
        (strange / "config.json").write_text(
            json.dumps(about | {"split": split, "config": about["config"] | {"seed": seed}})
        )
        runs = [folder / "joint", strange, folder / "motion"]
        if complaint:
            with pytest.raises(InputError, match=complaint):
                evaluate_streams("linear", runs, store, "half", epochs=1, device="cpu")
        else:
            assert list(by_stream(runs)) == list(WEIGHTS)


def test_an_index_survives_a_spreadsheet(folder, tmp_path):
    """Other line endings and another order of lines are the same draws, in the order in which they come."""
    store, path = SkeletonStore.open(folder / "store"), tmp_path / "index.csv"
    draws = draw_labelled(store, "half", 0.4, 2)
    write_draws(path, store, draws)
    head, *lines = path.read_text().splitlines()
    path.write_bytes("\r\n".join([head, *reversed(lines)]).encode())
    assert all(
        np.array_equal(a, b)
        for a, b in zip(draws[::-1], read_draws(path, store, "half"), strict=True)
    )


@pytest.mark.parametrize(
    "change, complaint",
    [
        (dict(split="gap"), "split 'gap': class '6' has 6 test clips and no training clip"),
        (
            dict(config=replace(SEMI, fraction=0.1)),
            "10 % of the 21 training clips of split 'half' is 2, expected 7 or more",
        ),
    ],
    ids=["class", "share"],
)
def test_what_cannot_be_drawn_is_said(folder, change, complaint):
    words = {
        "run": folder / "joint",
        "store": SkeletonStore.open(folder / "store"),
        "split": "half",
        "config": SEMI,
    } | change
    with pytest.raises(InputError) as told:
        evaluate_semi(**words)
    assert complaint in str(told.value) and len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("protocol", ["linear", "knn", "finetune", "semi", "transfer"])
def test_a_class_without_a_training_clip_is_told_before_anything_is_computed(folder, protocol):
    """One line, so not even a bar of features has been shown."""
    assert_mistake(
        scdnet(
            "evaluate",
            protocol,
            "--run",
            folder / "joint",
            "--store",
            folder / "store",
            "--split",
            "gap",
        ),
        "split 'gap': class '6' has 6 test clips and no training clip",
    )


@pytest.mark.parametrize(
    "make, values, complaint",
    [
        (FinetuneConfig, dict(epochs=0), "epochs"),
        (FinetuneConfig, dict(batch_size=0), "batch_size"),
        (FinetuneConfig, dict(seed=-1), "seed"),
        (FinetuneConfig, dict(look_every=0), "look_every"),
        (SemiConfig, dict(draws=0), "draws"),
        (SemiConfig, dict(fraction=float("nan")), "fraction"),
        (SemiConfig, dict(fraction=0.0), "fraction"),
        (LinearConfig, dict(epochs=0), "epochs"),
        (LinearConfig, dict(folds=1), "folds"),
        (LinearConfig, dict(rates=()), "rates"),
        (LinearConfig, dict(lr=0.0), "lr"),
        (LinearConfig, dict(batch_size=0), "batch_size"),
        (LinearConfig, dict(rate=1.0), "rate: no such field"),
    ],
)
def test_impossible_settings(make, values, complaint):
    with pytest.raises(InputError, match=complaint) as told:
        make(**values)
    assert len(str(told.value).splitlines()) == 1


def test_a_protocol_takes_the_recipe_of_the_preset_that_is_named(folder, tmp_path):
    assert (
        linear_config(folder / "joint", preset="demo").lr,
        linear_config(folder / "joint", preset="paper").lr,
    ) == (None, 2.0)
    words = (
        "evaluate",
        "finetune",
        "--run",
        folder / "joint",
        "--store",
        folder / "store",
        "--split",
        "half",
        "--epochs",
        1,
        "--device",
        "cpu",
        "--no-baselines",
    )
    for preset, name in (("demo", "adamw"), ("paper", "sgd")):
        out = tmp_path / f"{preset}.json"
        assert scdnet(*words, "--preset", preset, "--out", out).returncode == 0
        found = json.loads(out.read_text())
        assert (found["preset"], found["config"]["optim"]["name"]) == (
            preset,
            name,
        ) and f"--preset {preset}" in found["command"]


def test_a_loss_that_is_not_finite_stops(folder):
    with pytest.raises(FloatingPointError, match=r"learning rate 1e\+30"):
        evaluate_finetune(
            folder / "joint",
            SkeletonStore.open(folder / "store"),
            "half",
            replace(FINETUNE, epochs=5, optim=OptimConfig(lr=1e30)),
            device="cpu",
        )


if __name__ == "__main__":
    with joined():
        torch.save(evaluate(Path(sys.argv[1])), Path(sys.argv[1]) / f"{sys.argv[2]}-{rank()}.pt")
