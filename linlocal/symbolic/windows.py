"""Windows: theorems about a layer become theorems about a window of layers (statement 12).

Layer l is trained by the loss of a layer e above it, backpropagated through V_{le}, the product
W_e ... W_{l+1}. That loss reads the activities and the metric of layer e only, so with V_{le}^T in
front of both updates every theorem about layer e is one about layer l, with V_e and G_e above the
window in place of V_l and G_l.
"""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from linlocal.rules import Rule
from linlocal.symbolic.formulas import LAM_LAYER
from linlocal.symbolic.theorems import Hypothesis, Lemma, Theorem
from linlocal.symbolic.words import Renaming, letter

INSIDE = letter("V_{le}", "l", "t")
"""V_{le}, in the words of the theorem about one layer, where that is called l."""

SPOKEN = Renaming(
    {
        f"{name}_l{prime}": f"{name}_e{prime}"
        for name, prime in (
            *((name, "") for name in "ZCDSEBP"),
            *((name, "'") for name in "DB"),
        )
    }
    | {"V": "V_e", "V_c": "V_{ec}", "G": "G_e", "H": "H_e", "G^-1": "G_e^-1"},
    {"l": "e", "t": "l", "p_l": "p_e"},
    {LAM_LAYER: sp.Symbol("lam_e", positive=True)},
)
"""How the words of the theorem about one layer are spelled in a window."""


def windowed(base: Theorem) -> Theorem:
    """The theorem about a window that follows from one about a layer."""

    def lemmas(rule: Rule, kept: frozenset[str]) -> tuple[Lemma, ...]:
        return tuple(
            replace(lemma, expression=INSIDE.T @ lemma.expression)
            if (lemma.expression.rows, lemma.expression.columns) == ("l", "l-1")
            else lemma
            for lemma in base._lemmas(rule, kept)
        )

    return replace(
        base,
        name=f"window_{base.name}",
        number=12,
        title=f"Windows: {_lowered(base.title)}",
        statement=(
            "Layer l is trained by the loss of layer e, backpropagated through V_{le} = W_e ... "
            f"W_{{l+1}}. What statement {base.number} says of a layer and its metric G_l holds "
            "with G_e, the metric above the window. Nothing is asked of the layers inside it."
        ),
        latex=_EXACT if base.name == "linear_score" else _conclusion(_above(base.latex)),
        hypotheses=tuple(
            Hypothesis(h.name, _above(h.meaning), _above(h.latex), _above(h.note))
            for h in base.hypotheses
        ),
        conclusion=(
            "V_{le}^T (G_e M H_e N - M N) = 0 or V_{le}^T (G_e X - X) = 0 is necessary and "
            "sufficient"
            if base.name == "linear_score"
            else "the update of the window equals the global one"
        ),
        source="this package",
        _lemmas=lemmas,
        base=base.name,
    )


_EXACT = (
    r"\Delta W_l^{\mathrm{global}} - \Delta W_l^{\mathrm{window}} = \tfrac1\lambda V_{le}^\top "
    r"(G_e M H_e N - M N)\ \text{or}\ \tfrac1\lambda V_{le}^\top (G_e - I) X"
)


def _conclusion(latex: str) -> str:
    """Of layer l, not e."""
    return latex.replace(r"W_e^{\mathrm{local}}", r"W_l^{\mathrm{window}}").replace("W_e^", "W_l^")


def _above(text: str) -> str:
    return text.replace("_l", "_e").replace("of its layer", "of layer e")


def _lowered(title: str) -> str:
    return title[0].lower() + title[1:]
