"""The page docs/theory.md, written from the theorem objects so that it cannot drift from them.

Every proof in words and every witness on it is found anew when it is written; the proofs at sizes
are run by the tests named there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from linlocal import rules
from linlocal.rules import Rule
from linlocal.symbolic.conditions import derive
from linlocal.symbolic.counterexamples import (
    counterexample,
    directions_counterexample,
    literature_counterexample,
)
from linlocal.symbolic.proofs import PROVED_WIDTHS, PROVED_WINDOWS, Proof, prove
from linlocal.symbolic.spheres import power_mean_is_radial, series_is_that_of_the_cosine
from linlocal.symbolic.statements import THEOREMS
from linlocal.symbolic.theorems import Theorem

ARXIV = re.compile(r"\barXiv (\d{4}\.\d{4,5})")

INTRODUCTION = """\
# Theory

When does a layer that minimises a loss of its own change its weights as if the error had come back
from the top? Here are the answers, each with a proof and, for each hypothesis, an example that
fails without it.

```text
  input
    |
  W_1 ... W_l     which learns
    |
   z_l  <-- loss of layer l:  local update
    |
  W_{l+1} ... W_L = V_l
    |
   z_L  <-- loss of the top, sent down
            by V_l^T:  global update
```

| if | then the two updates of a layer | |
|---|---|---|
| its projection is that of the top layer, pulled back | are equal | 1 |
| the layers above keep lengths and angles | are equal | 2 |
| they stretch everything alike, and the penalty is rescaled | are equal | 3 |
| the penalty measures the projection through them | are equal, whatever they do | 4 |
| the loss sees inner products of samples only, and they keep these | are equal | 5 |
| the score is linear | differ by a term that is known exactly | 6 |
| and the context is that of the top layer | have a cosine that is bounded from below | 7 |
| and the layers above narrow, orthonormally | are nearer with direct feedback, on a condition | 8 |
| the layers are convolutions | behave in the same way, if pooling commutes | 9 |

