"""Drawings of skeletons, pages, animations and widgets."""

from scdnet import _lazy

__getattr__, __dir__ = _lazy(__name__, __path__)
