"""Learning curves of single modes in closed form, and where they come to rest.

Where the moments commute and the weights are aligned with their eigenvectors, modes do not see each
other. A mode with the strengths a_l of its weights, s_l = a_1 ... a_l, s_0 = 1, obeys

    local:   da_l/dt = s_{l-1} e(s_l) - mu a_l          a cascade: layer l waits for l - 1
    global:  da_l/dt = (s_L / a_l) e(s_L) - mu a_l      a_l^2 - a_1^2 is constant for mu = 0

with e(s) = -dLoss/ds. Spectral contrastive loss and whitening have e(s) = s (g - h s^2). Local
learning with an invariant loss needs no alignment of one layer with the next: K_l = A_l^T A_l obeys
dK_l/dt = K_l T_l + T_l^T K_l with T_l = sum_{m<=l} Phi(K_m) K_{m-1}, whatever the bases of W_l.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.dynamics.moments import ROUNDING, Moments
from linlocal.dynamics.trajectories import checked_times
from linlocal.inputs import Array
from linlocal.losses import SpectralContrastive, Whitening
from linlocal.rules import Rule

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, eq=False)
class Modes:
    """Modes that grow and saturate: -dLoss/ds = s (g - h s^2), the strength s at rest sqrt(g/h).

    Attributes:
        growth: g of each mode, (modes,), of either sign; a mode with g <= 0 dies out.
        saturation: h > 0 of each mode, (modes,).

    Raises:
        ValueError: shapes differ, a number is not finite, or a saturation is not positive.
        TypeError: not real numbers.
    """

    growth: Array
    saturation: Array

    __repr__ = inputs.brief

    def __post_init__(self) -> None:
        for name in ("growth", "saturation"):
            values = inputs.frozen(inputs.numbers(getattr(self, name), name))
            if values.ndim != 1 or values.size == 0:
                raise ValueError(f"{name} must be (modes,), got shape {values.shape}.")
            inputs.all_finite(values, name)
            object.__setattr__(self, name, values)
        if self.growth.shape != self.saturation.shape:
            raise ValueError(
                f"growth and saturation must have one entry for each mode, got "
                f"{len(self.growth)} and {len(self.saturation)}."
            )
        if (self.saturation <= 0).any():
            raise ValueError("saturation must be positive: without it a mode grows for ever.")

    @classmethod
    def of(cls, moments: Moments, rule: Rule) -> Modes:
        """g and h of every mode of a population, in the order of `Moments.modes`.

        With gamma = ``v^T S_+ v`` and c_1, c_2 the second moments of the views along a mode:

        * spectral contrastive: g = 4 gamma, h = 4 c_1 c_2;
        * whitening of weight w: g = 4 (gamma - c + 2 w c), c the mean of c_1 and c_2, and
          h = 4 w (c_1^2 + c_2^2).

        Raises:
            ValueError: the rule is another, or first, second and positive moments are not all
                diagonal in the eigenvectors of the contrast.
        """
        inputs.instance(moments, Moments, "moments", "`Moments`, made by Moments.of_views")
        inputs.instance(rule, Rule, "rule", "a `Rule`, rules.SpectralContrastive() or Whitening()")
        vectors = moments.modes[1]
        diagonals = []
        for name in ("first", "second", "positive"):
            here = vectors.T @ getattr(moments, name) @ vectors
            diagonals.append(np.diag(here))
            if np.abs(here - np.diag(np.diag(here))).max() > ROUNDING * np.abs(here).max():
                raise ValueError(
                    f"The {name} moment is not diagonal in the modes of the contrast, so modes "
                    "mix and have no closed form; whiten the inputs, or ask `flow`."
                )
        first, second, gamma = diagonals
        if type(rule.loss) is SpectralContrastive:
            return cls(4.0 * gamma, 4.0 * first * second)
        if type(rule.loss) is Whitening:
            w = rule.loss.weight
            pull = 2.0 * (2.0 * gamma - first - second)
            return cls(pull + 4.0 * w * (first + second), 4.0 * w * (first**2 + second**2))
        raise ValueError(
            f"The modes of {rule.name} do not saturate as s (g - h s^2); take SpectralContrastive "
            "or Whitening."
        )

    # -- curves ------------------------------------------------------------------------------

    def local_curves(self, strengths: ArrayLike, times: ArrayLike) -> xr.DataArray:
        """s_l(t) under local learning.

        Layer 1 is logistic in u = s_1^2. Then 1/a_l^2 obeys a linear equation, which for layer 2
        can be integrated: with y = g - h u and rho = y / y(0),

            1/a_2^2 = 1 + y/(h - g) + kappa rho^(g/h)

        where kappa is constant. It is what a two-layer network has in place of a_2^2 - a_1^2, which
        backpropagation conserves. From layer 3 on the linear equation is integrated numerically.

        Args:
            strengths: a_l at time 0, positive, (layers, modes).
            times: increasing times, from 0 on.

        Returns:
            (time, layer, mode).

        Raises:
            ValueError: shapes do not fit, or a strength is not positive.
        """
        a, t = self._start(strengths), checked_times(times)
        squares = [_logistic(self, a[0] ** 2, t[:, None])]
        if len(a) > 1:
            squares.append(squares[0] * _second_layer(self, a[0] ** 2, a[1] ** 2, t[:, None]))
        if len(a) > 2:
            squares += _higher_layers(self, a, t)
        return _labelled(np.sqrt(np.stack(squares, axis=1)), t)

    def global_curves(self, strengths: ArrayLike, times: ArrayLike) -> xr.DataArray:
        """s_l(t) under backpropagation of the top layer's loss.

        a_l^2 - a_1^2 =: b_l is conserved, so x = a_1^2 obeys one equation for each mode,
        dx/dt = 2 p(x) (g - h p(x)) with p(x) = prod_l (x + b_l), which is integrated numerically.
        For one layer it is the logistic equation.

        Args:
            strengths: as in `local_curves`.
            times: as in `local_curves`.

        Returns:
            As `local_curves`.

        Raises:
            ValueError: as `local_curves`.
        """
        from scipy.integrate import solve_ivp

        a, t = self._start(strengths), checked_times(times)
        if len(a) == 1:
            return self.local_curves(a, t)
        apart = a**2 - a[0] ** 2

        def velocity(_: float, log: Array) -> Array:
            x = np.exp(log)
            top = np.prod(x + apart, axis=0)
            return 2.0 * top * (self.growth - self.saturation * top) / x

        logs = _integrated(solve_ivp, velocity, np.log(a[0] ** 2), t)
        squares = np.exp(logs)[:, None, :] + apart
        return _labelled(np.sqrt(np.cumprod(np.maximum(squares, 0.0), axis=1)), t)

    def balanced_time(self, start: ArrayLike, end: ArrayLike, depth: int) -> Array:
        """How long backpropagation takes from one s_L to another, if all a_l of a mode are equal.

        With u = s_L^2 the flow is du/dt = 2 L u^(2 - 1/L) (g - h u), so t = F(end) - F(start) with

            F = u^(1/L - 1) / (1/L - 1) 2F1(1, 1/L - 1; 1/L; h u / g) / (2 L g)

        and for one layer F = log(u / (g - h u)) / (2 g). From a small start it is about
        start^(2/L - 2) / ((2 L - 2) g): inversely proportional to g, and a power of the start.

        Args:
            start: s_L at the start, (modes,) or a number.
            end: s_L at the end, on the same side of the rest sqrt(g/h).
            depth: L.

        Returns:
            (modes,).

        Raises:
            ValueError: a strength is not between 0 and sqrt(g/h), or a growth is not positive.
        """
        from scipy.special import hyp2f1

        depth = inputs.whole(depth, "depth", 1)
        g, h = self.growth, self.saturation
        first, last = (inputs.numbers(v, n) ** 2 for v, n in ((start, "start"), (end, "end")))
        if not ((g > 0).all() and (first > 0).all() and (last > 0).all()):
            raise ValueError("Only modes with a positive growth leave a positive strength.")
        if not ((h * first < g).all() and (h * last < g).all()):
            raise ValueError("start and end must be below the rest sqrt(g/h) of every mode.")

        def antiderivative(u: Array) -> Array:
            if depth == 1:
                return np.log(u / (g - h * u)) / (2.0 * g)
            power = 1.0 / depth - 1.0
            series = hyp2f1(1.0, power, power + 1.0, h * u / g)
            return u**power / power * series / (2.0 * depth * g)

        return np.asarray(antiderivative(last) - antiderivative(first))

    def first_layer(self, weight: ArrayLike, vectors: ArrayLike, times: ArrayLike) -> xr.DataArray:
        """||W_1 v|| of every mode under local learning, from any weight, aligned or not.

        Needs one saturation h for all modes, as whitened inputs have. Then dW/dt = W (Gamma - h K)
        with Gamma = sum g v v^T, a matrix Riccati equation, whose solution is

            K(t) = F W^T [I + h W Gamma^-1 (F^2 - I) W^T]^-1 W F,   F = exp(Gamma t)

        (Yan, Helmke and Moore 1994, IEEE Trans. Circuits Syst. I 41, 572). The cost grows with the
        last time.

        Args:
            weight: W_1 at time 0, (width, n_0).
            vectors: the eigenvectors, `Moments.modes`, (n_0, modes).
            times: increasing times, from 0 on.

        Returns:
            (time, mode).

        Raises:
            ValueError: the modes saturate differently, or shapes do not fit.
        """
        import xarray as xr

        t = checked_times(times)
        w = inputs.matrix(weight, "weight", "(width, n_0)")
        basis = inputs.matrix(vectors, "vectors", "(n_0, modes)")
        h = self.saturation[0]
        if basis.shape != (w.shape[1], len(self.growth)):
            raise ValueError(
                f"vectors must be (n_0, modes) = {(w.shape[1], len(self.growth))}, got "
                f"{basis.shape}."
            )
        if np.ptp(self.saturation) > ROUNDING * h:
            raise ValueError(
                "Layer 1 has this closed form only if all modes saturate alike: whiten the inputs."
            )
        inside, now, strengths = w @ basis, 0.0, []
        for time in t:
            # W F times the inverse Cholesky factor of the bracket has the right K. So the solution
            # is continued in short steps: exp(2 g t) of a long one would swallow the weak modes.
            count = int(np.ceil((time - now) * np.abs(self.growth).max())) + 1
            step = (time - now) / count
            for _ in range(count):
                bracket = np.eye(len(w)) + h * (inside * _gain(self.growth, step)) @ inside.T
                grown = inside * np.exp(self.growth * step)
                inside = np.linalg.solve(np.linalg.cholesky(bracket), grown)
            now = time
            strengths.append(np.linalg.norm(inside, axis=0))
        coords = {"time": t, "mode": range(1, len(self.growth) + 1)}
        return xr.DataArray(strengths, coords, ("time", "mode"))

    # -- rest --------------------------------------------------------------------------------

    def local_rest(self, depth: int, decay: float = 0.0) -> xr.DataArray:
        """s_l at the end of local learning from a small start: which modes a layer ever learns.

        Layer l rests at s_l^2 = (g - mu / s_{l-1}^2) / h, s_0 = 1, and at 0 where that is not
        positive. Without decay each layer keeps all modes with g > 0 at sqrt(g/h). With decay a
        mode that layer 1 leaves below the strength 1 of the input loses more in every layer: one
        with g < 2 sqrt(h mu) reaches a finite number of layers only.

        Args:
            depth: the number of layers L.
            decay: the strength mu of the weight decay.

        Returns:
            (layer, mode).

        Raises:
            ValueError: a negative decay, or no layer.
        """
        decay = inputs.not_negative(decay, "decay")
        square, rests = np.ones_like(self.growth), []
        for _ in range(inputs.whole(depth, "depth", 1)):
            lost = np.divide(decay, square, out=np.zeros_like(square), where=square > 0)
            alive = (square > 0) & (self.growth > lost)
            square = np.where(alive, (self.growth - lost) / self.saturation, 0.0)
            rests.append(np.sqrt(square))
        return self._by_layer(rests)

    def global_rest(self, depth: int, decay: float = 0.0) -> xr.DataArray:
        """s_l at the end of backpropagation from a large start.

        Decay makes all a_l equal, and they rest at the largest root of
        a^(2L-2) (g - h a^(2L)) = mu, or at 0 where there is none. For L > 1 and mu > 0 the rest 0
        is stable as well: from a small start backpropagation learns no mode.

        Args:
            depth: the number of layers L.
            decay: the strength mu of the weight decay.

        Returns:
            (layer, mode).

        Raises:
            ValueError: a negative decay, or no layer.
        """
        from scipy.optimize import brentq

        decay, depth = inputs.not_negative(decay, "decay"), inputs.whole(depth, "depth", 1)
        strengths = []
        for g, h in zip(self.growth, self.saturation, strict=True):
            # x = a^2: the drive x^(L-1) (g - h x^L) has one maximum, and falls from there to 0.
            peak = (max(g, 0.0) * (depth - 1) / (h * (2 * depth - 1))) ** (1.0 / depth)
            end = (max(g, 0.0) / h) ** (1.0 / depth)

            def drive(x: float, g: float = g, h: float = h) -> float:
                return x ** (depth - 1) * (g - h * x**depth) - decay

            alive = g > 0 and drive(peak) > 0
            strengths.append(np.sqrt(brentq(drive, peak, end)) if alive and decay else end**0.5)
            strengths[-1] = strengths[-1] if alive else 0.0
        return self._by_layer([np.array(strengths) ** l for l in range(1, depth + 1)])

    def _by_layer(self, rests: list[Array]) -> xr.DataArray:
        import xarray as xr

        modes = range(1, len(self.growth) + 1)
        return xr.DataArray(
            np.array(rests), {"layer": range(1, len(rests) + 1), "mode": modes}, ("layer", "mode")
        )

    def _start(self, strengths: ArrayLike) -> Array:
        a = inputs.matrix(strengths, "strengths", "(layers, modes)")
        if a.shape[1] != len(self.growth):
            raise ValueError(f"strengths has {a.shape[1]} modes, but there are {len(self.growth)}.")
        if (a <= 0).any():
            raise ValueError("strengths must be positive: a mode of strength 0 never moves.")
        return a


def _labelled(values: Array, times: Array) -> xr.DataArray:
    import xarray as xr

    layers, modes = (range(1, n + 1) for n in values.shape[1:])
    return xr.DataArray(
        values, {"time": times, "layer": layers, "mode": modes}, ("time", "layer", "mode")
    )


def _remaining(modes: Modes, start: Array, times: Array) -> tuple[Array, Array]:
    """u / u(0) and y / y(0), y = g - h u, of the logistic equation du/dt = 2 u y."""
    # Of exp(+-2 g t) the one that falls is used, so that late times do not overflow.
    fallen = np.exp(-2.0 * np.abs(modes.growth) * times)
    below = modes.saturation * start * _gain(-np.abs(modes.growth), times)
    grows = modes.growth >= 0
    scale = np.where(grows, fallen, 1.0) + below
    return np.where(grows, 1.0, fallen) / scale, np.where(grows, fallen, 1.0) / scale


def _gain(growth: Array, times: Array | float) -> Array:
    """The integral of 2 exp(2 g t): (exp(2 g t) - 1) / g, and 2 t for g = 0."""
    still = growth == 0
    return np.where(still, 2.0 * times, np.expm1(2.0 * growth * times) / np.where(still, 1, growth))


def _logistic(modes: Modes, start: Array, times: Array) -> Array:
    return start * _remaining(modes, start, times)[0]


def _second_layer(modes: Modes, below: Array, start: Array, times: Array) -> Array:
    """a_2^2 from the squares of a_1 and a_2 at time 0.

    1/a_2^2 - 1 = w obeys dw/dt = -2 u (g w + y), so dw/d(log rho) = (g w + y) / h.
    """
    g, h = modes.growth, modes.saturation
    # At rest up to rounding, a smaller rho changes nothing, and its logarithm exists.
    rho = np.maximum(_remaining(modes, below, times)[1], 1e-300)
    log, away = np.log(rho), (h - g) / h
    # (rho - rho^(g/h)) / (h - g) for g = h is rho log(rho) / h.
    x = -away * log
    share = np.where(x == 0, 1.0, np.expm1(x) / np.where(x == 0, 1.0, x))
    particular = (g - h * below) * rho * log * share / h
    return 1.0 / (1.0 + (1.0 / start - 1.0) * rho ** (g / h) + particular)


def _higher_layers(modes: Modes, a: Array, times: Array) -> list[Array]:
    """s_3^2..s_L^2: d(1/a_l^2)/dt = -2 u (g / a_l^2 - h u) with u = s_{l-1}^2."""
    from scipy.integrate import solve_ivp

    g, h = modes.growth, modes.saturation

    def cascade(now: Array, inverse: Array) -> list[Array]:
        """s_2^2..s_L^2 at one time or at several."""
        logistic = _logistic(modes, a[0] ** 2, now)
        squares = [logistic * _second_layer(modes, a[0] ** 2, a[1] ** 2, now)]
        for layer in np.moveaxis(inverse, -2, 0):
            squares.append(squares[-1] / layer)
        return squares

    def velocity(now: float, flat: Array) -> Array:
        inverse = flat.reshape(len(a) - 2, -1)
        squares = cascade(np.array(now), inverse)
        rows = zip(squares, inverse, strict=False)
        return np.concatenate([-2.0 * u * (g * w - h * u) for u, w in rows])

    flat = _integrated(solve_ivp, velocity, (a[2:] ** -2.0).ravel(), times)
    return cascade(times[:, None], flat.reshape(len(times), len(a) - 2, -1))[1:]


def _integrated(solver: Any, velocity: Any, start: Array, times: Array) -> Array:
    """(times, unknowns)."""
    solved = solver(velocity, (0.0, times[-1]), start, "LSODA", times, rtol=1e-11, atol=1e-12)
    return np.asarray(solved.y.T)
