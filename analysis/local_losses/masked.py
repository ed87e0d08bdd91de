"""Masked reconstruction: in every block a decoder that restores what was hidden from the network.

The network sees images with patches hidden, and the decoder of each block predicts the pixels of
the hidden patches from the block's output. The decoders are parts of the local losses: each is
trained with the block that it reads, and with no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.local_losses.contract import LocalLoss
from linlocal.analysis.local_losses.pooling import Shape, shapes_of

MakeDecoder = Callable[[Shape, Shape], nn.Module]


def mask_patches(
    images: Tensor, generator: torch.Generator, side: int, share: float = 0.75
) -> tuple[Tensor, Tensor]:
    """Images with random patches hidden, as many in each image, and what was hidden.

    Args:
        images: (samples, channels, height, width).
        generator: draws the patches, on the device of the images.
        side: the side of a patch, which must divide height and width.
        share: the share of the patches that is hidden, rounded to whole patches; 0.75 in He et al.
            2022 (arXiv 2111.06377).

    Returns:
        The images with hidden pixels 0, and the mask (samples, 1, height, width), True where a
        pixel is hidden.

    Raises:
        ValueError: no batch of images, a side that does not divide them, or a share that hides
            nothing or all.
        TypeError: no tensor, generator or numbers.
    """
    inputs.instance(images, Tensor, "images", "a tensor (torch.from_numpy makes one)")
    inputs.instance(generator, torch.Generator, "generator", "a torch.Generator")
    side, share = inputs.whole(side, "side", 1), inputs.finite(share, "share")
    if images.ndim != 4 or any(length % side for length in images.shape[2:]):
        raise ValueError(
            f"Patches of side {side} need images (samples, channels, height, width) whose height "
            f"and width they divide, got shape {tuple(images.shape)}."
        )
    rows, columns = (length // side for length in images.shape[2:])
    hidden = round(share * rows * columns)
    if not 0 < hidden < rows * columns:
        raise ValueError(
            f"A share of {share} of {rows * columns} patches hides {hidden} of them: at least one "
            "must be hidden and at least one seen; change the share, or take a smaller side."
        )
    size = (len(images), rows * columns)
    order = torch.rand(size, generator=generator, device=generator.device).argsort(1)
    patches = (order < hidden).view(len(images), 1, rows, columns)
    mask = patches.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return images.masked_fill(mask, 0.0), mask


class Reconstruction(LocalLoss):
    """Mean over hidden entries of (decoder(z) - target)^2. Built by `MaskedReconstruction`.

    Args:
        decoder: maps the block's output to the targets' shape.
        shape: the shape of one target.
    """

    def __init__(self, decoder: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.decoder, self.shape = decoder, shape

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        targets, hidden = self._hidden_in(batch, here)
        predicted = self.decoder(here)
        if predicted.shape != targets.shape:
            raise ValueError(
                f"The decoder gave {tuple(predicted.shape)} for targets of shape "
                f"{tuple(targets.shape)}."
            )
        predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
        errors = (predicted - targets.to(predicted.dtype)).square()
        return (errors * hidden).sum() / hidden.sum()

    def _hidden_in(self, batch: Any, here: Tensor) -> tuple[Tensor, Tensor]:
        """The targets of a batch, and 1 where an entry is hidden, else 0."""
        entries = [*batch] if isinstance(batch, tuple | list) else []
        if len(entries) < 3 or not all(isinstance(each, Tensor) for each in entries[:3]):
            raise ValueError(
                "This loss reads targets and a mask: give it batches (inputs, targets, mask), as "
                f"mask_patches makes them, got {inputs.described(batch)}."
            )
        targets, mask = (each.to(here.device) for each in entries[1:3])
        if targets.shape != (len(here), *self.shape):
            raise ValueError(
                f"The targets of {len(here)} rows must be {(len(here), *self.shape)}, got "
                f"{tuple(targets.shape)}: one target for each row, of the shape that "
                "MaskedReconstruction was given."
            )
        fits = mask.ndim == targets.ndim and all(
            m in (1, t) for m, t in zip(mask.shape, targets.shape, strict=True)
        )
        if mask.dtype != torch.bool or not fits:
            raise ValueError(
                f"The mask must be of bools, True where an entry is hidden, and fit targets of "
                f"shape {tuple(targets.shape)}, got {mask.dtype} of shape {tuple(mask.shape)}."
            )
        if not mask.any():
            raise ValueError("The mask hides nothing, so there is nothing to reconstruct.")
        dtype = torch.promote_types(here.dtype, torch.float32)
        return targets, mask.expand(targets.shape).to(dtype)


def pixel_decoder(shape: Shape, target: Shape) -> nn.Module:
    """A linear decoder: at every place of a map for the pixels there, or of the whole output.

    Where the target is an image whose sides are s times those of the map, each place predicts s x s
    pixels (a 1x1 convolution and a pixel shuffle, as SimMIM's head, Xie et al. 2022, arXiv
    2111.09886). Otherwise one matrix maps the flattened output.

    Args:
        shape: the shape of the block's output, without the axis of samples.
        target: the shape of one target.
    """
    if len(shape) == len(target) == 3:
        times = {whole // part for whole, part in zip(target[1:], shape[1:], strict=True)}
        if len(times) == 1 and all(
            whole % part == 0 for whole, part in zip(target[1:], shape[1:], strict=True)
        ):
            (s,) = times
            return nn.Sequential(nn.Conv2d(shape[0], target[0] * s * s, 1), nn.PixelShuffle(s))
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), math.prod(target)), nn.Unflatten(1, target)
    )


@dataclass(frozen=True, kw_only=True)
class MaskedReconstruction:
    """Masked reconstruction in every block, each with a decoder of its own.

    The loss is the mean squared error of the hidden entries (He et al. 2022, arXiv 2111.06377), and
    reads batches (inputs, targets, mask) as `mask_patches` makes them; trainers take
    ``views="stacked"``, because targets look like second views. It compares no views: any rows do.
    Its backpropagated counterpart is a masked autoencoder, with the decoder of the last block.

    Where a linear decoder is R_l = R_L V_l (with the same bias), the local update is the
    backpropagated one, whatever the weights are. In theory the loss is a goal:
    `linlocal.losses.SquaredError` with a mask.

    Attributes:
        shape: the shape of one target, such as (channels, height, width).
        decoder: makes the decoder of a block, given the shape of its output and that of a target.

    Raises:
        ValueError: the shape is empty, or has a number below 1.
        TypeError: the shape is not of whole numbers, or decoder is no function.
    """

    shape: Sequence[int]
    decoder: MakeDecoder = pixel_decoder

    def __post_init__(self) -> None:
        inputs.keep(self, partial(inputs.wholes, least=1), "shape")
        if not callable(self.decoder):
            raise TypeError(
                "decoder must be a function of the shapes of an output and of a target, got "
                f"{inputs.described(self.decoder)}."
            )

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One `Reconstruction` for each block.

        Args:
            shapes: the shapes of the blocks' outputs, without the axis of samples.
            seed: seeds the decoders; the global random state stays as it is.
        """
        shapes, target = shapes_of(shapes), tuple(self.shape)
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(inputs.whole(seed, "seed", 0))
            return nn.ModuleList(
                Reconstruction(self.decoder(shape, target), target) for shape in shapes
            )
