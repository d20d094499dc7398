"""The README's picture that moves, docs/views.gif: a recording, and two views of it as the encoder gets them. And a moment of it, docs/view.png."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure

from scdnet.viz import draw
from scdnet.views.config import ClipFormat, ViewConfig, random_crops, view_chain
from scdnet.data.preprocess import preprocess
from scdnet.data.layouts import NTU25
from scdnet.data.mannequin.perform import sample_clip

clip = preprocess(sample_clip(6), NTU25, 1)  # pick up: (T, M, V, C), metres
source, config = (
    (torch.from_numpy(clip), [0], [len(clip)]),
    ViewConfig(p=1, shear_amount=0.3, crop_low=0.8),
)


def view(seed: int) -> np.ndarray:
    generator, form = torch.Generator().manual_seed(seed), ClipFormat(NTU25, 64, clip.shape[1], 3)
    crops = random_crops(*source, config, generator, form)
    made = view_chain(config)(crops, NTU25, generator)[0]
    return made.permute(1, 3, 2, 0).numpy()  # (C, T, V, M) -> (T, M, V, C)


pair = [view(seed) for seed in (0, 23)]  # never hidden at once
times = np.linspace(0, len(clip) - 1, len(pair[0])).round().astype(int)
panels = {"a recording": clip[times], "a view of it": pair[0], "another view of it": pair[1]}

flat = [draw.project(draw.as_clip(panel), "z", 60) for panel in panels.values()]
seen = [draw.visible(draw.as_clip(panel), NTU25) for panel in panels.values()]
low, high = (
    np.min([draw.limits(f, s)[0] for f, s in zip(flat, seen)], 0),
    np.max([draw.limits(f, s)[1] for f, s in zip(flat, seen)], 0),
)
figure = Figure(figsize=(7.2, 3.6), dpi=100, layout="constrained")
axes = figure.subplots(1, len(panels))


def show(t: int) -> None:
    for axis, title, points, there in zip(axes, panels, flat, seen):
        axis.clear()
        if not there[t].any():
            axis.text(0.5, 0.5, "hidden", transform=axis.transAxes, ha="center", color="grey")
        draw.paint(axis, points[t], there[t], NTU25, size=12)
        axis.set(
            xlim=(low[0], high[0]),
            ylim=(low[1], high[1]),
            aspect="equal",
            title=title,
            xticks=[],
            yticks=[],
        )


docs = Path(__file__).parents[1] / "docs"
FuncAnimation(figure, show, frames=len(times)).save(docs / "views.gif", PillowWriter(fps=12))
show(
    min(
        (t for t in range(len(times)) if all(there[t].any() for there in seen)),
        key=lambda t: abs(t - 18),
    )
)  # while it bends down, if both are seen
figure.savefig(docs / "view.png")
