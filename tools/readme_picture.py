"""The README's picture that moves, docs/views.gif: a recording, and two views of it as the encoder gets them. And a moment of it, docs/view.png.

Usage: python tools/readme_picture.py
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure

from scdnet.data.layouts import NTU25
from scdnet.data.mannequin.perform import sample_clip
from scdnet.data.preprocess import preprocess
from scdnet.views.config import ClipFormat, ViewConfig, random_crops, view_chain
from scdnet.viz import draw

clip = preprocess(sample_clip(6), NTU25, 1)  # pick up: (T, M, V, C), metres
config = ViewConfig(p=1, shear_amount=0.3, crop_low=0.8)


def view(seed: int) -> np.ndarray:
    """A view of the clip, (T, M, V, C)."""
    generator, form = torch.Generator().manual_seed(seed), ClipFormat(NTU25, 64, clip.shape[1], 3)
    source = torch.from_numpy(clip), [0], [len(clip)]
    crops = random_crops(*source, config, generator, form)
    made = view_chain(config)(crops, NTU25, generator)[0]
    return made.permute(1, 3, 2, 0).numpy()  # (C, T, V, M) -> (T, M, V, C)


times = np.linspace(0, len(clip) - 1, 64).round().astype(int)
panels = {"a recording": clip[times], "a view of it": view(0), "another view of it": view(23)}
sights = [draw.looked_at(panel, NTU25, up="z", azimuth=60) for panel in panels.values()]
corners = np.array([draw.limits(*sight) for sight in sights])
low, high = corners[:, 0].min(0), corners[:, 1].max(0)
figure = Figure(figsize=(7.2, 3.6), dpi=100, layout="constrained")
axes = figure.subplots(1, len(panels))


def show(t: int) -> None:
    """Draw frame `t` of all panels."""
    for axis, title, (flat, seen) in zip(axes, panels, sights, strict=True):
        axis.clear()
        if not seen[t].any():
            axis.text(0.5, 0.5, "hidden", transform=axis.transAxes, ha="center", color="grey")
        draw.paint(axis, flat[t], seen[t], NTU25, size=12)
        draw.framed(axis, low, high, title=title, xticks=[], yticks=[])


docs = Path(__file__).parents[1] / "docs"
FuncAnimation(figure, show, frames=len(times)).save(docs / "views.gif", PillowWriter(fps=12))
visible = np.flatnonzero([all(seen[t].any() for _, seen in sights) for t in range(len(times))])
show(min(visible, key=lambda t: abs(t - 18)))  # while it bends down
figure.savefig(docs / "view.png")
