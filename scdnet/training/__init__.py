"""The loss, the momentum encoder, batches, callbacks, pretraining, checkpoints, runs."""

from scdnet import _lazy

__getattr__, __dir__ = _lazy(__name__, __path__)
