"""What torchrun starts in test_ranks.py, on every rank: one step of each kind, features, and a run that stops after five steps."""
import sys
from dataclasses import replace
from pathlib import Path

import torch

import scdnet.pretrain
from scdnet.linear import calibrate, features
from scdnet.pretrain import PRESETS, Pretraining, pretrain
from scdnet.ranks import joined, rank
from scdnet.store import SkeletonStore

DEMO = PRESETS["demo"]
CONFIG = replace(DEMO, epochs=4, batch_size=8, queue_size=16, precision="fp32", device="cpu", save_every=1, batch_stats="sync", view=replace(DEMO.view, crop_least=8),
                 encoder=replace(DEMO.encoder, frames=16, channels=8, width=32, projection=16, dropout=0.))


def awake(store, stats):
    """A run before its first step, with graph convolutions that take part: their weights begin near zero."""
    state = Pretraining(replace(CONFIG, batch_stats=stats), store, store.split("half")[0])
    for name, value in state.model.named_parameters():
        if name.endswith(("alpha", "space_norm.weight")):
            value.data.fill_(0.5)
    return state


def outcome(state):
    """Loss, gradients and all that a checkpoint holds, after a step."""
    gradient = torch.cat([p.grad.flatten() for p in state.model.query.parameters()])
    return {"loss": state.sums[0], "gradient": gradient, "model": {name: value.clone() for name, value in state.model.state_dict().items()}}


def clues(store):
    """Features of an untrained encoder, in batches of three clips."""
    train, _ = store.split("half")
    encoder = calibrate(awake(store, "local").model.query.encoder, store, train, batch_size=3)
    return features(encoder, store, batch_size=3)


class Stopped(Pretraining):
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
        torch.save(clues(store), folder / f"clues-{rank()}.pt")
        scdnet.pretrain.Pretraining = Stopped
        try:
            pretrain(store, "half", CONFIG, folder / "run", preset="demo", progress=False)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))
