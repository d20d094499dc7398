"""SCD-Net (AAAI 2024), executable: spatial and temporal clues of human movement, learned without labels."""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules

__version__ = "0.1.0"

# Public name -> module below scdnet. A module is imported when one of its names is first asked for, so that
# `import scdnet` costs nothing.
_HOMES = {
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


def _lazy(package, path):
    """`__getattr__` and `__dir__` of a subpackage, whose modules are imported when they are first asked for."""

    def get(name):
        if name.startswith("_") or find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(f"{package}.{name}")

    return get, lambda: sorted(module.name for module in iter_modules(path))
