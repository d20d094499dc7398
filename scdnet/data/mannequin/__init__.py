"""Synthetic recordings: a body, its actions, and the files that a Kinect would write."""

from scdnet import _lazy

__getattr__, __dir__ = _lazy(__name__, __path__)
