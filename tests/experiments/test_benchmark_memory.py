"""The benchmark of memory prints every case, and more depth costs backpropagation alone."""

import pytest

from experiments import benchmark_memory as bench
from experiments.networks import build


def table(capsys, **options):
    bench.main(batch=2, large_batch=2, width=1 / 32, max_depth=6, **options)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| vgg")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_every_case_is_measured(capsys):
    rows = table(capsys, device="meta")
    assert [(row[0], row[1], row[4]) for row in rows] == [
        *(("vgg6", "6", name) for name in bench.RULES_OF_DEPTH),
        *(("vgg8", "8", name) for name in bench.RULES),
    ]
    assert all(float(row[7]) > 0 for row in rows)


def test_local_training_of_a_deeper_encoder_needs_no_more():
    local, everything = (
        [
            bench.measure(kind, bench.Case(depth=depth, batch=2, width=1 / 32), rule, "meta")
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
    assert (
        bench.measure(bench.LocalTrainer, case, bench.RULES["SCFF"], "meta").parameters == network
    )
    projected, top = (
        bench.measure(kind, case, bench.RULES["CLAPP++"], "meta").parameters - network
        for kind in (bench.LocalTrainer, bench.GlobalTrainer)
    )
    assert top == 4 * (32 * 4) ** 2
    assert projected > top
