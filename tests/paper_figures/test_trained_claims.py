"""The claims on trained networks follow the numbers."""

import json

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

from paper_figures.figures import (
    alignment_accuracy,
    cosines_in_training,
    local_rules_table,
    mismatch_terms,
    trained_cnn,
    trained_mlp,
)
from paper_figures.look import style

RULES = [
    *local_rules_table.PUBLISHED,
    "CLAPP++ DFB, random B",
    "CLAPP++ DFB, matched B",
    "PhyLL",
]
ATTRS = {"experiment": "local_rules", "preset": "smoke", "seed": 0, "config": "{}"}
NOISE = 1e-3 * np.tile([-1.0, 0.0, 1.0], (10, 1))


def table(accuracy, backpropagation=0.5, cosine=0.3, after=None):
    """A result in which rule k has these numbers, up to noise over three repetitions."""
    local, cosine = (np.broadcast_to(each, 10)[:, None] + NOISE for each in (accuracy, cosine))
    after = cosine if after is None else np.broadcast_to(after, 10)[:, None] + 2 * NOISE
    # On the way it is another, and in the top layer local and global are one.
    steps = np.stack([cosine, 0.7 + 0 * cosine, after], -1)[..., None].repeat(3, -1)
    steps[..., -1] = 1.0
    return {
        "local_rules": xr.Dataset(
            {
                "accuracy": (
                    ("data", "credit", "rule", "repetition"),
                    np.stack([local, backpropagation - 2 * NOISE])[None],
                ),
                "cosine": (("data", "rule", "repetition", "step", "layer"), steps[None]),
                "reference_accuracy": (
                    ("data", "reference", "repetition"),
                    np.array([[[0.2] * 3, [0.9] * 3]]),
                ),
                "search_accuracy": (("rule", "candidate"), np.full((len(RULES), 1), np.nan)),
            },
            {
                "data": ["digits"],
                "credit": ["local", "backpropagation"],
                "rule": RULES,
                "step": [0, 5, 10],
                "layer": [1, 2, 3],
                "reference": ["untrained", "supervised"],
            },
            ATTRS,
        )
    }


def verdicts(module, datasets, *words):
    found = [c.here for c in module.claims(datasets) if all(word in c.text for word in words)]
    assert found
    return set(found)


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.6, "holds"), (0.5, "holds"), (0.4, "fails")])
def test_a_rule_may_be_as_good_as_backpropagation_but_not_worse(accuracy, verdict):
    assert verdicts(local_rules_table, table(accuracy), "no worse") == {verdict}


def test_an_interval_around_the_margin_leaves_the_claim_open():
    datasets = table(0.4905)
    assert verdicts(local_rules_table, datasets, "no worse") == {"undecided"}


def test_direct_feedback_must_be_better_by_more_than_its_interval():
    accuracy = np.full(10, 0.5)
    accuracy[RULES.index("CLAPP++ DFB")] = 0.6
    accuracy[RULES.index("CLAPP++ both")] = 0.4
    datasets = table(accuracy)
    assert verdicts(local_rules_table, datasets, "DFB is better than CLAPP++") == {"holds"}
    assert verdicts(local_rules_table, datasets, "both is better than CLAPP++") == {"fails"}
    assert verdicts(local_rules_table, datasets, "is better than CLAPP++ without") == {"undecided"}


def test_every_rule_is_held_against_an_untrained_network():
    assert verdicts(local_rules_table, table(0.3), "untrained") == {"holds"}
    assert verdicts(local_rules_table, table(0.1), "untrained") == {"fails"}


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [
        (np.linspace(0.3, 0.6, 10), "holds"),
        (np.linspace(0.6, 0.3, 10), "fails"),
        (np.array([4, 9, 1, 6, 3, 8, 0, 7, 2, 5]) / 20, "undecided"),
    ],
    ids=["rising", "falling", "mixed"],
)
def test_ranks_decide_whether_alignment_goes_with_accuracy(accuracy, verdict):
    datasets = table(accuracy, cosine=np.linspace(0, 0.9, 10) ** 3)
    assert verdicts(alignment_accuracy, datasets, "rules with") == {verdict}


@pytest.mark.parametrize(
    ("gains", "verdict"), [([0, 0.1, 0.2], "holds"), ([0.2, 0.1, 0], "fails"), ([0, 0, 0], None)]
)
def test_what_b_alone_changes_is_told_by_the_slope_in_each_network(gains, verdict):
    accuracy, cosine = np.full(10, 0.5), np.full(10, 0.1)
    chosen = [RULES.index(rule) for rule in alignment_accuracy.ONLY_B]
    accuracy[chosen] += gains
    cosine[chosen] = 0.2, 0.4, 0.6
    datasets = table(accuracy, cosine=cosine)
    found = verdicts(alignment_accuracy, datasets, "all else equal")
    assert found == {verdict or "undecided"}
    (claim,) = (c for c in alignment_accuracy.claims(datasets) if "all else equal" in c.text)
    result = datasets["local_rules"].isel(data=0, rule=chosen)
    x = alignment_accuracy.alignment(result).transpose("rule", "repetition").values
    y = result["accuracy"].sel(credit="local").values
    slopes = [np.polyfit(one, other, 1)[0] for one, other in zip(x.T, y.T, strict=True)]
    assert float(claim.measured.split()[1].strip(";")) == pytest.approx(np.mean(slopes), abs=6e-4)
    without = {"local_rules": datasets["local_rules"].isel(rule=slice(-3))}
    assert not any("all else equal" in c.text for c in alignment_accuracy.claims(without))


