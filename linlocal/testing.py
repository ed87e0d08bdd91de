"""Hypothesis strategies and assertions for tests of local learning rules.

For our tests and for yours. Random objects are drawn as a seed and a few sizes, so that a failing
example is short to print and exact to repeat. Conditioning is drawn, not left to chance: an
identity that fails then fails because it is wrong, and no tolerance has to be loosened.

>>> from hypothesis import given, strategies as st
>>> from linlocal import testing
>>> @given(data=st.data(), network=testing.networks(shape="widening"))
... def test_my_law(data, network):
...     pairs = data.draw(testing.pairs(network))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linlocal import inputs, losses, rules
from linlocal.doors import missing_explained
from linlocal.losses import Score, scores
from linlocal.networks import DeepLinear, Links, Network
from linlocal.pairs import Pairs
from linlocal.rhm import RandomHierarchyModel
from linlocal.rules import Penalty, Rule

with missing_explained(__name__):
    from hypothesis import strategies as st

Array = NDArray[np.float64]
Range = tuple[int, int]
Shape = Literal["any", "widening", "narrowing", "square"]

KINDS: tuple[str, ...] = ("orthogonal", "conformal", "uniform", "gaussian", "conditioned")
"""Kinds of weights that `networks` draws."""

TOLERANCES: dict[str, float] = {
    "float64": 1e-12,
    "float32": 1e-5,
    "float16": 1e-2,
    "bfloat16": 5e-2,
}
"""Relative tolerance of an identity between updates on well conditioned data, by dtype."""

_SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Exponential:
    """f(m) = exp(-m): a score that the package does not know, like one that a user writes."""

    def value(self, m: Array) -> Array:
        """f(m)."""
        return np.exp(-m)

    def slope(self, m: Array) -> Array:
        """f'(m) = -f(m)."""
        return -np.exp(-m)

    def curvature(self, m: Array) -> Array:
        """f''(m) = f(m)."""
        return np.exp(-m)


def tolerance(
    dtype: str = "float64", condition_number: float = 1.0, multiple: float = 16.0
) -> float:
    """The relative tolerance of an identity: rounding amplified by a condition number.

    Args:
        dtype: a key of `TOLERANCES`.
        condition_number: the condition number of the problem that was solved on the way, as
            `linlocal.compare` returns it.
        multiple: how many units of rounding, each amplified, are allowed.

    Returns:
        max(table entry, multiple * eps * condition_number).

    Raises:
        ValueError: the dtype is not in the table, or a number is not positive and finite.
    """
    if dtype not in TOLERANCES:
        raise ValueError(f"Unknown dtype {dtype!r}; known are {', '.join(TOLERANCES)}.")
    multiple = inputs.positive(multiple, "multiple")
    condition_number = inputs.positive(condition_number, "condition_number")
    eps = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
    return max(TOLERANCES[dtype], multiple * eps[dtype] * condition_number)


def assert_same_update(
    actual: Sequence[ArrayLike] | Array,
    desired: Sequence[ArrayLike] | Array,
    tolerance: float = TOLERANCES["float64"],
    context: str = "",
) -> None:
    """Assert ||actual - desired|| <= tolerance * ||desired|| (Frobenius) in each layer.

    Where a layer of ``desired`` vanishes, its norm is taken to be that of the largest layer.

    Args:
        actual: one array for each layer 1..L; a single array counts as one layer.
        desired: the arrays to compare with, of the same shapes.
        tolerance: the relative tolerance, see `TOLERANCES` and `tolerance`.
        context: what was compared, for the message.

    Raises:
        AssertionError: the updates differ; the message says in which layer and entry they differ
            most, and by how much.
    """
    tolerance = inputs.not_negative(tolerance, "tolerance")
    got, wanted = _layers(actual), _layers(desired)
    about = f"{context}: " if context else ""
    assert len(got) == len(wanted), f"{about}{len(got)} layers against {len(wanted)}."
    for l, (a, d) in enumerate(zip(got, wanted, strict=True), start=1):
        assert a.shape == d.shape, f"{about}layer {l}: shape {a.shape} against {d.shape}."
    largest = max(float(np.linalg.norm(d)) for d in wanted)
    errors = []
    for a, d in zip(got, wanted, strict=True):
        scale = float(np.linalg.norm(d)) or largest
        difference = float(np.linalg.norm(a - d))
        errors.append(difference / scale if scale > 0 else (0.0 if difference == 0 else np.inf))
    # NaN compares as false, so we test for what must hold and not for its opposite.
    bad = [l for l, e in enumerate(errors) if not e <= tolerance]
    if not bad:
        return
    worst = max(bad, key=lambda l: np.inf if np.isnan(errors[l]) else errors[l])
    gap = np.nan_to_num(np.abs(got[worst] - wanted[worst]), nan=np.inf)
    entry = tuple(int(i) for i in np.unravel_index(int(np.argmax(gap)), gap.shape))
    listing = ", ".join(f"{l}: {e:.1e}" for l, e in enumerate(errors, start=1))
    raise AssertionError(
        f"{about}updates differ most in layer {worst + 1}, by {errors[worst]:.2e} of its norm "
        f"(allowed: {tolerance:.1e}). Its entry {entry} is {float(got[worst][entry])!r} against "
        f"{float(wanted[worst][entry])!r}. Relative errors of all layers: {listing}."
    )


