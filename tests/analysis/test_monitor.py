"""A monitor shows what the representation does, says when and how it collapses, changes nothing."""

import copy
import itertools
import math
import warnings
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from linlocal.analysis import (
    AlignmentRecorder,
    Checkpoints,
    GlobalTrainer,
    LocalTrainer,
    ResultError,
    SeededLoader,
)
from linlocal.analysis.alignment import series
from linlocal.analysis.local_losses import CLAPP
from linlocal.analysis.probing import (
    CollapseError,
    Limits,
    Monitor,
    RunningProbe,
    effective_rank,
    knn_accuracy,
    linear_cka,
)
from linlocal.analysis.watching import capture

SGD = partial(torch.optim.SGD, lr=0.05)
IMAGES = torch.randn(32, 2, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 3
KINDS = {
    "block after block": LocalTrainer,
    "one pass": partial(LocalTrainer, one_pass=True),
    "micro-batches": partial(LocalTrainer, micro_batch=4),
    "end to end": GlobalTrainer,
}


def convolutional(norm=True):
    torch.manual_seed(3)
    widths = (2, 5, 6)
    return nn.Sequential(
        *(
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1),
                nn.BatchNorm2d(b) if norm else nn.Identity(),
                nn.ReLU(inplace=True),
                nn.Dropout(0.2 if norm else 0.0),
            )
            for a, b in itertools.pairwise(widths)
        ),
        nn.Flatten(),
        nn.Linear(6 * 36, 4),
    )


def two_views(batch):
    stacked = torch.cat([batch, batch])
    return stacked + 0.1 * torch.randn_like(stacked)


BLOCKS = ["0", "1", "3"]