def test_the_rank_correlation_is_spearmans_and_lies_in_its_interval():
    accuracy = np.array([4, 9, 1, 6, 3, 8, 0, 7, 2, 5]) / 20
    cosine = np.array([0, 1, 2, 3, 4, 5, 9, 7, 8, 6]) / 10
    expected = spearmanr(accuracy, cosine).statistic
    claims = alignment_accuracy.claims(table(accuracy, cosine=cosine))
    found = [claim for claim in claims if "rules with" in claim.text]
    assert found
    for claim in found:
        assert claim.measured.startswith(f"rank correlation {expected:+.2f}, ")
        ((low, high),) = claim.decision.intervals
        assert low < np.arctanh(expected) < high
        assert claim.decision.units == "10 rules"


@pytest.mark.parametrize(("usable", "few"), [(3, True), (4, False)])
def test_four_rules_are_the_fewest_to_rank(usable, few):
    datasets = table(np.linspace(0.3, 0.6, 10), cosine=np.linspace(0, 0.9, 10))
    datasets["local_rules"]["cosine"][:, usable:] = np.nan
    for claim in alignment_accuracy.claims(datasets)[:2]:
        assert claim.measured.startswith(f"only {usable} rules") == few


def test_published_numbers_stand_beside_the_claims_that_have_them():
    claims = {claim.text: claim.source for claim in local_rules_table.claims(table(0.5))}
    for rule, (local, backpropagated) in local_rules_table.PUBLISHED.items():
        (published,) = (said for text, said in claims.items() if f": {rule} is no worse" in text)
        if local is None or backpropagated is None:
            assert published is None
        else:
            assert published == f"{local} against {backpropagated} (on CIFAR-10)"


@pytest.mark.parametrize(
    ("data", "changed", "expected"),
    [
        ("cifar10", {}, "reproduced"),
        ("cifar10", {"width": 1 / 16}, "not comparable"),
        ("cifar10", {"steps": 4000}, "not comparable"),
        ("digits", {}, "not comparable"),
    ],
)
def test_accuracies_are_compared_with_published_ones_at_their_size_alone(data, changed, expected):
    datasets = table(0.6)
    result = datasets["local_rules"].assign_coords(data=[data])
    result.attrs["config"] = json.dumps(local_rules_table.PUBLISHED_SIZE | changed)
    claims = local_rules_table.claims({"local_rules": result})
    found = {c.verdict for c in claims if c.published and " no worse " in c.text}
    assert found == {expected}


def test_rules_without_alignment_are_left_out_of_the_ranks():
    datasets = table(np.linspace(0.3, 0.6, 10), cosine=np.linspace(0, 0.9, 10))
    datasets["local_rules"]["cosine"][:, :7] = np.nan
    assert verdicts(alignment_accuracy, datasets, "rules with") == {"undecided"}
    claims = alignment_accuracy.claims(datasets)[:2]
    assert all("only 3 rules" in claim.measured for claim in claims)


@pytest.mark.parametrize(("after", "verdict"), [(0.5, "holds"), (0.1, "fails"), (0.3, "undecided")])
def test_training_raises_alignment_only_beyond_its_interval(after, verdict):
    datasets = table(0.5, cosine=0.3, after=after)
    assert verdicts(cosines_in_training, datasets) == {verdict}
    for claim in cosines_in_training.claims(datasets):
        assert claim.measured.startswith(f"+0.30 to {after:+.2f}, change ")


def trained(module, name, gain):
    """Rules of a module in order, each better by ``gain`` than the one before."""
    rules = [*module.COLORS]
    noise = 1e-3 * np.random.default_rng(1).standard_normal((len(rules), 4, 2, 3))
    cosine = 0.3 + gain * np.arange(len(rules))[:, None, None, None] + noise
    masked = 0.9 + np.zeros((len(rules), 4, 2, 3))
    data = xr.Dataset(
        {
            "cosine": (("rule", "repetition", "step", "layer"), cosine),
            "masked_cosine": (("rule", "repetition", "mask", "layer"), masked),
        },
        {
            "rule": rules,
            "step": [0, 7],
            "layer": [1, 2, 3],
            "mask": ["batch", "none"],
            "data": "digits",
        },
    )
    return {name: data.assign_attrs(ATTRS)}


