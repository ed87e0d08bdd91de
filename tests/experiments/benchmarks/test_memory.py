"""The benchmark of memory has a row for every case, and more depth costs backpropagation alone."""

import pytest

from experiments.benchmarks import memory as bench
from experiments.networks import build

SMALL = bench.Config(
    batch=2,
    large_batch=2,
    width=1 / 32,
    depths=(6,),
    micro_batches=(2, 1),
    timed_width=1 / 32,
    repetitions=1,
)


@pytest.fixture(scope="module")
def data():
    return bench.measure(SMALL)


def test_every_case_is_measured(data):
    assert list(zip(data["encoder"].values, data["rule"].values, strict=True)) == [
        *(("vgg6", name) for name in bench.RULES_OF_DEPTH),
        *(("vgg8", name) for name in bench.RULES),
    ]
    assert (data.to_array() > 0).all()
    rows = [line for line in bench.section(data) if line.startswith("| vgg")]
    assert len(rows) == data.sizes["case"]


def test_micro_batches_save_memory_and_recomputation_alone_saves_backpropagation_some(data):
    assert list(data["way"].values) == ["whole", "recomputed", "2", "1"]
    local, everything = data["cut_peak"].values
    assert data["cut_peak"].dims == ("training", "way")
    # Without a cut, the largest block needs the same when it runs again.
    assert local[3] < local[2] < local[1] == local[0]
    assert everything[3] < everything[2] < everything[1] < everything[0]
    plain = everything[0]
    line = next(line for line in bench.section(data) if line.startswith("| 1 rows"))
    assert line.split(" | ")[1:3] == [f"{local[3] / 1e6:.1f}", f"{local[3] / plain:.2f}"]


@pytest.mark.parametrize("trainer", bench.TRAINERS.values())
def test_each_way_has_the_same_gradients_and_gives_the_blocks_back(trainer):
    case = bench.Case(batch=2, width=1 / 32)
    made, step = bench.prepared(trainer, case, bench.RULES["SCFF"], "cpu")
    found = []
    for way in bench.ways([3]):
        made.model.zero_grad()
        step(way)
        found.append([p.grad for p in made.model.parameters()])
        assert not any("forward" in vars(module) for module in made.model.modules())
    assert len(found) == 3
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            # Sums of float32 in another order: rounding is relative to the largest of them.
            assert (a - b).norm() <= 1e-5 * b.norm()


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
