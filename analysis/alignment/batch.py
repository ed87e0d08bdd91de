"""Local against global gradients of a network's blocks, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.alignment.meter import Meter, RuleOrLosses
from linlocal.analysis.alignment.products import COUNT, divide, metrics
from linlocal.analysis.alignment.sums import Measurement
from linlocal.analysis.alignment.terms import explained
from linlocal.analysis.watching import gated, own_pass, untouched
from linlocal.inputs import warn
from linlocal.vocabulary import described


def align(
    model: nn.Module,
    names: Iterable[str] | None,
    rule: RuleOrLosses | Mapping[str, RuleOrLosses],
    *views: Tensor,
    global_loss: Callable[..., Tensor] | None = None,
    batch: Any = None,
    terms: bool = False,
    window: int = 1,
) -> xr.Dataset:
    """Compare the local with the global gradient of every block on one batch.

    Runs one forward pass in the model's present mode and changes nothing: no ``.grad``, buffer,
    random state or hook. Hooks on parameters are not called.

    Args:
        model: the network.
        names: the names of its blocks, as for `blocks`.
        rule: a `linlocal.Rule`, a `NetworkRule`, or a rule of your own with a method build; or the
            losses of a rule, one per block (with a window, also those of blocks window..L alone, as
            a trainer has them); or several of these by name, measured side by side.
        views: the views (N, ...) of the batch, or one tensor with both stacked (2N, ...). Views of
            one shape that follow each other run in one forward pass, crops of another size in one
            of their own (Caron et al. 2021, arXiv 2104.14294).
        global_loss: a function of the network's output, or of the outputs of all passes. By default
            the global loss of a rule is its local loss on the last block, backpropagated.
        batch: (inputs, labels), for local losses that read labels.
        window: through how many blocks the loss of a block is backpropagated: block l takes the
            loss of block min(l + window - 1, L). 1 is local learning, L is backpropagation.
        terms: whether to take the mismatch apart, for rules of scored pairs and their own loss as
            the global one; it costs two more backward passes for each block.

    Returns:
        A Dataset over ``layer`` = 1..L (its coordinate ``block`` has the names), ``parameter`` and
        ``view``, for several rules also over ``rule``:

        * ``cosine``, ``norm_ratio``, ``relative_error`` (as in `linlocal.compare`), ``local_norm``
          and ``global_norm`` of a block's gradients. Names that begin with ``parameter_`` hold the
          same for the gradient of one tensor, names that begin with ``error_`` for the error
          signals dLoss/dz_l;
        * ``view_part`` (also with ``parameter_`` and ``error_``): <local_v, global> / ||global||^2,
          where local_v is the part that the rows of view v contribute. The parts add up to
          cosine * norm_ratio, and a negative one works against the global gradient;
        * with ``terms``, ``slopes``, ``feedback`` and ``masks``: why the error signals differ, see
          `terms.explained`. These are the norms of the terms over that of the global error signal.
          With ``_share`` they are what each term takes from the cosine in this order, with
          ``_shapley`` the same averaged over all orders; each three add up to 1 - error_cosine.

        Values are NaN where a norm is 0, as for frozen and unused parameters. Where a gradient is
        not finite, the norms are NaN too, and a warning names the parameters. Parameters outside
        all blocks are not compared.

    Raises:
        ValueError, RuntimeError: as `watching.watch`; or not one loss per block, or views of
            different data, or of another number or other sizes than the rule takes; or terms of a
            rule without scored pairs, of another global loss, or of a network whose masks cannot
            be averaged.
        TypeError: views are missing, or an argument is no tensor, rule or module.
    """
    if not views:
        raise TypeError(
            "align needs both views of a batch, or one tensor with them stacked, got no tensor: a "
            "local loss compares views."
        )
    for view in views:
        inputs.instance(view, Tensor, "a view", "a tensor (samples, ...)")
    if len({view.shape[:1] for view in views}) > 1:
        raise ValueError(
            f"The views have shapes {' and '.join(str(tuple(v.shape)) for v in views)}: row k of "
            "each must be the same datum, so all have as many rows."
        )
    groups = [[*group] for _, group in groupby(views, key=lambda view: view.shape)]
    meter = Meter(
        model,
        names,
        rule,
        backward=global_loss is not None,
        view_parts=True,
        views=[len(group) for group in groups] if len(views) > 1 else [2],
        orders="all orders" if terms else None,
        window=window,
    )
    alone = gated(model.parameters(), lambda: True)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        own_pass(),
        untouched(model),
        alone,
        meter.watching(batch=batch),
    ):
        outputs = []
        for group in groups:
            stacked = torch.cat(group) if len(group) > 1 else group[0]
            outputs.append(model(stacked.clone() if stacked.is_inference() else stacked))
        if global_loss is not None:
            meter.differentiate(global_loss(*outputs))
    return to_dataset(meter, meter.finish())


def to_dataset(meter: Meter, measured: Measurement) -> xr.Dataset:
    """The Dataset of `align`.

    Args:
        meter: the meter that measured.
        measured: one measurement, or several stacked; ``step`` is then the first dimension.
    """
    per_parameter, errors, grams = (part.cpu().numpy() for part in measured)
    _warn_of_broken(meter, per_parameter)
    lengths = [len(block.parameters) for block in meter.blocks]
    per_block = np.add.reduceat(per_parameter, np.cumsum([0, *lengths[:-1]]), axis=-2)
    dims = ("step", "rule") if errors.ndim == 5 else ("rule",)
    columns: dict[str, tuple[tuple[str, ...], NDArray[np.float64]]] = {}

    def put(
        prefix: str, dim: str, sums: NDArray[np.float64], parts: NDArray[np.float64] | None
    ) -> None:
        for name, value in metrics(sums).items():
            columns[prefix + name] = ((*dims, dim), value)
        if parts is not None:
            part = divide(parts, sums[..., 1:2])
            columns[f"{prefix}view_part"] = ((*dims, dim, "view"), part)

    for prefix, dim, values in (
        ("", "layer", per_block),
        ("parameter_", "parameter", per_parameter),
    ):
        put(prefix, dim, values[..., :COUNT], values[..., COUNT:] if meter.view_parts else None)
    put("error_", "layer", errors.sum(axis=-2), errors[..., 2])
    if grams.shape[-1]:
        columns |= {name: ((*dims, "layer"), v) for name, v in explained(grams).items()}
    dataset = described(
        xr.Dataset(
            columns,
            coords={
                "rule": list(meter.rules),
                "layer": np.arange(len(lengths)) + 1,
                "block": ("layer", [block.name for block in meter.blocks]),
                "parameter": meter.parameter_names,
                "parameter_layer": ("parameter", np.repeat(np.arange(len(lengths)) + 1, lengths)),
                "view": np.arange(sum(meter.views)) + 1,
            },
        ),
        "alignment",
    )
    return dataset.isel(rule=0, drop=True) if meter.single else dataset


def _warn_of_broken(meter: Meter, sums: NDArray[np.float64]) -> None:
    broken = ~np.isfinite(sums).all(axis=-1)
    names = np.asarray(meter.parameter_names)[broken.reshape(-1, broken.shape[-1]).any(axis=0)]
    if names.size:
        warn(
            f"Gradients of {names.size} of {broken.shape[-1]} parameters are not finite: "
            f"{', '.join(names[:3])}{' ...' if names.size > 3 else ''}. Their cosines and norms "
            "are NaN (a norm of 0 with a cosine of NaN is a gradient that is only zero). Look for "
            "inputs or weights that are not finite, or use a wider precision."
        )
