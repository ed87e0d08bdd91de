"""The claims and headlines on blockwise training and its cost follow the numbers."""

import json

import numpy as np
import pytest
import xarray as xr

from experiments.catalogue.blockwise_ssl import PRESETS
from paper_figures.figures import blockwise_robustness, blockwise_ssl, training_cost
from paper_figures.figures.blockwise_robustness import NOISE
from paper_figures.look import style
from paper_figures.look.blockwise import BASE, END_TO_END, UNTRAINED

HOLDS, FAILS, OPEN = "holds", "fails", "undecided"
LOSSES = ("Barlow Twins", "VICReg", "SimCLR", "supervised")
NAMES = [
    *(f"{loss}, {order}" for loss in LOSSES for order in ("simultaneous", "end to end")),
    *(NOISE.format(spread) for spread in ("channel", "map", "tensor")),
    *(f"{BASE}, {pooling} pooling" for pooling in ("local", "global")),
    "Barlow Twins, sequential",
    "Barlow Twins, sequential, 25% of the steps",
    UNTRAINED,
]
NOISES = 1e-3 * np.array([-1.0, 0.0, 1.0])
CORRUPTIONS = ["gaussian_noise", "contrast"]


def result(noise=NOISES, clean=None, **harmed):
    """Accuracy 0.6 everywhere, 0.3 untrained; corrupted 0.1 less with each severity.

    Args:
        noise: of the repetitions, no two variants alike.
        clean: from a variant to another accuracy on clean images.
        harmed: what is added to the accuracy on corrupted images of a variant: base, noisy, whole.
    """
    levels = np.array([{UNTRAINED: 0.3}.get(name, 0.6) for name in NAMES])
    levels += [(clean or {}).get(name, 0.0) for name in NAMES]
    number = np.arange(len(NAMES))
    scale = np.where(number % 2, 1.0, -1.0) * (1 + 0.1 * number)
    top = levels[:, None] + scale[:, None] * np.asarray(noise)
    accuracy = top[..., None] * np.array([0.7, 0.8, 0.9, 1.0])
    corrupted = top[..., None, None] - 0.1 * np.arange(6) * np.ones((2, 1))
    added = {"base": BASE, "noisy": NOISE.format("channel"), "whole": END_TO_END}
    for key, value in harmed.items():
        corrupted[NAMES.index(added[key]), ..., 1:] += value
    cosine = np.full((len(NAMES), len(noise), 3, 4), np.nan)
    cosine[NAMES.index(BASE)] = 0.2 + np.asarray(noise)[:, None, None]
    return xr.Dataset(
        {
            "accuracy": (("variant", "repetition", "layer"), accuracy),
            "corrupted_accuracy": (
                ("variant", "repetition", "corruption", "severity"),
                corrupted,
            ),
            "cosine": (("variant", "repetition", "step", "layer"), cosine),
            "search_accuracy": (("variant", "candidate"), np.full((len(NAMES), 1), np.nan)),
        },
        {
            "variant": NAMES,
            "loss": ("variant", [n.partition(",")[0].replace(UNTRAINED, LOSSES[0]) for n in NAMES]),
            "noise": ("variant", [name.partition("noise per ")[2] for name in NAMES]),
            "layer": [1, 2, 3, 4],
            "step": [0, 1, 10],
            "corruption": CORRUPTIONS,
            "severity": range(6),
            "chance": 0.125,
            "data": "RHM images",
        },
        {"experiment": "blockwise_ssl", "preset": "smoke", "seed": 0, "config": "{}"},
    )


def verdict(module, data, words):
    (claim,) = [c for c in module.claims({module.INPUTS[0]: data}) if words in c.text]
    assert "nan" not in claim.measured
    return claim.here


def headline(module, data):
    with style.house():
        figure = module.draw({module.INPUTS[0]: data})
    return figure.get_suptitle()


