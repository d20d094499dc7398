"""The commands of `scdnet`, one module for each group."""

from scdnet import _lazy

__getattr__, __dir__ = _lazy(__name__, __path__)