def fitted(kind, monitor=None, steps=4, **options):
    """The state after a training, with what is drawn next."""
    norm = kind != "micro-batches"
    trainer = KINDS[kind](
        convolutional(norm), BLOCKS, CLAPP(), shape=(2, 6, 6), augment=two_views, optimiser=SGD
    )
    watch = None if monitor is None else monitor(trainer.model)
    loader = SeededLoader(TensorDataset(IMAGES, LABELS), 8)
    trainer.fit(loader, steps // 4, around=None if watch is None else watch.step, **options)
    state = {**trainer.model.state_dict(), "next": torch.rand(3)}
    return state, watch


WATCHING = partial(Monitor, blocks=BLOCKS, every=2, views="stacked", labels=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_is_the_same_bit_for_bit(kind):
    plain, _ = fitted(kind)
    watched, monitor = fitted(kind, WATCHING)
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    assert monitor.dataset().step.values.tolist() == [0, 2]
    assert (monitor.dataset().effective_rank > 1).all()


def own_loop(model, monitor, steps=3, check=lambda: None):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(steps):
        x, y = two_views(IMAGES[:8]), torch.cat([LABELS[:8], LABELS[:8]])
        with torch.no_grad():
            model.eval()(x)  # a teacher or a validation does not count
            model.train()
        with monitor.step(number, batch=(x, y)):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            check()
            loss.backward()
        optimiser.step()


def test_nothing_is_hooked_in_other_steps():
    model = convolutional()
    counts = []
    hooks = lambda: counts.append(sum(len(m._forward_hooks) for m in model.modules()))  # noqa: E731
    own_loop(model, WATCHING(model), check=hooks)
    assert counts[0] == counts[2] > counts[1] == 0


def expected(features, whole):
    """The variables by numpy, from the outputs of a block."""
    z, centred = features, features - features.mean(0)
    axes = tuple(axis for axis in range(whole.ndim) if axis != 1)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    half = len(z) // 2
    cosines = unit[:half] @ unit[half:].T
    apart = cosines[~np.eye(half, dtype=bool)]
    return {
        "scale": np.sqrt(np.mean(whole**2)),
        "spread": np.sqrt(np.mean(centred**2)),
        "offset": np.mean(z.mean(0) ** 2) / np.mean(z**2),
        "dead_units": np.mean(whole.max(axes) == whole.min(axes)),
        "effective_rank": effective_rank(centred),
        "positive": np.median(np.diag(cosines)),
        "negative": np.median(apart),
    }


@pytest.mark.parametrize("views", ["stacked", "separate"])
def test_what_is_measured_is_that_of_the_outputs(views):
    model = convolutional(norm=False).double()
    nn.init.constant_(model[0][0].bias[:2], -100.0)  # two dead units
    x = two_views(IMAGES[:8]).double()
    y = torch.cat([LABELS[:8], LABELS[:8]])
    monitor = WATCHING(model, every=1, views=views)
    for _ in range(2):
        with capture(model, BLOCKS) as outputs:
            model(x)
            kept = {name: z.detach().numpy().copy() for name, z in outputs.items()}
        with monitor.step(batch=(x, y)):
            for part in x.chunk(2) if views == "separate" else [x]:
                model(part).sum().backward()
    seen, before = monitor.dataset(), None
    assert seen.step.values.tolist() == [0, 1]
    for l, (name, whole) in enumerate(kept.items(), start=1):
        features = whole.mean((2, 3)) if whole.ndim == 4 else whole
        here = seen.sel(layer=l, step=1)
        wanted = expected(features, whole)
        for pair in ("positive", "negative"):
            found = float(here.pair_cosine.sel(pair=pair, quantile=0.5))
            assert found == pytest.approx(wanted.pop(pair), rel=1e-9)
        for key, value in wanted.items():
            assert float(here[key]) == pytest.approx(value, rel=1e-9, abs=1e-12), key
        z = torch.from_numpy(features)
        probe = RunningProbe()
        probe.learn(z, y)
        # Weights are the same, so what was seen at step 0 are the same features.
        assert float(here.knn_accuracy) == knn_accuracy(z.float(), y, z, y)
        assert float(here.probe_accuracy) == probe.accuracy(z, y)
        assert math.isnan(float(seen.knn_accuracy.sel(layer=l, step=0)))
        if before is None:
            assert math.isnan(float(here.cka))
        else:
            assert float(here.cka) == pytest.approx(linear_cka(before, features, unbiased=True))
        before = features
        assert str(here.name.values) == name
    assert float(seen.dead_units.sel(layer=1, step=0)) == pytest.approx(0.4)


def test_of_many_rows_the_first_of_each_view_are_read():
    model = convolutional(norm=False)
    x = two_views(IMAGES)
    few, less = Monitor(model, BLOCKS, views="stacked", max_rows=4), Monitor(model, BLOCKS)
    both = torch.cat([x[:4], x[32:36]])
    with few.step(), less.step():
        model(x)
    other = Monitor(model, BLOCKS, views="stacked")
    with other.step():
        model(both)
    np.testing.assert_allclose(few.dataset().cka, other.dataset().cka, rtol=1e-5)
    assert not np.allclose(few.dataset().cka[0, 1:], less.dataset().cka[0, 1:], rtol=1e-2)
    assert "pair_cosine" not in less.dataset()


def test_of_several_micro_batches_the_first_counts():
    model = mlp()
    alone = Monitor(model, ["0", "2"])
    monitor = Monitor(model, ["0", "2"])
    looked(model, alone)
    with monitor.step():
        for rows in (X, 10 * X[:6], X):
            model(rows).sum().backward()
    assert monitor.dataset().identical(alone.dataset())


def test_a_recorder_and_a_monitor_watch_the_same_step():
    def watched(record, monitor):
        model = convolutional(norm=False)
        rule = CLAPP(score="softplus")
        recorder = AlignmentRecorder(model, BLOCKS, rule=rule, every=1)
        watch = Monitor(model, BLOCKS, every=1, views="stacked")
        with (
            recorder.step() if record else nullcontext(),
            watch.step() if monitor else nullcontext(),
        ):
            model(two_views(IMAGES[:8])).square().sum().backward()
        found = [p.grad for p in model.parameters()]
        return found, recorder.dataset() if record else None, watch.dataset() if monitor else None

    runs = {}
    for record, monitor in ((True, True), (True, False), (False, True)):
        torch.manual_seed(5)
        runs[record, monitor] = watched(record, monitor)
    gradients, recorded, seen = runs[True, True]
    assert all(map(torch.equal, gradients, runs[True, False][0]))
    assert recorded.drop_attrs().identical(runs[True, False][1].drop_attrs())
    assert seen.identical(runs[False, True][2])


# -- collapse --------------------------------------------------------------------------------------


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)
    )


