"""The page docs/theory.md, written from the theorem objects so that it cannot drift from them.

Every proof in words and every witness on it is found anew when it is written; the proofs at sizes
are run by the tests named there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from linlocal import rules
from linlocal.rules import Rule
from linlocal.symbolic.conditions import derive
from linlocal.symbolic.counterexamples import counterexample, literature_counterexample
from linlocal.symbolic.proofs import PROVED_WIDTHS, prove
from linlocal.symbolic.statements import THEOREMS
from linlocal.symbolic.theorems import Theorem

INTRODUCTION = """\
# Theory

Written by `python -m linlocal.symbolic docs/theory.md`; do not edit. Exact statements about when
a local update equals the global one, each with its proofs and with a counterexample for every
hypothesis.

A layer l has activities `Z_l` (a row for each pair), contexts `C_l`, and reads `Z_{l-1}`. `V` is
the map downstream of it, `G = V^T V` the downstream metric, `D_l` the diagonal matrix of the slopes
`beta = -d loss / d score`, `lam_l` the penalty on the projection `B_l`; an index `L` means the top
layer. `A * B` in brackets is the elementwise product. A loss is the sum over view directions, each
with its own B and its own `lam/2 ||B||^2`; code that averages over both directions and adds
`b_decay/2` times both squared norms (arXiv 2601.21683) has half of it, for `lam = 2 b_decay`.

- *For all sizes*: the difference is rewritten to zero in noncommuting matrix words, using the
  hypotheses as equations.
- *At sizes*: the same expressions are evaluated in exact rational functions of free symbols
  (orthogonal matrices by the Cayley transform) and are zero for all values of the symbols.
"""

MEASURED = """\
## Measured, not proved

10. **Nonlinear networks.** With ReLU the downstream map is the Jacobian `V_l(x)` of each sample,
    and score matching would need `B_l c_l = V_l(x)^T B_L c_L` for all of them at once.
    `linlocal.global_update(..., masks=)` replaces the masks on the way down by their batch average,
    or removes them (`tests/linlocal/test_laws.py`, figure `linear_alignment`).
11. **Training.** Exactness lasts while `G_l = I`. Weights that are put back to the nearest isometry
    keep it, but then none above the first layer moves: the optimal loss of a layer does not change
    under rotations, so `Delta W_l = B B^T W_l lam` is a symmetric stretch, which the retraction
    undoes. Under the metric penalty all layers learn and stay exact (figure
    `exactness_in_training`).
12. **Windows.** Layer l learns from the loss of its teacher e = min(l + w - 1, L), sent down by
    the layers between: `dW_l = lam V_{l..e}^T Z_e^T [alpha_e alpha_e^T * C_e C_e^T] Z_{l-1}`. With
    w = 1 this is local learning, and with w = L it is backpropagation, to the last bit and in any
    network. The conditions above are asked of layer e and of the metric above it: an isometry, a
    rescaled penalty or a metric penalty there makes layer l exact, whatever the layers inside the
    window do; but no link may lead around it, from layer l to a layer above e. That a larger
    window is nearer to backpropagation is false in general: two layers that undo each other are
    exact with w = 1, but not with w = 2, which cuts between them. On images the mean cosine rose
    with every further layer, in three kinds of networks (`tests/linlocal/test_windows.py`, figure
    `windows`).

**Projections that are trained.** Let every layer take k gradient steps of one rate from B = 0,
`B <- B - rate (lam B + d phi / d B)`, instead of the optimum (`rules.Trained`). Under an isometry,
and under the metric penalty, the steps of a layer and of the top layer are the same, so
`B_l = V_l^T B_L V_l` (or `V_l^T B_L`) after each of them: the updates are equal for every k, every
rate and every f, no optimum is needed. A linear f has `B = (1 - (1 - rate lam)^k) B*`: the steps
change no direction, and every cosine is that of the optimum. Both are false from a random start,
and the second for other f (`tests/linlocal/test_projections.py`). `linlocal.projections` measures
the distance of B_l from `V_l^T B_L V_l`, the gap in the hypothesis of statement 1.
"""

CONDITIONS = """\
## Conditions, read off

`derive(rule)` rewrites global - local until only the layer's own activities and G are left. The
last column is a Groebner basis, at width 2, of what equality *for all data* says of G (which is
positive semidefinite, so G = -I is out). Rules with a nonlinear score also need equal slopes; the
same condition on G ensures them.

