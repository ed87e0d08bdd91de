"""Links of a network: which earlier activities are added to a layer, z_l = ... + sum_k s_lk z_k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from linlocal import inputs

Links = Literal["residual"] | Mapping[int, Sequence[int] | Mapping[int, float]]
"""``{l: [k, ...]}`` adds z_k to z_l, and ``{l: {k: s}}`` adds s z_k. "residual" adds z_{l-1} to
each layer that is as wide as the layer below it, the input included."""

LinkTable = tuple[tuple[tuple[int, float], ...], ...]
"""table[l] holds (k, s_lk) for each link into layer l, l = 0..L."""


def link_table(links: Links | None, widths: Sequence[int]) -> LinkTable:
    """The links into every layer, checked against the widths n_0..n_L.

    Raises:
        ValueError: no such layer, a link that does not come from an earlier layer, or one between
            layers of unequal width.
        TypeError: neither "residual" nor a mapping of layers.
    """
    depth = len(widths) - 1
    if links is None:
        return ((),) * (depth + 1)
    if inputs.is_one_of(links, ["residual"]):
        return residual_table(widths)
    if not isinstance(links, Mapping):
        raise TypeError(
            'links must be "residual" or a mapping from each layer to the earlier layers that are '
            f"added to it, like {{3: [1]}} or {{3: {{1: 0.5}}}}, got {inputs.described(links)}."
        )
    table: list[tuple[tuple[int, float], ...]] = [()] * (depth + 1)
    for target, sources in links.items():
        l = inputs.layer_number(target, depth)
        table[l] = tuple(_into(l, sources, widths))
    return tuple(table)


def _into(
    layer: int, sources: Sequence[int] | Mapping[int, float], widths: Sequence[int]
) -> list[tuple[int, float]]:
    name = f"links into layer {layer}"
    scales: dict[int, float]
    if isinstance(sources, Mapping):
        scales = {
            inputs.whole(k, f"a source of {name}"): inputs.finite(s, f"a scale of {name}")
            for k, s in sources.items()
        }
    else:
        found = inputs.sequence(sources, name, "earlier layers")
        scales = {inputs.whole(k, f"a source of {name}"): 1.0 for k in found}
        if len(scales) != len(found):
            raise ValueError(f"{name} name a layer twice; write {{{layer}: {{k: 2.0}}}} for that.")
    for k in scales:
        if not 0 <= k < layer:
            raise ValueError(
                f"A link into layer {layer} must come from one of the layers 0..{layer - 1} (0 is "
                f"the input), got layer {k}."
            )
        if widths[k] != widths[layer]:
            raise ValueError(
                f"The link from layer {k} to layer {layer} adds {widths[k]} units to "
                f"{widths[layer]}; layers that are linked must be equally wide."
            )
    return sorted(scales.items())


def residual_table(widths: Sequence[int]) -> LinkTable:
    """The links of "residual"."""
    return (
        (),
        *(((l - 1, 1.0),) if widths[l] == widths[l - 1] else () for l in range(1, len(widths))),
    )


def described(table: LinkTable, widths: Sequence[int]) -> str:
    """The links in words, empty without any."""
    if not any(table):
        return ""
    if table == residual_table(widths):
        return "residual"
    each = [
        f"{k} -> {l}" if s == 1.0 else f"{s:.4g} * {k} -> {l}"
        for l, into in enumerate(table)
        for k, s in into
    ]
    return "links " + ", ".join(each) if len(each) <= 6 else f"{len(each)} links"
