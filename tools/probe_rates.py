"""How much hangs on the learning rate of the linear probe: for each rate the accuracy on parts held out of the training side, by which it is chosen, and on the test side, by which it must not be.

python tools/probe_rates.py runs/nwucla-0 runs/nwucla-1 clues.npz --store stores/nwucla --split xview --out data/probe_rates.csv
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro

from scdnet.app.cli.parsing import show
from scdnet.data.store import SkeletonStore
from scdnet.evaluation.baselines import all_features
from scdnet.evaluation.features import joined
from scdnet.evaluation.linear import PRESETS, fit_probes, groups_apart, hold_outs
from scdnet.evaluation.metrics import labelled_sides
from scdnet.training.run import Run
from scdnet.utils.files import InputError


@dataclass(frozen=True)
class ProbeRates:
    places: tyro.conf.Positional[
        tuple[Path, ...]
    ]  # finished runs, or files of `scdnet embed` for all clips of the store
    store: Path  # folder that scdnet prepare made
    split: str
    out: Path | None = None  # CSV file; written anew


def curves(
    x: torch.Tensor, store: SkeletonStore, split: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean top-1 (%) on the held-out parts and top-1 on the test side, one for each of the preset's rates; features (len(store), D)."""
    train, test = map(torch.from_numpy, labelled_sides(store, split))
    config, labels = replace(PRESETS["demo"], seed=seed), torch.from_numpy(store.labels)
    held = hold_outs(store.labels[train], groups_apart(store, split), config.folds, seed)

    def top1(a: torch.Tensor, b: torch.Tensor) -> list[float]:
        sides = x[a], labels[a], x[b], labels[b]
        probes = fit_probes(*sides, len(store.classes), config, config.rates)
        return [probe.test_top1[-1] for probe in probes]

    inside = [top1(train[~part], train[part]) for part in map(torch.from_numpy, held)]
    return np.mean(inside, 0), np.array(top1(train, test))


def of_place(place: Path, store: SkeletonStore, split: str) -> tuple[dict[str, torch.Tensor], int]:
    """kind -> features of all clips, of a run or in a file of `scdnet embed`; and the run's seed."""
    if place.is_dir():
        return all_features(place, store, split, device="cpu"), Run.open(place).config.seed
    with np.load(place) as clues:
        if list(clues["name"]) != store.names:
            raise InputError(f"{place}: not the clues of all clips of {store.path}, in their order")
        found = {clue: torch.from_numpy(clues[clue]).float() for clue in ("spatial", "temporal")}
    return {"pretrained": joined(found)}, 0


def main(chosen: ProbeRates) -> None:
    store, rows = SkeletonStore.open(chosen.store), []
    for place in chosen.places:
        kinds, seed = of_place(place, store, chosen.split)
        for kind, x in kinds.items():
            for rate, held, test in zip(
                PRESETS["demo"].rates, *curves(x, store, chosen.split, seed), strict=True
            ):
                rows.append(
                    {
                        "run": place.stem,
                        "seed": seed,
                        "features": kind,
                        "rate": rate,
                        "held out": round(held, 2),
                        "test": round(test, 2),
                    }
                )
    if chosen.out:
        pd.DataFrame(rows).to_csv(chosen.out, index=False, lineterminator="\n")
    show([tuple(rows[0]), *(tuple({**row, "rate": f"{row['rate']:g}"}.values()) for row in rows)])


if __name__ == "__main__":
    main(tyro.cli(ProbeRates))
