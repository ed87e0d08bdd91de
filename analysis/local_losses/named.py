"""Named rules on networks, in one line each; `NetworkRule` says what the options mean."""

from __future__ import annotations

from typing import Any, Literal

from linlocal import rules
from linlocal.analysis.local_losses.network_rule import NetworkRule
from linlocal.losses import Score, ViewLoss
from linlocal.rules import Rule

Context = Literal["same", "top", "both", "each"]
TrainedProjection = Literal["trained", "random", "least_squares", "identity"]
# How `linlocal.Rule` calls them; the other names are the same.
_KINDS = {"trained": "optimal", "least_squares": "matched"}

_CLAPP = {
    "same": rules.CLAPP,
    "top": rules.CLAPP_DFB,
    "both": rules.CLAPP_BOTH,
    "each": rules.CLAPP_EACH,
}


def CLAPP(
    *,
    context: Context = "same",
    score: str | Score = "hinge",
    margin: float = 1.0,
    projection: TrainedProjection = "trained",
    **reading: Any,
) -> NetworkRule:
    """CLAPP++: mean over positive pairs f(u) + mean over negative pairs f(-u) (type 2).

    Illing et al. 2021 (arXiv 2010.08262). Dependence on the place and the contexts "top" and "each"
    are from Wu et al. 2026 (arXiv 2601.21683), whose "CLAPP++ both" is "each" here, and whose
    released code takes ``negatives="stacked"`` and ``penalty=0``.

    Args:
        context: what an anchor is compared with: the other view's activity in the "same" block, in
            the "top" block (direct feedback), or both of them: "both" sums the scores of two
            projections under one loss, f(u + u'), "each" sums their losses, f(u) + f(u').
        score: the score function f, a name or an object of `linlocal.scores`.
        margin: the margin of a named f.
        projection: how B is chosen; "trained" is the rule's "optimal", "least_squares" its
            "matched": solved for in each step (``matching`` of `NetworkRule` says how).
        reading: the other options of `NetworkRule`.
    """
    if context not in _CLAPP:
        raise ValueError(f"context must be one of {', '.join(_CLAPP)}, got {context!r}.")
    return _read(_CLAPP[context](score, margin), projection, reading)


def InfoNCE(
    *,
    temperature: float = 1.0,
    context: Context = "same",
    projection: TrainedProjection = "trained",
    **reading: Any,
) -> NetworkRule:
    """Greedy InfoMax: cross-entropy of the positive pair among the others in the batch.

    Loewe et al. 2019 (arXiv 1905.11786); here views take the place of steps in time. Scores are
    bilinear, z . B c; InfoNCE of cosines is ``Views(losses.CosineInfoNCE())``.

    Args:
        temperature: the number that the scores are divided by.
        context: as for `CLAPP`.
        projection: as for `CLAPP`.
        reading: the other options of `NetworkRule`.
    """
    return _read(rules.GreedyInfoMax(temperature), projection, reading, context)


def PhyLL(
    *,
    score: str | Score = "softplus",
    margin: float = 0.0,
    context: Context = "same",
    projection: TrainedProjection = "identity",
    **reading: Any,
) -> NetworkRule:
    """PhyLL: f(u_positive - u_negative) with B = I (type 1); Momeni et al. 2023, Science 382, 1297.

    Args:
        score: the score function f, a name or an object of `linlocal.scores`.
        margin: the margin of a named f.
        context: as for `CLAPP`.
        projection: as for `CLAPP`.
        reading: the other options of `NetworkRule`.
    """
    return _read(rules.PhyLL(score, margin), projection, reading, context)


def ForwardForward(
    *, threshold: float = 1.0, score: str | Score = "softplus", margin: float = 0.0, **reading: Any
) -> NetworkRule:
    """Forward-Forward: goodness ||z||^2 against a threshold; Hinton 2022 (arXiv 2212.13345).

    Args:
        threshold: the goodness that tells positive from negative samples.
        score: the score function f, a name or an object of `linlocal.scores`.
        margin: the margin of a named f.
        reading: the other options of `NetworkRule`.
    """
    return NetworkRule(rule=rules.ForwardForward(threshold, score, margin), **reading)


def SCFF(
    *, threshold: float = 1.0, score: str | Score = "softplus", margin: float = 0.0, **reading: Any
) -> NetworkRule:
    """Self-contrastive Forward-Forward: goodness of z_a + z_b (Chen et al. 2025).

    The sum is a concatenated pair, read by the same weights twice. The arguments are those of
    `ForwardForward`.
    """
    return NetworkRule(rule=rules.SCFF(threshold, score, margin), **reading)


def Views(loss: ViewLoss | None = None, **reading: Any) -> NetworkRule:
    """A loss of two views in every block: VICReg, Barlow Twins, LPL, NT-Xent and kin.

    Args:
        loss: the loss, one of `linlocal.losses` or your own; VICReg by default.
        reading: the other options of `NetworkRule`.
    """
    if loss is None:
        return NetworkRule(rule=rules.VICReg(), **reading)
    return NetworkRule(rule=Rule(type(loss).__name__, loss, "views", "none"), **reading)


def _read(
    rule: Rule,
    projection: TrainedProjection,
    reading: dict[str, Any],
    context: Context | None = None,
) -> NetworkRule:
    kind: Any = _KINDS.get(projection, projection)
    changed = Rule(
        rule.name, rule.loss, context or rule.context, kind, rule.penalty, source=rule.source
    )
    return NetworkRule(rule=changed, **reading)
