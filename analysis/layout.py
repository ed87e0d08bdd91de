"""Where samples, channels and places lie in a block's output, and its standard form.

The instruments read (samples, channels), maps (samples, channels, height, width) and sequences
(samples, tokens, channels), in short NC, NCHW and NLC. An output in another order is permuted into
one of these. The order is *declared*, or *found* from two facts that must not contradict each
other: which axis is as long as the outputs of the block's own layers, and which two axes are as
long as each other, as the sides of a square map are. Where they do not decide, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

Layout = Literal["NC", "NCHW", "NHWC", "NLC", "NCL", "LNC"]

# The axes of the standard form, by their places in the output.
_AXES: dict[str, tuple[int, ...]] = {
    "NC": (0, 1),
    "NCHW": (0, 1, 2, 3),
    "NHWC": (0, 3, 1, 2),
    "NLC": (0, 1, 2),
    "NCL": (0, 2, 1),
    "LNC": (1, 0, 2),
}
LAYOUTS: tuple[str, ...] = get_args(Layout)


def to_standard(z: Tensor, layout: str) -> Tensor:
    """An output as NC, NCHW or NLC; the tensor itself where it is one already."""
    return _permuted(z, _AXES.get(layout, ()))


def from_standard(z: Tensor, layout: str) -> Tensor:
    """The inverse of `to_standard`."""
    axes = _AXES.get(layout, ())
    return _permuted(z, [axes.index(axis) for axis in range(len(axes))])


def check_declared(name: str, z: Tensor, layout: str) -> None:
    """Raise a ValueError if an output has not the number of axes of its declared layout."""
    if z.ndim != len(layout):
        raise ValueError(
            f"Block {name!r} was declared to return {layout}, which has {len(layout)} axes, but "
            f"its output has shape {tuple(z.shape)}: declare one of {', '.join(LAYOUTS)}."
        )


def check_rows(name: str, z: Tensor, rows: int | None) -> None:
    """Raise if the first axis of an output in standard form cannot be that of the samples.

    Args:
        name: the name of the block.
        z: its output, whose layout was not declared.
        rows: the number of rows of the network's input, if it is known.

    Raises:
        ValueError: the first axis is no multiple of ``rows``, or the second one fits instead.
    """
    if rows is None or not z.ndim or len(z) == rows:
        return
    second = z.ndim > 2 and z.shape[1] == rows
    if second or not rows or len(z) % rows:
        raise ValueError(
            f"Block {name!r} returned shape {tuple(z.shape)} for a batch of {rows} rows, but the "
            "first axis must be that of the samples. If the block has (tokens, samples, channels), "
            "as transformers without batch_first=True have, declare it: "
            f'blocks={{"{name}": "LNC", ...}}. Otherwise name a block that keeps the rows.'
        )


def find_layout(name: str, members: Sequence[nn.Module], z: Tensor) -> str:
    """The layout of a block's output.

    Args:
        name: the name of the block.
        members: the submodules that the block is made of.
        z: its output.

    Returns:
        One of `LAYOUTS`; "" for a number of axes that has none.

    Raises:
        ValueError: the facts do not decide.
    """
    if z.ndim == 3:
        _refuse_tokens_first(name, members, z)
        found = _of_sequence(members, z)
    elif z.ndim == 4:
        found = _of_map(members, z)
    else:
        return "NC" if z.ndim == 2 else ""
    if found is None:
        first, last = ("NCHW", "NHWC") if z.ndim == 4 else ("NCL", "NLC")
        raise ValueError(
            f"Where the channels are in the output of block {name!r}, of shape {tuple(z.shape)}, "
            f"is not certain: its layers and the lengths of its axes allow {first} and {last}. "
            f'Declare it: blocks={{"{name}": "{first}", ...}} or "{last}".'
        )
    return found


def _of_map(members: Sequence[nn.Module], z: Tensor) -> str | None:
    first, second, last = z.shape[1:]
    lengths, kinds = _channels(members)
    by_square = {(True, False): "NHWC", (False, True): "NCHW"}.get(
        (first == second, second == last)
    )
    if kinds == {"first"}:  # convolutions alone; concatenated outputs have other lengths
        return "NCHW"
    if not kinds:
        return None if by_square == "NHWC" else "NCHW"
    by_layers = {(True, False): "NCHW", (False, True): "NHWC"}.get(
        (first in lengths, last in lengths)
    )
    found = {by_square, by_layers} - {None}
    return found.pop() if len(found) == 1 else None


def _of_sequence(members: Sequence[nn.Module], z: Tensor) -> str | None:
    lengths, kinds = _channels(members)
    if not kinds or kinds == {"last"}:
        return "NLC"
    by_layers = {(True, False): "NCL", (False, True): "NLC"}.get(
        (z.shape[1] in lengths, z.shape[2] in lengths)
    )
    along_one_axis = any(isinstance(part, nn.Conv1d) for part in _parts(members))
    return by_layers or ("NCL" if along_one_axis and kinds == {"first"} else None)


def _channels(members: Sequence[nn.Module]) -> tuple[set[int], set[str]]:
    """The numbers of channels that the layers give, and the axes on which they have them."""
    lengths, kinds = set(), set()
    for part in _parts(members):
        if isinstance(part, nn.Linear):
            length, kind = part.out_features, "last"
        elif isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1:
            length, kind = part.normalized_shape[0], "last"
        elif isinstance(part, _ConvNd):
            length, kind = part.out_channels, "first"
        elif isinstance(part, _NormBase):
            length, kind = part.num_features, "first"
        elif isinstance(part, nn.GroupNorm):
            length, kind = part.num_channels, "first"
        else:
            continue
        lengths.add(length)
        kinds.add(kind)
    return lengths, kinds


def _refuse_tokens_first(name: str, members: Sequence[nn.Module], z: Tensor) -> None:
    kinds = (nn.MultiheadAttention, nn.RNNBase)
    part = next((p for p in _parts(members) if isinstance(p, kinds) and not p.batch_first), None)
    if part is not None:
        raise ValueError(
            f"Block {name!r} holds a {type(part).__name__} with batch_first=False, so its output "
            f"of shape {tuple(z.shape)} may be (tokens, samples, channels). Declare it: "
            f'blocks={{"{name}": "LNC", ...}}, or "NLC" if the block itself turns it back to '
            "(samples, tokens, channels); or build the layers with batch_first=True."
        )


def _parts(members: Iterable[nn.Module]) -> list[Any]:
    return [part for member in members for part in member.modules()]


def _permuted(z: Tensor, axes: Sequence[int]) -> Tensor:
    return z if list(axes) == [*range(len(axes))] else z.permute(*axes)