def _layers(update: Sequence[ArrayLike] | Array) -> list[Array]:
    if isinstance(update, np.ndarray):
        return [np.asarray(update, dtype=np.float64)]
    return [np.asarray(u, dtype=np.float64) for u in update]


@st.composite
def widths(
    draw: st.DrawFn, width: Range = (1, 64), depth: Range = (1, 16), shape: Shape = "any"
) -> list[int]:
    """Widths n_0..n_L.

    Args:
        draw: given by hypothesis.
        width: the smallest and the largest width.
        depth: the smallest and the largest L.
        shape: how n_1..n_L follow each other: "any" way, "widening" (never narrower than the layer
            below, as an isometric downstream map needs), "narrowing" (never wider than the layer
            below, input included) or "square" (all equal). The input is free unless it narrows.
    """
    layers = draw(st.integers(*depth))
    sizes = draw(st.lists(st.integers(*width), min_size=layers + 1, max_size=layers + 1))
    if shape == "widening":
        return [sizes[0], *sorted(sizes[1:])]
    if shape == "narrowing":
        return sorted(sizes, reverse=True)
    if shape == "square":
        return [sizes[0], *[sizes[1]] * layers]
    return sizes


@st.composite
def networks(
    draw: st.DrawFn,
    width: Range = (1, 64),
    depth: Range = (1, 16),
    kind: str | Sequence[str] = KINDS,
    shape: Shape = "any",
    condition_number: tuple[float, float] = (1.0, 1e6),
    activation: str | None = None,
    links: Literal["none", "residual", "any"] = "none",
    biases: bool = False,
) -> Network:
    """Deep networks with weights of a drawn kind.

    Args:
        draw: given by hypothesis.
        width: the smallest and the largest width.
        depth: the smallest and the largest number of layers.
        kind: one of `KINDS`, or several to choose from; "conditioned" has a drawn condition number
            of W_L ... W_2.
        shape: how the widths follow each other, as in `widths`.
        condition_number: the range of the condition number, drawn evenly in the logarithm.
        activation: the name of a nonlinearity, for a `DeepNonlinear` with a drawn readout; None for
            a `DeepLinear`.
        links: "residual" links (with about half of the widths repeated), "any" (none, residual, or
            drawn links with scales up to 1), or "none".
        biases: whether layers may have biases; some networks then have none, or in some layers.

    Raises:
        ValueError: an unknown kind.
    """
    choices = (kind,) if isinstance(kind, str) else tuple(kind)
    unknown = set(choices) - set(KINDS)
    if unknown or not choices:
        raise ValueError(f"Unknown kinds {sorted(unknown)}; known are {', '.join(KINDS)}.")
    chosen = draw(st.sampled_from(choices))
    if chosen == "conditioned":
        depth = (max(2, depth[0]), max(2, depth[1]))
    sizes = draw(widths(width, depth, shape))
    if links != "none":
        for l in range(2, len(sizes)):
            sizes[l] = sizes[l - 1] if draw(st.booleans()) else sizes[l]
    seed = draw(_SEEDS)
    if chosen == "conformal":
        # All layers together scale by 1/4 to 4, so depth does not worsen the conditioning.
        total = 4.0 ** draw(st.floats(-1.0, 1.0))
        network = DeepLinear.conformal(sizes, total ** (1.0 / (len(sizes) - 1)), seed)
    elif chosen == "conditioned":
        exponent = draw(st.floats(*np.log10(condition_number)))
        # 10^6 computed through a logarithm may exceed the range by a rounding error.
        value = min(max(10.0**exponent, condition_number[0]), condition_number[1])
        network = DeepLinear.with_condition_number(sizes, value, seed)
    else:
        build = {
            "orthogonal": DeepLinear.orthogonal,
            "uniform": DeepLinear.uniform,
            "gaussian": DeepLinear.gaussian,
        }
        network = build[chosen](sizes, seed)
    network = DeepLinear(
        network.weights,
        draw(_biases(sizes)) if biases else None,
        None if links == "none" else draw(_links(sizes, links)),
    )
    if activation is None:
        return network
    return network.with_activation(activation, draw(st.sampled_from(["same", "linear"])))


