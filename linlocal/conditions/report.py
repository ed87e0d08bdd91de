"""The answer of `explain`, as text and as HTML: verdict, layers, conditions, remedies."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import xarray as xr

from linlocal.conditions.findings import Condition, LayerExplanation, Remedy

_WIDTH = 100  # of a line of text


@dataclass(frozen=True, eq=False)
class Explanation:
    """Conditions, mismatch and remedies for a rule on a network and batch; print it.

    Attributes:
        subject: the network and the rule, in words.
        layers: the findings for each of the layers 1..L.
        comparison: the Dataset of `linlocal.compare`.
        remedies: the changes that would make every layer exact; empty if none is known.
        nearer: the changes that raise the smallest cosine of the layers, computed on this batch.
    """

    subject: str
    layers: tuple[LayerExplanation, ...]
    comparison: xr.Dataset
    remedies: tuple[Remedy, ...]
    nearer: tuple[Remedy, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the local and the global update are equal in every layer."""
        return all(layer.exact for layer in self.layers)

    def remedy(self, name: str) -> Remedy:
        """The remedy called ``name``, of `remedies` or `nearer`.

        Raises:
            ValueError: no such remedy helps here.
        """
        for remedy in self.remedies + self.nearer:
            if remedy.name == name:
                return remedy
        known = ", ".join(r.name for r in self.remedies + self.nearer) or "none"
        raise ValueError(f"{name!r} does not restore exactness here; remedies: {known}.")

    @property
    def verdict(self) -> str:
        """Whether local learning is backpropagation here, in one sentence."""
        depth, differing = len(self.layers), [e for e in self.layers if not e.exact]
        if all(len(e.vanishing) == 2 for e in self.layers):
            return "Nothing is learned here: local and global updates are zero up to rounding."
        if not differing:
            return (
                f"Local learning equals backpropagation here: the updates of all {depth} layers "
                "are the same up to rounding."
            )
        where = _numbered([e.layer for e in differing])
        defined = [e for e in differing if not np.isnan(e.cosine)]
        least = min(defined, key=lambda e: e.cosine, default=None)
        told = "" if least is None else f"; the cosine is smallest in layer {least.layer}, "
        told += "" if least is None else f"{least.cosine:.4f}"
        return f"Local learning differs from backpropagation here, in {where} of {depth}{told}."

    def __str__(self) -> str:
        lines = [self.verdict, self.subject, "", *_table(self.layers), ""]
        lines.append("Why")
        for reason in self._reasons():
            lines.append(f"  {reason.name}: {reason.state}")
            lines += _wrapped(reason.words, 6)
            lines += _wrapped(reason.symbols, 6)
        if not self._reasons():
            lines.append("  The only loss is that of the top layer, which is the global one.")
        for title, remedies in self._help():
            lines += ["", title]
            for remedy in remedies:
                lines += [f"  {remedy.name}: changes {remedy.changes}"]
                lines += [*_wrapped(remedy.words, 6), *_wrapped(remedy.action, 6)]
        lines += ["", "details() tells every condition, mismatch and bound of each layer."]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Explanation: {self.verdict}>"

    def _repr_html_(self) -> str:
        """What a notebook shows; colours are those of the page, light or dark."""
        cells = [_HEADINGS, *map(_row, self.layers)]
        table = "".join(
            "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in row) + "</tr>"
            for row, kind in zip(cells, ["th", *["td"] * len(self.layers)], strict=True)
        )
        reasons = "".join(
            f"<li><b>{escape(r.name)}</b>: {escape(r.state)}<br>{escape(r.words)} "
            f"<code>{escape(r.symbols)}</code></li>"
            for r in self._reasons()
        )
        parts = [
            f"<p><b>{escape(self.verdict)}</b><br>{escape(self.subject)}</p>",
            f"<table>{table}</table>",
            f"<p>Why</p><ul>{reasons}</ul>" if reasons else "",
        ]
        for title, remedies in self._help():
            items = "".join(
                f"<li><b>{escape(r.name)}</b>: changes {escape(r.changes)}<br>{escape(r.words)} "
                f"<code>{escape(r.action)}</code></li>"
                for r in remedies
            )
            parts.append(f"<p>{escape(title)}</p><ul>{items}</ul>")
        rest = f"<summary>details</summary><pre>{escape(self.details())}</pre>"
        return f"<div>{''.join(parts)}<details>{rest}</details></div>"

    def details(self) -> str:
        """Everything that was found: each condition, mismatch and bound of each layer."""
        lines = [self.subject, ""]
        for entry in self.layers:
            lines.append(f"layer {entry.layer}: {entry.verdict}")
            for condition in entry.conditions:
                mark = "holds" if condition.holds else f"fails by {condition.distance:.1e}"
                lines.append(f"    {condition.name:<24} {mark:<18} {condition.meaning}")
            if not entry.exact:
                row = self.comparison.sel(layer=entry.layer)
                terms = [
                    f"{name} {float(row[f'{name}_mismatch']):.1e}"
                    for name in ("dual", "context", "metric")
                ]
                if not np.isnan(row["dual_mismatch"]):
                    lines.append(f"    mismatch over ||global||: {', '.join(terms)}")
                bound = "none" if entry.cosine_bound is None else f"{entry.cosine_bound:.4f}"
                lines.append(f"    smallest cosine: {bound} ({entry.bound_source})")
        return "\n".join(lines)

    def _reasons(self) -> list[_Reason]:
        """The conditions of all layers by name: those that fail, or else those that hold."""
        found: dict[str, dict[int, Condition]] = {}
        for entry in self.layers:
            for condition in entry.conditions:
                found.setdefault(condition.name, {})[entry.layer] = condition
        failing = [each for each in found.values() if not all(c.holds for c in each.values())]
        return [_Reason(each) for each in failing or found.values()]

    def _help(self) -> list[tuple[str, Sequence[Remedy]]]:
        """What can be changed, under its headings."""
        if self.exact:
            return [("Nothing to remedy.", ())]
        title = "Any one of these changes restores exactness in every layer:"
        if not self.remedies:
            title = "No remedy is known that restores exactness in every layer."
        near = [("Nearer, not exact:", self.nearer)] if self.nearer else []
        return [(title, self.remedies), *near]


