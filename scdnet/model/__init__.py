"""Graph convolution, the decoupling of the two clues, the encoder of Figure 3, and its fast form."""

from scdnet import _lazy

__getattr__, __dir__ = _lazy(__name__, __path__)
