"""What the figures on feedback in hierarchies share: the reference rule and names of settings."""

from __future__ import annotations

import xarray as xr

BACKPROPAGATION = "backpropagation"
# On which arXiv 2605.18557 was published.
SETTINGS = "settings that are not public to us, who know the abstract only"
LEARNED = 0.9  # a setting counts as solved from this test accuracy on


def setting_names(data: xr.Dataset) -> list[str]:
    """The reference in full, the others by what differs."""
    first = data.isel(setting=0)
    names = [
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
        names.append(words[axis].format(here[axis].values.item()))
    return names
