"""The benchmark of memory has a row for every case, and more depth costs backpropagation alone."""

import pytest

from experiments.benchmarks import memory as bench
from experiments.networks import build

SMALL = bench.Config(batch=2, large_batch=2, width=1 / 32, depths=(6,))


def test_every_case_is_measured():
    data = bench.measure(SMALL)
    assert list(zip(data["encoder"].values, data["rule"].values, strict=True)) == [
        *(("vgg6", name) for name in bench.RULES_OF_DEPTH),
        *(("vgg8", name) for name in bench.RULES),
    ]
    assert (data.to_array() > 0).all()
    rows = [line for line in bench.section(data) if line.startswith("| vgg")]
    assert len(rows) == data.sizes["case"]


def test_local_training_of_a_deeper_encoder_needs_no_more():
    local, everything = (
        [
            bench.peak(kind, bench.Case(depth=depth, batch=2, width=1 / 32), rule, "meta")
            for depth in (6, 24)
        ]
        for kind in (bench.LocalTrainer, bench.GlobalTrainer)
        for rule in [bench.RULES["SCFF"]]
    )
    assert local[0].activities == pytest.approx(local[1].activities, rel=1e-3)
    assert everything[1].activities > 1.2 * everything[0].activities


def test_parameters_are_those_of_the_network_and_of_what_is_trained_with_it():
    case = bench.Case(batch=2, width=1 / 32)
    network = sum(4 * p.numel() for p in build("vgg6", width=1 / 32).parameters())
    assert bench.peak(bench.LocalTrainer, case, bench.RULES["SCFF"], "meta").parameters == network
    projected, top = (
        bench.peak(kind, case, bench.RULES["CLAPP++"], "meta").parameters - network
        for kind in (bench.LocalTrainer, bench.GlobalTrainer)
    )
    assert top == 4 * (32 * 4) ** 2
    assert projected > top