class _Reason:
    """One condition in all layers that it is asked of.

    Attributes:
        name: its name.
        words: what it says.
        symbols: the same in symbols.
        state: where it holds, where it fails and by how much.
    """

    def __init__(self, by_layer: dict[int, Condition]) -> None:
        first = next(iter(by_layer.values()))
        self.name, self.words = first.name, first.words
        # The factors that come nearest differ from layer to layer: see `details`.
        self.symbols = first.meaning.split(", nearest")[0]
        holding = [l for l, c in by_layer.items() if c.holds]
        failing = {l: c.distance for l, c in by_layer.items() if not c.holds}
        state = []
        if failing:
            low, high = min(failing.values()), max(failing.values())
            span = f"{low:.1e}" if f"{low:.1e}" == f"{high:.1e}" else f"{low:.1e} to {high:.1e}"
            state.append(f"fails in {_numbered(failing)} (relative distance {span})")
        if holding:
            state.append(f"holds in {_numbered(holding)}")
        self.state = ", ".join(state)


_HEADINGS = ("layer", "cosine", "relative error", "smallest possible", "updates")


def _row(entry: LayerExplanation) -> tuple[str, ...]:
    """The cells of a layer."""
    if entry.vanishing:
        words = f"{' and '.join(entry.vanishing)} zero"
    else:
        words = "equal" if entry.exact else "differ"
    numbers = (f"{entry.cosine:.4f}", f"{entry.relative_error:.1e}")
    cosine, error = ("-" if number == "nan" else number for number in numbers)
    bound = "not known" if entry.cosine_bound is None else f"{entry.cosine_bound:.4f}"
    return str(entry.layer), cosine, error, bound, words


def _table(layers: Iterable[LayerExplanation]) -> list[str]:
    rows = [_HEADINGS, *map(_row, layers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]


def _numbered(layers: Iterable[int]) -> str:
    """Layers in words, neighbours joined: "layers 1-3 and 5"."""
    runs: list[list[int]] = []
    for l in layers:
        if runs and l == runs[-1][-1] + 1:
            runs[-1].append(l)
        else:
            runs.append([l])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    listed = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    return f"layer{'s' if len(runs) > 1 or len(runs[0]) > 1 else ''} {listed}"


def _wrapped(text: str, indent: int) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(text, _WIDTH, initial_indent=margin, subsequent_indent=margin)