What nonlinear networks, training, windows of layers, links and whole populations of data add stands
in 10 to 18. [Which statement is proved how](#statement-by-statement) and
[how this page is made](#how-this-page-is-made) stand at the end.

## Symbols

| symbol | meaning |
|---|---|
| $z_l$, $Z_l$ | activity of layer l; all of them, with a row for each pair: the *anchors* |
| $c_l$, $C_l$ | the *context* that an anchor is compared with: of the same layer, or of the top |
| $W_l$, $V_l = W_L \\cdots W_{l+1}$ | weight of layer l; the map *downstream* of it |
| $G_l = V_l^\\top V_l$ | the *metric* of the layers above: how they change lengths and angles |
| $B_l$ | the *projection*: $u = z_l^\\top B_l c_l$ is the *score* of a pair |
| $\\beta = -\\partial \\mathcal L / \\partial u$, $D_l$ | the *slopes*; their diagonal matrix |
| $\\lambda_l$ | strength of the penalty on $B_l$; an index L, or none, means the top layer |

A projection is *optimal* if it minimises the loss of its layer with its penalty,

$$ B_l = \\arg\\min_B \\mathcal L_l(B) + \\tfrac{\\lambda_l}{2} \\|B\\|_F^2,\\qquad \
\\mathcal L_l \\text{ convex},\\ \\lambda_l > 0 $$

and then it is the only one. Plain text writes `lam` for the strength, `V^T` for the transpose and
`A * B` for the elementwise product.

Where a rule has several view directions, each has a projection of its own and the updates add. What
is sufficient in each direction is sufficient for the sum. Statements 6 and 8 say more, and hold for
the sum: there the contexts of all directions are stacked in blocks, `V_c = diag(V, V, ...)` is the
map downstream of them and `H = V_c^T V_c = diag(G, G, ...)` their block metric.
"""

# What to expect of a theorem before it is read.
INTUITION = {
    "score_matching": "A layer cannot tell whose loss it follows if its scores are those of the "
    "top layer. Then its slopes are the same, and so is the error that its projection sends down.",
    "isometry": "Rotations keep inner products. If the layers above only rotate what a layer says, "
    "both layers solve the same problem in two coordinate systems, and find the same projection.",
    "conformal": "If the layers above enlarge everything alike, the top layer gets the same scores "
    "from a smaller projection, on which a penalty weighs less. The layer below needs a penalty "
    "that is smaller in the same measure.",
    "metric_penalty": "The plain penalty measures B in the coordinates of its layer, which the "
    "layers above distort. Measured in those of the top layer, all layers solve its problem.",
    "invariance": "A loss that sees inner products only cannot see a rotation. So it makes no "
    "difference whether it is asked before or after the layers above have rotated.",
    "linear_score": "With a linear score every pair pulls with the same strength, whatever the "
    "network says. What is left of the difference is what the metric does to two sums over pairs.",
    "alignment_bound": "With direct feedback one of two factors passes through the metric. How "
    "far a symmetric matrix can turn a vector is an old question; the answer is Kantorovich's.",
    "feedback_order": "The context of the top layer has been through the layers above already, so "
    "one source of error less is left. That this helps is true only if the errors do not cancel.",
    "convolution": "A convolution is a matrix with many equal entries. Equal errors for the matrix "
    "give equal ones for the kernel; but a loss that looks at averages over places has lost "
    "these.",
}

MAKING = """\
## How this page is made

`python -m linlocal.symbolic docs/theory.md` writes this page; do not edit it.

- *For all sizes*: the difference is rewritten to zero in noncommuting matrix words, using the
  hypotheses as equations.
- *At sizes*: the same expressions are evaluated in exact rational functions of free symbols and are
  zero for all values of the symbols. Orthogonal matrices are Cayley transforms, which are dense in
  the rotations; above a bottleneck of r units the activities lie in r dimensions. `Proof.covers`
  says it for each layer.
- *Assumed*: what a proof takes for granted of a loss, that it is convex or a function of inner
  products. For the losses of this package that is exact algebra. Code of a user is searched for a
  violation; where none is found, `Proof.holds` is None and not True, and `Proof.assumptions` says
  what would have to be proved. That the score decreases is assumed nowhere.
- *Strengths of penalties*: a loss is the sum over view directions, each with its own B and its own
  `lam/2 ||B||^2`; code that averages over both directions and adds `b_decay/2` times both squared
  norms (arXiv 2601.21683) has half of it, for `lam = 2 b_decay`.
"""

MEASURED = """\
## Measured, not proved

10. **Nonlinear networks.** With ReLU or another nonlinearity the downstream map is the Jacobian
    `V_l(x)` of each sample, and score matching would need `B_l c_l = V_l(x)^T B_L c_L` for all of
    them at once. `linlocal.global_update(..., masks=)` replaces the derivatives on the way down by
    their batch average, or removes them (`tests/linlocal/test_laws.py`, figure `linear_alignment`).
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
14. **Links and biases** (`tests/linlocal/test_residual.py`). `V_l` is the derivative of the top
    layer over all paths, one matrix, but layer l may not be all that the top layer gets:
    `z_L = V_l z_l + r`, with r from biases above l and from links around it. Matched scores (1) and
    the metric penalty (4) stay exact on every graph, if the projection reads `V_l z_l + r`.
    Isometry (2), conformal maps (3) and invariant losses (5) need r = 0 besides: so they hold where
    all links come from the layer below and all biases lie in l or below. *False* is that they hold
    for every V_l: behind a link around the layer, or under a bias, `G_l = I` leaves relative errors
    of 0.4 to 1.2. A loss that translations do not change either (of centred activities) allows
    biases. With linear f (6, 7) biases cancel where the pairs of each reference are balanced, and
    not otherwise.
    Branches `W_l / L` of orthonormal W_l raise the smallest cosine of CLAPP with softplus (width
    32, three networks) from 0.50, 0.32, 0.20 at depths 4, 8, 16 to 0.84, 0.91, 0.94, and 0.97 at
    depth 32. `||G_1 - I||` falls with depth, 1.7, 1.3, 0.9, 0.6, because branches that point in
    random directions cancel; the bound grows to e^2 - 1 = 6.4, attained by `W_l = I`.

**Projections that are trained.** Let every layer take k gradient steps of one rate from B = 0,
`B <- B - rate (lam B + d phi / d B)`, instead of the optimum (`rules.Trained`). Under an isometry,
and under the metric penalty, the steps of a layer and of the top layer are the same, so
`B_l = V_l^T B_L V_l` (or `V_l^T B_L`) after each of them: the updates are equal for every k, every
rate and every f, no optimum is needed. A linear f has `B = (1 - (1 - rate lam)^k) B*`: the steps
change no direction, and every cosine is that of the optimum. Both are false from a random start,
and the second for other f (`tests/linlocal/test_projections.py`). `linlocal.projections` measures
the distance of B_l from `V_l^T B_L V_l`, the gap in the hypothesis of statement 1.
"""

MANY_PAIRS = """\
## 17. Many pairs

The dual problem has an unknown for each margin, the primal one for each entry of B. Where both are
many, a Newton step is solved by conjugate gradients. One product with the Newton matrix, `lam D +
Z^T (T^T H T)[Z D C^T] C`, takes two products of matrices and one pass over the pairs. With all
in-batch negatives (`negatives="all"`) the scores are a table, and for InfoNCE `H[T] = P * (T -
rowsum(P * T)) / (n temperature^2)`, P the softmax of each reference. The preconditioner knows the
diagonal in the eigenbases of the second moments of Z and C exactly, and the correlations of the
largest 1,024 entries there from 4,096 pairs, drawn by leverage. Two guesses were false. A sample of
pairs alone (Woodbury in the dual) is not the best: a prototype took 141 products to a relative
gradient of 1e-10 (all 240,000 pairs of MNIST, width 128, softplus, penalty 0.02, one direction).
This takes 29 to 1e-14 with pixels from 0 to 1, and 110 to 5e-12 with normalised ones, whose scores
are larger. And a drawn block of a few hundred entries took more products than the diagonal alone,
on batches of 128. Where a loss sees differences only, anchors count from their
mean: InfoNCE of 128 positive inputs then took 187 products instead of 541. The answer is that of
the direct methods, to the same residual (`tests/linlocal/test_large_problems.py`, benchmark
`large_problems`).
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

WINDOWS = """\
## 12. Windows

Train layer l by the loss of layer e = min(l + w - 1, L), backpropagated through the w layers
between: w = 1 is the local rule, w = L is backpropagation. The loss of layer e sees what is above
it through V_e and G_e only, and on the way down both updates get the same factor, V_{le}^T with
V_{le} = W_e ... W_{l+1}:

$$ \\Delta W_l^{\\mathrm{window}} = \\lambda_e V_{le}^\\top Z_e^\\top \
[\\alpha_e \\alpha_e^\\top * C_e C_e^\\top] Z_{l-1} $$

So what statements 1 to 6 ask of G_l they ask of G_e, the metric above the window, and nothing of
the layers inside. For e = L both updates are the same by definition. The theorems:

"""

BOUND = """\
### The bound in a window

For linear f and direct feedback the update of the window is V_{le}^T X and the global one
V_{le}^T G_e X, X as in statement 6 at layer e. With M = V_{le} V_{le}^T the cosine is
<X, M G_e X> / (||M^(1/2) X|| ||M^(1/2) G_e X||). Statement 7 would give 2 sqrt(kappa)/(1 + kappa),
kappa = cond(G_e). **That is false** unless M and G_e commute: in the inner product of M, G_e is
self-adjoint only then. Exact counterexample: V_{le} = diag(1, 3), V_e = [[1, 2], [2, 1]],
X = (2, -1). Here kappa = 9, the naive bound is 3/5, and the cosine is -5/13: the window trains the
layer *against* backpropagation, although both metrics are regular and the layer's own loss (w = 1)
has a positive cosine. A wider window is not always a better one.

$$ \\cos \\ge \\frac{1 - t^2}{1 + t^2},\\quad t = \\sqrt{\\kappa(M)}\\, \
\\frac{\\sqrt{\\kappa(G_e)} - 1}{\\sqrt{\\kappa(G_e)} + 1} $$

- *Proof.* (a) With m and K the extreme eigenvalues of G, (K + m) <x, Gx> >= ||Gx||^2 + m K ||x||^2
  (the sum of squares of statement 7), so x and Gx enclose at most phi with cos phi =
  2 sqrt(kappa)/(1 + kappa), and tan(phi/2) = (sqrt(kappa) - 1)/(sqrt(kappa) + 1). (b) In the plane
  of x and g = Gx the metric M has eigenvalues with a ratio of at most kappa(M). With an angle theta
  between x and g, the angle psi in M has cot psi = <x, M g>/(sqrt(det M) sin theta), which is
  smallest where x and g lie symmetrically about the first eigenvector, and is there cot psi =
  (1 - kappa T^2)/(2 sqrt(kappa) T) with T = tan(theta/2): tan(psi/2) = sqrt(kappa(M)) T
  (Wielandt's inequality). A matrix X of several columns is one vector under M x I and G x I, which
  have the same condition numbers.
- *Tight.* (a) and (b) are attained together at width 2 for all pairs of condition numbers. At
  kappa(M) = 1 it is Kantorovich's bound. It is negative for t > 1.
- *Sharper for given matrices.* With T = M^(1/2) G_e M^(-1/2), sin <= min over tau of ||tau T - I||
  (Gustafson 1968): `linlocal.conditions.window_bound`. It is Kantorovich's bound if M and G_e
  commute, and an adversary reaches it. Only the range of V_{le} counts, so layers that widen inside
  the window cost nothing.

The identities are checked in exact algebra, the bounds on both sides and against an adversary in
`tests/linlocal/test_bounds.py`.
"""

SLICED = """\
## 13. Sliced normality

A test of normality of one slice a.z compares the mean of exp(i t a.z) with exp(-t^2/2). Averaged
over *all* directions a it knows norms and distances of the samples only, since

$$ E_a (a \\cdot d)^{{2k}} = \\|d\\|^{{2k}} \\frac{{(1/2)_k}}{{(D/2)_k}},\\qquad \
E_a \\cos(t\\, a \\cdot d) = \\Gamma(D/2) (2/x)^{{D/2-1}} J_{{D/2-1}}(x),\\ x = t \\|d\\| $$

So statement 5 covers it: exact above isometries, in windows too. It is the first rule of this
package without negatives and with a local form that is exact.

- *Proved.* The means of powers, monomial by monomial, for all d: {powers}. That they add up to the
  series of the Bessel function, (1/2)_k/(2k)! = 1/(4^k k!), for every k: {series}. The loss as a
  function of the inner products: `linlocal.symbolic.inner_products.sliced_normality`
  (`tests/linlocal/symbolic/test_spheres.py`).
- *Hypothesis.* D stands in the formula. Two layers of unequal width have the same loss only under
  the same D, so D is a number of the rule and no width.
- *Measured.* The rule is `linlocal.rules.SIGReg` (Balestriero & LeCun 2025, arXiv 2511.08544). With
  all slices (`slices=None`) and one D of at least the largest width (`dimension`), local and global
  updates above isometries agree to 1e-12, in widening networks too. With the width of each layer as
  its D (`dimension=None`) they differ where widths grow, and `explain` says so.
- *Not covered.* Finitely many random slices: the loss is then no function of inner products. If
  each layer draws its own, the deviation falls like slices^(-1/2) (figure `sliced_normality`).
  Slices a of the top layer that are handed down as V_l^T a are exact, however few. Terms per unit,
  as in VICReg and Barlow Twins, stay outside.

Three implementations agree in `tests/linlocal/test_normality.py`: Gauss quadrature (numpy), the
trapezoid rule in the angle (torch), and the hypergeometric function to 60 digits.
"""

RESIDUAL = """\
## 14. Residual and general linear graphs

`z_l = z_{l-1} + W_l z_{l-1}`, sums of branches, and any other linear graph have one matrix V_l from
layer l to the top. The proofs in words use the letter V and never what it is made of, and those at
sizes take any V of its kind; so statements 1 to 7 and 12 hold as they stand. A residual network is
near an isometry if its branches are small. With w_k = ||W_k||, the operator norm, and k = l+1..L,

$$ \\|G_l - I\\| \\le \\prod_k (1 + w_k)^2 - 1,\\quad \\operatorname{cond}(G_l) \\le \\prod_k \
\\Big(\\frac{1 + w_k}{1 - w_k}\\Big)^2,\\quad \\cos \\ge \\frac{1}{\\cosh(2 \\sum_k \
\\operatorname{artanh} w_k)} $$

- *Proof.* Singular values of I + W_k lie in [1 - w_k, 1 + w_k], and those of a product between the
  products of the extreme ones; 1 - prod (1 - w)^2 <= prod (1 + w)^2 - 1. The cosine is statement 7
  at that condition number, as 2 sqrt(kappa)/(1 + kappa) = 1/cosh(log(kappa)/2). All w_k < 1. The
  first two are attained by W_k = diag(w_k, -w_k).
- *Depth-scaled initialisation is a remedy.* For w_k = c/L the bound on the condition number,
  ((1 + c/L)/(1 - c/L))^(2L), *falls* with L towards exp(4c), because L artanh(c/L) falls towards c:
  it is bounded at every depth. Branches that do not shrink lose it.
- *False for biases.* A bias b in a layer above l makes the map downstream affine,
  Z_L = Z_l V^T + 1 b^T. A constant unit in the activities does not repair it, as the metric of the
  larger map is no identity. So an isometry is not enough: exact counterexample in
  `tests/linlocal/symbolic/test_spheres.py`. Biases of layer l and below do no harm.

The bounds are `linlocal.conditions.residual_bounds`, checked in `tests/linlocal/test_bounds.py`.
"""

WHY = """\
## 15. Nonlinear mismatch, taken apart

For a loss of scored pairs in any network, sample k has at block l the error signals
`local = g_l B_l c_l` and `global = J_l^T g_L B_L c_L`: g are the slopes, J_l is the Jacobian
downstream. With J' the downstream map whose elementwise derivatives are averaged over the batch,

$$ \\mathrm{global} - \\mathrm{local} = (J - J')^\\top g_L B_L c_L \
+ (J'^\\top g_L B_L c_L - s\\, g_L B_l c_l) + (s\\, g_L - g_l) B_l c_l $$

for every s: *masks*, *feedback* and *slopes*. s brings `g_L B_l c_l` as near as possible to the
local signal, so a difference in scale belongs to feedback. `align` of `linlocal.analysis` with
`terms=True`, and the recorder, measure the three and what each takes from the cosine: in this
order, or averaged over all orders (Shapley). Without nonlinearities the masks term is zero; with
linear f the slopes term is. The slopes term holds B_l fixed; the *dual* term of
`linlocal.mismatch` also changes the slopes of which B_l is made, so the two agree only where B is
fixed. Tests: `tests/analysis/test_terms.py`; figure `mismatch_terms`.

## 16. B in closed form

Given the slopes g_L of the top, the error signal of a block is linear in its projection: P^T B S^T,
where row k of S sums the contexts that are paired with anchor k, times their slopes. The B nearest
to the backpropagated error E is `B^T = (S^T S + ridge I)^-1 S^T E P^+`
(`linlocal.analysis.local_losses.least_squares`), from a batch or from all batches with fading
weights. In a linear network with direct feedback and enough samples it is the matched projection
V_l^T B_L of statement 1.

- *The "theoretical optimum"* of Wu et al. 2026 (arXiv 2601.21683) descends on the same distance
  with the block's own slopes, through two backward passes. For a linear score it is this B; for
  others it is nearer, as it must be, by less than a tenth of the squared distance in the test.
- *Low rank.* The best B of rank r projects the minimiser on the leading right singular vectors of
  the fitted S B^T in the metric P P^T (reduced-rank regression). Cutting off singular values of B
  is farther away. Several contexts together have this rank.
- *No backward pass.* Only E P^+ is needed, so only tangents in the d pooled features: m of d
  directional derivatives of each sample, times d/m, estimate it without bias and with a variance of
  d/m - 1 over its squared norm (random signs: (d - 1)/m, normal entries: (d + 1)/m). With m = d it
  is exact. Samples must not act on each other above the block.
- *Penalty-optimal.* `penalty_optimal` solves the block's own penalised problem on its pooled batch,
  with the certificate of `optimal_projection`.
- *No bound on the cosine.* B is solved for with the slopes of the top, and a block pulls with its
  own.

Tests: `tests/analysis/test_closed_form.py`, `tests/analysis/test_matched_training.py`; figure
`closed_forms`.
"""

TABLE = """\
## Statement by statement

| | proved | measured | false, or not covered |
|---|---|---|---|
| 1 | {1} | `test_laws.py` | a projection that fits on average only |
| 2 | {2} | `test_laws.py`, figure `linear_alignment` | one penalty for both contexts |
| 3 | {3} | `test_laws.py` | equal penalties, unless a = 1 |
| 4 | {4} | `test_laws.py`, figure `remedies` | |
| 5 | {5} | `test_laws.py` | terms per unit; loss of a user: assumed |
| 6 | {6} | `test_closed_form.py` | "only if" for each view direction: it holds for the sum |
| 7 | {7} | `test_conditions.py`, figure `spectrum` | same-layer context |
| 8 | {8} | figure `feedback_map` | in general, and with the condition in each direction |
| 9 | {9} | `test_laws.py` | pooling that does not commute |
| 10 | | figure `linear_alignment` | |
| 11 | | figure `exactness_in_training` | |
| 12 | {12} | `test_windows.py`, figure `windows` | the bound of statement 7 with G_e for G_l |
| 13 | powers, series, form | `test_normality.py`, figure `sliced_normality` | a D for each layer |
| 14 | bounds by norms | `test_residual.py` | isometry under biases, behind links around |
| 15 | | figure `mismatch_terms` | equal to `mismatch` in linear networks |
| 16 | | `test_closed_form.py` of `analysis` | |
| 17 | | `test_large_problems.py`, benchmark `large_problems` | a drawn block instead |
| 18 | docstrings of `linlocal.dynamics` | `test_dynamics.py`, figure `learning_curves` | |

Proved: for all sizes in words and at sizes in rational functions, for so many rules. Tests are
those in `tests/linlocal` and `tests/linlocal/symbolic`, if not said otherwise.
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
    of_layers = [t for t in THEOREMS.values() if not t.base]
    parts += ["\n".join(_section(t)) + "\n" for t in sorted(of_layers, key=_number)]
    parts.append(MEASURED)
    parts.append(WINDOWS + "\n".join(_windows()) + "\n")
    parts.append(BOUND)
    parts.append(_sliced())
    parts.append(RESIDUAL)
    parts.append(WHY)
    parts.append(MANY_PAIRS)
    parts.append(POPULATION_AND_TIME)
    parts.append(CONDITIONS + "\n".join(map(_condition, _derived_rules())) + "\n")
    parts.append(_literature())
    parts.append(_table())
    parts.append(MAKING)
    return ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", "\n".join(parts))


def _number(theorem: Theorem) -> int:
    return theorem.number


def _section(theorem: Theorem) -> Iterator[str]:
    yield f"## {theorem.number}. {theorem.title} (`{theorem.name}`)"
    yield f"\n*{INTUITION[theorem.name]}*\n"
    yield f"{theorem.statement}\n"
    yield f"$$ {theorem.latex} $$\n"
    yield "What it needs:\n"
    for h in theorem.hypotheses:
        note = f" Not necessary on given data: {h.note}." if h.note else ""
        yield f"- `{h.name}`: {h.meaning}.{note}"
    yield f"\nConclusion: {theorem.conclusion}. Source: {theorem.source}.\n"
    yield "<details><summary>Proof</summary>\n"
    proofs = [prove(theorem.name, rule=rule) for rule in theorem.rules]
    yield from _verdicts(proofs)
    yield f"- {_sizes(theorem)}"
    yield f"- What is not algebra: {theorem.inference}"
    yield f"\n```text\n{proofs[0].derivation}\n```\n\n</details>\n"
    yield "<details><summary>Counterexamples without each hypothesis</summary>\n"
    for h in theorem.hypotheses:
        yield f"```text\n{counterexample(theorem.name, h.name)}\n```\n"
    yield "</details>"


def _verdicts(proofs: list[Proof]) -> Iterator[str]:
    proved = ", ".join(p.rule for p in proofs if p.holds)
    yield f"- For all sizes, in words: {proved}."
    failed = ", ".join(p.rule for p in proofs if not p.holds)
    if failed:
        yield f"- NOT proved: {failed}."


def _windows() -> Iterator[str]:
    """The theorems about windows; one derivation stands for all, which differ by a factor."""
    for theorem in (t for t in THEOREMS.values() if t.base):
        proofs = [prove(theorem.name, rule=rule) for rule in theorem.rules]
        yield f"### {theorem.title} (`{theorem.name}`)"
        yield f"\n$$ {theorem.latex} $$\n"
        yield f"Conclusion: {theorem.conclusion}. Hypotheses, as in statement " + (
            f"{THEOREMS[theorem.base].number}, above the window:\n"
        )
        for h in theorem.hypotheses:
            yield f"- `{h.name}`: {h.meaning}."
        yield "\nProofs:\n"
        yield from _verdicts(proofs)
        yield (
            f"- At {len(PROVED_WINDOWS)} sizes of up to {max(map(len, PROVED_WINDOWS)) - 1} layers "
            "(`tests/linlocal/symbolic/test_proofs.py`)."
        )
        if theorem.base == "isometry":
            yield "\n<details><summary>Derivation</summary>\n"
            yield f"```text\n{proofs[0].derivation}\n```\n\n</details>"
        yield "\n<details><summary>Counterexamples without each hypothesis</summary>\n"
        for h in theorem.hypotheses:
            yield f"```text\n{counterexample(theorem.name, h.name)}\n```\n"
        yield "</details>\n"


def _sliced() -> str:
    orders, dimensions = range(5), range(1, 5)
    radial = all(power_mean_is_radial(k, n) for k in orders for n in dimensions)
    powers = f"2k = 0..{2 * max(orders)}, D = {min(dimensions)}..{max(dimensions)}"
    return SLICED.format(
        powers=powers if radial else "NOT proved",
        series="yes" if series_is_that_of_the_cosine() else "NOT proved",
    )


def _table() -> str:
    proved: dict[str, str] = {}
    for n in sorted({t.number for t in THEOREMS.values()}):
        number = str(n)
        named = [t for t in THEOREMS.values() if t.number == n]
        count = sum(bool(prove(t.name, rule=r).holds) for t in named for r in t.rules)
        proved[number] = f"{count} rules" if count > 1 else f"{count} rule"
        if len(named) > 1:
            proved[number] = f"{len(named)} theorems, {count} cases"
        if any(t.words_only for t in named):
            proved[number] += ", in words"
    table = TABLE
    for key, text in proved.items():
        table = table.replace(f"{{{key}}}", text)
    return table


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
        f"it does not:\n\n```text\n{literature_counterexample()}\n```\n\n"
        "Nor is the condition in each of two view directions enough. In the direction of `C_l` and "
        "in that of\n`C_l'` (with the same anchors) `N N^T` commutes with G, and in the sum of "
        f"their updates the claim fails:\n\n```text\n{directions_counterexample()}\n```\n"
    )
