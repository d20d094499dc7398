"""Features and protocols: an encoder gets the clips that it was made for, on the device that was asked for, and every prediction is kept."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from commands import scdnet
from small import TINY, random_walks

from scdnet.data.layouts import KINECT20
from scdnet.data.skeleton import Skeleton
from scdnet.data.store import SkeletonStore
from scdnet.evaluation import baselines, disentanglement, linear
from scdnet.evaluation.baselines import evaluate
from scdnet.evaluation.features import calibrate, features, raw_features
from scdnet.evaluation.finetune import FinetuneConfig, fit
from scdnet.evaluation.linear import LinearConfig, hold_outs
from scdnet.evaluation.metrics import mcnemar, result_path, with_run
from scdnet.evaluation.monitor import KNNMonitor
from scdnet.model.encoder import scd_encoder
from scdnet.training.pretrain import pretrain
from scdnet.training.run import Run
from scdnet.utils.files import InputError, shipped
from scdnet.utils.records import Result, from_dict, read_results, write_results
from scdnet.views.config import ClipFormat


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluation") / "store"
    return random_walks(path, half=(slice(16), slice(16, 32)))


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A run of the bone stream."""
    out = tmp_path_factory.mktemp("evaluation") / "bone"
    config = replace(TINY, stream="bone")
    return Run.open(pretrain(store, "half", config, out, preset="demo", progress=False))


def encoder_of(skeleton, persons=1, stream="joint"):
    torch.manual_seed(0)
    encoder = scd_encoder(TINY.encoder, skeleton, persons).eval()
    encoder.format = ClipFormat(skeleton, TINY.encoder.frames, persons, 3, stream)
    return encoder


def same_clips(store, path, skeleton, persons=1):
    """The clips of a store under another layout, or with persons that are not there."""
    clips = [
        np.pad(store[i], ((0, 0), (0, persons - 1), (0, 0), (0, 0))) for i in range(len(store))
    ]
    return SkeletonStore.from_arrays(path, clips, store.labels, skeleton, names=store.names)


