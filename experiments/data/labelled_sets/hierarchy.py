"""Images of a Random Hierarchy Model: v = n = 8, m = 4, L = 2, tuples of 2x2."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from torch import Tensor

from experiments.data.contract import ImageData, MakeViews
from experiments.data.hierarchies import RHMImages
from experiments.data.pixels import Pixels
from linlocal.rhm import RandomHierarchyModel

NAME, FOLDER = "RHM images", None


def load(folder: Path | None, seed: int) -> ImageData:
    """The seed decides the grammar, too."""
    return _images(seed).data()


def views(images: Tensor | Pixels, seed: int) -> MakeViews:
    """Everything below the latents of level 1 is drawn anew."""
    made = _images(seed)
    return lambda rows, view_seed: made.two_views(rows.numpy(), level=1, seed=view_seed).to(
        images.device
    )


@lru_cache(maxsize=1)
def _images(seed: int) -> RHMImages:
    rhm = RandomHierarchyModel(
        num_classes=8, num_symbols=8, num_synonyms=4, num_levels=2, tuple_size=4, seed=seed
    )
    return RHMImages(rhm, train=1280, test=512, patch_size=2, seed=seed)
