"""Torch: every loss as a formula that autograd differentiates, and the oracle made of them.

`score_formula`, `pair_formula`, `goodness_formula` and `view_formula` turn an object of
`linlocal.losses` into a torch function; the instruments for real networks use the same ones. What
numpy and torch say of a loss is compared in the tests.

The oracle (`local_update`, `global_update`, `loss`, `optimal_projection`) computes updates by torch
autograd in float64, the slow obvious way. It shares nothing with `linlocal.updates` but data: the
weights of the network, the index arrays of the pairs, and the fields of the rule. Activities come
from torch's own ``linear``, ``conv2d`` and ``avg_pool2d``, the optimal projection is found over all
entries of B with Hessians by autograd, and every update is a call of ``torch.autograd.grad``. What
the dual form claims is checked against it.

References are detached, as in the rules. For a local update the gradient stops at the input of the
layer, for the global one it runs through everything.

`numpy_only` <- `scores` <- `pairs`, `views`; `tensors` <- `kinks` <- `projection` <- `graph` <-
`updates`.
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
