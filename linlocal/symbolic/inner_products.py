"""Losses of two views as functions of the inner products between samples only.

What is a function F of K = [Z; Z'] [Z; Z']^T alone does not change under an isometric map of the
activities (statement 5 of the theory), and its gradient by Z is 2 (dF/dK) Z, dF/dK symmetric.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy as sp

from linlocal import losses
from linlocal.symbolic.spheres import cosine_mean


def _gram_logdet(k: sp.Matrix, n: int, weight: sp.Expr, epsilon: sp.Expr) -> sp.Expr:
    return -weight * sp.log((sp.eye(n) + k / (n * epsilon)).det())


def _pull(k: sp.Matrix, n: int) -> sp.Expr:
    """mean ||z - z_view||^2."""
    return sum(k[i, i] + k[n + i, n + i] - 2 * k[i, n + i] for i in range(n)) / n


def _spectral(k: sp.Matrix, n: int, _: losses.SpectralContrastive) -> sp.Expr:
    off = sum(k[i, n + j] ** 2 for i in range(n) for j in range(n) if i != j)
    return -2 * sum(k[i, n + i] for i in range(n)) / sp.Integer(n) + off / sp.Integer(n * (n - 1))


def _whitening(k: sp.Matrix, n: int, loss: losses.Whitening) -> sp.Expr:
    """||cov - I||_F^2 = tr(K^2)/n^2 - 2 tr(K)/n + width; the width is left out."""
    blocks = (k[:n, :n], k[n:, n:])
    spread = sum((b * b).trace() / n**2 - 2 * b.trace() / n for b in blocks)
    return _pull(k, n) + sp.nsimplify(loss.weight) * spread


def _logdet(k: sp.Matrix, n: int, loss: losses.LogDet) -> sp.Expr:
    """det(I + Z^T Z) = det(I + Z Z^T) (Sylvester)."""
    weight, epsilon = sp.nsimplify(loss.weight), sp.nsimplify(loss.epsilon)
    rates = (_gram_logdet(b, n, weight, epsilon) for b in (k[:n, :n], k[n:, n:]))
    return _pull(k, n) + sum(rates)


def _ntxent(k: sp.Matrix, n: int, loss: losses.NTXent) -> sp.Expr:
    temperature = sp.nsimplify(loss.temperature)
    total = sp.S.Zero
    for i in range(2 * n):
        logits = {
            j: k[i, j] / sp.sqrt(k[i, i] * k[j, j]) / temperature for j in range(2 * n) if j != i
        }
        total += sp.log(sum(map(sp.exp, logits.values()))) - logits[(i + n) % (2 * n)]
    return total / (2 * n)


def _cosine_info_nce(k: sp.Matrix, n: int, loss: losses.CosineInfoNCE) -> sp.Expr:
    temperature = sp.nsimplify(loss.temperature)
    total = sp.S.Zero
    for i in range(n):
        logits = [k[i, n + j] / sp.sqrt(k[i, i] * k[n + j, n + j]) / temperature for j in range(n)]
        total += sp.log(sum(map(sp.exp, logits))) - logits[i]
    return total / n


def sliced_normality(k: sp.Matrix, n: int, loss: Any) -> sp.Expr:
    """The pull and the sliced statistic of normality, over all slices of R^D, of both views.

    T/n = mean_jk sum_t w_t Omega(t^2 ||z_j - z_k||^2) - 2 mean_k sum_t w_t e^(-t^2/2)
    Omega(t^2 ||z_k||^2), Omega the mean of the cosine over all directions
    (`linlocal.symbolic.spheres`): a function of norms and distances. The nodes t are those of the
    trapezoid rule on [0, limit], twice, with the density exp(-t^2/2).
    """
    step = sp.nsimplify(loss.limit) / (loss.nodes - 1)
    total = _pull(k, n)
    for block in (k[:n, :n], k[n:, n:]):
        for i in range(1, loss.nodes):
            t = i * step
            normal = sp.exp(-(t**2) / 2)
            weight = 2 * step * normal / (2 if i == loss.nodes - 1 else 1)
            between = sum(
                cosine_mean(t**2 * (block[a, a] + block[b, b] - 2 * block[a, b]), loss.dimension)
                for a in range(n)
                for b in range(n)
                if a != b
            )
            alone = sum(cosine_mean(t**2 * block[a, a], loss.dimension) for a in range(n))
            total += sp.nsimplify(loss.weight) * weight * (between / n - 2 * normal * alone)
    return total


FORMS: dict[type, Callable[..., sp.Expr]] = {
    losses.SpectralContrastive: _spectral,
    losses.Whitening: _whitening,
    losses.LogDet: _logdet,
    losses.NTXent: _ntxent,
    losses.CosineInfoNCE: _cosine_info_nce,
    losses.SlicedNormality: sliced_normality,
}
"""Losses of two views as functions F(K, n, loss) of K = [Z; Z'] [Z; Z']^T, up to a constant."""


def form_of(loss: Any) -> Callable[..., sp.Expr] | None:
    """The closed form F(K, n, loss), if there is one; that of a class is not its subclasses'.

    Sliced normality has one over all slices of a space of its own dimension, the same in all
    layers; some slices, or the width of each layer as the dimension, are no inner products.
    """
    form = FORMS.get(type(loss))
    if form is sliced_normality and (loss.slices is not None or loss.dimension is None):
        return None
    return form
