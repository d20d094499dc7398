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
from scdnet.utils.files import InputError
from scdnet.evaluation.baselines import all_features
from scdnet.evaluation.features import joined
from scdnet.evaluation.linear import PRESETS, hold_outs, probe_rates
from scdnet.evaluation.metrics import labelled_sides
from scdnet.training.run import run_config
from scdnet.data.store import SkeletonStore


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
    train, test = labelled_sides(store, split)
    config, labels = replace(PRESETS["demo"], seed=seed), torch.from_numpy(store.labels)
    subjects = store.clips["subject"].to_numpy()[train] if "subject" in store.clips else None
    held = [
        torch.from_numpy(h) for h in hold_outs(store.labels[train], subjects, config.folds, seed)
    ]
    found = lambda a, b: probe_rates(
        x[a], labels[a], x[b], labels[b], len(store.classes), config, config.rates
    )
    train, test = torch.from_numpy(train), torch.from_numpy(test)
    return np.mean([found(train[~h], train[h]) for h in held], 0), np.array(found(train, test))


def main(chosen: ProbeRates) -> None:
    store, rows = SkeletonStore.open(chosen.store), []
    for place in chosen.places:
        if place.is_dir():
            kinds, seed = (
                all_features(place, store, chosen.split, device="cpu"),
                run_config(place).seed,
            )
        else:
            with np.load(place) as clues:
                if list(clues["name"]) != store.names:
                    raise InputError(
                        f"{place}: not the clues of all clips of {chosen.store}, in their order"
                    )
                kinds, seed = (
                    {
                        "pretrained": joined(
                            {
                                clue: torch.from_numpy(clues[clue]).float()
                                for clue in ("spatial", "temporal")
                            }
                        )
                    },
                    0,
                )
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
