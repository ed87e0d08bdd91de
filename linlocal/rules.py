"""Local learning rules as data: context, projection, loss, penalty.

A rule says what every layer minimises. Its *global* counterpart (BP-SSL) takes the same loss on the
top layer only, and backpropagates it. Build a rule by its name (`CLAPP`, ...), change one with
``dataclasses.replace``, or write a `Rule` of your own; the package needs no change for it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal, cast, get_args

from numpy.typing import ArrayLike

from linlocal import inputs, losses
from linlocal.inputs import Array
from linlocal.losses import (
    Goodness,
    LPLForm,
    PairLoss,
    Score,
    SupervisedLoss,
    VICRegForm,
    ViewLoss,
    scores,
)
from linlocal.losses.shape import Line, shape_of, summand_of

Context = Literal["same", "top", "both", "each", "self", "sum", "views"]
JudgedContext = Literal["same", "top", "both"]
ProjectionKind = Literal["optimal", "identity", "random", "matched", "none"]
Metric = Literal["frobenius", "downstream"]

CONTEXTS: tuple[str, ...] = get_args(Context)
PROJECTIONS: tuple[str, ...] = get_args(ProjectionKind)


@dataclass(frozen=True)
class Penalty:
    """The penalty strength/2 ||M||_F^2 on a projection B: plain, or the *metric penalty*.

    Attributes:
        strength: lam > 0, one for all layers or one for each of the layers 1..L ("rescaled").
        metric: "frobenius" penalises B itself (M = B). "downstream" is the metric penalty: it
            writes B_l = V_l^T M V_l (context of the same layer) or B_l = V_l^T M (top context) and
            penalises M. For invertible G_l this is lam/2 tr(G^-1 B G^-1 B^T) or
            lam/2 tr(B^T G^-1 B); statement 4 of the theory.

    A loss here is the sum over view directions, each with its B and its lam/2 ||B||_F^2. The code
    released with Wu et al. 2026 (arXiv 2601.21683) averages the loss over both directions and adds
    b_decay/2 times the sum of both squared norms, which is half of ours for lam = 2 b_decay.

    Raises:
        ValueError: a strength that is not positive and finite, or an unknown metric.
        TypeError: a strength that is not a number.
    """

    strength: float | tuple[float, ...] = 0.01
    metric: Metric = "frobenius"

    def __post_init__(self) -> None:
        several = inputs.is_several(self.strength)
        given = inputs.sequence(self.strength, "penalty", "numbers") if several else [self.strength]
        values = tuple(inputs.real(value, "penalty") for value in given)
        if not values or not all(0 < value < math.inf for value in values):
            raise ValueError(
                f"The penalty must be positive and finite, got {self.strength}: without it the "
                "optimal projection need not exist."
            )
        object.__setattr__(self, "strength", values if several else values[0])
        if not inputs.is_one_of(self.metric, get_args(Metric)):
            raise ValueError(
                f"metric must be one of {', '.join(get_args(Metric))}, got {self.metric!r}."
            )

    @classmethod
    def of(cls, penalty: Penalty | float | tuple[float, ...]) -> Penalty:
        """A penalty; a number stands for its strength."""
        return penalty if isinstance(penalty, Penalty) else cls(penalty)

    def at(self, layer: int, depth: int) -> float:
        """The strength lam_l of one layer.

        Raises:
            ValueError: there are several strengths, but not exactly one for each layer, or no
                such layer.
        """
        layer = inputs.layer_number(layer, inputs.whole(depth, "depth", 1))
        if isinstance(self.strength, tuple):
            if len(self.strength) != depth:
                raise ValueError(
                    f"{len(self.strength)} penalty strengths for a network of {depth} layers; give "
                    f"one, or {depth}."
                )
            return self.strength[layer - 1]
        return self.strength


@dataclass(frozen=True, eq=False)
class Given:
    """Projections that are handed in, as a fixed B_l of every layer.

    Attributes:
        matrices: for each of the layers 1..L one matrix (read-out width, context width) for all
            view directions, or a sequence of them, one for each direction. With context "each",
            those of the same and of the top layer follow each other in each direction. Under the
            metric penalty they are the M of B_l = V_l^T M V_l.

    Raises:
        ValueError: no matrix, or one that is empty or not finite.
        TypeError: no sequence of matrices of real numbers.
    """

    matrices: Sequence[ArrayLike | Sequence[ArrayLike]] = field(repr=False)

    def __post_init__(self) -> None:
        of = "matrices, or of sequences of them, for the layers 1..L"
        kept = []
        for l, entry in enumerate(inputs.sequence(self.matrices, "matrices", of), start=1):
            what = f"projections of layer {l}"
            one = getattr(entry, "ndim", None) == 2
            several = (entry,) if one else inputs.sequence(entry, what, "matrices")
            layout = "(read-out width, context width)"
            kept.append(tuple(inputs.matrix(b, f"each of the {what}", layout) for b in several))
        if not kept or not all(kept):
            raise ValueError("Given projections need at least one matrix for every layer.")
        object.__setattr__(self, "matrices", tuple(kept))

    def at(self, layer: int, number: int, shape: tuple[int, int], of: tuple[int, int]) -> Array:
        """The projection of one layer.

        Args:
            layer: l in 1..L.
            number: which of the losses of the layer is asked, counted from 0.
            shape: (read-out width, context width).
            of: the numbers of layers and of losses of a layer.

        Raises:
            ValueError: the matrices are not as many, or not of this shape.
        """
        depth, losses_of_layer = of
        matrices = cast(tuple[tuple[Array, ...], ...], self.matrices)
        if len(matrices) != depth:
            raise ValueError(
                f"Projections of {len(matrices)} layers are given for a network of {depth} layers; "
                "give those of every layer, the top layer's too."
            )
        here = matrices[layer - 1]
        if len(here) not in (1, losses_of_layer):
            raise ValueError(
                f"{len(here)} projections are given for layer {layer}, which has "
                f"{losses_of_layer} (view directions times contexts); give one, or all."
            )
        matrix = here[number if len(here) > 1 else 0]
        if matrix.shape != shape:
            raise ValueError(
                f"The projection of layer {layer} must be {shape} (read-out width, context width), "
                f"got {matrix.shape}."
            )
        return matrix


@dataclass(frozen=True)
class Trained:
    """Projections after some steps of gradient descent on the penalised loss, instead of optimal.

    B <- B - rate (lam B + d phi / d B), the same number of steps in every layer. As they grow, B
    goes to the optimum, if the rate is below 2 over the largest curvature. For a linear score the
    steps have a sum, B = (1 - q) B* + q B_start with q = (1 - rate lam)^steps.

    Attributes:
        steps: how many steps are taken, 0 for none.
        rate: the learning rate of B.
        start: "zero", or "random" as in `Rule`.

    Raises:
        ValueError: negative steps, a rate that is not positive, or an unknown start.
        TypeError: no numbers.
    """

    steps: int
    rate: float
    start: Literal["zero", "random"] = "zero"

    def __post_init__(self) -> None:
        inputs.keep(self, partial(inputs.whole, least=0), "steps")
        inputs.keep(self, inputs.positive, "rate")
        if not inputs.is_one_of(self.start, ("zero", "random")):
            raise ValueError(f'start must be "zero" or "random", got {self.start!r}.')


@dataclass(frozen=True)
class Rule:
    """A local learning rule.

    Attributes:
        name: the name of the rule in labels and messages.
        loss: a `PairLoss`, a `Goodness` or a `ViewLoss`.
        context: what the activity z_l of an anchor is compared with. "same" or "top": the
            reference's activity in the same or in the top layer, detached. "both": the two
            concatenated, each with a projection of its own, under one loss f(u + u'). "each": a
            loss of each of the two, f(u) + f(u'); in the top layer, where they are one, it counts
            twice. "self": nothing else, a goodness judges the activity alone. "sum": a goodness
            judges the sum of anchor and reference. "views": a `ViewLoss` sees both views whole.
        projection: how B_l is chosen. "optimal": it minimises the penalised loss. "identity": it
            is fixed at I. "random": it is fixed, uniform on +-1/sqrt(width_l), in the layers below
            the top, and optimal in the top layer (the published baseline). "matched": it is
            V_l^T B_L V_l or V_l^T B_L (statement 1). "none": the loss needs no projection. A
            `Given` hands in the matrices, a `Trained` takes steps towards the optimal ones; both
            hold in every layer, the top layer too.
        penalty: the penalty on an optimal projection; a number stands for `Penalty(number)`.
        pooling: the windows of the average pooling before the loss, one for the map of each layer
            1..L; None pools nothing.
        seed: seeds a random projection.
        source: the publication that the rule comes from.

    Raises:
        ValueError: parts that do not go together.
        TypeError: loss is none of the three kinds, or a pooling or seed is not a whole number.
    """

    name: str
    loss: PairLoss | Goodness | ViewLoss
    context: Context = "same"
    projection: ProjectionKind | Given | Trained = "optimal"
    penalty: Penalty = Penalty()
    pooling: tuple[int, ...] | None = None
    seed: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", Penalty.of(self.penalty))
        for what, value, known in (
            ("context", self.context, CONTEXTS),
            ("projection", self.projection, PROJECTIONS),
        ):
            if not inputs.is_one_of(value, known) and not isinstance(value, Given | Trained):
                raise ValueError(f"{what} must be one of {', '.join(known)}, got {value!r}.")
        kind = self.kind
        fitting = {
            "pair": (("same", "top", "both", "each"), ("optimal", "identity", "random", "matched")),
            "goodness": (("self", "sum"), ("none",)),
            "view": (("views",), ("none",)),
        }
        contexts, projections = fitting[kind]
        own = kind == "pair" and isinstance(self.projection, Given | Trained)
        if self.context not in contexts or not (own or self.projection in projections):
            raise ValueError(
                f"A {kind} loss goes with context {' or '.join(contexts)} and projection "
                f"{' or '.join(projections)}, got context {self.context!r} and projection "
                f"{self.projection!r}."
            )
        if self.context in ("both", "each") and self.projection == "identity":
            raise ValueError('An identity projection needs one context: "same" or "top".')
        inputs.keep(self, partial(inputs.whole, least=0), "seed")
        if self.pooling is not None:
            inputs.keep(self, partial(inputs.wholes, least=1), "pooling")

    @property
    def kind(self) -> Literal["pair", "goodness", "view"]:
        """Which of the three protocols the loss fills."""
        if isinstance(self.loss, Goodness):
            return "goodness"
        if isinstance(self.loss, PairLoss):
            return "pair"
        if isinstance(self.loss, ViewLoss):
            return "view"
        raise TypeError(
            f"{type(self.loss).__name__} is no loss: it needs contrasts, value, gradient and "
            "curvature (of pairs), or value and gradients (of two views)."
        )

    @property
    def projection_name(self) -> str:
        """How B_l is chosen, in a word or two."""
        if isinstance(self.projection, Given):
            return "given"
        if isinstance(self.projection, Trained):
            return f"trained by {self.projection.steps} steps"
        return self.projection

    @property
    def judged_contexts(self) -> tuple[JudgedContext, ...]:
        """The context of each loss of scored pairs: one, or two for context "each".

        Raises:
            TypeError: the rule has a loss of another kind.
        """
        assert self.pair_loss is self.loss
        if self.context == "each":
            return ("same", "top")
        return (cast(JudgedContext, self.context),)

    @property
    def has_linear_score(self) -> bool:
        """Whether the loss says that it sums a linear score, whose slopes beta are constant."""
        return isinstance(shape_of(summand_of(self.loss)), Line)

    @property
    def pair_loss(self) -> PairLoss:
        """The loss of a rule of scored pairs.

        Raises:
            TypeError: the rule has a loss of another kind.
        """
        if self.kind != "pair":
            raise TypeError(f"{self.name} is no rule of scored pairs: its loss is of {self.kind}s.")
        assert isinstance(self.loss, PairLoss)
        return self.loss

    def with_penalty(
        self, strength: float | tuple[float, ...], metric: Metric | None = None
    ) -> Rule:
        """This rule with another penalty."""
        return replace(self, penalty=Penalty(strength, metric or self.penalty.metric))


Rules = Rule | Sequence[Rule]
Goal = Rule | SupervisedLoss


def of_each_layer(rule: Rules, depth: int) -> tuple[Rule, ...]:
    """The rules of the layers 1..depth: one for all of them, or one for each.

    Raises:
        ValueError: several rules, but not one for each layer.
        TypeError: no rule, nor a sequence of rules.
    """
    depth = inputs.whole(depth, "depth", 1)
    hint = "a `Rule`, made by rules.CLAPP() or its like"
    several = not isinstance(rule, Rule) and inputs.is_several(rule)
    given = inputs.sequence(rule, "rule", "`Rule`s") if several else (rule,) * depth
    for each in given:
        if not isinstance(each, Rule) and callable(getattr(each, "build", None)):
            raise TypeError(
                f"{inputs.described(each)} builds losses of a network's blocks; theory takes a "
                "`Rule`: of pairs, goodness or views. A NetworkRule holds one, its .rule; a "
                "supervised loss can be the goal, as in compare(..., "
                "goal=losses.CrossEntropy(labels, readout))."
            )
        inputs.instance(each, Rule, "an entry of rule" if several else "rule", hint)
    if len(given) != depth:
        raise ValueError(
            f"{len(given)} rules for a network of {depth} layers; give one, or {depth}."
        )
    return cast(tuple[Rule, ...], given)


def checked_goal(goal: Goal) -> Goal:
    """``goal`` if it can be the global loss: a rule, or a supervised loss.

    Raises:
        TypeError: neither of the two.
    """
    if isinstance(goal, Rule):
        return goal
    if not isinstance(goal, SupervisedLoss) or isinstance(goal, Goodness | PairLoss):
        raise TypeError(
            "goal must be a `Rule` or a supervised loss such as losses.CrossEntropy(labels), got "
            f"{inputs.described(goal)}; a loss of pairs, goodness or views goes into a Rule."
        )
    return goal


def CLAPP(
    score: str | Score = "hinge", margin: float = 1.0, penalty: Penalty | float = 0.01
) -> Rule:
    """Contrastive, local and predictive plasticity: same-layer context, optimal B, type 2."""
    loss = losses.TypeTwo(scores.from_name(score, margin))
    return Rule(
        "CLAPP",
        loss,
        "same",
        "optimal",
        Penalty.of(penalty),
        source="Illing 2021, arXiv 2010.08262",
    )


def CLAPP_DFB(
    score: str | Score = "hinge", margin: float = 1.0, penalty: Penalty | float = 0.01
) -> Rule:
    """CLAPP with direct feedback: the context is the reference's top-layer activity."""
    loss = losses.TypeTwo(scores.from_name(score, margin))
    source = "Wu 2026, arXiv 2601.21683"
    return Rule(
        "CLAPP + direct feedback", loss, "top", "optimal", Penalty.of(penalty), source=source
    )


def CLAPP_BOTH(
    score: str | Score = "hinge", margin: float = 1.0, penalty: Penalty | float = 0.01
) -> Rule:
    """CLAPP with two contexts, the same and the top layer, whose scores are summed: f(u + u').

    The published "CLAPP++ both" sums the losses instead: `CLAPP_EACH`.
    """
    loss = losses.TypeTwo(scores.from_name(score, margin))
    source = "Wu 2026, arXiv 2601.21683"
    return Rule("CLAPP both", loss, "both", "optimal", Penalty.of(penalty), source=source)


def CLAPP_EACH(
    score: str | Score = "hinge", margin: float = 1.0, penalty: Penalty | float = 0.01
) -> Rule:
    """CLAPP plus CLAPP with direct feedback: f(u) + f(u'), the published "CLAPP++ both"."""
    loss = losses.TypeTwo(scores.from_name(score, margin))
    source = "Wu 2026, arXiv 2601.21683, released code"
    return Rule("CLAPP each", loss, "each", "optimal", Penalty.of(penalty), source=source)


def PhyLL(score: str | Score = "softplus", margin: float = 0.0) -> Rule:
    """Physics-aware local learning: same-layer context, B = I, type 1."""
    loss = losses.TypeOne(scores.from_name(score, margin))
    return Rule("PhyLL", loss, "same", "identity", source="Momeni 2023, Science 382, 1297")


def ForwardForward(
    threshold: float = 1.0, score: str | Score = "softplus", margin: float = 0.0
) -> Rule:
    """Forward-Forward: goodness ||z||^2 of positive and negative samples against a threshold."""
    loss = Goodness(threshold, scores.from_name(score, margin))
    return Rule("Forward-Forward", loss, "self", "none", source="Hinton 2022, arXiv 2212.13345")


def SCFF(threshold: float = 1.0, score: str | Score = "softplus", margin: float = 0.0) -> Rule:
    """Self-contrastive Forward-Forward: the goodness of concatenated pairs against a threshold."""
    loss = Goodness(threshold, scores.from_name(score, margin))
    return Rule("SCFF", loss, "sum", "none", source="Chen 2025")


def GreedyInfoMax(temperature: float = 1.0, penalty: Penalty | float = 0.01) -> Rule:
    """Greedy InfoMax (CPC in each layer): same-layer context, optimal B, InfoNCE of z^T B c.

    InfoNCE of cosine similarities is `CosineInfoNCE`.
    """
    source = "Loewe 2019, arXiv 1905.11786"
    loss = losses.InfoNCE(temperature)
    return Rule("Greedy InfoMax", loss, "same", "optimal", Penalty.of(penalty), source=source)


def _view_rule(name: str, loss: ViewLoss, source: str) -> Rule:
    return Rule(name, loss, "views", "none", source=source)


def SimCLR(temperature: float = 0.5) -> Rule:
    """NT-Xent over cosine similarities of both views."""
    return _view_rule("SimCLR", losses.NTXent(temperature), "Chen 2020, arXiv 2002.05709")


def CosineInfoNCE(temperature: float = 0.1) -> Rule:
    """InfoNCE over cosine similarities, first view against second: the published "InfoNCE".

    Wu et al. 2026 backpropagate it from the top layer, behind a linear map to 1,024 units (on a
    network: ``HeadedViews(kind="global", widths=(1024,), loss=losses.CosineInfoNCE(), scale=1.0)``
    of `linlocal.analysis.local_losses`).
    """
    source = "Wu 2026, arXiv 2601.21683, released code"
    return _view_rule("Cosine InfoNCE", losses.CosineInfoNCE(temperature), source)


def SpectralContrastive() -> Rule:
    """Spectral contrastive loss."""
    return _view_rule(
        "Spectral contrastive", losses.SpectralContrastive(), "HaoChen 2021, arXiv 2106.04156"
    )


def Whitening(weight: float = 1.0) -> Rule:
    """Invariance plus ||cov - I||_F^2."""
    return _view_rule("Whitening", losses.Whitening(weight), "")


def LogDet(weight: float = 0.1, epsilon: float = 0.5) -> Rule:
    """Invariance minus a log-determinant of the covariance."""
    return _view_rule("LogDet", losses.LogDet(weight, epsilon), "Yu 2020, arXiv 2006.08558")


def SIGReg(
    weight: float = 1.0,
    dimension: int | None = None,
    slices: int | None = None,
    nodes: int = 17,
    limit: float = 3.0,
    seed: int = 0,
) -> Rule:
    """Invariance plus sliced normality of both views, over all slices or over some.

    A function of norms and distances if all slices are averaged over, and of one dimension in all
    layers: then exact above isometries (statement 13), widening ones included.

    Args:
        weight: the weight of the statistic.
        dimension: the number of dimensions of the slices, in all layers; None is each layer's own
            width.
        slices: how many random slices stand for all; None takes all.
        nodes: nodes of the integral over t in [0, limit].
        limit: the largest t.
        seed: seeds the slices.
    """
    loss = losses.SlicedNormality(weight, dimension, slices, nodes, limit, seed)
    return _view_rule("SIGReg", loss, "Balestriero & LeCun 2025, arXiv 2511.08544")


def VICReg(form: VICRegForm = "mixed", **weights: float) -> Rule:
    """Variance, invariance and covariance per unit.

    Args:
        form: "article" as printed (eqs. 1-6), "released" as in the authors' code, or "mixed" of
            both; see `losses.VICReg`.
        **weights: the other fields of `losses.VICReg`.
    """
    loss = losses.VICReg(**weights, form=form)
    return _view_rule("VICReg", loss, "Bardes 2022, arXiv 2105.04906")


def VISReg(
    trade_off: float = 0.9,
    scale: float = 1.0,
    shape: float = 1.0,
    center: float = 1.0,
    slices: int = 256,
    seed: int = 0,
) -> Rule:
    """Variance, invariance and a sketch of the shape: sliced Wasserstein distance to normal.

    Units are standardised one by one: not exact above isometries, unlike `SIGReg`.

    Args:
        trade_off: the weight of all other terms against that of invariance.
        scale: the weight of the standard deviations.
        shape: the weight of the distance to the normal distribution.
        center: the weight of the means.
        slices: the number of random slices.
        seed: seeds the slices.
    """
    loss = losses.VISReg(trade_off, scale, shape, center, slices, seed)
    return _view_rule("VISReg", loss, "Wu, Balestriero & Levine 2026, arXiv 2606.02572")


def BarlowTwins(weight: float = 5e-3) -> Rule:
    """Cross-correlation of both views towards the identity."""
    return _view_rule("Barlow Twins", losses.BarlowTwins(weight), "Zbontar 2021, arXiv 2103.03230")


def LPL(form: LPLForm = "mixed", **weights: float) -> Rule:
    """Latent predictive learning: prediction, variance and decorrelation per unit.

    Args:
        form: "article" as printed, "released" as in the authors' code, or "mixed"; see
            `losses.LPL`.
        **weights: the other fields of `losses.LPL`.
    """
    return _view_rule("LPL", losses.LPL(**weights, form=form), "Halvagal & Zenke 2023")


NAMES: tuple[str, ...] = (
    "CLAPP",
    "CLAPP_DFB",
    "CLAPP_BOTH",
    "CLAPP_EACH",
    "PhyLL",
    "ForwardForward",
    "SCFF",
    "GreedyInfoMax",
    "SimCLR",
    "CosineInfoNCE",
    "SpectralContrastive",
    "Whitening",
    "LogDet",
    "SIGReg",
    "VICReg",
    "VISReg",
    "BarlowTwins",
    "LPL",
)


# What is no loss of pairs, goodness or views, and so no `Rule`.
_ON_NETWORKS = {
    "MonoForward": "reads labels: on a network take "
    "linlocal.analysis.local_losses.MonoForward(classes=...); in theory such a loss is a goal, "
    "losses.CrossEntropy(labels, readout)",
    "MaskedReconstruction": "reads targets and a mask: on a network take "
    "linlocal.analysis.local_losses.MaskedReconstruction(shape=...); in theory such a loss is a "
    "goal, losses.SquaredError(targets, readout, mask)",
    "SoftHebb": "has no loss: on a network take "
    "linlocal.analysis.local_losses.SoftHebb(layers=...)",
}


def from_name(name: str, **options: Any) -> Rule:
    """The rule called ``name``, one of `NAMES`, with the options of its constructor.

    Raises:
        ValueError: the name is unknown, or that of a rule which theory does not have.
    """
    if inputs.is_one_of(name, _ON_NETWORKS):
        raise ValueError(f"{name} {_ON_NETWORKS[name]}.")
    if not inputs.is_one_of(name, NAMES):
        near = get_close_matches(str(name), NAMES, n=1, cutoff=0.5)
        hint = f" did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Unknown rule {name!r};{hint} known rules are {', '.join(NAMES)}.")
    rule = getattr(sys.modules[__name__], name)(**options)
    assert isinstance(rule, Rule)
    return rule