X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


def shrink(model):
    model[2].weight.mul_(1e-5)


def flatten(model):
    model[2].weight.copy_(torch.outer(torch.ones(16), model[2].weight[0]))
    model[2].bias.fill_(10.0)


def silence(model):
    model[2].bias[:9] = -100.0


def grow(model):
    model[2].weight.mul_(1e4)


def spoil(model):
    model[2].weight[0, 0] = torch.nan


PLANTED = {
    "total": (shrink, "samples differ by a standard deviation of .*variance term"),
    "dimensional": (flatten, r"features use 1 directions \(effective rank\), .*decorrelates"),
    "dead units": (silence, "56% of its units give one value for all samples, .*LeakyReLU"),
    "growth": (grow, "activities have grown to .* in the mean over samples.*normalise"),
    "not finite": (spoil, "its activities are NaN or infinite.*wider precision"),
}
LIMITS = Limits(rank=0.3)


def looked(model, monitor):
    with monitor.step():
        model(X)


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_collapse_is_told_once_with_its_cause_and_the_way_back(kind):
    harm, message = PLANTED[kind]
    model = mlp()
    monitor = Monitor(model, ["1", "3", "4"], every=1, limits=LIMITS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            looked(model, monitor)
    with torch.no_grad():
        harm(model)
    pattern = rf"Block 2 \(3\) has collapsed at step 3 \({kind}: {message}"
    with pytest.warns(UserWarning, match=pattern) as told:
        looked(model, monitor)
    assert "All was well at step 2" in str(told[0].message)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        looked(model, monitor)
    collapse = monitor.dataset().collapse
    assert not collapse.sel(step=slice(0, 2)).any()
    assert not collapse.sel(layer=1).any()
    found = collapse.sel(layer=2, step=3)
    assert found.kind[found].values.tolist() == [kind]


def test_a_loss_that_only_pulls_together_stops_the_training():
    model = mlp()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    limits, draw = Limits(spread=0.3), torch.Generator().manual_seed(2)
    monitor = Monitor(model, ["1", "3", "4"], every=5, views="stacked", stop=True, limits=limits)

    def train():
        for _ in range(100):
            with monitor.step():
                first, second = model(X[torch.randperm(64, generator=draw)]).chunk(2)
                loss = (first - second).square().sum(1).mean()
                optimiser.zero_grad()
                loss.backward()
            optimiser.step()

    with pytest.raises(CollapseError, match=r"Block 3 \(4\) has collapsed .*total"):
        train()
    seen = monitor.dataset()
    assert bool(seen.collapse.isel(step=-1).sel(layer=3, kind="total"))
    first = seen.pair_cosine.sel(layer=3, pair="negative", quantile=0.5)
    assert float(first[0]) < 0.95 < float(first[-1])


def test_silence_from_the_beginning_has_no_step_to_go_back_to():
    model = mlp()
    with torch.no_grad():
        model[2].weight.zero_()
    with pytest.warns(UserWarning, match=r"total.*There was no healthy look to go back to"):
        looked(model, Monitor(model, ["0", "2"]))


@pytest.mark.parametrize("name", ["spread", "rank", "dead"])
def test_limits_are_shares(name):
    with pytest.raises(ValueError, match=f"{name} must be in 0..1"):
        Limits(**{name: 2.0})


# -- series and checkpoints ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Block 3:UserWarning")
def test_a_series_is_continued_and_read_at_any_time(tmp_path):
    def watching():
        return WATCHING(model, path=tmp_path, flush_every=1, limits=Limits(growth=50))

    model = convolutional()
    own_loop(model, watching())
    again = watching()
    with torch.no_grad():  # compared with the first look of the series, not with its own
        model[3].weight.mul_(1e3)
    # Counted on from the series: 3 is not due, 4 is.
    for due in (False, True):
        with again.step(batch=(two_views(IMAGES[:8]), LABELS[:8])) as looks:
            assert looks == due
            (model(two_views(IMAGES[:8])) * 0).sum().backward()
            if due:
                continue
    seen = series.read(tmp_path)
    assert seen.step.values.tolist() == [0, 2, 4]
    assert bool(seen.collapse.sel(step=4, layer=3, kind="growth"))
    with pytest.raises(ResultError, match="decay"):
        WATCHING(model, path=tmp_path, decay=0.5, limits=Limits(growth=50))


def test_a_resumed_training_is_watched_as_if_it_had_not_stopped(tmp_path):
    _, whole = fitted("end to end", WATCHING, steps=8)
    checkpoints = Checkpoints(tmp_path / "trainer")
    _, first = fitted("end to end", WATCHING, steps=4, checkpoints=checkpoints)
    states = Checkpoints(tmp_path / "monitor")
    states.save(4, first.state_dict())

    def resumed(model):
        monitor = WATCHING(model)
        monitor.load_state_dict(states.load())
        return monitor

    _, second = fitted("end to end", resumed, steps=8, checkpoints=checkpoints)
    steps = [seen.dataset().step.values.tolist() for seen in (whole, first, second)]
    assert steps == [[0, 2, 4, 6], [0, 2], [4, 6]]
    later = whole.dataset().isel(step=slice(2, None))
    assert later.identical(second.dataset())


def test_steps_after_a_checkpoint_are_looked_at_again():
    model = mlp()
    monitor = Monitor(model, ["0", "2"], every=1)
    looked(model, monitor)
    state = copy.deepcopy(monitor.state_dict())
    looked(model, monitor)
    monitor.load_state_dict(state)
    looked(model, monitor)
    assert monitor.dataset().step.values.tolist() == [0, 1]


# -- what is refused -------------------------------------------------------------------------------


def test_what_cannot_be_watched_is_said():
    model = mlp()
    blocks = ["0", "2"]

    def run(batch=None, **options):
        with Monitor(model, blocks, **options).step(batch=batch):
            model(X)

    run(labels=True, batch=(X, LABELS))  # a label for each datum of two views
    for call, kind, message in (
        (lambda: run(labels=True, batch=(X, LABELS[:5])), ValueError, "labels of shape"),
        (lambda: run(max_rows=2), ValueError, "max_rows must be at least 4"),
        (lambda: Monitor(model).step("a").__enter__(), TypeError, "number must be a whole number"),
        (lambda: Monitor(model).step(-1).__enter__(), ValueError, "number must be at least 0"),
        (lambda: run(stop=1), TypeError, "stop must be True or False"),
        (lambda: Monitor(model, blocks).dataset(), ResultError, "No step was looked at"),
    ):
        with pytest.raises(kind, match=message):
            call()
    trainer = LocalTrainer(mlp(), blocks, CLAPP(), shape=(6,))
    with pytest.raises(TypeError, match=r"pass monitor\.step, not the monitor"):
        trainer.fit(SeededLoader(X, 8), 1, around=Monitor(trainer.model, blocks))


def test_views_of_different_length_are_refused():
    model = mlp()
    with pytest.raises(ValueError, match="the same rows, got 8 and 6"):  # noqa: PT012, SIM117
        with Monitor(model, ["0", "2"], views="separate").step():
            model(X[:8])
            model(X[:6])


def test_only_the_first_process_looks(monkeypatch):
    monkeypatch.setattr("linlocal.analysis.probing.monitor._rank", lambda: 1)
    model = mlp()
    monitor = Monitor(model, ["0", "2"])
    looked(model, monitor)
    with pytest.raises(ResultError, match="by this process"):
        monitor.dataset()
