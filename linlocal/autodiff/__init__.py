"""The oracle: local and global updates by torch autograd in float64, the slow obvious way.

Nothing is shared with `linlocal.updates` but data: the weights of the network, the index arrays of
the pairs, and the fields of the rule. Activities come from torch's own ``linear``, ``conv2d`` and
``avg_pool2d``, losses are written with torch's own functions, the optimal projection is found over
all entries of B with Hessians by autograd, and every update is a call of ``torch.autograd.grad``.
What the dual form claims is checked against this package, in the tests and by anyone who doubts it.

References are detached, as in the rules. For a local update the gradient stops at the input of the
layer, for the global one it runs through everything.

`tensors` <- `losses` <- `projection` <- `graph` <- `updates`.
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
