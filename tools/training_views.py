"""To choose between runs without a look at the test side: probes on one training view, judged on the others, for each view in turn.

python tools/training_views.py runs/nwucla-110 runs/nwucla-250 --store stores/nwucla --split xview
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from scdnet.app.cli.parsing import show
from scdnet.data.store import SkeletonStore
from scdnet.evaluation.features import features, joined
from scdnet.evaluation.knn import nearest
from scdnet.evaluation.linear import PRESETS, choose_rate, fit_probes, hold_outs
from scdnet.evaluation.metrics import accuracy
from scdnet.training.run import load_encoder
from scdnet.utils.files import InputError


@dataclass(frozen=True)
class TrainingViews:
    runs: tyro.conf.Positional[tuple[Path, ...]]  # finished ones
    store: Path  # folder that scdnet prepare made
    split: str  # its training clips are looked at, and no others


def across_views(
    x: torch.Tensor, y: torch.Tensor, views: np.ndarray, subjects: np.ndarray
) -> list[tuple[float, float]]:
    """Linear and 1-NN top-1 (%) on the other views, for each view in turn; features (n, D), labels, cameras and subjects (n,)."""
    config, classes, found = PRESETS["demo"], int(y.max()) + 1, []
    for view in np.unique(views):
        here = torch.from_numpy(views == view)
        rate = choose_rate(
            x[here],
            y[here],
            hold_outs(y[here].numpy(), subjects[here], config.folds, config.seed),
            classes,
            config,
        )
        sides = x[here], y[here], x[~here], y[~here]
        (probe,) = fit_probes(*sides, classes, config, [rate])
        neighbours = y[here][nearest(x[~here], x[here])]
        found.append(
            (
                accuracy(probe.scores, y[~here]),
                100 * (neighbours == y[~here]).double().mean().item(),
            )
        )
    return found


def main(chosen: TrainingViews) -> None:
    store = SkeletonStore.open(chosen.store)
    train, _ = store.split(chosen.split)
    clips, y = store.clips.iloc[train], torch.from_numpy(store.labels[train])
    if clips["camera"].nunique() < 2:
        raise InputError(
            f"{chosen.store}: the training clips of {chosen.split} are of one camera, expected several"
        )
    rows = []
    for run in chosen.runs:
        x = joined(features(load_encoder(run), store, train))
        found = across_views(x, y, clips["camera"].to_numpy(), clips["subject"].to_numpy())
        rows.append(
            (
                run.name,
                *np.mean(found, 0),
                ", ".join(f"{linear:.1f} / {neighbour:.1f}" for linear, neighbour in found),
            )
        )
    show([("run", "linear", "1-NN", "each view in turn, linear / 1-NN"), *rows])


if __name__ == "__main__":
    main(tyro.cli(TrainingViews))
