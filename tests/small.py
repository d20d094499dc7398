"""A store and a configuration that learn in a second, for tests that only need a run."""

from dataclasses import replace

import numpy as np

from scdnet.data.layouts import KINECT20
from scdnet.data.store import SkeletonStore
from scdnet.model.encoder import EncoderConfig
from scdnet.training.config import PRESETS
from scdnet.training.official import official_names

TINY = replace(
    PRESETS["demo"],
    epochs=1,
    batch_size=8,
    queue_size=16,
    precision="fp32",
    device="cpu",
    save_every=1,
    view=replace(PRESETS["demo"].view, crop_least=8),
    encoder=EncoderConfig(
        frames=16, channels=8, width=16, heads=4, projection=8, projector_norm=True
    ),
)


def random_walks(path, **splits):
    """A store of 32 clips of 4 classes, whose joints wander about; `splits`: name -> (slice that trains, slice that tests)."""
    rng = np.random.default_rng(0)
    clips = [
        np.cumsum(rng.normal(size=(rng.integers(10, 30), 20, 3)), 0).astype(np.float32) / 5
        for _ in range(32)
    ]
    names = [f"clip{i:02}" for i in range(32)]
    return SkeletonStore.from_arrays(
        path,
        clips,
        np.arange(32) % 4,
        KINECT20,
        names=names,
        splits={split: (names[train], names[test]) for split, (train, test) in splits.items()},
    )


def to_official(state):
    """A state dict of `MomentumContrast` under the names of the published code, the reverse of `import_official`."""
    old = {}
    for name, value in state.items():
        names = official_names(name)
        if name.endswith(("narrow.weight", "wide.weight", "keys")):
            value = value.mT
        pieces = value.chunk(len(names)) if value.dim() else [value] * len(names)
        for n, piece in zip(names, pieces, strict=True):
            old[n] = (piece.reshape(1) if n.endswith("ptr") else piece).clone().contiguous()
    return old