@st.composite
def _biases(draw: st.DrawFn, sizes: list[int]) -> list[Array | None] | None:
    kind = draw(st.sampled_from(["none", "some", "all"]))
    if kind == "none":
        return None
    rng, scale = np.random.default_rng(draw(_SEEDS)), draw(st.floats(0.1, 1.0))
    there = [kind == "all" or draw(st.booleans()) for _ in sizes[1:]]
    return [
        scale * rng.standard_normal(n) if has else None
        for n, has in zip(sizes[1:], there, strict=True)
    ]


@st.composite
def _links(draw: st.DrawFn, sizes: list[int], kind: str) -> Links | None:
    chosen = draw(st.sampled_from([None, "residual", "drawn"])) if kind == "any" else "residual"
    if chosen != "drawn":
        return None if chosen is None else "residual"
    found: dict[int, dict[int, float]] = {}
    for l in range(1, len(sizes)):
        fitting = [k for k in range(l) if sizes[k] == sizes[l]]
        sources = (
            draw(st.lists(st.sampled_from(fitting), max_size=2, unique=True)) if fitting else []
        )
        found[l] = {k: draw(st.sampled_from([1.0, 0.5, -0.7])) for k in sources}
    return found


def samples(
    num_samples: int,
    width: int,
    seed: int,
    condition_number: float = 10.0,
    similarity: float = 0.8,
) -> tuple[Array, Array]:
    """Two correlated views of Gaussian samples, with bounded conditioning.

    The singular values of both views stacked are raised to at least the largest one over
    ``condition_number``, then scaled to a mean square norm of 1 per sample.

    Args:
        num_samples: the number of rows of each view.
        width: the number of features.
        seed: seeds the generator.
        condition_number: a bound on the ratio of the nonzero singular values.
        similarity: the correlation of the two views before they are conditioned, in 0..1.

    Returns:
        x, x_view, each (num_samples, width).

    Raises:
        ValueError, TypeError, MemoryError: a number is of another kind or out of range, or the
            samples do not fit into memory.
    """
    num_samples = inputs.whole(num_samples, "num_samples", 1)
    width = inputs.whole(width, "width", 1)
    similarity = inputs.share(similarity, "similarity")
    condition_number = _condition_number(condition_number)
    inputs.room(4 * num_samples * width, f"two views of {num_samples} x {width}")
    rng = np.random.default_rng(inputs.whole(seed, "seed", 0))
    x, noise = rng.standard_normal((2, num_samples, width))
    view = similarity * x + np.sqrt(1.0 - similarity**2) * noise
    u, s, vt = np.linalg.svd(np.vstack([x, view]), full_matrices=False)
    s = np.maximum(s, s.max() / condition_number)
    s *= np.sqrt(2 * num_samples / np.sum(s**2))
    stacked = u * s @ vt
    return stacked[:num_samples], stacked[num_samples:]


def _condition_number(value: float) -> float:
    number = inputs.finite(value, "condition_number")
    if number < 1:
        raise ValueError(f"condition_number must be at least 1, got {number}.")
    return number


