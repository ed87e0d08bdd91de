"""The two views in a batch, in the ways in which usual loaders give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from linlocal.inputs import described

Layout = Literal["stacked", "pair"]

_EXPECTED = (
    "A batch is a tensor with both views stacked (2N, ...), a pair of views (N, ...), or a tuple "
    "that begins with one of these (torch.as_tensor makes a tensor of an array)"
)


def check_layout(layout: Layout | None) -> None:
    """Raise a ValueError unless the layout is known."""
    if layout is not None and layout not in get_args(Layout):
        raise ValueError(f'views must be "stacked", "pair" or None, got {described(layout)}.')


def views_in(batch: Any, layout: Layout | None, *, paired: bool) -> Tensor:
    """Both views of a batch, stacked (2N, ...).

    Args:
        batch: a tensor (2N, ...), a pair of tensors (N, ...), or a tuple or list that begins with
            one of these, such as (inputs, labels) or (view 1, view 2, labels).
        layout: how the batch holds the views; None tells it from the batch.
        paired: whether two tensors of one shape can only be two views, where no layout is given.

    Raises:
        TypeError: the batch is something else, such as a dict or numpy arrays.
        ValueError: it holds another number of views, or what it holds is not clear.
    """
    items = [*batch] if isinstance(batch, tuple | list) else [batch]
    first = items[0] if items else None
    if isinstance(first, tuple | list):
        return _unless_stacked(first, layout)
    if not isinstance(first, Tensor):
        raise TypeError(f"{_EXPECTED}, got {described(batch)}{_beginning(batch)}.")
    alike = [item for item in items[1:] if _alike(first, item)]
    if layout == "stacked" or (layout is None and not alike):
        return first
    if not alike:
        raise ValueError(
            'views="pair" expects batches (view 1, view 2, ...), but this one came with a single '
            "tensor of inputs: let the data set return two views of each datum."
        )
    if len(alike) > 1 or alike[0] is not items[1]:
        raise ValueError(
            f"A batch came with {len(alike) + 1} tensors of one shape, which look like so many "
            "views: a local loss compares two. Give two, or make two by augment. If these are no "
            'views, say views="stacked".'
        )
    if layout is None and not paired:
        raise ValueError(
            "A batch came with two tensors of one shape, which may be two views, or inputs and "
            'their targets: say views="pair", or views="stacked" for inputs in one tensor.'
        )
    return joined(items[:2])


def views_made(made: Any, layout: Layout | None) -> Tensor:
    """Both views as ``augment`` made them, stacked (2N, ...); raises as `views_in`."""
    if isinstance(made, tuple | list):
        return _unless_stacked(made, layout)
    if not isinstance(made, Tensor):
        raise TypeError(f"{_EXPECTED}, got from augment {described(made)}{_beginning(made)}.")
    if layout == "pair":
        raise ValueError(
            'views="pair" expects a pair of views from augment, got one tensor: leave views out.'
        )
    return made


def inputs_in(batch: Any, layout: Layout | None) -> Any:
    """What ``augment`` gets of a batch: the batch, or its first entry.

    Raises:
        ValueError: the second entry looks like a second view, which ``augment`` would not see.
    """
    if not isinstance(batch, tuple | list) or not batch:
        return batch
    if layout is None and isinstance(batch[0], Tensor):
        alike = sum(_alike(batch[0], item) for item in batch[1:])
        if alike:
            raise ValueError(
                f"A batch came with {alike + 1} tensors of one shape, which look like views, but "
                "augment makes views and gets the first one only: leave augment out, let the "
                "loader give ((view 1, view 2), labels) for augment to get both, or set views to "
                "what augment returns."
            )
    return batch[0]


def joined(pair: Sequence[Any]) -> Tensor:
    """Two views (N, ...) as one tensor (2N, ...).

    Raises:
        ValueError: these are not two tensors of one shape.
    """
    tensors = all(isinstance(view, Tensor) for view in pair)
    if len(pair) != 2 or not tensors or pair[0].shape != pair[1].shape:
        shapes = [tuple(v.shape) if isinstance(v, Tensor) else described(v) for v in pair]
        raise ValueError(
            f"A local loss compares two views of the same data, tensors of one shape, got "
            f"{len(pair)}: {', '.join(map(str, shapes))}. If these are no views, say "
            'views="stacked".'
        )
    return torch.cat([*pair])


def check_labels(batch: Any, rows: int) -> None:
    """Raise if the labels of a batch say that its halves are not two views of the same data.

    Args:
        batch: the batch as the loader gave it.
        rows: the number of rows of both views together.

    Raises:
        ValueError: there are labels for another number of rows, or the label of a row of the first
            half is not that of the same row of the last half.
    """
    if not isinstance(batch, tuple | list) or len(batch) < 2 or not isinstance(batch[0], Tensor):
        return
    labels = batch[1]
    whole = isinstance(labels, Tensor) and not labels.is_floating_point()
    if not whole or labels.ndim != 1 or len(labels) * 2 == rows:
        return
    half = len(labels) // 2
    if len(labels) == rows and torch.equal(labels[:half], labels[half:]):
        return
    said = (
        "whose halves have other labels"
        if len(labels) == rows
        else f"which came with {len(labels)} labels"
    )
    raise ValueError(
        f"A local loss takes a batch of {rows} rows, {said}, for two views of the same data, one "
        "in each half of the rows. A loader of (inputs, labels) gives one view of each datum: "
        "make two by augment, or give batches ((view 1, view 2), labels). If the halves are two "
        'views and these are no labels, say views="stacked".'
    )


def _unless_stacked(views: Sequence[Any], layout: Layout | None) -> Tensor:
    if layout == "stacked":
        raise ValueError(
            f'views="stacked" expects one tensor of inputs, got {len(views)} entries: use '
            'views="pair", or None.'
        )
    return joined(views)


def _alike(first: Tensor, other: Any) -> bool:
    """Whether another entry of a batch looks like inputs of the same kind, such as a view."""
    if not isinstance(other, Tensor) or not first.ndim == other.ndim > 1:
        return False
    floating = first.is_floating_point() and other.is_floating_point()
    if not floating and first.dtype != other.dtype:
        return False
    # Crops of another size are views, too.
    return first.shape[1:] == other.shape[1:] or (
        first.ndim > 3 and first.shape[1] == other.shape[1]
    )


def _beginning(value: Any) -> str:
    """What a container begins with, for the message."""
    if isinstance(value, tuple | list) and value:
        return f" that begins with {described(value[0])}"
    return ""