@pytest.mark.parametrize(
    ("module", "name"), [(trained_mlp, "trained_mlp"), (trained_cnn, "trained_cnn")]
)
@pytest.mark.parametrize(("gain", "verdict"), [(0.1, "holds"), (-0.1, "fails")])
def test_feedback_and_matching_must_raise_the_cosine(module, name, gain, verdict):
    datasets = trained(module, name, gain)
    assert verdicts(module, datasets, "direct feedback raises") == {verdict}
    assert verdicts(module, datasets, "raises it further") == {verdict}


def test_masks_are_compared_with_direct_feedback():
    datasets = trained(trained_cnn, "trained_cnn", 0.1)
    assert verdicts(trained_cnn, datasets, "stays closer") == {"holds"}
    datasets["trained_cnn"]["masked_cosine"][:] = 0.0
    assert verdicts(trained_cnn, datasets, "stays closer") == {"fails"}


def test_each_term_is_judged_by_what_it_takes_from_the_cosine():
    shape = (len(mismatch_terms.RULES), 4, 2, 3)
    noise = 1e-3 * np.random.default_rng(1).standard_normal(shape)
    by_rule = np.array([0.6, 0.5, 0.2])[:, None, None, None]
    sizes = {"feedback": by_rule + noise, "masks": 0.1 + noise, "slopes": noise}
    columns = {
        f"{t}_shapley": (("rule", "repetition", "step", "layer"), v) for t, v in sizes.items()
    }
    coords = {
        "rule": list(mismatch_terms.RULES),
        "step": [0, 7],
        "layer": [1, 2, 3],
        "data": "stl10",
    }
    data = xr.Dataset(columns, coords).assign_attrs(ATTRS)

    def decided(dataset):
        return [claim.here for claim in mismatch_terms.claims({"trained_cnn": dataset})]

    assert decided(data) == ["holds", "holds", "fails"]
    assert decided(data.isel(rule=[2, 1, 0]).assign_coords(rule=coords["rule"]))[:2] == [
        "fails",
        "fails",
    ]
    swapped = data.rename(feedback_shapley="masks_shapley", masks_shapley="feedback_shapley")
    assert decided(swapped)[2] == "holds"
    assert decided(data.isel(repetition=[0])) == ["undecided"] * 3


def test_each_data_set_has_a_panel_and_published_numbers_stand_beside_the_rule():
    with style.house():
        figure = local_rules_table.draw(table(0.5))
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "digits"
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert "CLAPP++ (80.5 | 80.5)" in labels
    assert "LPL (59.4 | –)" in labels
    assert "PhyLL" in labels


@pytest.mark.parametrize(
    ("module", "given", "words"),
    [
        (
            local_rules_table,
            {"accuracy": 0.6},
            "digits 10 of 10, 0 worse, 0 undecided; better than untrained: 10",
        ),
        (local_rules_table, {"accuracy": 0.4}, "digits 0 of 10, 10 worse"),
        (local_rules_table, {"accuracy": 0.1}, "10 worse, 0 undecided; better than untrained: 0"),
        (cosines_in_training, {"accuracy": 0.5, "after": 0.6}, "digits 10 up, 0 down"),
        (cosines_in_training, {"accuracy": 0.5, "after": 0.1}, "digits 0 up, 10 down"),
        (
            alignment_accuracy,
            {"accuracy": np.linspace(0.3, 0.8, 10), "cosine": np.linspace(0, 0.9, 10)},
            "digits: yes",
        ),
        (
            alignment_accuracy,
            {"accuracy": np.linspace(0.8, 0.3, 10), "cosine": np.linspace(0, 0.9, 10)},
            "digits: less accuracy",
        ),
    ],
)
def test_a_headline_states_the_finding(module, given, words):
    with style.house():
        figure = module.draw(table(**given))
    assert words in figure.get_suptitle()


def test_rules_are_named_at_their_points_and_those_of_a_family_are_joined():
    accuracy = np.linspace(0.3, 0.8, 10)
    with style.house():
        figure = alignment_accuracy.draw(table(accuracy, cosine=np.linspace(0, 0.9, 10)))
    for axes in figure.axes:
        assert sorted(text.get_text() for text in axes.texts) == sorted(RULES)
        drawn = alignment_accuracy.alignment(
            table(accuracy, cosine=np.linspace(0, 0.9, 10))["local_rules"].isel(data=0)
        ).mean("repetition")
        for joined, line in ((alignment_accuracy.FAMILY, "-"), (alignment_accuracy.ONLY_B, ":")):
            family = [rule for rule in joined if rule in RULES]
            (found,) = (
                each
                for each in axes.lines
                if each.get_linestyle() == line and len(each.get_xdata()) == len(family)
            )
            assert found.get_xdata() == pytest.approx(drawn.sel(rule=family).values)
