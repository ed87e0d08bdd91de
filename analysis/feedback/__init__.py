"""Feedback other than the transposed weights: how errors get to layers without backpropagation.

`feedback_alignment` changes the backward pass of the layers of any network, whatever its topology:
feedback alignment, sign-symmetric feedback, Kolen-Pollack. `DirectFeedback` is a rule that sends
the error of the output, or the target, to every block at once: direct feedback alignment and direct
random target projection.
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
