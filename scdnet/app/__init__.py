"""The command line, the demo and its report."""

from scdnet import _lazy

__getattr__, __dir__ = _lazy(__name__, __path__)
