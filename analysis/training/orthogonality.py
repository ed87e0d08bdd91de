"""Weights kept orthogonal in training: a penalty ||W W^T - I||^2, or a retraction after each step.

Both act at the step of the optimiser, so they are the same in a trainer and in any loop, under
mixed precision, with several processes and with accumulated gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from linlocal import inputs
from linlocal.analysis.training.weight_matrices import WeightMatrix, weight_matrices, wide

Retraction = Literal["polar", "qr"]


@dataclass(frozen=True, kw_only=True)
class Orthogonality:
    """Keeps W W^T = gain^2 I in training, or W^T W = gain^2 I where W is tall.

    W is the weight of a linear layer or the flattened kernel (out, in k k) of a convolution, and
    each group of it. Give it to a trainer as ``orthogonality``, or call `keep` in a loop of your
    own. Weights begin as they are: begin with `orthogonal_`, or the first retraction moves them
    far.

    The map of a linear layer is then an isometry if it does not narrow. That of a convolution with
    overlapping patches is not: its flattened kernel bounds its singular values by those of
    overlapping patches, k / stride along each axis, and only `orthogonal_` starts at an isometry.

    Attributes:
        retraction: what follows a step: "polar" moves W to the nearest orthogonal matrix
            gain U V^T, W = U S V^T; "qr" takes gain Q of W^T = Q R (of W, if it is tall), R with a
            positive diagonal, which is cheaper and further away. None leaves W where the step took
            it.
        penalty: the strength rho of the penalty rho ||W W^T - gain^2 I||_F^2, summed over layers;
            its gradient 4 rho (W W^T - gain^2 I) W joins that of the loss. 0 for none.
        gain: the singular values of the weights.
        names: the layers, as for `orthogonal_`; by default all that the optimisers train.

    Raises:
        TypeError: an attribute of another type.
        ValueError: neither a retraction nor a penalty, an unknown retraction, or a number out of
            range.
    """

    retraction: Retraction | None = "polar"
    penalty: float = 0.0
    gain: float = 1.0
    names: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.retraction is not None and not inputs.is_one_of(
            self.retraction, get_args(Retraction)
        ):
            raise ValueError(f'retraction must be "polar", "qr" or None, got {self.retraction!r}.')
        inputs.keep(self, inputs.not_negative, "penalty")
        inputs.keep(self, inputs.positive, "gain")
        if self.retraction is None and self.penalty == 0:
            raise ValueError("Give a retraction or a penalty: without both, nothing is kept.")
        if self.names is not None and not isinstance(self.names, str):
            named = inputs.sequence(self.names, "names", "names of layers")
            object.__setattr__(self, "names", named)

    def keep(
        self, model: nn.Module, optimisers: Optimizer | Iterable[Optimizer]
    ) -> tuple[RemovableHandle, ...]:
        """From now on each step of the optimisers keeps the weights that it trains.

        Args:
            model: the network.
            optimisers: the optimisers of its weights, made before.

        Returns:
            Handles; ``remove()`` of each ends it.

        Raises:
            TypeError: no module or optimiser.
            ValueError: as `weight_matrices`, or no optimiser trains a weight that is named. A step
                raises it if it is given a closure, in which the gradient of the penalty would get
                lost.
        """
        given = [optimisers] if isinstance(optimisers, Optimizer) else optimisers
        several: tuple[Any, ...] = inputs.sequence(given, "optimisers", "optimisers")
        for optimiser in several:
            inputs.instance(optimiser, Optimizer, "optimisers", "a torch.optim.Optimizer")
        found = weight_matrices(model, self.names)
        held = [{id(p) for g in o.param_groups for p in g["params"]} for o in several]
        left = [m.name for m in found if not any(id(m.weight) in ids for ids in held)]
        # Without names, what no optimiser trains (a head beside the blocks) is not meant.
        if left and (self.names is not None or len(left) == len(found)):
            raise ValueError(
                f"No optimiser trains the weights of {', '.join(left[:3])}: name the layers that "
                "are to be kept orthogonal, or unfreeze these."
            )
        handles: list[RemovableHandle] = []
        for optimiser, ids in zip(several, held, strict=True):
            mine = [m for m in found if id(m.weight) in ids]
            if self.penalty and mine:
                handles.append(optimiser.register_step_pre_hook(partial(self._push, mine)))
            if self.retraction and mine:
                handles.append(optimiser.register_step_post_hook(partial(self._pull_back, mine)))
        return tuple(handles)

    def retract(self, model: nn.Module) -> None:
        """Set the weights of a network to orthogonal ones near them, in place.

        Without a ``retraction`` it is the polar one.

        Raises:
            TypeError, ValueError: as `weight_matrices`.
            FloatingPointError: a weight is not finite.
        """
        for each in weight_matrices(model, self.names):
            self._set(each)

    def deviation(self, model: nn.Module) -> dict[str, float]:
        """How far the weights are from orthogonal: ||W W^T - gain^2 I||_F / (gain^2 sqrt(n)).

        Returns:
            By the name of the layer, n its number of rows, or of columns where it is tall.
        """
        found = {}
        for each in weight_matrices(model, self.names):
            excess, _ = self._excess(each)
            size = self.gain**2 * (excess.shape[0] * excess.shape[1]) ** 0.5
            found[each.name] = float(excess.double().norm()) / size
        return found

    def _excess(self, each: WeightMatrix) -> tuple[Tensor, Tensor]:
        """W W^T - gain^2 I of the lying matrices, (groups, n, n), and these, (groups, n, m)."""
        lying = _lying(each.matrices(wide(each.weight)))
        gram = lying @ lying.mT
        gram.diagonal(dim1=1, dim2=2).sub_(self.gain**2)
        return gram, lying

    def _push(
        self,
        found: Sequence[WeightMatrix],
        optimiser: Optimizer,
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        if any(a is not None for a in (*args[1:], options.get("closure"))):
            raise ValueError(
                "A step with a closure computes gradients anew, without those of the orthogonality "
                "penalty: take an optimiser without a closure, or a retraction."
            )
        # A fused optimiser divides gradients by the scale of the loss itself, within its step.
        scale = getattr(optimiser, "grad_scale", None)
        for each in found:
            gradient = each.weight.grad
            if gradient is None:
                continue
            excess, lying = self._excess(each)
            pull = 4 * self.penalty * (excess @ lying)
            if scale is not None:
                pull = pull * scale
            tall = each.matrices(each.weight).shape[1] > lying.shape[1]
            pull = pull.mT if tall else pull
            gradient.add_(pull.reshape(gradient.shape))

    def _pull_back(self, found: Sequence[WeightMatrix], *_: Any) -> None:
        for each in found:
            self._set(each)

    @torch.no_grad()
    def _set(self, each: WeightMatrix) -> None:
        weight = wide(each.weight)
        if not weight.isfinite().all():
            raise FloatingPointError(
                f"The weights of {each.name} are not finite after the step, so they cannot be made "
                "orthogonal: lower the learning rate."
            )
        matrices = each.matrices(weight)
        lying = _lying(matrices)
        if self.retraction == "qr":
            q, r = torch.linalg.qr(lying.mT)
            signs = r.diagonal(dim1=1, dim2=2).sign()
            near = (q * torch.where(signs == 0, 1, signs)[:, None, :]).mT
        else:
            u, _, vt = torch.linalg.svd(lying, full_matrices=False)
            near = u @ vt
        near = near.mT if lying.shape != matrices.shape else near
        each.weight.copy_((self.gain * near).reshape(each.weight.shape))


def _lying(matrices: Tensor) -> Tensor:
    """Matrices with at most as many rows as columns, transposed if they are tall."""
    return matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
