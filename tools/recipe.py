"""What makes the features better, judged without a look at the test side: rows of recipes, each trained on the training side of a split.

    python tools/recipe.py --store stores/nwucla --split xview --out runs/recipe --table data/recipe_nwucla.csv

Each run is judged inside the training side. Its clips are divided in two parts, which the split's own rule keeps apart (two cameras, or two groups
of subjects); a probe and a nearest neighbour learn on one part and are tested on the other, both ways. Rows that are in the table already are
not run again, so that several processes can share the work (`--rows`, `--seeds`).
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from torch import Tensor

from scdnet.data.store import SkeletonStore
from scdnet.evaluation.features import calibrate, features, joined, raw_features
from scdnet.evaluation.knn import nearest
from scdnet.evaluation.linear import (
    PRESETS as PROBES,
    choose_rate,
    fit_probes,
    groups_apart,
    hold_outs,
)
from scdnet.evaluation.metrics import accuracy
from scdnet.paper.ablations import Row, configured
from scdnet.training.config import PRESETS, PretrainConfig
from scdnet.training.pretrain import pretrain
from scdnet.training.run import Run
from scdnet.utils.files import InputError

# the paper's parts at a small size, as README ran them on NW-UCLA until November 2026
PAPER = {
    "queue_size": 256,
    "view.crop_low": 0.5,
    "view.crop_least": 8,
    "view.shear_amount": 1.0,
    "optim.lr": 1e-3,
}
OFFICIAL = {"view.rotate": True, "view.flip_negate_x": False, "view.shear_amount": 1.0}
GENTLE = {"view.rotate": False, "view.flip_negate_x": True, "view.shear_amount": 0.2}
CAMERA = {"view.turn": 60.0, "view.stretch": 0.1, "view.jitter": 0.03}
SENSOR = {"view.tilt": 15.0, "view.pace": 0.5}
VIEWS, OFF = GENTLE | CAMERA, dict.fromkeys([*CAMERA, *SENSOR], 0.0)
RECONSTRUCTED = {"auxiliary": "reconstruction"}
NO_MASKS = {"view.spatial": "none", "view.temporal": "none"}
GCN = {"encoder.extractor": "separate", "encoder.channels": 16}
STEADY = dict.fromkeys(SENSOR, 0.0)  # neither tilt nor pace
PLACED = STEADY | {"trajectory": False}  # and no trajectory
UNPLACED = PLACED | {"encoder.positions": False}  # and no positions

# name -> preset, changes, epochs of a run. The first nine add one change after the other and take about seven minutes of one core on
# NW-UCLA each; the others change one thing of the preset `small`, in half the time.
ROWS: dict[str, tuple[str, dict[str, Any], int]] = {
    "paper": ("demo", PAPER, 50),
    "+ align": ("demo", PAPER | {"align": True}, 50),
    "+ views": ("demo", PAPER | {"align": True} | VIEWS, 50),
    "+ reconstruction": ("demo", PAPER | {"align": True} | VIEWS | RECONSTRUCTED, 50),
    "- extractor": ("small", UNPLACED | {"encoder.inputs": "stream"}, 200),
    "+ fused inputs": ("small", UNPLACED, 190),
    "+ positions": ("small", PLACED, 190),
    "+ trajectory": ("small", STEADY, 190),
    "+ tilt and pace: small": ("small", {}, 190),
    "small": ("small", {}, 95),
    "joints alone": ("small", {"encoder.inputs": "stream", "trajectory": False}, 100),
    "no positions": ("small", {"encoder.positions": False}, 95),
    "no trajectory": ("small", {"trajectory": False}, 95),
    "no reconstruction": ("small", {"auxiliary": "none"}, 100),
    "no alignment": ("small", {"align": False}, 95),
    "official views": ("small", OFF | OFFICIAL, 95),
    "no turn": ("small", {"view.turn": 0.0}, 95),
    "no tilt": ("small", {"view.tilt": 0.0}, 95),
    "no pace": ("small", {"view.pace": 0.0}, 95),
    "no stretch": ("small", {"view.stretch": 0.0}, 95),
    "no jitter": ("small", {"view.jitter": 0.0}, 95),
    "no masks": ("small", NO_MASKS, 95),
    "each clue with itself": ("small", {"loss": "instance"}, 95),
    "two clues, no global one": ("small", {"granularity": "st"}, 95),
    "no attention": ("small", {"encoder.decoupling": "projection"}, 95),
    "with extractor, equal minutes": ("small", GCN, 23),
    "with extractor, equal epochs": ("small", GCN, 95),
}


@dataclass(frozen=True)
class Study:
    store: Path  # folder that scdnet prepare made
    split: str  # its training clips are used, and no others
    out: Path  # folder of the runs
    table: Path  # CSV file, to which each row is appended
    rows: tuple[str, ...] = tuple(ROWS)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int | None = None  # of every run, instead of the row's own


def judge(x: Tensor, store: SkeletonStore, split: str) -> dict[str, float]:
    """Linear and 1-NN top-1 (%) on one part of the training side after learning on the other, both ways; x (n, D) of the training clips."""
    (train, _), groups = store.split(split), groups_apart(store, split)
    y, subjects = torch.from_numpy(store.labels[train]), store.clips["subject"].to_numpy()[train]
    config, classes, found = PROBES["small"], len(store.classes), []
    if groups is None:
        raise InputError(f"split {split!r} keeps neither subjects nor cameras apart")
    for part in hold_outs(y.numpy(), groups, 2, 0):
        held = torch.from_numpy(part)
        sides = x[~held], y[~held], x[held], y[held]
        folds = hold_outs(y[~held].numpy(), subjects[~part], config.folds, config.seed)
        (probe,) = fit_probes(
            *sides, classes, config, [choose_rate(*sides[:2], folds, classes, config)]
        )
        guesses = y[~held][nearest(x[held], x[~held])]
        right = 100 * (guesses == y[held]).double().mean().item()
        found.append({"linear": accuracy(probe.scores, y[held]), "knn": right})
    return pd.DataFrame(found).mean().round(2).to_dict()


def recipe(row: str, seed: int, epochs: int | None) -> PretrainConfig:
    """The configuration of a row."""
    preset, changes, usual = ROWS[row]
    made = configured(Row(row, row, changes), PRESETS[preset])
    return replace(made, epochs=epochs or usual, seed=seed)


def main(study: Study) -> None:
    store = SkeletonStore.open(study.store)
    train, _ = store.split(study.split)
    for seed in study.seeds:
        for row in study.rows:
            done = pd.read_csv(study.table) if study.table.exists() else pd.DataFrame()
            config = recipe(row, seed, study.epochs)
            key = {"row": row, "seed": seed, "epochs": config.epochs}
            if len(done) and (done[list(key)] == pd.Series(key)).all(axis=1).any():
                continue
            out = study.out / f"{'-'.join(row.split())}-{config.epochs}-{seed}"
            start = time.process_time()
            pretrain(store, study.split, config, out, preset=ROWS[row][0], overwrite=True)
            minutes, run = (time.process_time() - start) / 60, Run.open(out)
            scores = judge(joined(features(run.encoder(), store, train)), store, study.split)
            initial = calibrate(run.initial(), store, train)
            before = judge(joined(features(initial, store, train)), store, study.split)
            raw = judge(raw_features(run.format, store, train), store, study.split)
            line = key | {"minutes": round(minutes, 2)} | scores
            for kind, found in (("untrained", before), ("raw", raw)):
                line |= {f"{name}, {kind}": value for name, value in found.items()}
            table = pd.DataFrame([line])
            table.to_csv(study.table, mode="a", header=not study.table.exists(), index=False)
            print(line, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Study, description=__doc__))
