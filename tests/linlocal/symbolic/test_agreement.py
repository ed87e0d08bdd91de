"""Words = rational functions = dual form = autograd: one formula, four evaluations."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import autodiff, rules, testing
from linlocal.networks import Convolution, average_pooling
from linlocal.rules import NAMES, Penalty
from linlocal.symbolic import derive, formulas, inner_products
from linlocal.symbolic.assumptions import depends_on_inner_products
from linlocal.symbolic.formulas import LAM, LAM_LAYER
from linlocal.symbolic.matrices import Symbols, rational_rotation, semi_orthogonal
from linlocal.symbolic.words import evaluate
from linlocal.testing import assert_same_update
from linlocal.updates import Signals

NETWORKS = {
    "generic": lambda seed: ll.DeepLinear.gaussian([3, 4, 5, 3], seed),
    "orthogonal": lambda seed: ll.DeepLinear.orthogonal([4, 3, 3, 5], seed),
}
INVARIANT = ("SimCLR", "CosineInfoNCE", "SpectralContrastive", "Whitening", "LogDet")


def smooth(name):
    return rules.from_name(name, **({"score": "softplus"} if "CLAPP" in name else {}))


RULES = {
    **{name: smooth(name) for name in NAMES if smooth(name).kind != "view" or name in INVARIANT},
    "CLAPP linear": rules.CLAPP("linear", penalty=0.3),
    "DFB linear": rules.CLAPP_DFB("linear", penalty=0.3),
    "both linear": rules.CLAPP_BOTH("linear", penalty=0.3),
    "penalties": rules.CLAPP("softplus", penalty=Penalty((0.1, 0.2, 0.3))),
    "metric": rules.CLAPP("softplus", penalty=Penalty(0.1, "downstream")),
    "metric DFB": rules.CLAPP_DFB("softplus", penalty=Penalty(0.1, "downstream")),
    "metric both": rules.CLAPP_BOTH("softplus", penalty=Penalty(0.1, "downstream")),
    "matched": replace(rules.CLAPP("softplus"), projection="matched"),
    "matched DFB": replace(rules.CLAPP_DFB("softplus"), projection="matched"),
    "matched both": replace(rules.CLAPP_BOTH("softplus"), projection="matched"),
}


def batch(rule, net, seed):
    x, view = testing.samples(3 if rule.kind == "view" else 5, net.widths[0], seed)
    if rule.context == "self":
        return ll.Pairs.from_positive_negative(x, view)
    return ll.Pairs.from_views(x, view, num_negatives=2)


def slopes_of(signals, layer, number, direction):
    """beta = -d loss / d score of every pair: the symbol D of the words."""
    rule = signals.rules[layer - 1]
    if rule.kind == "goodness":
        z = signals.activities.z[layer]
        judged = z[direction.anchor]
        if rule.context == "sum":
            judged = judged + z[direction.reference]
        return -rule.loss.gradient(np.sum(judged**2, axis=1), direction)
    scored = signals.scored(layer)[number]
    if scored.projection is not None:
        return scored.projection.slopes
    if rule.projection == "matched":
        return slopes_of(signals, signals.network.depth, number, direction)
    scores = np.einsum(
        "pi,pi->p",
        signals.activities.z[layer][direction.anchor],
        scored.projected[direction.reference_index],
    )
    contrasts = rule.loss.contrasts(direction)
    by_margin = rule.loss.gradient(contrasts.apply(scores), direction)
    return -contrasts.adjoint(by_margin)


@cache
def gram_gradient(loss, n):
    """dF/dK as a function of the entries of K, from the closed form of the loss."""
    entries = sp.symbols(f"k:{4 * n * n}")
    value = inner_products.FORMS[type(loss)](sp.Matrix(2 * n, 2 * n, entries), n, loss)
    return sp.lambdify(entries, [sp.diff(value, k) for k in entries])


def gram_slopes(loss, z, n):
    """S = -2 dF/dK, symmetrised."""
    by_k = np.array(gram_gradient(loss, n)(*(z @ z.T).ravel()), dtype=float)
    by_k = by_k.reshape(2 * n, 2 * n)
    return -(by_k + by_k.T)


def in_words(net, pairs, rule, layer):
    """Local and global update of one layer: the words, evaluated on numpy arrays."""
    signals, top = Signals(net, pairs, rule), net.depth
    f = formulas.of_rule(rule)
    z = signals.activities.z
    scalars = {LAM: rule.penalty.at(top, top), LAM_LAYER: rule.penalty.at(layer, top)}
    totals = [0.0, 0.0]
    if rule.kind == "view":
        rows = np.concatenate(pairs.views)
        env = {"Z_l": z[layer][rows], "Z_L": z[top][rows], "Z_{l-1}": z[layer - 1][rows]}
        env |= {"S_l": gram_slopes(rule.loss, z[layer][rows], len(pairs.views[0]))}
        env |= {"S_L": gram_slopes(rule.loss, z[top][rows], len(pairs.views[0]))}
        env |= {"V": net.downstream(layer)}
        return [evaluate(e, env, scalars) for e in (f.local, f.global_)]
    losses_in_direction = len(rule.judged_contexts) if rule.kind == "pair" else 1
    for direction, d in enumerate(pairs.directions):
        number = direction * losses_in_direction
        env = {"V": net.downstream(layer)}
        names = {"Z_l": layer, "Z_L": top, "Z_{l-1}": layer - 1}
        env |= {k: z[l][d.anchor] for k, l in names.items()}
        if rule.context == "sum":
            env |= {k: z[l][d.anchor] + z[l][d.reference] for k, l in names.items()}
        env |= {"C_l": z[layer][d.reference], "C_L": z[top][d.reference]}
        env |= {"D_l": np.diag(slopes_of(signals, layer, number, d))}
        env |= {"D_L": np.diag(slopes_of(signals, top, number, d))}
        if rule.context == "each":
            env["D_l'"] = np.diag(slopes_of(signals, layer, number + 1, d))
        if rule.projection == "matched":
            env["B_L"] = signals.scored(top)[number].projection.matrix
        if rule.pooling is not None:
            for name, l in (("P_l", layer), ("P_L", top)):
                env[name] = average_pooling(net.map_shape(l), rule.pooling[l - 1])
        for i, e in enumerate((f.local, f.global_)):
            totals[i] = totals[i] + evaluate(e, env, scalars)
    return totals


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", RULES)
def test_words_are_the_dual_form_and_autograd(name, kind):
    rule, net = RULES[name], NETWORKS[kind](3)
    pairs = batch(rule, net, 4)
    programs = [
        (ll.local_update(net, pairs, rule), ll.global_update(net, pairs, rule)),
        (autodiff.local_update(net, pairs, rule), autodiff.global_update(net, pairs, rule)),
    ]
    for layer in range(1, net.depth):
        words = in_words(net, pairs, rule, layer)
        for local, top in programs:
            assert_same_update(words[0], local[layer - 1], 1e-10, f"{name}, local, layer {layer}")
            assert_same_update(words[1], top[layer - 1], 1e-10, f"{name}, global, layer {layer}")


@settings(max_examples=30)
@given(data=st.data())
def test_words_are_both_programs_on_drawn_instances(data):
    kinds = ("orthogonal", "conformal", "uniform", "gaussian")
    net = data.draw(testing.networks(width=(1, 5), depth=(2, 4), kind=kinds))
    named = st.sampled_from([r for n, r in RULES.items() if r.kind == "goodness" or n == "PhyLL"])
    metric = data.draw(st.sampled_from(["frobenius", "downstream"]))
    rule = data.draw(st.one_of(named, testing.pair_rules(penalty=(0.1, 1.0), metric=metric)))
    pairs = data.draw(testing.pairs(net, num_pairs=(2, 16), rule=rule))
    layer = data.draw(st.integers(1, net.depth - 1))
    words = in_words(net, pairs, rule, layer)
    for program in (ll, autodiff):
        both = [u(net, pairs, rule) for u in (program.local_update, program.global_update)]
        for word, update in zip(words, both, strict=True):
            # Against the largest layer: one of them may vanish.
            scale = max(np.linalg.norm(u) for u in update)
            assert np.linalg.norm(word - update[layer - 1]) <= 1e-9 * scale


def test_words_know_pooled_convolutions():
    rng = np.random.default_rng(0)
    maps = [
        Convolution(rng.normal(size=(2, 1, 2, 2)) / 2, (1, 5, 5)),
        Convolution(rng.normal(size=(2, 2, 3, 3)) / 4, (2, 4, 4), padding=(1, 1)),
    ]
    net = ll.DeepLinear(maps)
    for metric in ("frobenius", "downstream"):
        for make in (rules.CLAPP, rules.CLAPP_DFB, rules.CLAPP_BOTH):
            rule = replace(make("softplus", penalty=Penalty(0.2, metric)), pooling=(2, 4))
            pairs = batch(rule, net, 1)
            words = [maps[0].kernel_gradient(w) for w in in_words(net, pairs, rule, 1)]
            local, top = (u(net, pairs, rule)[0] for u in (ll.local_update, ll.global_update))
            assert_same_update(words[0], local, 1e-10)
            assert_same_update(words[1], top, 1e-10)


def test_the_derived_residual_is_the_difference_of_the_updates():
    # derive gives (G M G N - M N)/lam; as a function, it is what both programs compute.
    net = NETWORKS["generic"](0)
    for make, letters in ((rules.CLAPP, "MN"), (rules.CLAPP_DFB, "X")):
        rule = make("linear", penalty=0.3)
        x, view = testing.samples(5, net.widths[0], 2)
        pairs = ll.Pairs.from_views(x, view, directions="forward")
        (d,), z = pairs.directions, net.activities(pairs.samples).z
        beta = np.diag(d.sign * d.weights)
        env = {"Z_l": z[1][d.anchor], "C_l": z[1][d.reference], "C_L": z[3][d.reference]}
        env |= {"D_l": beta, "Z_{l-1}": z[0][d.anchor], "V": net.downstream(1)}
        env |= {k: evaluate(formulas.ABBREVIATIONS[k], env, {}) for k in (*letters, "G")}
        residual = evaluate(derive(rule).update, env, {LAM: 0.3})
        for program in (ll, autodiff):
            both = [u(net, pairs, rule)[0] for u in (program.global_update, program.local_update)]
            assert_same_update(residual, both[0] - both[1], 1e-10)


@pytest.mark.parametrize(("width", "top"), [(2, 3), (3, 3), (2, 2)])
def test_lambdified_rational_functions_are_the_dual_form(width, top):
    # The symbols of a proof at a size, with numbers put in: V orthogonal by Cayley, linear score.
    shapes = {"Z_{l-1}": (2, 2), "W": (width, 2), "Y": (2, 2)}
    symbols = Symbols(shapes, {"V": top}, {"D_l": 2}, [LAM])
    made = dict(symbols.matrices)
    made["V"] = semi_orthogonal(made["V"], top, width)
    made["D_L"] = made["D_l"]
    made["Z_l"], made["C_l"] = (made[k] @ made["W"].T for k in ("Z_{l-1}", "Y"))
    made["Z_L"], made["C_L"] = (made[k] @ made["V"].T for k in ("Z_l", "C_l"))
    rule = rules.CLAPP("linear", penalty=0.3)
    f = formulas.of_rule(rule)
    names = symbols.ring.symbols
    values = dict(zip(names, np.random.default_rng(1).normal(size=len(names)), strict=True))
    values |= {LAM: 0.3, sp.Symbol("D_l_0"): 1.0, sp.Symbol("D_l_1"): -1.0}

    def number(matrix):
        return np.array(sp.lambdify(names, matrix.to_sympy())(*values.values()), dtype=float)

    local, global_ = (number(evaluate(e, made, {LAM_LAYER: LAM})) for e in (f.local, f.global_))
    x, y, w, v = (number(made[k]) for k in ("Z_{l-1}", "Y", "W", "V"))
    rows = np.arange(2)
    direction = ll.Direction(rows, rows + 2, np.array([1.0, -1.0]), np.array([0, 0]))
    pairs, net = ll.Pairs(np.vstack([x, y]), (direction,)), ll.DeepLinear([w, v])
    for program in (ll, autodiff):
        assert_same_update(local, program.local_update(net, pairs, rule)[0], 1e-10)
        assert_same_update(global_, program.global_update(net, pairs, rule)[0], 1e-10)
    assert_same_update(local, global_, 1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_which_losses_depend_on_inner_products(name):
    rule = smooth(name)
    if rule.kind == "view":
        assert depends_on_inner_products(rule.loss) == (name in INVARIANT)
        assert (inner_products.form_of(rule.loss) is not None) == (name in INVARIANT)


# -- convolutions ---------------------------------------------------------------------------------


def convolution_matrix(kernel, shape, stride):
    """The matrix of a convolution with a symbolic kernel: its coefficients on one-hot kernels."""
    total = sp.zeros(0)
    for index in np.ndindex(kernel.shape):
        one = np.zeros(kernel.shape)
        one[index] = 1.0
        part = sp.Matrix(Convolution(one, shape, stride=stride).matrix.astype(int))
        total = part * kernel[index] if not total else total + part * kernel[index]
    return total


def test_orthogonal_kernels_on_patches_are_isometries():
    # Statement 9: everything holds with the convolution's matrix. Four channels of 2 x 2 pixels.
    q = rational_rotation(4, [sp.Rational(1, k) for k in (2, 3, 4, 5, 6, 7)])
    kernel = np.array(q.tolist(), dtype=object).reshape(4, 1, 2, 2)
    v = convolution_matrix(kernel, (1, 4, 4), (2, 2))
    assert v.T * v == sp.eye(16)
    numeric = Convolution(kernel.astype(float), (1, 4, 4), stride=(2, 2))
    np.testing.assert_allclose(np.array(v, dtype=float), numeric.matrix, atol=1e-15)
    below = Convolution(np.random.default_rng(0).normal(size=(1, 2, 2, 2)), (2, 5, 5))
    net = ll.DeepLinear([below, numeric])
    for rule in (rules.CLAPP("softplus"), rules.CLAPP_DFB("softplus")):
        pairs = batch(rule, net, 0)
        local, top = (u(net, pairs, rule) for u in (ll.local_update, ll.global_update))
        assert_same_update(local, top, 1e-11)
        broken = ll.DeepLinear([below, replace(numeric, kernel=1.5 * numeric.kernel)])
        with pytest.raises(AssertionError, match="differ most in layer 1"):
            assert_same_update(
                ll.local_update(broken, pairs, rule), ll.global_update(broken, pairs, rule), 1e-3
            )
