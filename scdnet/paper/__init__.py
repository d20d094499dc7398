"""The paper's published numbers, its tables, ablations and figures."""

from scdnet import _lazy

__getattr__, __dir__ = _lazy(__name__, __path__)
