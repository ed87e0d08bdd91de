"""Every variable of every Dataset that a public function returns says what it means."""

import importlib
import inspect
import pkgutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import linlocal as ll
from linlocal import dynamics, testing, vocabulary
from linlocal.analysis import (
    AlignmentRecorder,
    Monitor,
    align,
    alignment,
    audit_locality,
    explore,
    probe_blocks,
    training,
)

X, VIEW = testing.samples(6, 4, 0)
NET = ll.DeepLinear.uniform([4, 4, 3], 0)
PAIRS = ll.Pairs.from_views(X, VIEW)
RULE = ll.rules.CLAPP("softplus")
SPECTRAL = (
    ll.DeepLinear.gaussian([4, 4, 3], 0),
    dynamics.Moments.of_batch(PAIRS),
    ll.rules.SpectralContrastive(),
)
BATCH, LABELS = (
    torch.from_numpy(np.random.default_rng(1).standard_normal((24, 4))).float(),
    torch.arange(24) % 2,
)
# What is not made by the function itself: whoever wrote it has described it.
FROM_FILES = {"linlocal.analysis.results.files.read"}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def recorder(path=None):
    model = network()
    both = {"a": RULE, "b": ll.rules.VICReg()}
    recorded = AlignmentRecorder(model, blocks=["0", "2"], rule=both, every=1, path=path)
    with recorded.step():
        model(BATCH).square().mean().backward()
    return recorded


def monitor():
    model = network()
    watching = Monitor(model, ["0", "2"], every=1, views="stacked", labels=True)
    with watching.step(batch=(BATCH, LABELS)):
        model(BATCH).square().mean().backward()
    return watching


def series(folder):
    recorder(folder).flush()
    return alignment.series.read(folder)


MADE = {
    "updates.comparison.compare": lambda _: ll.compare(NET, PAIRS, RULE),
    "updates.sweep.sweep": lambda _: ll.sweep([NET], [PAIRS], [RULE], [0.1, 0.2]),
    "updates.values.loss_values": lambda _: ll.loss_values(NET, PAIRS, RULE),
    "updates.projections.Projections.alignment": lambda _: (
        ll.projections(NET, PAIRS, RULE).alignment
    ),
    "dynamics.trajectories.simulate": lambda _: dynamics.simulate(*SPECTRAL, rate=0.1, steps=2),
    "dynamics.trajectories.flow": lambda _: dynamics.flow(*SPECTRAL, times=[0.0, 0.1]),
    "dynamics.optimisers.compare_steps": lambda _: dynamics.compare_steps(
        *SPECTRAL, dynamics.SGD(0.1), steps=2
    ),
    "analysis.alignment.batch.align": lambda _: align(
        network(), ["0", "2"], RULE, BATCH, terms=True
    ),
    "analysis.alignment.recorder.AlignmentRecorder.dataset": lambda _: recorder().dataset(),
    "analysis.alignment.series.read": series,
    "analysis.probing.monitor.Monitor.dataset": lambda _: monitor().dataset(),
    "analysis.probing.probe.probe_blocks": lambda _: probe_blocks(
        network(), ["0", "2"], [(BATCH, LABELS)], {"x": [(BATCH, LABELS)]}, seed=0
    ),
    "analysis.training.saved.saved_activations": lambda _: training.saved_activations(
        network(), BATCH, ["0", "2"]
    ),
    "analysis.watching.locality.audit_locality": lambda _: audit_locality(
        network(), ["0", "2"], RULE, BATCH
    ),
    "analysis.explore.cosines": lambda _: explore.cosines(explore.Setting()),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All Datasets, each made once."""
    return {name: make(tmp_path_factory.mktemp("series")) for name, make in MADE.items()}


def public(place):
    """Functions, methods and properties of a module that others may use."""
    for name, value in vars(place).items():
        if name.startswith("_") or getattr(value, "__module__", None) != place.__name__:
            continue
        if inspect.isclass(value):
            for key, part in vars(value).items():
                if not key.startswith("_"):
                    yield getattr(part, "func", getattr(part, "fget", part))
        else:
            yield value


def test_the_table_has_every_public_function_that_returns_a_dataset():
    found = set()
    for module in pkgutil.walk_packages(ll.__path__, "linlocal."):
        if module.name.endswith("__main__"):
            continue
        for part in public(importlib.import_module(module.name)):
            returned = str(getattr(part, "__annotations__", {}).get("return", ""))
            if returned.removeprefix("xr.") == "Dataset":
                found.add(f"{part.__module__}.{part.__qualname__}")
    inside = {"updates.comparison.compare_signals", "analysis.alignment.batch.to_dataset"}
    inside |= {
        "vocabulary.described",
        "plots.given.with_variables",
        "analysis.results.netcdf.from_bytes",
    }
    listed = {f"linlocal.{name}" for name in {*MADE, *inside}}
    assert found - FROM_FILES - listed == set()
    assert {f"linlocal.{name}" for name in MADE} <= found


@pytest.mark.parametrize("name", MADE)
def test_every_variable_says_what_it_means(name, made):
    for variable in made[name].variables.values():
        told = [variable.attrs.get(key) for key in vocabulary.ATTRIBUTES]
        assert all(isinstance(word, str) and word for word in told), (variable, told)
        assert told[2].endswith(".")


def test_no_word_is_there_for_nothing(made):
    used = {
        tuple(v.attrs[key] for key in vocabulary.ATTRIBUTES)
        for dataset in made.values()
        for v in dataset.variables.values()
    }
    source = Path(vocabulary.__file__).with_suffix(".toml").read_text()
    written = {tuple(w) for part in tomllib.loads(source).values() for w in part.values()}
    assert written == used


def test_what_the_vocabulary_does_not_know_is_refused():
    with pytest.raises(KeyError, match="unheard_of"):
        vocabulary.described(xr.Dataset({"unheard_of": 1.0}))
