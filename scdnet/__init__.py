"""SCD-Net (AAAI 2024), executable: spatial and temporal clues of human movement, learned without labels."""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {"SkeletonStore": "store", "Skeleton": "skeleton", "NTU25": "skeleton", "KINECT20": "skeleton", "load_encoder": "pretrain",
          "InputError": "files"}
_MODULES = ("ablations", "augment", "clues", "contrast", "decouple", "encoder", "files", "finetune", "formats", "gcn", "inspection", "knn", "linear", "masking", "momentum",
            "official", "plain", "prepare", "preprocess", "pretrain", "published", "ranks", "results", "skeleton", "splits", "store", "streams", "synthetic", "synthetic_pku")
__all__ = [*_HOMES, *_MODULES]


def __getattr__(name):
    """Import what is asked for when it is asked for: `import scdnet` alone costs nothing."""
    if name in _HOMES:
        return getattr(import_module(f"scdnet.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"scdnet.{name}")
    raise AttributeError(f"module 'scdnet' has no attribute {name!r}")


def __dir__():
    return sorted(set(globals()) | set(__all__))
