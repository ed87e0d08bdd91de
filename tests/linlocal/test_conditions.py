"""`explain`: the conditions that it names, the bound it predicts, the remedies it offers."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import linlocal as ll
from linlocal import rules
from linlocal.networks import Network
from linlocal.rules import Penalty, Rule

EXACT = 1e-11


def views(width: int, samples: int = 24, seed: int = 0) -> ll.Pairs:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, width))
    return ll.Pairs.from_views(x, x + 0.5 * rng.standard_normal(x.shape))


def worst_error(network: Network, pairs: ll.Pairs, rule: Rule) -> float:
    return float(ll.compare(network, pairs, rule)["relative_error"].max())


GAUSSIAN = {
    "constant": [20, 10, 10, 10],
    "widening": [20, 8, 12, 16],
    "narrowing": [20, 14, 10, 5],
    "bottleneck": [20, 12, 4, 12],
}
OPTIMAL = {
    "CLAPP linear": rules.CLAPP("linear"),
    "CLAPP softplus": rules.CLAPP("softplus"),
    "CLAPP hinge": rules.CLAPP("hinge"),
    "DFB softplus": rules.CLAPP_DFB("softplus"),
    "DFB hinge": rules.CLAPP_DFB("hinge"),
    "both softplus": rules.CLAPP_BOTH("softplus"),
    "Greedy InfoMax": rules.GreedyInfoMax(),
}


@pytest.mark.parametrize("widths", GAUSSIAN.values(), ids=GAUSSIAN)
@pytest.mark.parametrize("rule", OPTIMAL.values(), ids=OPTIMAL)
def test_every_remedy_restores_exactness_where_it_was_missing(
    widths: list[int], rule: Rule
) -> None:
    network, pairs = ll.DeepLinear.gaussian(widths, seed=1), views(20)
    explanation = ll.explain(network, pairs, rule)
    assert not explanation.exact
    assert worst_error(network, pairs, rule) > 0.05
    names = {remedy.name for remedy in explanation.remedies}
    assert {"metric penalty", "matched projection"} <= names
    assert ("isometry" in names) == (sorted(widths[1:]) == widths[1:])
    for remedy in explanation.remedies:
        assert worst_error(*remedy.apply()) <= EXACT, remedy.name
        assert ll.explain(*remedy.apply()).exact


@pytest.mark.parametrize(
    ("rule", "power"), [(rules.CLAPP("softplus"), 2), (rules.CLAPP_DFB("softplus"), 1)]
)
def test_rescaled_penalty_of_a_conformal_network_is_that_of_statement_3(
    rule: Rule, power: int
) -> None:
    network, pairs = ll.DeepLinear.conformal([20, 10, 10, 12], scale=1.3), views(20)
    explanation = ll.explain(network, pairs, rule)
    assert not explanation.exact
    _, _, new = explanation.remedy("rescaled penalty").apply()
    assert isinstance(new.penalty, Penalty)
    factors = [network.gram(l)[0, 0] for l in network.layers]
    np.testing.assert_allclose(new.penalty.strength, 0.01 / np.power(factors, power), rtol=1e-10)
    assert worst_error(network, pairs, new) <= EXACT


def test_direct_feedback_is_the_remedy_where_only_the_references_lose_under_the_map() -> None:
    # Layer 2 keeps the first 6 of 10 units; anchors live there, references do not.
    rng = np.random.default_rng(3)
    weights = [np.eye(10), np.eye(6, 10)]
    anchors = np.hstack([rng.standard_normal((12, 6)), np.zeros((12, 4))])
    pairs = ll.Pairs.from_views(anchors, rng.standard_normal((12, 10)), directions="forward")
    network, rule = ll.DeepLinear(weights), rules.CLAPP("softplus")
    explanation = ll.explain(network, pairs, rule)
    conditions = {c.name: c for c in explanation.layers[0].conditions}
    assert not explanation.exact
    assert not conditions["proportional contexts"].holds
    _, _, new = explanation.remedy("direct feedback").apply()
    assert new.context == "top"
    assert worst_error(network, pairs, new) <= EXACT


@pytest.mark.parametrize("name", ["PhyLL", "SCFF", "SimCLR", "SpectralContrastive", "LogDet"])
def test_isometry_is_the_remedy_for_rules_of_inner_products(name: str) -> None:
    network, pairs = ll.DeepLinear.gaussian([20, 8, 10, 12], seed=2), views(20)
    rule = rules.from_name(name)
    explanation = ll.explain(network, pairs, rule)
    assert not explanation.exact
    assert [r.name for r in explanation.remedies] == ["isometry"]
    assert worst_error(*explanation.remedy("isometry").apply()) <= EXACT


@pytest.mark.parametrize("name", ["VICReg", "VISReg", "BarlowTwins", "LPL"])
def test_rules_per_unit_have_no_remedy_and_fail_the_invariance_condition(name: str) -> None:
    network, pairs = ll.DeepLinear.orthogonal([20, 10, 10, 10], seed=2), views(20)
    explanation = ll.explain(network, pairs, rules.from_name(name))
    by_name = {c.name: c for c in explanation.layers[0].conditions}
    assert by_name["isometry"].holds
    assert not by_name["invariant loss"].holds
    assert not explanation.exact
    assert explanation.remedies == ()
    assert "No remedy is known" in str(explanation)


@pytest.mark.parametrize("condition_number", [1.0, 3.0, 30.0, 1e3])
@pytest.mark.parametrize("seed", range(5))
def test_predicted_bound_holds_for_linear_score_with_direct_feedback(
    condition_number: float, seed: int
) -> None:
    network = ll.DeepLinear.with_condition_number([12] * 4, condition_number, seed)
    explanation = ll.explain(network, views(12, seed=seed), rules.CLAPP_DFB("linear"))
    for layer in explanation.layers:
        assert layer.cosine_bound is not None
        assert layer.cosine >= layer.cosine_bound - 1e-12
    square = explanation.layers[0].cosine_bound
    expected = 2 * condition_number / (1 + condition_number**2)
    assert square == pytest.approx(expected, rel=1e-6)


def test_predicted_cosine_of_narrowing_semi_orthogonal_weights_is_attained() -> None:
    network = ll.DeepLinear.orthogonal([20, 16, 8, 4], seed=1)
    explanation = ll.explain(network, views(20), rules.CLAPP_DFB("linear"))
    for layer in explanation.layers:
        assert layer.cosine == pytest.approx(layer.cosine_bound, abs=1e-12)
    assert explanation.layers[0].cosine < 0.9


def test_no_bound_is_claimed_where_none_is_known() -> None:
    network, pairs = ll.DeepLinear.gaussian([20, 10, 10], seed=1), views(20)
    for rule in (rules.CLAPP("linear"), rules.CLAPP_DFB("softplus"), rules.SimCLR()):
        assert ll.explain(network, pairs, rule).layers[0].cosine_bound is None


def test_relu_network_is_named_as_the_reason() -> None:
    explanation = ll.explain(
        ll.DeepReLU.orthogonal([20, 10, 10, 10]), views(20), rules.CLAPP("softplus")
    )
    (condition,) = explanation.layers[0].conditions
    assert condition.name == "linear network"
    assert condition.distance > 0.1
    assert explanation.remedies == ()


def test_everything_holds_for_isometries_and_the_text_says_so() -> None:
    explanation = ll.explain(
        ll.DeepLinear.orthogonal([20, 8, 10, 12]), views(20), rules.CLAPP("hinge")
    )
    assert explanation.exact
    assert all(c.holds for layer in explanation.layers for c in layer.conditions)
    assert "Nothing to remedy." in str(explanation)


def test_a_broken_condition_is_the_only_one_named() -> None:
    network, pairs = ll.DeepLinear.orthogonal([20, 10, 10, 10]), views(20)
    rule = rules.CLAPP("softplus").with_penalty((0.02, 0.01, 0.01))
    failed = [
        [c.name for c in layer.conditions if not c.holds]
        for layer in ll.explain(network, pairs, rule).layers
    ]
    assert failed == [["matching penalty", "score matching"], [], []]


def test_random_projection_is_mended_by_matching_it() -> None:
    network, pairs = ll.DeepLinear.gaussian([20, 10, 10, 10], seed=1), views(20)
    rule = replace(rules.CLAPP("softplus"), projection="random")
    explanation = ll.explain(network, pairs, rule)
    assert [r.name for r in explanation.remedies] == ["matched projection"]
    assert worst_error(*explanation.remedy("matched projection").apply()) <= EXACT


def test_an_unknown_remedy_names_those_that_help() -> None:
    explanation = ll.explain(
        ll.DeepLinear.gaussian([20, 10, 8], seed=1), views(20), rules.CLAPP("softplus")
    )
    with pytest.raises(ValueError, match="metric penalty, matched projection"):
        explanation.remedy("prayer")


@pytest.mark.parametrize(
    ("widths", "rule"),
    [
        ([20, 8, 10, 12], rules.CLAPP("hinge")),
        ([20, 10, 10, 10], rules.CLAPP("softplus").with_penalty((0.02, 0.01, 0.01))),
        ([20, 16, 8, 4], rules.CLAPP_DFB("linear")),
        ([20, 10, 8, 6], rules.LPL()),
    ],
    ids=["exact", "other penalty", "narrowing", "no remedy"],
)
def test_the_details_say_of_each_layer_what_the_explanation_holds(
    widths: list[int], rule: Rule
) -> None:
    explanation = ll.explain(ll.DeepLinear.orthogonal(widths, seed=1), views(20), rule)
    head, blank, *rest = explanation.details().splitlines()
    assert (head, blank) == (explanation.subject, "")
    parts: list[list[str]] = []
    for line in rest:
        if line.startswith("layer "):
            parts.append([])
        parts[-1].append(line)
    for layer, (title, *details) in zip(explanation.layers, parts, strict=True):
        verdict = "equal to" if layer.exact else "differs from"
        assert title.startswith(f"layer {layer.layer}: local {verdict} global update (cosine ")
        marks, mismatch = details[: len(layer.conditions)], details[len(layer.conditions) :]
        for condition, line in zip(layer.conditions, marks, strict=True):
            found = "holds" if condition.holds else f"fails by {condition.distance:.1e}"
            assert line.split() == [
                *condition.name.split(),
                *found.split(),
                *condition.meaning.split(),
            ]
        row = explanation.comparison.sel(layer=layer.layer)
        said = []
        if not layer.exact and not np.isnan(row["dual_mismatch"]):
            terms = (
                (name, float(row[f"{name}_mismatch"])) for name in ("dual", "context", "metric")
            )
            words = ", ".join(f"{name} {size:.1e}" for name, size in terms)
            said.append(f"    mismatch over ||global||: {words}")
        if not layer.exact:
            bound = "none" if layer.cosine_bound is None else f"{layer.cosine_bound:.4f}"
            said.append(f"    smallest cosine: {bound} ({layer.bound_source})")
        assert mismatch == said


def test_the_text_begins_with_the_verdict_and_goes_on_from_layers_to_help() -> None:
    network, pairs = ll.DeepLinear.gaussian([20, 10, 8, 9], seed=1), views(20)
    explanation = ll.explain(network, pairs, rules.CLAPP("softplus"))
    text = str(explanation)
    assert text.splitlines()[:2] == [explanation.verdict, explanation.subject]
    least = min(explanation.layers, key=lambda layer: layer.cosine)
    assert f"smallest in layer {least.layer}, {least.cosine:.4f}." in explanation.verdict
    assert "in layers 1-2 of 3" in explanation.verdict
    rows = [line.split() for line in text.splitlines()[4:7]]
    assert [row[:2] for row in rows] == [
        [str(e.layer), f"{e.cosine:.4f}"] for e in explanation.layers
    ]
    failing = {c.name: c for e in explanation.layers for c in e.conditions if not c.holds}
    places = [text.index(f"  {name}: fails in layer") for name in failing]
    for condition in failing.values():
        symbols = condition.meaning.split(", nearest")[0]
        assert text.index(condition.words) < text.index(symbols), "words first"
    help_ = [text.index(f"  {r.name}: changes {r.changes}") for r in explanation.remedies]
    assert max(places) < min(help_)
    assert all(len(line) <= 200 for line in text.splitlines())


def test_the_text_of_an_exact_network_says_what_holds() -> None:
    explanation = ll.explain(ll.DeepLinear.orthogonal([20, 8, 10]), views(20), rules.CLAPP("hinge"))
    assert "equals backpropagation here: the updates of all 2 layers" in explanation.verdict
    assert "proportional anchors: holds in layer 1" in str(explanation)
    assert "fails" not in str(explanation)


def test_a_remedy_tells_with_numbers_what_it_changes() -> None:
    network, pairs = ll.DeepLinear.gaussian([20, 10, 12], seed=1), views(20)
    explanation = ll.explain(network, pairs, rules.CLAPP("softplus"))
    told = {r.name: r.changes for r in explanation.remedies}
    assert told["matched projection"] == "the projection from optimal to matched"
    assert told["metric penalty"] == "the metric of the penalty from frobenius to downstream"
    mended, _, _ = explanation.remedy("isometry").apply()
    moved = np.linalg.norm(mended.weights[1] - network.weights[1]) / np.linalg.norm(
        network.weights[1]
    )
    assert told["isometry"] == f"the weights of layers 1..2 by 0, {moved:.3g} of their norm"
    conformal = ll.DeepLinear.conformal([20, 10, 12], scale=2.0)
    (remedy,) = (
        r
        for r in ll.explain(conformal, pairs, rules.CLAPP("softplus")).remedies
        if r.name == "rescaled penalty"
    )
    strengths = ", ".join(f"{s:.3g}" for s in remedy.apply()[2].penalty.strength)
    assert remedy.changes == f"the penalty from 0.01 to {strengths}"


def test_every_condition_and_remedy_has_words() -> None:
    network = ll.DeepLinear.orthogonal([8] * 5, 0, links="residual")
    explanation = ll.explain(network, views(8), rules.CLAPP("linear"))
    said = {c.words for e in explanation.layers for c in e.conditions}
    assert len(said) == len({c.name for e in explanation.layers for c in e.conditions})
    assert all(r.words.endswith(".") for r in explanation.remedies + explanation.nearer)


def test_a_notebook_shows_the_same_with_all_letters_escaped() -> None:
    rule = replace(rules.CLAPP("softplus"), name="<script>alert('x')</script> & co")
    network, pairs = ll.DeepLinear.gaussian([20, 10, 8], seed=1), views(20)
    explanation = ll.explain(network, pairs, rule)
    page = explanation._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "color" not in page  # those of the page, light or dark
    heard = []
    parser = HTMLParser()
    parser.handle_data = heard.append
    parser.feed(page)
    words = " ".join(" ".join(heard).split())
    assert " ".join(explanation.verdict.split()) in words
    assert " ".join(explanation.details().split()) in words
    assert repr(explanation) == f"<Explanation: {explanation.verdict}>"
