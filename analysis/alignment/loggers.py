"""Hands recorded numbers to a logger of one's own: TensorBoard, Weights & Biases, MLflow, print."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import xarray as xr

from linlocal import inputs

# What would be thousands of numbers in a real network; the Dataset has them.
_LEFT_OUT = {"parameter", "view"}


class Log(Protocol):
    """Takes numbers by name: ``wandb.log``, ``mlflow.log_metrics``, ``logger.log_metrics``."""

    def __call__(self, numbers: dict[str, float], /, *, step: int) -> Any:
        """Take the numbers of one step."""


def checked(log: Log | None) -> None:
    """Refuse what cannot be called.

    Raises:
        TypeError: it is neither None nor a function.
    """
    if log is not None:
        inputs.instance(log, Callable, "log", "a function log(numbers, step=step)")  # type: ignore[arg-type]


def tell(log: Log, piece: xr.Dataset) -> None:
    """Call ``log`` once for each step of a piece of a series.

    A number is named by its variable and its place, such as "cosine/layer2" or, of several rules,
    "cosine/direct feedback/layer2". Those of single parameters and views are left out, and so are
    undefined ones.

    Args:
        log: called as ``log(numbers, step=step)``.
        piece: variables over ``step`` and others.
    """
    for step in piece["step"].values:
        numbers: dict[str, float] = {}
        for name, variable in piece.sel(step=step).data_vars.items():
            places = sorted(map(str, variable.dims), key=lambda place: place == "layer")
            if _LEFT_OUT & {*places}:
                continue
            values = variable.transpose(*places).values
            for index in np.ndindex(values.shape):
                if math.isfinite(values[index]):
                    where = (
                        _word(place, piece[place].values[i])
                        for place, i in zip(places, index, strict=True)
                    )
                    numbers["/".join([str(name), *where])] = float(values[index])
        log(numbers, step=int(step))


def _word(place: str, value: Any) -> str:
    return f"layer{value}" if place == "layer" else str(value)