| rule | local = global if | for all data |
|---|---|---|
"""


def theory() -> str:
    """The page, in Markdown. The same bytes on every run."""
    parts = [INTRODUCTION]
    parts += ["\n".join(_section(t)) + "\n" for t in sorted(THEOREMS.values(), key=_number)]
    parts.append(MEASURED)
    parts.append(CONDITIONS + "\n".join(map(_condition, _derived_rules())) + "\n")
    parts.append(_literature())
    return "\n".join(parts)


def _number(theorem: Theorem) -> int:
    return theorem.number


def _section(theorem: Theorem) -> Iterator[str]:
    yield f"## {theorem.number}. {theorem.title} (`{theorem.name}`)"
    yield f"\n{theorem.statement}\n"
    yield f"$$ {theorem.latex} $$\n"
    yield f"Conclusion: {theorem.conclusion}. Source: {theorem.source}.\n"
    yield "Hypotheses:\n"
    for h in theorem.hypotheses:
        note = f" Not necessary on given data: {h.note}." if h.note else ""
        yield f"- `{h.name}`: {h.meaning}; $ {h.latex} $.{note}"
    yield "\nProofs:\n"
    proofs = [prove(theorem.name, rule=rule) for rule in theorem.rules]
    proved = ", ".join(p.rule for p in proofs if p.holds)
    yield f"- For all sizes, in words: {proved}."
    failed = ", ".join(p.rule for p in proofs if not p.holds)
    if failed:
        yield f"- NOT proved: {failed}."
    yield f"- {_sizes(theorem)}"
    yield f"- What is not algebra: {theorem.inference}"
    yield "\n<details><summary>Derivation</summary>\n"
    yield f"```text\n{proofs[0].derivation}\n```\n\n</details>\n"
    yield "<details><summary>Counterexamples without each hypothesis</summary>\n"
    for h in theorem.hypotheses:
        yield f"```text\n{counterexample(theorem.name, h.name)}\n```\n"
    yield "</details>"


def _sizes(theorem: Theorem) -> str:
    if theorem.words_only:
        return f"At no size: {theorem.words_only}."
    widths = sorted(PROVED_WIDTHS, key=len)
    counts = {n: sum(len(w) == n for w in widths) for n in sorted({len(w) for w in widths})}
    listed = " and ".join(f"all {c} of {n - 1} layers" for n, c in counts.items())
    largest = max(max(w) for w in widths)
    return (
        f"At sizes: widths 1 to {largest}, {listed}, 2 pairs, for each of these rules "
        "(`tests/linlocal/symbolic/test_proofs.py`)."
    )


def _derived_rules() -> list[Rule]:
    makers = (rules.CLAPP, rules.CLAPP_DFB, rules.CLAPP_BOTH, rules.CLAPP_EACH)
    linear = [make("linear") for make in makers]
    named = [replace(r, name=f"{r.name}, linear score") for r in linear]
    own = replace(
        rules.CLAPP("linear", penalty=rules.Penalty((0.1, 0.2))),
        name="CLAPP, linear, lam_l and lam",
    )
    others = [rules.CLAPP("softplus"), rules.CLAPP_DFB("softplus"), rules.GreedyInfoMax()]
    metric = rules.CLAPP("softplus", penalty=rules.Penalty(0.01, "downstream"))
    fixed = [
        rules.PhyLL(),
        rules.ForwardForward(),
        rules.SCFF(),
        rules.SimCLR(),
        rules.CosineInfoNCE(),
    ]
    return [*named, own, *others, replace(metric, name="CLAPP, metric penalty"), *fixed]


def _condition(rule: Rule) -> str:
    found = derive(rule)
    if found.always:
        return f"| {rule.name} | always | any G |"
    basis = ", ".join(map(str, found.on_metric(2)))
    return f"| {rule.name} | `{found.factored}` | `{basis}` |"


def _literature() -> str:
    return (
        "## A claim in the literature\n\n"
        "Wu et al. 2026 (arXiv 2601.21683) state `||local - global|| >= ||DFB - global||` for "
        "narrowing orthonormal W.\nStatement 8 gives a condition under which it holds; in general "
        f"it does not:\n\n```text\n{literature_counterexample()}\n```\n"
    )
