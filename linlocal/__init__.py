"""linlocal: when does learning that is local to each layer do the same as backpropagation?

Symbols used inside functions, as in the papers (layers are numbered 1..L):

    z_l     activity of layer l, (samples, width_l); z_0 is the input
    c_l     context: the reference's activity that an anchor is compared with, detached
    W_l     weight of layer l, (width_l, width_{l-1});  V_l = W_L ... W_{l+1};  G_l = V_l^T V_l
    B_l     projection, (width_l, context width);  u[p] = z_l^T B_l c_l is the score of a pair
    f, phi  score function, loss of all margins;  lam is the penalty on B
    alpha   dual variables, B_l = sum_p alpha_p z_l c_l^T;  beta = lam alpha = -d phi / d u

Sources: Wu, Delrocq, Gerstner, Bellec 2026 (arXiv 2601.21683); Illing et al. 2021 (2010.08262).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Convolution": "convolution",
    "ConvergenceError": "score_problem",
    "DeepLinear": "network",
    "DeepReLU": "network",
    "Direction": "pairs",
    "Pairs": "pairs",
    "Penalty": "rules",
    "Projection": "score_problem",
    "Rule": "rules",
    "compare": "updates",
    "explain": "conditions",
    "global_update": "updates",
    "local_update": "updates",
    "mismatch": "updates",
    "optimal_projection": "projection",
}
_MODULES = (
    "autodiff",
    "conditions",
    "losses",
    "rhm",
    "rules",
    "scores",
    "symbolic",
    "testing",
)

__all__ = [
    "ConvergenceError",
    "Convolution",
    "DeepLinear",
    "DeepReLU",
    "Direction",
    "Pairs",
    "Penalty",
    "Projection",
    "Rule",
    "autodiff",
    "compare",
    "conditions",
    "explain",
    "global_update",
    "local_update",
    "losses",
    "mismatch",
    "optimal_projection",
    "rhm",
    "rules",
    "scores",
    "symbolic",
    "testing",
]

if TYPE_CHECKING:
    from linlocal import autodiff, conditions, losses, rhm, rules, scores, symbolic, testing
    from linlocal.conditions import explain
    from linlocal.convolution import Convolution
    from linlocal.network import DeepLinear, DeepReLU
    from linlocal.pairs import Direction, Pairs
    from linlocal.projection import optimal_projection
    from linlocal.rules import Penalty, Rule
    from linlocal.score_problem import ConvergenceError, Projection
    from linlocal.updates import compare, global_update, local_update, mismatch


def __getattr__(name: str) -> Any:
    """Load each room when somebody first enters it: the import stays under half a second."""
    if name in _HOME:
        return getattr(importlib.import_module(f"linlocal.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"linlocal.{name}")
    raise AttributeError(f"module 'linlocal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
