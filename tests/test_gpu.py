"""What a GPU computes is what the CPU computes. Skipped where there is no CUDA device."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import scdnet, tree
from small import TINY, random_walks

from scdnet.evaluation.baselines import evaluate
from scdnet.evaluation.features import features
from scdnet.evaluation.finetune import FinetuneConfig, evaluate_finetune
from scdnet.evaluation.linear import linear_config
from scdnet.training.batches import Batches
from scdnet.training.checkpoint import Checkpoints
from scdnet.training.pretrain import Trainer, pretrain
from scdnet.training.run import load_encoder
from scdnet.utils.files import digest

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = replace(TINY, device="cuda")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return random_walks(
        tmp_path_factory.mktemp("walks") / "store", half=(slice(0, 16), slice(16, 32))
    )


@pytest.fixture
def exact():
    """Convolutions in float32 proper, not in TF32."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def test_views_are_the_same(store):
    train, config = store.split("half")[0], replace(TINY, draw_on_cpu=True)
    for step in (0, 3):
        (chosen, *here), (there_chosen, *there) = (
            Batches(config, store, train, torch.device(device))(step) for device in ("cpu", "cuda")
        )
        assert np.array_equal(chosen, there_chosen)
        for a, b in zip(here, there, strict=True):
            assert torch.equal(a == 0, b.cpu() == 0)  # the same joints and frames are masked
            torch.testing.assert_close(a, b.cpu())


def test_views_are_drawn_on_the_gpu(store):
    train = store.split("half")[0]
    first, again, other = (
        Batches(TINY, store, train, torch.device("cuda"))(step) for step in (2, 2, 3)
    )
    for name in ("view_q", "view_k", "clean"):
        view = getattr(first, name)
        assert view.is_cuda and torch.equal(view, getattr(again, name))
        assert not torch.equal(view, getattr(other, name))


@pytest.mark.parametrize("persons", [1, 2])
def test_a_step_is_the_same(store, tmp_path, exact, persons):
    if persons == 2:  # the second one is there in every other clip only
        from scdnet.data.layouts import KINECT20
        from scdnet.data.store import SkeletonStore

        clips = [
            np.stack([clip[:, 0], clip[:, 0] * (i % 2)], 1)
            for i, clip in enumerate(store[i] for i in range(len(store)))
        ]
        names = store.names
        store = SkeletonStore.from_arrays(
            tmp_path / "pairs",
            clips,
            store.labels,
            KINECT20,
            names=names,
            splits={"half": (names[:16], names[16:])},
        )
    plain = replace(
        TINY, encoder=replace(TINY.encoder, dropout=0.0), draw_on_cpu=True
    )  # each device draws its own dropout
    here, there = (
        Trainer(replace(plain, device=device), store, store.split("half")[0])
        for device in ("cpu", "cuda")
    )
    for _ in range(2):
        here.step(), there.step()
        assert here.losses == pytest.approx(there.losses, rel=1e-4)
    for name, value in here.model.queues.state_dict().items():
        torch.testing.assert_close(
            value, there.model.queues.state_dict()[name].cpu(), rtol=1e-3, atol=1e-3
        )
    assert (there.model.queues["g"].ptr.cpu() == here.model.queues["g"].ptr).all()


def test_a_run_and_its_protocols(store, tmp_path):
    run = pretrain(
        store,
        "half",
        replace(CUDA, precision="bf16", epochs=2),
        tmp_path / "run",
        preset="demo",
        progress=False,
    )
    assert (
        json.loads((run / "config.json").read_text())["machine"]["gpu"]
        == torch.cuda.get_device_name()
    )
    encoders = {device: load_encoder(run, device) for device in ("cpu", "cuda")}
    with torch.backends.cudnn.flags(allow_tf32=False):
        found = {device: features(encoder, store) for device, encoder in encoders.items()}
    for clue in found["cpu"]:
        torch.testing.assert_close(found["cpu"][clue], found["cuda"][clue], rtol=1e-3, atol=1e-4)
    for protocol in ("linear", "knn"):
        config = linear_config(run, 2)
        result = evaluate(run, store, "half", protocol, config=config, device="cuda")
        assert {*result.kinds} == {"pretrained", "untrained", "raw"}
    fitted = evaluate_finetune(
        run, store, "half", FinetuneConfig(epochs=2, batch_size=8), device="cuda"
    )
    assert all(0 <= result.top1 <= 100 for result in fitted.kinds.values())


def test_a_run_that_was_stopped_goes_on_bit_for_bit(store, tmp_path):
    wanted = replace(CUDA, epochs=4, save_every=2, deterministic=True)
    whole = pretrain(store, "half", wanted, tmp_path / "whole", progress=False)
    state = Trainer(wanted, store, store.split("half")[0])
    assert Checkpoints(whole / "checkpoint").load(state) and state.steps_done == state.steps
    pretrain(store, "half", wanted, tmp_path / "cut", progress=False)
    for late in sorted((tmp_path / "cut/checkpoint").glob("step-*"))[1:]:
        for file in late.iterdir():
            file.unlink()
        late.rmdir()
    (tmp_path / "cut/encoder.safetensors").unlink()
    pretrain(store, "half", wanted, tmp_path / "cut", resume=True, progress=False)
    assert digest(whole / "encoder.safetensors") == digest(tmp_path / "cut/encoder.safetensors")


def test_the_command_takes_the_gpu_unasked(store, tmp_path):
    done = scdnet(
        "pretrain",
        "--store",
        store.path,
        "--split",
        "half",
        "--preset",
        "demo",
        "--out",
        tmp_path / "run",
        "--epochs",
        1,
        "--batch-size",
        8,
        "--queue-size",
        16,
        "--encoder.frames",
        16,
        "--encoder.channels",
        8,
        "--encoder.width",
        16,
        "--view.crop-least",
        8,
    )
    assert done.returncode == 0, done.stderr
    assert "encoder.safetensors" in tree(tmp_path / "run")
