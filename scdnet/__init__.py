"""SCD-Net (AAAI 2024), executable: spatial and temporal clues of human movement, learned without labels."""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {  # public name -> module below scdnet; imported when it is first asked for, so that `import scdnet` costs nothing
    "InputError": "utils.files",
    "KINECT20": "data.layouts",
    "NTU25": "data.layouts",
    "Run": "training.run",
    "Skeleton": "data.skeleton",
    "SkeletonStore": "data.store",
    "features": "evaluation.features",
    "load_encoder": "training.run",
    "pretrain": "training.pretrain",
}
_PACKAGES = ("app", "data", "evaluation", "model", "paper", "training", "utils", "views", "viz")
__all__ = [*_HOMES, *_PACKAGES]


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(f"scdnet.{_HOMES[name]}"), name)
    if name in _PACKAGES:
        return import_module(f"scdnet.{name}")
    raise AttributeError(f"module 'scdnet' has no attribute {name!r}")


def __dir__():
    return sorted(set(globals()) | set(__all__))
