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
layer. `A * B` in brackets is the elementwise product.

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
"""

POPULATION_AND_TIME = """\
## 18. Population and time

Where it is not said otherwise, what follows is derived in the docstrings of `linlocal.dynamics`,
holds to rounding in tests, and is drawn in the figure `learning_curves`. `A_l = W_l ... W_1`.

**Population.** A linear network sees its data through second moments if the loss is quadratic in
inner products. With `S_+` and `S_-` the cross-moments of positive and negative pairs,
`D = S_+ - S_-`, and the context `C = A_l` or `A_L`, a linear score has in expectation

$$ B_l = \\tfrac{1}{\\lambda} A_l D C^\\top $$

$$ \\Delta W_l = \\tfrac{1}{\\lambda} A_l D C^\\top C D^\\top A_{l-1}^\\top $$

$$ \\Delta W_l^g = \\tfrac{1}{\\lambda} V_l^\\top A_L D A_L^\\top A_L D^\\top A_{l-1}^\\top $$

locally and (g) globally, summed over view directions; whitening and spectral contrastive loss are
polynomials, too (`linlocal.dynamics.expected_update`). A batch has exactly the update of its own
moments, except for spectral contrastive loss, which leaves out products of a sample with its own
partner. Batches approach the population like `n^(-1/2)`. Those of a linear score with an optimal
B are biased, because the update is quadratic in D; those of spectral contrastive loss are not
(`linlocal/test_dynamics.py::test_batches_approach_the_population_as_one_over_the_root_of_their_size`,
`linlocal/test_dynamics.py::test_batches_of_a_linear_score_are_biased_and_those_of_spectral_contrastive_loss_are_not`).

**A linear score has no minimum.** Its strongest mode becomes infinite in finite time, inversely
proportional to `D^2`, in one layer as `s^2 = s_0^2 / (1 - 4 D^2 s_0^2 t / lam)`; the others stay
finite until then. Weight decay does not bound it: the loss falls like the fourth power of the
map. Time is therefore studied with losses that saturate. A softplus has no closed form.

**What is conserved.** Backpropagation of any loss conserves `W_{l+1}^T W_{l+1} - W_l W_l^T` in
gradient flow (Saxe et al. 2014, arXiv 1312.6120); discrete steps lose it in proportion to the
rate. Local learning does not. With `E_l` the error signal times the input, so that
`dW_l = E_l A_{l-1}^T`,

$$ \\tfrac{d}{dt} (W_{l+1}^\\top W_{l+1} - W_l W_l^\\top) = M + M^\\top $$

$$ M = (W_{l+1}^\\top E_{l+1} - E_l) A_l^\\top $$

the error that comes from one layer above less the local one. In its place, for losses of inner
products (`E_l = A_l Phi(K_l)` with a symmetric Phi and `K_l = A_l^T A_l`):

- `Delta W_l = W_l S` with a symmetric S, so the column space of every weight stays, in steps of
  any size;
- the flow closes on the layers' kernels, `dK_l/dt = K_l T_l + T_l^T K_l`,
  `T_l = sum_{m <= l} Phi(K_m) K_{m-1}`: a cascade, in which nothing above a layer counts;
- a mode of two layers has the first integral `(1/a_2^2 - 1 - y/(h - g)) y^(-g/h)`,
  `y = g - h a_1^2`;
- at rest `K_1 = ... = K_L`: the layers above the first have become isometries on what they are
  given.

**Curves.** If the moments commute and the weights are aligned with their eigenvectors, a mode
with the strengths `a_l` of the weights and `s_l = a_1 ... a_l` has `-dLoss/ds = s (g - h s^2)`
under spectral contrastive loss and whitening, with `g = 4 gamma`, `h = 4` for whitened views of
correlation gamma under the former (`linlocal.dynamics.Modes`). The strength at rest is
`sqrt(g/h)` under both kinds of learning.

| | local | backpropagation |
|---|---|---|
| equation | `da_l/dt = s_{l-1} s_l (g - h s_l^2)` | `da_l/dt = s_L^2 (g - h s_L^2) / a_l` |
| one layer | logistic in `s^2` | the same |
| two layers | the first integral above | time as a function of `s_L`, balanced start |
| more layers | a linear equation for `1/a_l^2`, integrated numerically | the same, hypergeometric |
| not aligned | layer 1: a matrix Riccati solution (whitened views) | none known |
| time, all `a_l` from `eps` | `log(1/eps) (1/g + (L-1) h/g^2)` | `eps^(2-2L) / ((2L-2) g)` |

Simon et al. 2023 (arXiv 2303.15438) and Halvagal et al. 2023 solve one layer, and Littwin et al.
2024 (arXiv 2407.03475) study a backpropagated linear encoder of several layers.

**Which modes are late.** In aligned networks layer l cannot grow before layer l - 1 has, and then
grows at `g^2/h`: each layer above the first delays a mode by `1/gamma^2`, not `1/gamma` as in
backpropagation. But backpropagation waits for a power of the start, local learning for its
logarithm. So from a small start local learning is the faster one for every mode, and from a large
start its weak modes are the late ones. From Gaussian weights, which are not aligned, the delays
under backpropagation are larger and vary; whether it or local learning delays weak modes more is
open there (figure `learning_curves`).

**Which are learned never.** Without weight decay: the same ones, those of `g <= 0`, and those for
which a layer is too narrow. With weight decay `mu` layer l of local learning rests at

$$ s_l^2 = (g - \\mu / s_{l-1}^2) / h, \\quad s_0 = 1 $$

so a mode of `g < 2 sqrt(h mu)` reaches a finite number of layers, and every layer learns no more
modes than the one below. Backpropagation rests where `a^(2L-2) (g - h a^(2L)) = mu`; for `L > 1`
it learns from a small start no mode at all, because 0 is stable. At infinite depth both cutoffs
meet at `2 sqrt(h mu)`.

**Optimisers.** An optimiser that treats each layer by itself is one function of that layer's
history of gradients, so equal gradients stay equal under any (`linlocal.dynamics.compare_steps`).
Proportional ones, as of conformal maps with a linear score, are made equal by Adam with epsilon =
0, signs and, where it acts, clipping layer by layer, and stay proportional under SGD and
momentum. Clipping by the norm of all layers passes a difference on to layers that have none. The
pseudo-inverse of G_l as preconditioner of the global update makes the two equal in the setting of
statement 7. None of it repairs hypotheses on the weights: an isometry is lost with the first step
(statement 11).
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
    parts.append(POPULATION_AND_TIME)
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