@st.composite
def pairs(
    draw: st.DrawFn,
    network: Network | int,
    num_pairs: Range = (1, 200),
    negatives: Sequence[Literal["next", "random"] | None] = ("next", "random"),
    num_negatives: Range = (1, 4),
    directions: Sequence[Literal["both", "forward"]] = ("both", "forward"),
    rule: Rule | None = None,
    scale: tuple[float, float] = (1.0, 3.0),
    condition_number: float = 10.0,
) -> Pairs:
    """Pairs that fit a network, and a rule if one is given.

    Args:
        draw: given by hypothesis.
        network: the network, or the width of its input.
        num_pairs: the smallest and the largest number of pairs in all directions together. With
            negatives there are at least two samples and so at least four pairs.
        negatives: the kinds of negatives to choose from; None makes positive pairs only.
        num_negatives: the range of the number of negatives for each positive pair.
        directions: the kinds of directions to choose from.
        rule: the rule that the pairs must fit. One that judges single samples gets
            `Pairs.from_positive_negative`, and one that compares two views at least two samples.
        scale: the range of the root mean square norm of a sample.
        condition_number: a bound on the ratio of the nonzero singular values of all samples.
    """
    width = network if isinstance(network, int) else network.widths[0]
    seed = draw(_SEEDS)
    size = draw(st.floats(*scale))
    if rule is not None and rule.context == "self":
        n = draw(st.integers(max(1, num_pairs[0] // 2), max(1, num_pairs[1] // 2)))
        good, bad = samples(n, width, seed, condition_number)
        return Pairs.from_positive_negative(size * good, size * bad)
    kind = draw(st.sampled_from(list(negatives)))
    way = draw(st.sampled_from(list(directions)))
    ways = 2 if way == "both" else 1
    count = 0 if kind is None else draw(st.integers(*num_negatives))
    least = max(1 if kind is None else 2, num_pairs[0] // (ways * (1 + count)))
    if rule is not None and rule.kind == "view":
        least = max(2, least)
    n = draw(st.integers(least, max(least, num_pairs[1] // (ways * (1 + count)))))
    x, view = samples(n, width, seed, condition_number)
    return Pairs.from_views(
        size * x,
        size * view,
        negatives=kind,
        num_negatives=max(1, min(count, n - 1)),
        directions=way,
        rng=np.random.default_rng(seed),
    )


def score_functions(hinge: bool = False) -> st.SearchStrategy[Score]:
    """Scores: linear, softplus and smoothed hinge with drawn margins; the hinge only on request."""
    # Margins near 0 test nothing but underflow.
    margins = st.floats(0.1, 2.0)
    options: list[st.SearchStrategy[Any]] = [
        st.builds(scores.Linear),
        st.builds(scores.Softplus, margins),
        st.builds(scores.SmoothedHinge, margins, st.floats(0.1, 2.0)),
    ]
    if hinge:
        options.append(st.builds(scores.Hinge, margins))
    return st.one_of(options)


@st.composite
def pair_rules(
    draw: st.DrawFn,
    contexts: Sequence[rules.Context] = ("same", "top", "both", "each"),
    projection: rules.ProjectionKind = "optimal",
    penalty: tuple[float, float] = (1e-3, 1.0),
    metric: rules.Metric = "frobenius",
    hinge: bool = False,
) -> Rule:
    """Rules of scored pairs: type 1, type 2 or InfoNCE.

    Args:
        draw: given by hypothesis.
        contexts: the contexts to choose from.
        projection: the projection that all rules have.
        penalty: the range of the penalty's strength, drawn evenly in the logarithm.
        metric: the metric of the penalty.
        hinge: whether the hinge is among the scores.
    """
    score = score_functions(hinge)
    loss: losses.PairLoss = draw(
        st.one_of(
            st.builds(losses.TypeTwo, score),
            st.builds(losses.TypeOne, score),
            st.builds(losses.InfoNCE, st.floats(0.5, 2.0)),
        )
    )
    strength = 10.0 ** draw(st.floats(*np.log10(penalty)))
    context = draw(st.sampled_from(list(contexts)))
    return Rule("drawn", loss, context, projection, Penalty(strength, metric))


@st.composite
def named_rules(
    draw: st.DrawFn, names: Sequence[str] = rules.NAMES, score: Score | None = None
) -> Rule:
    """One of the named rules, with a drawn smooth score where it has one.

    Args:
        draw: given by hypothesis.
        names: the names to choose from.
        score: the score to use instead of a drawn one.
    """
    rule = rules.from_name(draw(st.sampled_from(list(names))))
    if hasattr(rule.loss, "score"):
        chosen = draw(score_functions()) if score is None else score
        loss: Any = rule.loss
        rule = replace(rule, loss=replace(loss, score=chosen))
    return rule


@st.composite
def hierarchies(draw: st.DrawFn, max_leaves: int = 64) -> RandomHierarchyModel:
    """Random Hierarchy Models of all kinds: any n, v, m, s, L that fit, Zipf, blanks.

    Args:
        draw: given by hypothesis.
        max_leaves: the largest number of places of level 0, if more than 8.
    """
    blanks = draw(st.sampled_from([0, 0, 0, 1, 2]))
    levels = draw(st.integers(1, 6) | st.just(6))
    wanted = draw(
        st.integers(1, 4).map(lambda s: [s] * levels)
        | st.lists(st.integers(1, 4), min_size=levels, max_size=levels)
    )
    # As many levels as fit, at least one. Blanks have many placements, so 3 places are enough.
    patches = [min(s, 3 if blanks else 4) * (blanks + 1) for s in wanted]
    fitting = [math.prod(patches[: l + 1]) <= max_leaves for l in range(levels)]
    sizes = [patch // (blanks + 1) for patch in patches[: max(1, sum(fitting))]]
    symbols = draw(st.integers(1, 7))
    most = min(symbols ** (s - 1) for s in sizes)
    synonyms = draw(st.integers(1, most) | st.just(most))
    classes = draw(st.integers(1, symbols ** sizes[-1] // synonyms))
    same = len(set(sizes)) == 1
    return RandomHierarchyModel(
        num_classes=classes,
        num_symbols=symbols,
        num_synonyms=synonyms,
        num_levels=len(sizes),
        tuple_size=sizes[0] if same else sizes,
        seed=draw(_SEEDS),
        rule_exponent=draw(st.sampled_from([0.0, 0.0, 1.0, 2.5])),
        num_blanks=blanks,
        placement=draw(st.sampled_from(["blocks", "ordered"])),
    )
