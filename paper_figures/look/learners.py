"""How the rules of the results on representations of hierarchies learn, as coordinates."""

from __future__ import annotations

import xarray as xr

# Results of older code name their rules but lack the coordinates: credit and positives of each.
_OLDER = {
    "untrained": ("", ""),
    "backpropagation": ("backpropagation", "labels"),
    "direct feedback alignment": ("direct feedback", "labels"),
    "local VICReg": ("local", "views"),
    "local InfoNCE": ("local", "views"),
    "local InfoNCE, siblings": ("local", "siblings"),
}


def with_coordinates(data: xr.Dataset) -> xr.Dataset:
    """The result with the coordinates credit and positives of its rules, also from older files."""
    if "credit" in data.coords:
        return data
    found = [_OLDER[str(rule)] for rule in data["rule"].values]
    return data.assign_coords(
        {
            key: ("rule", list(values))
            for key, values in zip(("credit", "positives"), zip(*found, strict=True), strict=True)
        }
    )


def rules(data: xr.Dataset, **coordinates: str) -> list[str]:
    """Names of the rules that have these coordinates, in the order of the result."""
    return [
        str(rule)
        for place, rule in enumerate(data["rule"].values)
        if all(str(data[key].values[place]) == word for key, word in coordinates.items())
    ]
