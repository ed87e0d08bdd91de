"""Feedback alignment as a transformation of any network, which can be undone.

>>> feedback = feedback_alignment(model, "random", seed=0)
>>> loss_fn(model(x), labels).backward()  # errors pass down through B instead of the weights
>>> feedback.undo()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from linlocal import inputs
from linlocal.analysis.block import refuse_inference, refuse_lazy, unwrap
from linlocal.analysis.feedback.layers import FED, FedLayer, Feedback
from linlocal.inputs import warn
from linlocal.seeds import generator_for

Method = Literal["random", "sign", "scaled_sign", "random_sign", "kolen_pollack"]


def _itself(weight: Tensor, drawn: Tensor | None) -> Tensor:
    assert drawn is not None
    return drawn


def _sign(weight: Tensor, drawn: Tensor | None) -> Tensor:
    return weight.sign()


def _scaled_sign(weight: Tensor, drawn: Tensor | None) -> Tensor:
    field = weight[0, 0].numel()
    return weight.sign() * (2 / (field * (weight.shape[0] + weight.shape[1]))) ** 0.5


def _random_sign(weight: Tensor, drawn: Tensor | None) -> Tensor:
    return weight.sign() * _itself(weight, drawn).abs()


# What B is, and whether something is drawn for it.
_METHODS: Mapping[Method, tuple[Feedback, bool]] = {
    "random": (_itself, True),
    "sign": (_sign, False),
    "scaled_sign": (_scaled_sign, False),
    "random_sign": (_random_sign, True),
    "kolen_pollack": (_itself, True),
}
# Modules that multiply activities by weights of their own, in operations that are not seen here.
_UNSEEN = (nn.Linear, _ConvNd, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.Bilinear)
# Modules whose weights scale or look up, and so are no matrices on the way of an error.
_NO_MATRICES = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class FeedbackAlignment:
    """A network whose layers have feedback weights; as a context manager it undoes that at the end.

    Attributes:
        method: where the feedback weights come from.
        layers: the layers that have them, by their names in the network.
    """

    method: Method
    layers: Mapping[str, nn.Module]

    def undo(self) -> None:
        """Give the layers back their own backward pass; nothing happens the second time.

        The feedback weights are gone then, also from ``state_dict`` and from the parameters.
        """
        for module in self.layers.values():
            if isinstance(module, FedLayer):
                del module.feedback, module.feedback_weight
                cast(nn.Module, module).__class__ = _BEFORE[type(module)]

    def matrices(self) -> dict[str, Tensor]:
        """B of every layer now, by its name and in the shape of its weight.

        Raises:
            RuntimeError: the transformation was undone.
        """
        found = {}
        for name, module in self.layers.items():
            if not isinstance(module, FedLayer):
                raise RuntimeError(
                    f"{name} has no feedback weights any more: the transformation was undone. "
                    "Transform the network again, feedback_alignment(model, ...)."
                )
            with torch.no_grad():
                found[name] = module.feedback(module.weight, module.feedback_weight).clone()
        return found

    def __enter__(self) -> FeedbackAlignment:
        return self

    def __exit__(self, *exception: object) -> None:
        self.undo()


_BEFORE: Mapping[type[nn.Module], type[nn.Module]] = {fed: plain for plain, fed in FED.items()}


def feedback_alignment(
    model: nn.Module,
    method: Method = "random",
    modules: Iterable[str] | None = None,
    *,
    seed: int = 0,
) -> FeedbackAlignment:
    """Let errors pass the layers of a network through feedback weights B instead of the weights W.

    The forward pass stays what it is. On the way back, a layer y = W x + b gives what lies below

        dx = B^T e    instead of    dx = W^T e,

    where e is the error that arrives at y; its own W and b get the gradient of e as usual. Linear
    layers and convolutions, transposed ones too, are changed where they stand, so residual links,
    normalisation, pooling and loops need no description: they send errors as in backpropagation,
    also by their own scales. B has the shape of W.

    * ``"random"``: B is drawn once and stays (feedback alignment);
    * ``"sign"``: B = sign(W) of the present weights (uSF);
    * ``"scaled_sign"``: B = s sign(W) with s = sqrt(2 / (fan_in + fan_out)), the standard deviation
      of Glorot's initialisation, so errors keep their size in deep networks without normalisation;
    * ``"random_sign"``: B = |R| * sign(W), R drawn once (frSF);
    * ``"kolen_pollack"``: B is drawn, and gets the gradient of W. With a rate eta and a decoupled
      weight decay lam of the optimiser for both, W - B shrinks by 1 - eta lam in each step;
      without weight decay it stays what it is. B is a parameter: make the optimiser afterwards.

    What is drawn is normal, with the root mean square of the layer's weights (of 1/fan_in if they
    are all 0), and a function of the seed and of the layer's name. It is a buffer
    ``feedback_weight`` of its layer (a parameter for Kolen-Pollack), so it is moved, cast, copied
    and stored in ``state_dict`` with the network.

    `align` and `AlignmentRecorder(against="rule")` compare what such a network sends down with
    backpropagation, see `DirectFeedback`.

    Args:
        model: the network.
        method: where B comes from.
        modules: the names of submodules whose layers are changed; None takes the whole network.
        seed: seeds what is drawn.

    Returns:
        What undoes it; it is a context manager, too.

    Raises:
        ValueError: an unknown method or module, no layers that can be changed, feedback weights
            that are there already, or modules that multiply by weights in a way of their own
            (attention, recurrent, parametrised or derived layers); for Kolen-Pollack also weights
            that two layers share.
        TypeError: no network, no names or no seed.

    Warns:
        UserWarning: other modules have matrices of their own, which errors pass as usual.

    References:
        Lillicrap et al. 2016 (feedback alignment); Liao, Leibo & Poggio 2016, arXiv 1510.05067
        (signs); Kolen & Pollack 1994 and Akrout et al. 2019, arXiv 1904.05391 (Kolen-Pollack).
    """
    if not inputs.is_one_of(method, get_args(Method)):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}.")
    seed = inputs.whole(seed, "seed", 0)
    network = unwrap(model)
    refuse_lazy(network)
    refuse_inference(network)
    layers = _layers(network, modules)
    if method == "kolen_pollack":
        _refuse_tied(network, layers)
    feedback, draws = _METHODS[method]
    for name, layer in layers.items():
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        layer.__class__ = FED[type(layer)]
        assert isinstance(layer, FedLayer)
        layer.feedback = feedback
        drawn = _drawn(weight, name, seed) if draws else None
        if method == "kolen_pollack" and drawn is not None:
            layer.register_parameter(
                "feedback_weight", nn.Parameter(drawn, requires_grad=weight.requires_grad)
            )
        else:
            layer.register_buffer("feedback_weight", drawn)
    return FeedbackAlignment(method, layers)


def _layers(network: nn.Module, names: Iterable[str] | None) -> dict[str, nn.Module]:
    """The layers to change, by name; raises where a part of the network cannot be changed."""
    known = dict(network.named_modules())
    chosen = [""] if names is None else inputs.sequence(names, "modules", "names of submodules")
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(
            f"The network has no submodule {unknown[0]!r}; it has "
            f"{', '.join(name for name in [*known][1:9])}, ..."
        )
    layers: dict[str, nn.Module] = {}
    beside = []
    for name, module in known.items():
        if not any(name == c or not c or name.startswith(f"{c}.") for c in chosen):
            continue
        what = f"{name or 'The network'} ({type(module).__name__})"
        if isinstance(module, FedLayer):
            raise ValueError(f"{what} has feedback weights already: undo these first.")
        if type(module) in FED:
            if hasattr(module, "feedback") or hasattr(module, "feedback_weight"):
                raise ValueError(f"{what} has an attribute feedback or feedback_weight already.")
            layers[name] = module
        elif isinstance(module, _UNSEEN) or is_parametrized(module):
            raise ValueError(
                f"{what} multiplies by its weights in a way of its own, so errors would pass "
                "through the weights themselves, unseen. Feedback weights are for nn.Linear, "
                "nn.Conv1d to 3d and nn.ConvTranspose1d to 3d, not for classes derived from them: "
                "use these, or name the parts that are to be changed, modules=[...]."
            )
        elif not isinstance(module, _NO_MATRICES):
            own = module.named_parameters(name, recurse=False)
            beside += [n for n, p in own if sum(side > 1 for side in p.shape) > 1]
    if not layers:
        raise ValueError(
            f"{type(network).__name__} has no nn.Linear and no convolution"
            + ("" if names is None else f" in {', '.join(chosen)}")
            + ", so there is nothing to give feedback weights to."
        )
    if beside:
        warn(
            f"{', '.join(beside[:3])} may be matrices that activities are multiplied by. Errors "
            "pass them as in backpropagation, because only nn.Linear and convolutions get feedback "
            "weights."
        )
    return layers


def _refuse_tied(network: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    users: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        users.setdefault(id(parameter), []).append(name)
    owners = {name: id(layer.weight) for name, layer in layers.items()}
    for name, key in owners.items():
        if len(users[key]) > 1:
            raise ValueError(
                f"The weight of {name} is shared ({', '.join(users[key])}), so its gradient is not "
                "that of one layer, and Kolen-Pollack feedback would not come to equal it: take "
                "another method, or leave the layer out, modules=[...]."
            )


def _drawn(weight: Tensor, name: str, seed: int) -> Tensor:
    """Normal numbers of the size of the weights, from the layer's name and the seed."""
    # On the CPU and in float64, so a seed means the same on every device.
    normal = generator_for(f"feedback weights of {name}", seed).standard_normal(weight.shape)
    values = weight.detach()
    size = values.double().square().mean().sqrt()
    size = torch.where(size > 0, size, values[0].numel() ** -0.5)
    return (torch.from_numpy(normal).to(weight.device) * size).to(weight.dtype)
