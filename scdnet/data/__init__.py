"""Skeletons, layouts, splits, stores; readers of recordings; the mannequin."""

from scdnet import _lazy

__getattr__, __dir__ = _lazy(__name__, __path__)