def test_an_encoder_gets_its_own_stream(run, store):
    """Once `features` took joints unless it was told otherwise, so a bone encoder was given joints without a word."""
    clues, encoder = features(run.encoder(), store), run.encoder()
    bones = replace(run.format, stream="bone").clips(store, np.arange(len(store)))
    joints = replace(run.format, stream="joint").clips(store, np.arange(len(store)))
    with torch.no_grad():
        z_s, _ = encoder(bones)
    torch.testing.assert_close(clues["spatial"], z_s, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(clues["temporal"], encoder(joints)[1], atol=1e-2)
    made = disentanglement.encoders({"pretrained": run}, store, "half")
    for name in ("spatial", "temporal"):  # the study changes joints and gives bones to the encoder
        found = made["pretrained"](joints.numpy())[name]
        torch.testing.assert_close(torch.from_numpy(found), clues[name], rtol=1e-3, atol=1e-4)


def test_layouts_are_joints_and_bones_not_names(store, tmp_path):
    encoder = encoder_of(KINECT20)
    expected = features(encoder, store)["spatial"]
    renamed = Skeleton.from_dict(KINECT20.to_dict() | {"name": "camera 7"})
    other = same_clips(store, tmp_path / "renamed", renamed)
    assert torch.equal(features(encoder, other)["spatial"], expected)
    order = [1, 0, *range(2, 20)]
    place = {old: new for new, old in enumerate(order)}
    swapped = Skeleton.from_dict(
        KINECT20.to_dict()
        | {
            "joints": [KINECT20.joints[j] for j in order],
            "bones": [[place[a], place[b]] for a, b in KINECT20.bones],
            "pairs": [[place[a], place[b]] for a, b in KINECT20.pairs],
            "center": place[KINECT20.center],
        }
    )
    with pytest.raises(InputError, match="layout") as told:
        features(encoder, same_clips(store, tmp_path / "swapped", swapped))
    assert len(str(told.value).splitlines()) == 1
    for protocol in (calibrate, lambda e, s, i: fit(e, s, i, i, FinetuneConfig(epochs=1))):
        with pytest.raises(InputError, match="layout"):
            protocol(encoder, SkeletonStore.open(tmp_path / "swapped"), np.arange(4))


def test_an_absent_person_is_zeros(store, tmp_path):
    encoder = encoder_of(KINECT20, persons=2)
    two = same_clips(store, tmp_path / "two", KINECT20, persons=2)
    one, padded = features(encoder, store), features(encoder, two)
    assert all(torch.equal(one[clue], padded[clue]) for clue in one)
    assert torch.equal(raw_features(encoder.format, store), raw_features(encoder.format, two))
    encoder.format = None
    with pytest.raises(InputError, match="format is None"):
        features(encoder, store)


def test_frames_are_read_batch_by_batch(run, store, monkeypatch):
    """The frames of the whole store, test side too, were once copied for each pass and each fit."""
    most = []

    class Watched(np.ndarray):
        def __getitem__(self, key):
            found = super().__getitem__(key)
            most.append(len(found) if found.ndim == 4 else 0)
            return found

        def __array__(self, *args, **kwargs):
            raise AssertionError("a copy of all frames")

    watched = store.frames.view(Watched)
    monkeypatch.setattr(store, "frames", watched)
    features(run.encoder(), store, batch_size=4)
    fit(run.encoder(), store, np.arange(8), np.arange(8), FinetuneConfig(epochs=1, batch_size=4))
    assert 0 < max(most) <= len(store.frames) / 2


def test_neither_batches_nor_order_change_features(run, store):
    encoder, every = run.encoder(), features(run.encoder(), store)
    few = features(encoder, store, np.array([5, 2, 9]), batch_size=2)
    for clue in every:
        torch.testing.assert_close(few[clue], every[clue][[5, 2, 9]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("protocol", ["linear", "knn"])
def test_a_protocol_is_computed_on_the_device_that_was_asked_for(protocol, run, store, monkeypatch):
    """Once only the encoder went to the GPU. Here a stand-in for it: another dtype, which `to` gives and nothing else does."""
    seen = []
    for module, name in ((baselines, "evaluate_linear"), (baselines, "evaluate_knn")):
        own = getattr(module, name)

        def spy(x, *rest, own=own):
            seen.append(x.dtype)
            return own(x.float(), *rest)

        monkeypatch.setattr(module, name, spy)
    monkeypatch.setattr(baselines, "find_device", lambda name: {"gpu": torch.float64}[name])
    found = {"pretrained": torch.randn(32, 8), "raw": torch.randn(32, 5)}
    config = LinearConfig(epochs=1, lr=None, rates=(0.1,), folds=2)
    evaluate(run, store, "half", protocol, config=config, device="gpu", found=found)
    assert seen == [torch.float64, torch.float64]


def test_the_best_rate_is_the_one_that_one_probe_alone_would_have():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 6, generator=generator), torch.arange(90) % 3
    x[:, :3] += 2 * torch.nn.functional.one_hot(y, 3)
    config = LinearConfig(epochs=10, batch_size=30)
    together = linear.fit_probes(x[:60], y[:60], x[60:], y[60:], 3, config, [0.01, 0.1, 1.0])
    for probe in together:
        (alone,) = linear.fit_probes(x[:60], y[:60], x[60:], y[60:], 3, config, [probe.lr])
        torch.testing.assert_close(alone.scores, probe.scores, rtol=1e-4, atol=1e-4)
    held = hold_outs(y[:60].numpy(), None, 3, 0)
    assert linear.choose_rate(x[:60], y[:60], held, 3, config) in config.rates


def test_the_prediction_for_each_test_clip_is_kept(run, store, tmp_path):
    """So McNemar's test and a look at the mistakes are possible."""
    out, words = tmp_path / "knn.json", ["--run", run.path, "--store", store.path]
    done = scdnet("evaluate", "knn", *words, "--split", "half", "--device", "cpu", "--out", out)
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    table = pd.read_csv(tmp_path / content["predictions"], dtype={"label": str, "predicted": str})
    assert set(table["features"]) == {"pretrained", "untrained", "raw"}
    test = [store.names[i] for i in store.split("half")[1]]
    for kind, rows in table.groupby("features"):
        right = (rows["label"] == rows["predicted"]).to_numpy()
        top1 = content["top1"] if kind == "pretrained" else content["baselines"][kind]["top1"]
        assert list(rows["name"]) == test and 100 * right.mean() == pytest.approx(top1)
        assert rows["score"].between(-1, 1.0001).all()
    sides = [table[table["features"] == kind] for kind in ("pretrained", "raw")]
    p = mcnemar(*(side["label"].to_numpy() == side["predicted"].to_numpy() for side in sides))
    assert 0 < p <= 1


def test_no_two_evaluations_share_a_file():
    """Once `semi --index` wrote over the real result, and seed, epochs and preset were not in the name."""
    words = [dict(preset=p, seed=s) for p in ("demo", "paper") for s in (0, 1)]
    options = [{}, dict(fraction=0.1), dict(fraction=0.01), dict(epochs=5), dict(streams=True)]
    options += [dict(fraction=0.1, index="a1"), dict(fraction=0.1, draws=3)]
    names = {
        result_path("run", protocol, split, **word, **option)
        for protocol in ("linear", "semi")
        for split in ("xsub", "xview")
        for word in words
        for option in options
    }
    assert len(names) == 2 * 2 * len(words) * len(options)


def test_the_shipped_results_are_collections_as_we_write_them(tmp_path):
    for path in shipped("results").glob("*.json"):
        found = read_results(path)
        write_results(tmp_path / path.name, found)
        assert found and (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_collection_keeps_what_fits_in_a_table(tmp_path):
    one = Result("linear", "xsub", 50.0, store={"name": "mine"}, per_class={"a": 50.0})
    whole = Result.beside({"pretrained": one, "raw": replace(one, top1=40.0)})
    about = {"name": "r", "config": {"seed": 3}, "split": "xsub", "hours": 2.0}
    whole = with_run(replace(whole, seed=7), about)
    write_results(tmp_path / "new.json", [whole])
    (again,) = read_results(tmp_path / "new.json")
    assert (again.seed, again.run_seed, again.raw, again.run) == (7, 3, 40.0, "r")
    assert not again.store and not again.per_class and not again.baselines


@pytest.mark.parametrize(
    "wrong",
    [dict(top1=101.0), dict(top1=True), dict(top5="97"), dict(split="a\nb"), dict(other=1)],
)
def test_a_result_is_checked_when_it_is_read(wrong, tmp_path):
    with pytest.raises(InputError, match=next(iter(wrong))) as told:
        from_dict(Result, {"protocol": "knn", "split": "x", "top1": 1.0} | wrong, "file.json")
    assert str(told.value).startswith("file.json")


def test_the_monitor_does_not_look_at_the_test_side(store, tmp_path):
    """Its numbers are those of the epoch's line, and the labels of test clips cannot change them."""
    found = []
    for name, shift in (("a", 0), ("b", 1)):
        copy = SkeletonStore.open(store.path)
        copy.labels = store.labels.copy()
        test = store.split("half")[1]
        copy.labels[test] = (copy.labels[test] + shift) % 4
        config = replace(TINY, epochs=2)
        run = pretrain(
            copy, "half", config, tmp_path / name, progress=False, callbacks=[KNNMonitor(folds=2)]
        )
        found.append(Run.open(run).metrics()["knn"].tolist())
    assert found[0] == found[1] and len(found[0]) == 2 and all(0 <= x <= 100 for x in found[0])
