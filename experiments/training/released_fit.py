"""Projections as the released code of Wu et al. 2026 (arXiv 2601.21683) fits them, written anew.

Both B of a layer, one for each view, go down the penalised loss of a batch by torch's L-BFGS in
float32 (rate 0.2, at most 1,000 iterations, strong Wolfe line search), three times. They start
from where the batch before left them. Autograd then gives the updates.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from linlocal import Pairs
from linlocal.inputs import Array
from linlocal.networks import Network

ROUNDS = 3


class ReleasedFit:
    """The projections of all layers, and the batch that is looked at.

    Args:
        network: its matrices are copied to float32.
        pairs: the first batch, of two views.
        margin: margin of the softplus.
        penalty: lam, twice the published b_decay.
        seed: seeds the projections, uniform on +-1/sqrt(width) as `torch.nn.Linear` draws them.
    """

    def __init__(
        self, network: Network, pairs: Pairs, margin: float, penalty: float, seed: int
    ) -> None:
        self.margin, self.penalty = margin, penalty
        self.relu = not network.is_linear
        self.weights = [
            torch.tensor(network.matrix(l), dtype=torch.float32, requires_grad=True)
            for l in network.layers
        ]
        generator = torch.Generator().manual_seed(seed)
        self.projections = []
        for w in self.weights:
            shape = (len(w), len(w))
            drawn = [torch.rand(shape, generator=generator) for _ in range(2)]
            self.projections.append([((2 * b - 1) / len(w) ** 0.5).requires_grad_() for b in drawn])
        self.drawn = [[b.detach().clone() for b in both] for both in self.projections]
        self.look_at(pairs)

    def look_at(self, pairs: Pairs) -> None:
        """Take another batch; the projections stay."""
        self.x = torch.tensor(pairs.samples, dtype=torch.float32)
        self.directions = [
            (torch.tensor(d.anchor), torch.tensor(d.reference), torch.tensor(d.sign) > 0)
            for d in pairs.directions
        ]

    def forward(self, detach: bool) -> list[Tensor]:
        """Activities of the layers 1..L; with ``detach`` no gradient passes between layers."""
        activities = []
        z = self.x
        for w in self.weights:
            z = (z.detach() if detach else z) @ w.T
            z = torch.relu(z) if self.relu else z
            activities.append(z)
        return activities

    def loss(self, z: Tensor, projections: Sequence[Tensor]) -> Tensor:
        """Type 2 with softplus, the mean over both view directions: half of that of `linlocal`.

        A projection belongs to the view of an anchor, also of the negative ones.
        """
        half = len(z) // 2
        projected = torch.cat(
            [v @ b for v, b in zip((z[:half], z[half:]), projections, strict=True)]
        )
        total = torch.zeros((), dtype=z.dtype)
        for anchor, reference, positive in self.directions:
            scores = (projected[anchor] * z[reference].detach()).sum(dim=1)
            values = torch.nn.functional.softplus(
                self.margin - torch.where(positive, scores, -scores)
            )
            total = total + values[positive].mean() + values[~positive].mean()
        for b in projections:
            total = total + self.penalty / 2 * b.square().sum()
        return total / 2

    def fit(self, layers: Sequence[int] | None = None) -> None:
        """Three rounds of L-BFGS for the projections of these layers, by default of all."""
        activities = self.forward(detach=True)
        for l in range(1, len(activities) + 1) if layers is None else layers:
            for _ in range(ROUNDS):
                optimizer = torch.optim.LBFGS(
                    self.projections[l - 1], lr=0.2, max_iter=1000, line_search_fn="strong_wolfe"
                )
                self._minimise(optimizer, activities[l - 1].detach(), self.projections[l - 1])

    def fit_patiently(self, goal: float, seconds_per_layer: float) -> int:
        """L-BFGS in float64, without its own stopping rules, until ||dLoss/dB|| <= goal ||lam B||.

        Args:
            goal: the relative gradient to reach.
            seconds_per_layer: time after which a layer is given up.

        Returns:
            The number of layers that reached the goal.
        """
        reached = 0
        for z, initial in zip(self.forward(detach=True), self.projections, strict=True):
            fixed = z.detach().double()
            projections = [b.detach().double().requires_grad_() for b in initial]
            start = time.perf_counter()
            while time.perf_counter() - start < seconds_per_layer:
                optimizer = torch.optim.LBFGS(
                    projections,
                    lr=0.2,
                    max_iter=100,
                    tolerance_grad=0.0,
                    tolerance_change=0.0,
                    line_search_fn="strong_wolfe",
                )
                self._minimise(optimizer, fixed, projections)
                if self.relative_gradient(fixed, projections) <= goal:
                    reached += 1
                    break
        return reached

    def _minimise(
        self, optimizer: torch.optim.LBFGS, z: Tensor, projections: Sequence[Tensor]
    ) -> None:
        """Call the optimiser once on the projections of one layer."""

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = self.loss(z, projections)
            value.backward()
            return value

        optimizer.step(closure)

    def relative_gradient(self, z: Tensor, projections: Sequence[Tensor]) -> float:
        """||dLoss/dB|| / ||lam B||, the worst of both views."""
        gradients = torch.autograd.grad(self.loss(z, projections), projections)
        return max(
            (g.norm() / (self.penalty / 2 * b.norm())).item()
            for b, g in zip(projections, gradients, strict=True)
        )

    def residuals(self) -> list[float]:
        """`relative_gradient` of every layer, in float64."""
        return [
            self.relative_gradient(
                z.detach().double(), [b.detach().double().requires_grad_() for b in projections]
            )
            for z, projections in zip(self.forward(detach=True), self.projections, strict=True)
        ]

    def updates(
        self, below: Sequence[Sequence[Tensor]] | None = None
    ) -> tuple[list[Array], list[Array]]:
        """Local and global updates of every layer.

        Args:
            below: projections of all layers below the top, in place of the fitted ones.
        """
        *own, top = self.projections
        projections = [*(own if below is None else below), top]
        local = [
            -torch.autograd.grad(self.loss(z, b), w)[0].double().numpy()
            for z, b, w in zip(self.forward(detach=True), projections, self.weights, strict=True)
        ]
        of_top = self.loss(self.forward(detach=False)[-1], top)
        return local, [-g.double().numpy() for g in torch.autograd.grad(of_top, self.weights)]

    def cosines(self, below: Sequence[Sequence[Tensor]] | None = None) -> list[float]:
        """Cosine of the local and the global update of every layer; ``below`` as for `updates`."""
        return [
            float(np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b)))
            for a, b in zip(*self.updates(below), strict=True)
        ]
