"""Learning in time: discrete steps and gradient flow of local and global updates, mode by mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.dynamics.moments import Moments
from linlocal.dynamics.population import (
    Learning,
    Source,
    expected_loss,
    update_of,
)
from linlocal.dynamics.weights import (
    are_in_range,
    maps_of,
    matrices_of,
    require_linear,
    room_left,
)
from linlocal.inputs import Array, Index
from linlocal.losses import ViewLoss
from linlocal.networks import DeepLinear
from linlocal.rules import Rule
from linlocal.vocabulary import described

if TYPE_CHECKING:
    import xarray as xr


def simulate(
    network: DeepLinear,
    source: Source,
    rule: Rule,
    *,
    rate: float,
    steps: int,
    learning: Learning = "local",
    decay: float = 0.0,
    every: int = 1,
) -> xr.Dataset:
    """Discrete steps W_l <- W_l + rate (dW_l - decay W_l), always on the same data.

    Args:
        network: the linear network at the start.
        source: the moments of a population, or a batch.
        rule: the rule; for moments one of those of `expected_update`.
        rate: the learning rate.
        steps: how many steps.
        learning: as in `expected_update`.
        decay: the strength mu of the weight decay, the same in all layers.
        every: which steps are recorded: 0, every, 2 every, ...

    Returns:
        A Dataset over ``step`` (with its ``time`` = rate step), ``layer`` = 1..L and ``mode``
        (with its ``eigenvalue``, `Moments.modes`), with

        * ``strength``: ||A_l v|| for the eigenvector v of a mode; for aligned weights the singular
          value of W_l ... W_1 along it;
        * ``imbalance``: ||W_{l+1}^T W_{l+1} - W_l W_l^T||, and ``imbalance_change``, the norm of
          its difference from the start; NaN in the top layer;
        * ``loss`` of each layer, for moments and for losses of two views.

    Raises:
        ValueError, TypeError: as `expected_update` or `linlocal.local_update`.
        ArithmeticError: the weights left the range of floats. A linear score has no minimum, and
            its strongest mode becomes infinite in finite time; other losses need a smaller rate.
    """
    require_linear(network)
    rate, steps = inputs.positive(rate, "rate"), inputs.whole(steps, "steps", 0)
    decay, every = inputs.not_negative(decay, "decay"), inputs.whole(every, "every", 1)

    def visited() -> Iterator[DeepLinear]:
        here = network
        yield here
        for step in range(1, steps + 1):
            with np.errstate(over="ignore", invalid="ignore"):
                updates = update_of(here, source, rule, learning)
                weights = [
                    w + rate * (update - decay * w)
                    for w, update in zip(matrices_of(here), updates, strict=True)
                ]
                in_range = are_in_range(weights)
            if not in_range:
                raise ArithmeticError(_diverged(f"in step {step}"))
            here = network.with_weights(weights)
            if step % every == 0:
                yield here

    recorded = np.arange(0, steps + 1, every, dtype=np.int64)
    dataset = _recorded(visited(), source, rule, "step", recorded, learning)
    return described(dataset.assign_coords(time=("step", rate * recorded)), "dynamics")


def flow(
    network: DeepLinear,
    source: Source,
    rule: Rule,
    *,
    times: ArrayLike,
    learning: Learning = "local",
    decay: float = 0.0,
    tolerance: float = 1e-9,
) -> xr.Dataset:
    """The gradient flow dW_l/dt = dW_l - decay W_l, the limit of `simulate` for small rates.

    Args:
        network: as in `simulate`.
        source: as in `simulate`.
        rule: as in `simulate`.
        times: increasing times at which to record, from 0 on.
        learning: as in `simulate`.
        decay: as in `simulate`.
        tolerance: relative error of an integration step (Dormand and Prince, order 8).

    Returns:
        As `simulate`, over ``time`` instead of step.

    Raises:
        ValueError, TypeError, ArithmeticError: as `simulate`.
    """
    from scipy.integrate import solve_ivp

    require_linear(network)
    moments, decay = checked_times(times), inputs.not_negative(decay, "decay")
    tolerance = inputs.positive(tolerance, "tolerance")
    shapes = [w.shape for w in matrices_of(network)]
    ends = np.cumsum([rows * columns for rows, columns in shapes])

    def weights(flat: Array) -> list[Array]:
        return [w.reshape(s) for w, s in zip(np.split(flat, ends[:-1]), shapes, strict=True)]

    def velocity(_: float, flat: Array) -> Array:
        updates = update_of(network.with_weights(weights(flat)), source, rule, learning)
        return np.concatenate([u.ravel() for u in updates]) - decay * flat

    def is_finite(_: float, flat: Array) -> float:
        return room_left(weights(flat))

    is_finite.terminal = True  # type: ignore[attr-defined]
    solved = solve_ivp(
        velocity,
        (0.0, moments[-1]),
        np.concatenate([w.ravel() for w in matrices_of(network)]),
        "DOP853",
        moments,
        events=is_finite,
        rtol=tolerance,
        atol=tolerance * 1e-3,
    )
    if solved.status != 0:
        raise ArithmeticError(_diverged(f"after the time {solved.t[-1] if len(solved.t) else 0:g}"))
    visited = (network.with_weights(weights(flat)) for flat in solved.y.T)
    return _recorded(visited, source, rule, "time", moments, learning)


def aligned(
    widths: Sequence[int], moments: Moments, strengths: ArrayLike, seed: int = 0
) -> DeepLinear:
    """A network whose layers are diagonal in the eigenmodes of the moments.

    W_l = U_l diag(a_l) U_{l-1}^T with random orthonormal U_l, and U_0 the eigenvectors.

    Args:
        widths: n_0..n_L; the min(n_0..n_L) modes of the largest eigenvalues pass.
        moments: the moments of its input.
        strengths: a_l of every mode: a number, or (layers, modes).
        seed: seeds the bases U_l.

    Raises:
        ValueError: sizes do not fit.
        TypeError: no numbers.
    """
    sizes, seed = inputs.widths(widths), inputs.whole(seed, "seed", 0)
    inputs.instance(moments, Moments, "moments", "`Moments`, made by Moments.of_views")
    if sizes[0] != moments.width:
        raise ValueError(
            f"The network would read {sizes[0]} features, but the moments have {moments.width}."
        )
    kept = min(sizes)
    given, shape = inputs.numbers(strengths, "strengths"), (len(sizes) - 1, kept)
    if given.shape not in ((), shape):
        raise ValueError(
            f"strengths must be a number or (layers, modes) = {shape}, got shape {given.shape}."
        )
    values = np.broadcast_to(given, shape)
    bases = [moments.modes[1]]
    # A semi-orthogonal network between equal widths is one orthogonal matrix.
    bases += [DeepLinear.orthogonal([n, n], seed + l).matrix(1) for l, n in enumerate(sizes[1:])]
    return DeepLinear(
        [
            bases[l][:, :kept] * values[l - 1] @ bases[l - 1][:, :kept].T
            for l in range(1, len(sizes))
        ]
    )


def checked_times(times: ArrayLike) -> Array:
    """Times of a record, read-only.

    Raises:
        ValueError: not increasing numbers from 0 on.
    """
    moments = inputs.frozen(inputs.numbers(times, "times"))
    fits = moments.ndim == 1 and moments.size > 0 and bool(np.isfinite(moments).all())
    if not fits or moments[0] < 0 or (np.diff(moments) <= 0).any() or moments[-1] == 0:
        raise ValueError("times must be increasing numbers from 0 on, the last above 0.")
    return moments


def _diverged(when: str) -> str:
    return (
        f"The weights diverge {when}. A linear score has no minimum, and its strongest mode "
        "becomes infinite in finite time, with or without weight decay: stop earlier, or take a "
        "loss that saturates (SpectralContrastive, Whitening). Other losses need a smaller rate."
    )


def _recorded(
    visited: Iterable[DeepLinear],
    source: Source,
    rule: Rule,
    dimension: str,
    labels: Array | Index,
    learning: Learning,
) -> xr.Dataset:
    import xarray as xr

    values, vectors = (source if isinstance(source, Moments) else Moments.of_batch(source)).modes
    columns: dict[str, list[Array]] = {}
    start: list[Array] = []
    for network in visited:
        imbalances = [
            network.matrix(l + 1).T @ network.matrix(l + 1)
            - network.matrix(l) @ network.matrix(l).T
            for l in list(network.layers)[:-1]
        ]
        start = start or imbalances
        row = {
            "strength": np.array([np.linalg.norm(a @ vectors, axis=0) for a in maps_of(network)]),
            "imbalance": _norms(imbalances),
            "imbalance_change": _norms([d - d0 for d, d0 in zip(imbalances, start, strict=True)]),
        }
        row["strength"] = row["strength"][1:]
        loss = _losses(network, source, rule)
        if loss is not None:
            row["loss"] = np.array(loss)
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    dims = {"strength": (dimension, "layer", "mode")}
    return described(
        xr.Dataset(
            {name: (dims.get(name, (dimension, "layer")), rows) for name, rows in columns.items()},
            coords={
                dimension: labels,
                "layer": list(network.layers),
                "mode": range(1, len(values) + 1),
                "eigenvalue": ("mode", values),
            },
            attrs={"rule": rule.name, "learning": learning, "network": repr(network)},
        ),
        "dynamics",
    )


def _norms(matrices: Sequence[Array]) -> Array:
    """Of the layers below the top, and NaN for the top."""
    return np.array([*(float(np.linalg.norm(m)) for m in matrices), np.nan])


def _losses(network: DeepLinear, source: Source, rule: Rule) -> Sequence[float] | None:
    if isinstance(source, Moments):
        return expected_loss(network, source, rule)
    if rule.kind != "view":
        return None
    assert source.views is not None
    first, second = source.views
    activities = network.activities(source.samples).z[1:]
    return [cast(ViewLoss, rule.loss).value(z[first], z[second]) for z in activities]
