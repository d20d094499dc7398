"""Augmentations and masks, and the chain of them that makes a view."""

from scdnet import _lazy

__getattr__, __dir__ = _lazy(__name__, __path__)
