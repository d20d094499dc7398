"""The maps of `nbs/index.ipynb`: t-SNE of both clues of six actions' test clips, from the folder that `scdnet demo --out demo --seed 0` leaves.

Usage: python tools/clue_maps.py [demo]      It writes data/clue_maps.csv.
"""

import sys
from pathlib import Path

import pandas as pd

import scdnet
from scdnet.evaluation.embedding import tsne

ACTIONS = ("throw", "clapping", "brushing teeth", "brushing hair", "drop", "pickup")


def maps(demo: Path) -> pd.DataFrame:
    """A row for each clip: its action, and where either map has it."""
    store = scdnet.SkeletonStore.open(demo / "store")
    clues = scdnet.features(scdnet.load_encoder(demo / "run"), store)
    _, test = store.split("xsub")
    test = test[[store.classes[label] in ACTIONS for label in store.labels[test]]]
    found = pd.DataFrame({"action": [store.classes[label] for label in store.labels[test]]})
    for clue, values in clues.items():
        found[[f"{clue} 1", f"{clue} 2"]] = tsne(values[test].float().numpy()).round(2)
    return found


if __name__ == "__main__":
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    if not (demo / "run").is_dir():
        sys.exit(f"{demo}: no folder of a demo; first scdnet demo --out {demo} --seed 0")
    maps(demo).to_csv(Path(__file__).parents[1] / "data" / "clue_maps.csv", index=False)
