"""The settings of the experiment `rhm_feedback`: their names, and which count as learned."""

from __future__ import annotations

import xarray as xr

LEARNED = 0.9
"""Test accuracy from which on a rule has learned a setting."""


def names(data: xr.Dataset) -> list[str]:
    """The reference in full, the others by what differs."""
    first = data.isel(setting=0)
    found = [
        f"reference:\nL={int(first['levels'])} m={int(first['synonyms'])}\n"
        f"P={float(first['multiples']):g} P*\nwidth {int(first['widths'])}"
    ]
    words = {
        "levels": "L = {}",
        "synonyms": "m = {}",
        "multiples": "P =\n{:g} P*",
        "widths": "width\n{}",
        "extras": "{} layers\nmore",
        "optimisers": "{}",
    }
    for position in range(1, data.sizes["setting"]):
        here = data.isel(setting=position)
        axis = str(here["axis"].values)
        found.append(words[axis].format(here[axis].values.item()))
    return found