@pytest.mark.parametrize("preset", PRESETS)
def test_figures_compare_the_variants_that_a_size_has(preset):
    there = [name for name in NAMES if name in PRESETS[preset].variants]
    data = result().sel(variant=there)
    spreads = [s for s in ("channel", "map", "tensor") if NOISE.format(s) in there]
    said = [c.text for c in blockwise_robustness.claims({"blockwise_ssl": data})]
    assert [text.split()[2] for text in said if text.startswith("noise per")] == spreads
    for module in (blockwise_ssl, blockwise_robustness):
        assert headline(module, data)


WIDE = np.array([-0.1, 0.0, 0.12])


@pytest.mark.parametrize(
    ("better", "worse", "words", "margin"),
    [
        (BASE, END_TO_END, "Barlow Twins: blockwise training comes within", -0.05),
        ("SimCLR, simultaneous", "SimCLR, end to end", "SimCLR: blockwise training", -0.05),
        (NOISE.format("channel"), BASE, "noise per channel raises", 0.0),
        (BASE, f"{BASE}, local pooling", "better than local pooling", 0.0),
        (BASE, "Barlow Twins, sequential", "as many steps for each block", -0.02),
        (BASE, NAMES[-2], "as many steps for all blocks together", -0.02),
        ("VICReg, simultaneous", UNTRAINED, "VICReg, blockwise: a probe reads", 0.0),
        ("VICReg, end to end", UNTRAINED, "VICReg, end to end: a probe reads", 0.0),
    ],
    ids=[
        "end to end",
        "another loss",
        "noise",
        "pooling",
        "order",
        "order and steps",
        "training",
        "reference",
    ],
)
def test_a_difference_decides_only_beyond_its_interval(better, worse, words, margin):
    usual = 0.3 if worse == UNTRAINED else 0.0
    for shift, expected in ((0.03, HOLDS), (-0.03, FAILS), (0.0, OPEN)):
        data = result(clean={better: margin - usual + shift})
        assert verdict(blockwise_ssl, data, words) == expected
    for shift in (0.03, -0.03):
        data = result(WIDE, clean={better: margin - usual + shift})
        assert verdict(blockwise_ssl, data, words) == OPEN


def test_every_block_must_be_above_chance_and_none_below():
    words = "above chance"
    assert verdict(blockwise_ssl, result(), words) == HOLDS
    name = "SimCLR, simultaneous"
    assert verdict(blockwise_ssl, result(clean={name: 0.125 / 0.7 - 0.6}), words) == OPEN
    assert verdict(blockwise_ssl, result(clean={name: -0.55}), words) == FAILS


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (0.1, "0.70 blockwise against 0.60 end to end, better"),
        (-0.1, "0.50 blockwise against 0.60 end to end, worse"),
        (0.0, "not shown to differ"),
    ],
)
def test_the_headline_says_what_came_out(shift, words):
    assert words in headline(blockwise_ssl, result(clean={BASE: shift}))
    assert "not shown to differ" in headline(blockwise_ssl, result(WIDE, clean={BASE: shift / 5}))


def test_published_numbers_stand_beside_ours():
    claims = blockwise_ssl.claims({"blockwise_ssl": result()})
    published = " ".join(claim.source for claim in claims if claim.source)
    assert all(number in published for number in ("70.48", "70.15", "71.57", "accuracies cannot"))


# -- robustness -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "shifts"),
    [
        ("corrupted images are read", {HOLDS: 0.0, FAILS: -0.1, OPEN: -0.05}),
        ("loses no more accuracy", {HOLDS: 0.0, FAILS: -0.1, OPEN: -0.05}),
        ("noise per map", {HOLDS: -0.1, FAILS: 0.1, OPEN: 0.0}),
    ],
)
def test_robustness_is_decided_by_corrupted_images(words, shifts):
    for expected, shift in shifts.items():
        assert verdict(blockwise_robustness, result(base=shift), words) == expected


def test_what_is_lost_is_counted_from_the_clean_accuracy():
    # Worse on clean images by as much as on corrupted ones: nothing more is lost.
    data = result(clean={BASE: -0.2})
    assert verdict(blockwise_robustness, data, "corrupted images are read") == FAILS
    assert verdict(blockwise_robustness, data, "loses no more accuracy") == HOLDS


