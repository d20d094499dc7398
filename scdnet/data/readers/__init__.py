"""One module for each format of recordings, and the registry of formats."""

from scdnet import _lazy

__getattr__, __dir__ = _lazy(__name__, __path__)
