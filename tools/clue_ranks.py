"""In how many directions the clues of runs spread, and how much alike both clues are: a line for each run.

python tools/clue_ranks.py ablations/full-0 ablations/st-interactive-0 --store stores/nwucla --split xview --out data/clue_ranks.csv
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from scdnet.app.cli.parsing import show
from scdnet.data.store import SkeletonStore
from scdnet.evaluation.embedding import unit
from scdnet.evaluation.features import features
from scdnet.training.run import load_encoder


@dataclass(frozen=True)
class Ranks:
    runs: tyro.conf.Positional[tuple[Path, ...]]  # finished ones
    store: Path  # folder that scdnet prepare made
    split: str  # its test clips are looked at
    out: Path  # CSV file to write


def effective_rank(codes: np.ndarray) -> float:
    """exp of the entropy of the covariance's spectrum (Roy and Vetterli, EUSIPCO 2007), of codes (N, D)."""
    power = np.linalg.svd(codes - codes.mean(0), compute_uv=False) ** 2
    share = power[power > 0] / power.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two codes' cosines between the same clips, each code less its mean."""
    pairs = np.triu_indices(len(one), 1)
    return float(
        np.corrcoef(
            *((z @ z.T)[pairs] for z in (unit(code - code.mean(0)) for code in (one, other)))
        )[0, 1]
    )


def main(ranks: Ranks) -> None:
    store = SkeletonStore.open(ranks.store)
    _, test = store.split(ranks.split)
    rows = []
    for run in ranks.runs:
        spatial, temporal = (
            clue.numpy().astype(np.float64)
            for clue in features(load_encoder(run), store, test).values()
        )
        rows.append(
            (run.name, effective_rank(spatial), effective_rank(temporal), alike(spatial, temporal))
        )
    found = pd.DataFrame(rows, columns=["run", "spatial", "temporal", "alike"]).round(2)
    found.to_csv(ranks.out, index=False)
    show([tuple(found.columns), *found.itertuples(index=False)])


if __name__ == "__main__":
    main(tyro.cli(Ranks))