def test_corruption_must_harm_every_trained_variant():
    words = "falls from clean"
    assert verdict(blockwise_robustness, result(), words) == HOLDS
    assert verdict(blockwise_robustness, result(whole=0.5), words) == OPEN
    assert verdict(blockwise_robustness, result(whole=0.8), words) == FAILS


@pytest.mark.parametrize(
    ("shift", "words"),
    [(0.1, "noise helps"), (-0.1, "noise harms"), (0.0, "noise undecided")],
)
def test_the_headline_says_what_noise_does(shift, words):
    assert headline(blockwise_robustness, result(noisy=shift)).endswith(words)


# -- cost -----------------------------------------------------------------------------------------


def cost(local=(1.0, 1.0, 1.0), whole=(2.0, 4.0, 8.0), cut=(0.5, 0.5, 0.5), saved=(0.4, 0.6)):
    """Bytes by depth of both networks, and the share saved at the published sizes."""
    depths = [8, 16, 32]
    axes = {"depth": depths, "batch": [4, 8], "side": [32, 64]}
    data = xr.Dataset(
        coords={"network": [*training_cost.LINES], "training": [*training_cost.COLORS]},
        attrs={"config": json.dumps({"device": "cpu", "micro_batch": 4})},
    )
    for axis, values in axes.items():
        shape = (len(training_cost.LINES), 3, len(values))
        rows = np.array([local, whole, cut]) if axis == "depth" else np.ones((3, len(values)))
        data = data.assign_coords({axis: values})
        for quantity in ("bytes", "seconds"):
            array = np.broadcast_to(rows, shape) * 1e6
            data[f"{quantity}_by_{axis}"] = (("network", "training", axis), array)
    counted = np.array([[1 - share, 1.0, 0.5] for share in saved])
    return data.assign_coords(setting=["STL-10", "ImageNet"]).assign(
        published_bytes=(("setting", "training"), counted)
    )


@pytest.mark.parametrize(
    ("words", "good", "bad"),
    [
        ("encoder: the memory of local", {}, {"local": (1.0, 1.04, 1.08)}),
        ("expansion: local training needs less", {}, {"local": (2.5, 2.5, 2.5)}),
        ("network: the memory of end-to-end", {}, {"whole": (2.0, 4.0, 12.0)}),
        ("encoder: the memory of end-to-end", {}, {"whole": (2.0, 2.0, 2.0)}),
        ("encoder: on micro-batches of 4 rows", {}, {"cut": (0.5, 1.0, 0.5)}),
        ("STL-10", {}, {"saved": (0.3, 0.9)}),
        ("ImageNet", {}, {"saved": (0.9, 0.5)}),
    ],
)
def test_cost_is_judged_by_growth_and_savings(words, good, bad):
    assert verdict(training_cost, cost(**good), words) == HOLDS
    assert verdict(training_cost, cost(**bad), words) == FAILS


def test_the_headline_says_how_memory_grows_and_what_local_training_costs():
    attrs = {
        "experiment": "training_cost",
        "preset": "smoke",
        "seed": 0,
        "hardware": "{}",
    }
    data = cost(local=(1.0, 1.0, 1.3)).assign_attrs(attrs)
    assert headline(training_cost, data) == (
        "8 to 32 blocks: the memory of local training grows by 30%, end to end up to 4.0-fold;\n"
        "at 32 blocks it takes 0.16 of the memory and 0.16 times the time of end to end"
    )


def test_variants_that_were_not_trained_are_not_compared():
    data = result()
    fewer = data.sel(variant=[name for name in NAMES if "pooling" not in name])
    texts = [claim.text for claim in blockwise_ssl.claims({"blockwise_ssl": fewer})]
    assert len(texts) == len(blockwise_ssl.claims({"blockwise_ssl": data})) - 2
    assert not any("pooling" in text for text in texts)
    assert "blockwise against" in headline(blockwise_ssl, fewer)
    assert "(cifar10)" in str(
        [
            claim.elsewhere
            for claim in blockwise_ssl.claims({"blockwise_ssl": data.assign_coords(data="cifar10")})
        ]
    )
