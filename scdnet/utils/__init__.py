"""Files, records of configurations and results, distributed processes, the machine, seeds."""

from scdnet import _lazy

__getattr__, __dir__ = _lazy(__name__, __path__)
