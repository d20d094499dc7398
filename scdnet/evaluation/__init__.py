"""Features, baselines, the five protocols, and measurements of what each clue holds."""

from scdnet import _lazy

__getattr__, __dir__ = _lazy(__name__, __path__)
