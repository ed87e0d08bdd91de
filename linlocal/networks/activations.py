"""Nonlinearities phi of a layer, elementwise: value phi(a) and slope phi'(a) of the drive a.

A nonlinearity of your own needs just these two methods; see `Activation`. Kinks take the slope
from the left, as torch does.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol, runtime_checkable

import numpy as np
from scipy.special import ndtr

from linlocal import inputs
from linlocal.inputs import Array


@runtime_checkable
class Activation(Protocol):
    """An elementwise nonlinearity phi of the drive a = W z + b."""

    def value(self, drive: Array) -> Array:
        """phi(a), shaped like the drive."""
        ...

    def slope(self, drive: Array) -> Array:
        """phi'(a), shaped like the drive."""
        ...


@dataclass(frozen=True)
class ReLU:
    """phi(a) = max(0, a)."""

    def value(self, drive: Array) -> Array:
        return drive * self.slope(drive)

    def slope(self, drive: Array) -> Array:
        return (drive > 0).astype(np.float64)


@dataclass(frozen=True)
class LeakyReLU:
    """phi(a) = a for a > 0, else negative_slope a.

    Raises:
        ValueError, TypeError: the slope is not a finite number.
    """

    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.finite, "negative_slope")

    def value(self, drive: Array) -> Array:
        return drive * self.slope(drive)

    def slope(self, drive: Array) -> Array:
        return np.where(drive > 0, 1.0, self.negative_slope)


@dataclass(frozen=True)
class Tanh:
    """phi(a) = tanh(a)."""

    def value(self, drive: Array) -> Array:
        return np.tanh(drive)

    def slope(self, drive: Array) -> Array:
        return 1.0 - np.tanh(drive) ** 2


@dataclass(frozen=True)
class GELU:
    """phi(a) = a P(a), with P the normal distribution function (Hendrycks 2016, arXiv 1606.08415).

    This is the exact form, without the approximation by tanh.
    """

    def value(self, drive: Array) -> Array:
        return np.asarray(drive * ndtr(drive))

    def slope(self, drive: Array) -> Array:
        density = np.exp(-0.5 * drive**2) / np.sqrt(2.0 * np.pi)
        return np.asarray(ndtr(drive) + drive * density)


_NAMED: dict[str, type[Activation]] = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "tanh": Tanh,
    "gelu": GELU,
}


def activation_of(activation: Any) -> Activation:
    """The nonlinearity of this name, or the object itself if it is one.

    Raises:
        ValueError: an unknown name, or a slope that is not the derivative of the value.
        TypeError: neither a name nor an object with value and slope.
    """
    if isinstance(activation, str):
        if activation not in _NAMED:
            near = get_close_matches(activation, _NAMED, n=1, cutoff=0.5)
            hint = f" did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"Unknown activation {activation!r};{hint} known are {', '.join(_NAMED)}."
            )
        return _NAMED[activation]()
    if isinstance(activation, type) or not isinstance(activation, Activation):
        raise TypeError(
            f"activation must be one of {', '.join(_NAMED)} or an object with the methods "
            f"value(drive) and slope(drive), got {inputs.described(activation)}."
        )
    if type(activation) not in _NAMED.values():
        _check_slope(activation)
    return activation


def name_of(activation: Activation) -> str:
    """The name of a nonlinearity that the package knows, else its repr."""
    for name, known in _NAMED.items():
        if activation == known():
            return name
    return repr(activation)


def _check_slope(activation: Activation) -> None:
    """Compare the slope with differences of the value, at drives where a kink is unlikely."""
    step = 1e-6
    drive = np.linspace(-4.0, 4.0, 65) + 0.01371
    value, slope = (
        np.asarray(f(drive.copy()), np.float64) for f in (activation.value, activation.slope)
    )
    for name, found in (("value", value), ("slope", slope)):
        if found.shape != drive.shape or not np.isfinite(found).all():
            raise ValueError(
                f"{name} of the activation {activation!r} must return finite numbers shaped like "
                f"the drive, {drive.shape}; it returned shape {found.shape}."
            )
    ahead, behind = (np.asarray(activation.value(drive + s)) for s in (step, -step))
    differences = (ahead - behind) / (2.0 * step)
    gap = np.abs(slope - differences)
    worst = int(np.argmax(gap / (1.0 + np.abs(slope))))
    if gap[worst] > 1e-4 * (1.0 + np.abs(slope[worst])):
        raise ValueError(
            f"The slope of the activation {activation!r} is not the derivative of its value: at "
            f"the drive {drive[worst]:.4f} it is {slope[worst]:.6g}, and differences of the value "
            f"give {differences[worst]:.6g}."
        )
