"""What torchrun starts in test_ranks.py, on every rank: one step of each kind, features, and a run that stops after five steps."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import scdnet.training.pretrain
from scdnet.data.store import SkeletonStore
from scdnet.evaluation.features import calibrate, features
from scdnet.training.batches import Batch
from scdnet.training.config import PRESETS
from scdnet.training.pretrain import Trainer, pretrain
from scdnet.utils.distributed import average_gradients, joined, rank, synchronise

DEMO = PRESETS["demo"]
CONFIG = replace(
    DEMO,
    epochs=4,
    batch_size=8,
    queue_size=16,
    precision="fp32",
    device="cpu",
    save_every=1,
    batch_stats="sync",
    view=replace(DEMO.view, crop_least=8),
    encoder=replace(DEMO.encoder, frames=16, channels=8, width=32, projection=16, dropout=0.0),
)


def awake(store, stats):
    """A run before its first step, with graph convolutions that take part: their weights begin near zero.

    Where statistics are shared, nobody is absent and nothing is masked: what does not move ties in every maximum over time, rounding breaks the tie, and the gradient
    then takes one way or the other, in one process as well. In float64 all that is left is the function.
    """
    config, split = replace(CONFIG, batch_stats=stats), "half"
    if stats == "sync":
        config, split = (
            replace(config, view=replace(config.view, spatial="none", temporal="none")),
            "pairs",
        )
    state = Trainer(config, store, store.split(split)[0])
    for name, value in state.model.named_parameters():
        if name.endswith(("alpha", "space_norm.weight")):
            value.data.fill_(0.5)
    if stats == "sync":
        batches = state.batches
        state.model.query.double(), state.model.key.double()
        state.objective.query = average_gradients(state.model.query)
        state.batches = lambda step: Batch(
            *(x.double() if torch.is_tensor(x) else x for x in batches(step))
        )
    return state


def outcome(state):
    """Loss, gradients and all that a checkpoint holds, after a step."""
    gradient = torch.cat([p.grad.flatten() for p in state.model.query.parameters()])
    return {
        "loss": state.losses["loss"],
        "gradient": gradient,
        "model": {name: value.clone() for name, value in state.model.state_dict().items()},
    }


def normalised(norm, slice_):
    """Outputs and gradients of batch normalisation for a half of eight samples."""
    torch.manual_seed(0)
    x, target = torch.randn(2, 8, 4, 5, 6, dtype=torch.double)
    x = (3 + x[slice_]).requires_grad_()
    y = norm(x)
    (y * target[slice_]).sum().backward()
    return {
        "y": y.detach(),
        "x": x.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "mean": norm.running_mean,
        "var": norm.running_var,
    }


def clues(store):
    """Features of an untrained encoder, in batches of three clips."""
    train, _ = store.split("half")
    encoder = calibrate(awake(store, "local").model.query.encoder, store, train, batch_size=3)
    return features(encoder, store, batch_size=3)


class Stopped(Trainer):
    def step(self):
        if self.steps_done == 7:
            raise KeyboardInterrupt
        return super().step()


def main(folder):
    store = SkeletonStore.open(folder / "store")
    with joined():
        for stats in ("local", "sync"):
            state = awake(store, stats)
            state.step()
            torch.save(outcome(state), folder / f"{stats}-{rank()}.pt")
        norm = synchronise(nn.Sequential(nn.BatchNorm2d(4).double()))[0]
        torch.save(normalised(norm, (slice(4), slice(4, 8))[rank()]), folder / f"norm-{rank()}.pt")
        torch.save(clues(store), folder / f"clues-{rank()}.pt")
        scdnet.training.pretrain.Trainer = Stopped
        with contextlib.suppress(KeyboardInterrupt):
            pretrain(store, "half", CONFIG, folder / "run", preset="demo", progress=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
