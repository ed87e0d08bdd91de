"""What every variable of our Datasets means: a long name, units and a description.

The words stand once, in ``vocabulary.toml`` beside this module. A Dataset carries them as the
attributes ``long_name``, ``units`` and ``description`` of its variables and coordinates, which
xarray shows and labels plots with.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

ATTRIBUTES = ("long_name", "units", "description")


def described(dataset: xr.Dataset, part: str = "common") -> xr.Dataset:
    """The same Dataset, whose variables and coordinates say what they mean.

    Args:
        dataset: what a function of ours returns; it is changed in place, and returned.
        part: the part of the vocabulary that the function has; what is not in it is in "common".

    Raises:
        KeyError: a variable that the vocabulary does not know.
    """
    words = _vocabulary()["common"] | _vocabulary()[part]
    for name, variable in dataset.variables.items():
        variable.attrs.update(zip(ATTRIBUTES, words[str(name)], strict=True))
    return dataset


@cache
def _vocabulary() -> dict[str, dict[str, list[str]]]:
    text = resources.files("linlocal").joinpath("vocabulary.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
