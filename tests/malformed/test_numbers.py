"""Every number that a public callable takes is checked: found by its signature, none is forgotten.

A callable whose other arguments have defaults is called as it is; `CALLS` gives the arguments of
the others, and `NOT_CHECKED` says why a few take no part.
"""

import importlib
import inspect
import re
import traceback
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import linlocal as ll
from linlocal import analysis, losses, rhm, rules, testing
from linlocal.analysis import feedback, hierarchy, local_losses, training
from linlocal.analysis.block import resolve
from linlocal.pairs import Pairs
from linlocal.symbolic import derive
from linlocal.updates import Signals

ROOT = Path(__file__).resolve().parents[2]
NAN, INF = float("nan"), float("inf")


# -- what is public --------------------------------------------------------------------------------


def doors():
    """Every package of the theory and the instruments, by the stub that lists its names."""
    for folder, prefix in (("linlocal", ()), ("analysis", ("linlocal",))):
        for stub in sorted((ROOT / folder).rglob("__init__.pyi")):
            yield importlib.import_module(".".join((*prefix, *stub.parent.relative_to(ROOT).parts)))


def parts(value):
    """A public function, or a class with its public methods, inherited ones included."""
    if inspect.isfunction(value):
        yield value
    elif inspect.isclass(value) and not issubclass(value, BaseException):
        yield value
        ours = [c for c in value.__mro__ if c.__module__.startswith("linlocal")]
        for name, member in (item for c in ours for item in vars(c).items()):
            function = getattr(member, "__func__", member)
            if not name.startswith("_") and inspect.isfunction(function):
                yield function


def members(module):
    names = [name for name in dir(module) if not name.startswith("_")]
    for value in (getattr(module, name) for name in names):
        if inspect.ismodule(value):
            if value.__name__.startswith("linlocal.") and not hasattr(value, "__path__"):
                own = (v for n, v in vars(value).items() if not n.startswith("_"))
                for each in own:
                    if getattr(each, "__module__", None) == value.__name__:
                        yield from parts(each)
        elif getattr(value, "__module__", "").startswith("linlocal"):
            yield from parts(value)


def name_of(function):
    return f"{function.__module__}.{function.__qualname__}".removeprefix("linlocal.")


def numbers_of(function):
    """Parameter -> annotation, of those that take one number or several."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    texts = {
        p.name: re.sub(r"Callable\[.*\]|Mapping\[int", "", str(p.annotation)) for p in parameters
    }
    return {name: text for name, text in texts.items() if re.search(r"\b(int|float)\b", text)}


@cache
def found():
    """Name -> (callable, its numbers), of everything public that takes numbers."""
    every = {name_of(f): f for door in doors() for f in members(door)}
    taking = {name: (f, numbers_of(f)) for name, f in every.items()}
    return {name: each for name, each in sorted(taking.items()) if each[1]}


# -- how it is called ------------------------------------------------------------------------------

X, VIEW = testing.samples(6, 4, 0)
NET = ll.DeepLinear.uniform([4, 4, 3], 0)
RELU = ll.DeepReLU.uniform([4, 4, 3], 0)
SQUARE = ll.DeepLinear.uniform([4, 3, 3], 0, links="residual")
PAIRS = Pairs.from_views(X, VIEW)
FORWARD = PAIRS.directions[0]
TWO = losses.TypeTwo(losses.Softplus())
RULE = rules.CLAPP("softplus")
QUESTION = {"network": NET, "pairs": PAIRS, "rule": RULE}
SIGNALS = Signals(NET, PAIRS, RULE)
LOSSES = SIGNALS.losses[0]
GOODNESS = Signals(NET, Pairs.from_positive_negative(X, VIEW), rules.ForwardForward()).losses[0]
SIZES = {"num_classes": 3, "num_symbols": 4, "num_synonyms": 2, "num_levels": 3}
CLASSES = [1.0, 2.0, 3.0]
MODEL = rhm.RandomHierarchyModel(**SIZES)
TREES = MODEL.sample(20, seed=0)
LEAVES = TREES.leaves
NETWORK_RULE = local_losses.CLAPP(score="softplus")
PLAIN_LAYER = nn.Linear(5, 3, bias=False)
HEAD = {"kind": "expansion", "width": 4, "widths": (5, 3)}
LABELS = np.arange(20) % 2
ACCURACIES = xr.Dataset({"accuracy": ("block", [0.4, 0.6])}, {"block": ["1", "all"]})
POINTS = np.random.default_rng(0).standard_normal((20, 3))
CONDITION = derive(rules.CLAPP("linear"))
GRADIENT = np.ones((6, 3))
MODULE = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
BATCHES = [(torch.randn(8, 4), torch.arange(8) % 2)]


def activities(leaves):
    return [torch.from_numpy(MODEL.one_hot(leaves)).transpose(1, 2)]


MODES = ll.dynamics.Modes([1.0, 0.5], [1.0, 1.0])
MOMENTS = ll.dynamics.Moments.of_batch(Pairs.from_views(X[:, :2], VIEW[:, :2]))
SPECTRAL = {
    "network": ll.DeepLinear.gaussian([2, 2, 2], 0),
    "source": MOMENTS,
    "rule": rules.SpectralContrastive(),
}
TWO_BLOCKS = resolve(MODULE, ["0", "2"])
TWO_LOSSES = NETWORK_RULE.build([(4,), (3,)])

CALLS = {
    "plots.hierarchy.tree": {"trees": TREES, "row": 1},
    "plots.layers.knowledge": {"data": ACCURACIES, "chance": 0.5},
    "plots.style.interval": {"values": ACCURACIES["accuracy"], "over": "block", "level": 0.9},
    "plots.style.spread": {"values": ACCURACIES["accuracy"], "over": "block", "level": 0.9},
    "analysis.alignment.batch.align": {
        "model": MODULE,
        "names": ["0", "2"],
        "rule": RULE,
        "views": torch.randn(8, 4),
        "window": 2,
    },
    "analysis.feedback.direct.DirectFeedback.build": {
        "self": feedback.DirectFeedback(),
        "shapes": [(4,), (3,)],
        "seed": 1,
    },
    "analysis.local_losses.closed_form.penalty_optimal": {
        "loss": TWO_LOSSES[0],
        "here": torch.randn(8, 4),
        "top": torch.randn(8, 3),
        "penalty": 0.1,
    },
    "analysis.local_losses.regression.LeastSquares": {
        "ridge": 1e-6,
        "decay": 0.5,
        "tangents": 2,
    },
    "analysis.watching.forward_mode.pushed_forward": {
        "blocks": TWO_BLOCKS,
        "run": lambda: MODULE(BATCHES[0][0]),
        "position": 0,
        "tangent": torch.randn(8, 3),
    },
    "analysis.watching.forward_mode.refuse_interaction": {
        "blocks": TWO_BLOCKS,
        "run": lambda: MODULE(BATCHES[0][0]),
        "position": 0,
        "z": torch.randn(8, 3),
    },
    "dynamics.curves.Modes.balanced_time": {"self": MODES, "start": 0.1, "end": 0.5, "depth": 2},
    "dynamics.curves.Modes.global_rest": {"self": MODES, "depth": 2, "decay": 0.1},
    "dynamics.curves.Modes.local_rest": {"self": MODES, "depth": 2, "decay": 0.1},
    "dynamics.optimisers.Clipped": {"inner": ll.dynamics.SGD(0.1), "norm": 1.0},
    "dynamics.optimisers.compare_steps": {
        **SPECTRAL,
        "optimiser": ll.dynamics.SGD(0.1),
        "steps": 2,
    },
    "dynamics.trajectories.aligned": {
        "widths": [2, 2, 2],
        "moments": MOMENTS,
        "strengths": np.ones((2, 2)),
        "seed": 0,
    },
    "dynamics.trajectories.flow": {
        **SPECTRAL,
        "times": [0.0, 0.1],
        "decay": 0.1,
        "tolerance": 1e-6,
    },
    "dynamics.trajectories.simulate": {
        **SPECTRAL,
        "rate": 0.1,
        "steps": 2,
        "decay": 0.1,
        "every": 1,
    },
    "updates.sweep.sweep": {
        "networks": [NET],
        "pairs": [PAIRS],
        "rules": [RULE],
        "window": 2,
        "workers": 1,
    },
    "analysis.alignment.recorder.AlignmentRecorder": {
        "model": MODULE,
        "blocks": ["0", "2"],
        "rule": RULE,
        "every": 1,
        "views": (1,),
        "teacher": MODULE,
        "teacher_views": (1,),
    },
    "analysis.local_losses.bank.MomentumContrast": {"size": 8, "temperature": 0.1},
    "analysis.local_losses.bank.MomentumContrast.build": {
        "self": local_losses.MomentumContrast(size=8),
        "shapes": [(4,), (3,)],
    },
    "analysis.local_losses.many_views.ManyViewsRule": {
        "rule": RULE,
        "views": 3,
        "pairs": [(1, 2), (1, 3)],
    },
    "analysis.local_losses.many_views.ManyViewsRule.build": {
        "self": local_losses.ManyViewsRule(rule=RULE, views=3),
        "shapes": [(4,), (3,)],
    },
    "analysis.alignment.recorder.log_spaced": {"per_decade": 3},
    "analysis.training.loop.Trainer.fit": {
        "self": training.LocalTrainer(MODULE, None, RULE, shape=(4,)),
        "loader": training.SeededLoader(BATCHES[0][0], 8),
        "epochs": 0,
    },
    "analysis.training.trainers.GlobalTrainer": {
        "model": MODULE,
        "blocks": None,
        "rule": RULE,
        "shape": (4,),
    },
    "analysis.training.trainers.LocalTrainer": {
        "model": MODULE,
        "blocks": None,
        "rule": RULE,
        "shape": (4,),
    },
    "analysis.hierarchy.batches.FreshBatches": {
        "rhm": MODEL,
        "batch_size": 4,
        "num_batches": 2,
        "seed": 0,
    },
    "analysis.hierarchy.batches.Epochs.set_epoch": {
        "self": hierarchy.FreshBatches(MODEL, batch_size=4, num_batches=2, seed=0),
        "epoch": 1,
    },
    "analysis.hierarchy.batches.EndlessBatches": {
        "batches": hierarchy.FreshBatches(MODEL, batch_size=4, num_batches=2, seed=0),
    },
    "analysis.hierarchy.batches.StoredBatches": {
        "data": TREES,
        "batch_size": 4,
        "encode": MODEL.one_hot,
        "seed": 0,
    },
    "analysis.hierarchy.networks.HierarchicalNet": {
        "num_symbols": 4,
        "tuple_sizes": (2, 2),
        "width": 3,
        "num_classes": 2,
        "num_positions": 4,
    },
    "analysis.local_losses.contract.labels_of": {
        "batch": (VIEW, torch.arange(4)),
        "rows": 4,
        "device": torch.device("cpu"),
    },
    "analysis.local_losses.gather.GatheredRule.build": {
        "self": local_losses.GatheredRule(NETWORK_RULE),
        "shapes": [(4,), (3,)],
    },
    "analysis.local_losses.heads.HeadedRule.build": {
        "self": local_losses.HeadedViews(**HEAD),
        "shapes": [(4,)],
    },
    "analysis.local_losses.hybrids.hybrid_images": {
        "images": torch.rand(3, 1, 16, 16),
        "generator": torch.Generator().manual_seed(0),
    },
    "analysis.local_losses.masked.MaskedReconstruction": {"shape": (1, 4, 4)},
    "analysis.local_losses.masked.MaskedReconstruction.build": {
        "self": local_losses.MaskedReconstruction(shape=(1, 4, 4)),
        "shapes": [(4,)],
    },
    "analysis.local_losses.masked.mask_patches": {
        "images": torch.zeros(2, 1, 4, 4),
        "generator": torch.Generator(),
        "side": 2,
    },
    "analysis.local_losses.mono_forward.MonoForward": {"classes": 3},
    "analysis.local_losses.mono_forward.MonoForward.build": {
        "self": local_losses.MonoForward(classes=3),
        "shapes": [(4,)],
    },
    "analysis.local_losses.network_rule.NetworkRule": {
        "rule": RULE,
    },
    "analysis.local_losses.network_rule.NetworkRule.build": {
        "self": NETWORK_RULE,
        "shapes": [(4,), (3,)],
    },
    "analysis.local_losses.pooling.Cells": {"side": 2},
    "analysis.local_losses.pooling.Cells.along": {"self": local_losses.Cells(2), "length": 4},
    "analysis.local_losses.pooling.Window": {"side": 2},
    "analysis.local_losses.pooling.Window.along": {"self": local_losses.Window(2), "length": 4},
    "analysis.local_losses.scored_pairs.ScoredPairs": {
        "loss": TWO,
        "pool": local_losses.Cells(1),
        "contexts": [(False, local_losses.Cells(1))],
        "projections": [],
        "negatives": "next",
        "penalty": 0.1,
        "trained": True,
        "seed": 0,
    },
    "analysis.probing.monitor.Monitor": {"model": MODULE, "blocks": ["0", "2"], "every": 1},
    "analysis.probing.while_training.knn_accuracy": {
        "features": torch.from_numpy(POINTS),
        "labels": torch.from_numpy(LABELS),
        "test_features": torch.from_numpy(POINTS),
        "test_labels": torch.from_numpy(LABELS),
    },
    "analysis.probing.probe.linear_probe": {
        "features": POINTS,
        "labels": LABELS,
        "test_features": POINTS,
        "test_labels": LABELS,
        "seed": 0,
    },
    "analysis.probing.probe.probe_blocks": {
        "model": MODULE,
        "blocks": ["0"],
        "train_loader": BATCHES,
        "test_loader": BATCHES,
        "seed": 0,
        "validation": 0.5,
    },
    "analysis.probing.probe.stratified_split": {"labels": LABELS, "fraction": 0.2, "seed": 0},
    "analysis.probing.sensitivity.decodability": {
        "activities": activities,
        "rhm": MODEL,
        "train": TREES,
        "test": TREES,
        "seed": 0,
    },
    "analysis.probing.sensitivity.synonymic_sensitivity": {
        "activities": activities,
        "rhm": MODEL,
        "trees": TREES,
        "seed": 0,
    },
    "analysis.training.initialisation.orthogonal_": {"model": nn.Linear(4, 3)},
    "analysis.training.initialisation.scale_branches_": {"model": MODULE, "ends": "2"},
    "analysis.training.checkpoints.Checkpoints": {"folder": "folder", "keep": 2},
    "analysis.training.loaders.SeededLoader": {"data": POINTS, "batch_size": 4},
    "analysis.training.loaders.SeededLoader.batches": {
        "self": training.SeededLoader(POINTS, 4),
        "epoch": 1,
    },
    "analysis.training.loaders.SeededLoader.rows": {
        "self": training.SeededLoader(POINTS, 4),
        "epoch": 1,
    },
    "autodiff.projection.optimal_projection": {
        "z": X,
        "c": VIEW,
        "pairs": FORWARD,
        "loss": TWO,
        "penalty": 0.1,
    },
    "autodiff.updates.local_update": QUESTION,
    "autodiff.updates.loss": {"network": NET, "pairs": PAIRS, "rule": RULE, "layer": 1},
    "analysis.local_losses.heads.HeadedClasses": {},
    "analysis.results.provenance.Address": {
        "experiment": "e",
        "preset": "cpu",
        "seed": 0,
        "folder": Path("results"),
    },
    "analysis.results.provenance.Provenance.collect": {
        "cls": analysis.Provenance,
        "experiment": "e",
        "preset": "cpu",
        "seed": 0,
        "config": {},
    },
    "analysis.watching.micro_batches.MicroBatches": {"blocks": [], "rows": 4},
    "conditions.explanation.explain": QUESTION,
    "losses.scores.from_name": {"score": "softplus"},
    "networks.convolution.Convolution": {"kernel": np.ones((2, 2, 3, 3)), "input_shape": (2, 4, 4)},
    "networks.convolution.average_pooling": {"shape": (2, 4, 4), "size": 2},
    "networks.linear.DeepLinear.downstream": {"self": NET, "layer": 1},
    "networks.linear.DeepLinear.gram": {"self": NET, "layer": 1},
    "networks.linear.DeepLinear.isometry_bound": {"self": SQUARE, "layer": 1},
    "networks.linear.DeepLinear.only_through": {"self": NET, "layer": 1},
    "networks.linear.DeepLinear.with_scaled_branches": {"self": SQUARE},
    "networks.network.Network.backpropagate": {
        "self": NET,
        "activities": NET.activities(X),
        "error": GRADIENT,
    },
    "networks.network.Network.bias_update": {
        "self": NET,
        "layer": 2,
        "activities": NET.activities(X),
        "error": GRADIENT,
    },
    "networks.network.Network.conformal": {"cls": ll.DeepLinear, "widths": [4, 3], "scale": 2.0},
    "networks.network.Network.from_module": {
        "cls": ll.DeepLinear,
        "module": nn.Conv2d(2, 2, 3, bias=False),
        "input_shape": (2, 4, 4),
    },
    "networks.network.Network.gaussian": {"cls": ll.DeepLinear, "widths": [4, 3]},
    "networks.network.Network.joint_update": {
        "self": NET,
        "layer": 2,
        "activities": NET.activities(X),
        "error": GRADIENT,
    },
    "analysis.local_losses.soft_hebb.SoftHebb": {"layers": [PLAIN_LAYER]},
    "analysis.local_losses.soft_hebb.SoftHebb.build": {
        "self": local_losses.SoftHebb(layers=[PLAIN_LAYER]),
        "shapes": [(3,)],
    },
    "analysis.local_losses.soft_hebb.soft_hebb_update": {
        "layer": PLAIN_LAYER,
        "below": torch.zeros(4, 5),
    },
    "networks.network.Network.map_shape": {"self": NET, "layer": 1},
    "networks.network.Network.matrix": {"self": NET, "layer": 1},
    "networks.network.Network.orthogonal": {"cls": ll.DeepLinear, "widths": [4, 3]},
    "networks.network.Network.uniform": {"cls": ll.DeepReLU, "widths": [4, 3]},
    "networks.network.Network.update": {
        "self": NET,
        "layer": 2,
        "activities": NET.activities(X),
        "error": GRADIENT,
    },
    "networks.network.Network.with_condition_number": {
        "cls": ll.DeepLinear,
        "widths": [4, 3, 2],
        "condition_number": 2.0,
    },
    "losses.normality.SlicedNormality.directions": {
        "self": losses.SlicedNormality(slices=3),
        "width": 2,
    },
    "losses.normality.SlicedNormality.space": {"self": losses.SlicedNormality(), "width": 2},
    "losses.sketched.VISReg.directions": {"self": losses.VISReg(), "width": 2},
    "losses.sketched.VISReg.quantiles": {"self": losses.VISReg(), "samples": 4},
    "networks.nonlinear.DeepNonlinear.downstream": {"self": RELU, "layer": 1, "x": X},
    "pairs.batch.Pairs.from_image_patches": {
        "cls": Pairs,
        "images": np.random.default_rng(0).random((4, 4, 4)),
        "patch_size": 2,
    },
    "pairs.batch.Pairs.from_labels": {"cls": Pairs, "x": X, "labels": np.arange(len(X)) % 2},
    "pairs.batch.Pairs.from_many_views": {"cls": Pairs, "views": [X, VIEW, X]},
    "pairs.batch.Pairs.from_sequence": {"cls": Pairs, "x": np.stack([X, VIEW]), "steps": (1,)},
    "pairs.batch.Pairs.from_views": {"cls": Pairs, "x": X, "x_view": VIEW},
    "projection.optimal.optimal_projection": {
        "z": X,
        "c": VIEW,
        "pairs": FORWARD,
        "loss": TWO,
        "penalty": 0.1,
    },
    "rhm.clustering.cluster": {
        "grammar": MODEL,
        "leaves": LEAVES,
        "labels": TREES.labels,
        "labelled": 2,
    },
    "rhm.clustering.contexts": {"grammar": MODEL, "symbols": LEAVES, "level": 1},
    "rhm.clustering.synonyms": {"features": [[0.0], [1.0]], "num_groups": 1},
    "rhm.noises.Gaussian.apply": {
        "self": rhm.noises.Gaussian(),
        "grammar": MODEL,
        "leaves": LEAVES,
        "time": 0.5,
        "seed": 0,
    },
    "rhm.noises.Gaussian.likelihood": {
        "self": rhm.noises.Gaussian(),
        "grammar": MODEL,
        "noisy": np.ones((3, 8, 4)),
        "time": 0.5,
    },
    "rhm.noises.Masking.apply": {
        "self": rhm.noises.Masking(),
        "grammar": MODEL,
        "leaves": LEAVES,
        "time": 0.5,
        "seed": 0,
    },
    "rhm.noises.Masking.likelihood": {
        "self": rhm.noises.Masking(),
        "grammar": MODEL,
        "noisy": LEAVES,
        "time": 0.5,
    },
    "rhm.noises.Uniform.apply": {
        "self": rhm.noises.Uniform(),
        "grammar": MODEL,
        "leaves": LEAVES,
        "time": 0.5,
        "seed": 0,
    },
    "rhm.noises.Uniform.likelihood": {
        "self": rhm.noises.Uniform(),
        "grammar": MODEL,
        "noisy": LEAVES,
        "time": 0.5,
    },
    "rhm.noises.Noise.kept": {"self": rhm.noises.Masking(), "time": 0.5},
    "rhm.diffusion.denoise": {
        "grammar": MODEL,
        "noise": rhm.noises.Masking(),
        "noisy": LEAVES,
        "time": 0.5,
    },
    "rhm.diffusion.flattened": {"grammar": MODEL, "leaves": LEAVES, "noise": 0.5},
    "rhm.diffusion.forward_backward": {
        "grammar": MODEL,
        "noise": rhm.noises.Masking(),
        "leaves": LEAVES,
        "time": 0.5,
        "seed": 0,
    },
    "rhm.diffusion.generate": {
        "grammar": MODEL,
        "noise": rhm.noises.Masking(),
        "num": 3,
        "steps": 2,
        "seed": 0,
    },
    "rhm.diffusion.mean_field": {"grammar": MODEL, "noise": 0.5},
    "rhm.grammar.Grammar": {**SIZES, "class_weights": CLASSES},
    "rhm.grammar.Grammar.check_level": {"self": MODEL, "level": 1},
    "rhm.grammar.Grammar.num_nodes": {"self": MODEL, "level": 1},
    "rhm.grammar.Grammar.num_values": {"self": MODEL, "level": 1},
    "rhm.grammar.Grammar.radix": {"self": MODEL, "level": 1},
    "rhm.images.colours": {"num_symbols": 3},
    "rhm.images.textures": {"num_symbols": 3},
    "rhm.corruption.channel": {"grammar": MODEL, "level": 0, "probability": 0.1},
    "rhm.corruption.corrupt": {"grammar": MODEL, "leaves": LEAVES, "fraction": 0.5, "seed": 0},
    "rhm.corruption.probabilities": {"grammar": MODEL, "corruption": 0.1},
    "rhm.corruption.sample_corrupted": {"grammar": MODEL, "num": 3, "corruption": 0.1, "seed": 0},
    "rhm.shallow.probabilities": {"grammar": MODEL, "stop": 0.1},
    "rhm.shallow.sample_complexity": {"grammar": MODEL, "stop": 0.1},
    "rhm.shallow.sample_shallow": {"grammar": MODEL, "num": 3, "stop": 0.1, "seed": 0},
    "rhm.inference.bayes_error": {"grammar": MODEL, "visible": 0.5, "num_samples": 20},
    "rhm.inference.checked_likelihood": {
        "grammar": MODEL,
        "likelihood": np.ones((1, 4, 4)),
        "level": 1,
    },
    "rhm.inference.posterior": {"grammar": MODEL, "leaves": LEAVES},
    "rhm.inference.sample_posterior": {"grammar": MODEL, "leaves": LEAVES, "seed": 0},
    "rhm.model.RandomHierarchyModel": {**SIZES, "class_weights": CLASSES},
    "rhm.model.RandomHierarchyModel.corrupt": {
        "self": MODEL,
        "leaves": LEAVES,
        "fraction": 0.5,
        "seed": 0,
    },
    "rhm.model.RandomHierarchyModel.data": {"self": MODEL, "index": [0, 3]},
    "rhm.model.RandomHierarchyModel.enumerate": {"self": MODEL},
    "rhm.model.RandomHierarchyModel.exchange": {
        "self": MODEL,
        "trees": TREES,
        "level": 1,
        "seed": 0,
    },
    "rhm.model.RandomHierarchyModel.posterior": {"self": MODEL, "leaves": LEAVES},
    "rhm.model.RandomHierarchyModel.resample": {
        "self": MODEL,
        "trees": TREES,
        "level": 1,
        "seed": 0,
    },
    "rhm.model.RandomHierarchyModel.sample_corrupted": {
        "self": MODEL,
        "num": 3,
        "corruption": 0.1,
        "seed": 0,
    },
    "rhm.model.RandomHierarchyModel.sample_shallow": {
        "self": MODEL,
        "num": 3,
        "stop": 0.1,
        "seed": 0,
    },
    "rhm.model.RandomHierarchyModel.sample": {"self": MODEL, "num": 3, "seed": 0},
    "rhm.model.RandomHierarchyModel.split": {"self": MODEL, "train": 3, "test": 2, "seed": 0},
    "rhm.sampling.enumerate_data": {"grammar": MODEL},
    "rhm.sampling.exchange": {"grammar": MODEL, "trees": TREES, "level": 1, "node": 0, "seed": 0},
    "rhm.sampling.draw_distinct": {"grammar": MODEL, "num": 3, "seed": 0},
    "rhm.sampling.sample": {"grammar": MODEL, "num": 3, "seed": 0},
    "rhm.sampling.resample": {"grammar": MODEL, "trees": TREES, "level": 1, "node": 0, "seed": 0},
    "rhm.sampling.split": {"grammar": MODEL, "train": 3, "test": 2, "seed": 0},
    "rhm.theory.class_covariance": {"grammar": MODEL, "leaf": 1},
    "rhm.theory.class_tuple_covariance": {"grammar": MODEL, "node": 1},
    "rhm.theory.common_ancestor": {"grammar": MODEL, "first": 0, "second": 1},
    "rhm.theory.expected_token_covariance": {"grammar": MODEL, "level": 1},
    "rhm.theory.leaf_path": {"grammar": MODEL, "leaf": 1},
    "rhm.theory.leaf_probability": {"grammar": MODEL, "leaf": 1},
    "rhm.theory.measured_covariance": {
        "first": TREES.labels,
        "second": LEAVES[:, 0],
        "shape": (3, 4),
    },
    "rhm.theory.published_token_covariance": {"grammar": MODEL, "level": 1},
    "rhm.theory.token_covariance": {"grammar": MODEL, "first": 0, "second": 1},
    "rhm.theory.token_sample_complexity": {"grammar": MODEL, "level": 1},
    "rhm.theory.transition": {"grammar": MODEL, "level": 1, "child": 0},
    "rhm.tokens.LastToken": {"grammar": MODEL, "context": 2},
    "rhm.tokens.LastToken.bayes_loss": {"self": rhm.tokens.LastToken(MODEL), "num_samples": 20},
    "rhm.tokens.MaskedToken": {"grammar": MODEL},
    "rhm.tokens.MaskedToken.bayes_loss": {
        "self": rhm.tokens.MaskedToken(MODEL, 0.5),
        "num_samples": 20,
    },
    "rhm.tokens.NextToken": {"grammar": MODEL, "context": 2},
    "rhm.tokens.NextToken.bayes_loss": {"self": rhm.tokens.NextToken(MODEL), "num_samples": 20},
    "rhm.trees.data_at": {"grammar": MODEL, "index": [0, 3]},
    "rhm.trees.empty": {"grammar": MODEL, "num": 3},
    "conditions.bounds.cosine_bound": {"above": 4.0, "inside": 2.0},
    "conditions.bounds.residual_bounds": {"norms": (0.1, 0.2)},
    "rules.Penalty.at": {"self": rules.Penalty(0.1), "layer": 1, "depth": 2},
    "rules.Penalty.of": {"cls": rules.Penalty, "penalty": 0.1},
    "rules.of_each_layer": {"rule": RULE, "depth": 2},
    "rules.Rule": {"name": "r", "loss": TWO, "pooling": (1, 1)},
    "rules.Rule.with_penalty": {"self": RULE, "strength": 0.1},
    "rules.LPL": {"hebbian": 1.0},
    "rules.VICReg": {"variance": 25.0},
    "symbolic.proofs.prove": {"name": "isometry", "widths": (1, 1, 1), "num_pairs": 1},
    "symbolic.conditions.DerivedCondition.implied_by": {
        "self": CONDITION,
        "condition": "isometry",
        "width": 1,
        "top": 1,
    },
    "symbolic.conditions.DerivedCondition.on_metric": {"self": CONDITION, "width": 1},
    "symbolic.conditions.DerivedCondition.polynomials": {"self": CONDITION, "width": 1},
    "symbolic.conditions.DerivedCondition.residuals": {"self": CONDITION, "width": 1},
    "testing.assert_same_update": {"actual": X, "desired": X},
    "testing.samples": {"num_samples": 3, "width": 2, "seed": 0},
    "losses.shape.Bend": {"margin": 1.0, "width": 0.5},
    "rules.Trained": {"steps": 2, "rate": 0.1},
    "updates.comparison.compare": QUESTION,
    "updates.comparison.local_update": QUESTION,
    "updates.comparison.mismatch": {**QUESTION, "layer": 1},
    "updates.layer_losses.LayerLosses.contexts": {"self": LOSSES, "layer": 1, "context": "same"},
    "updates.layer_losses.LayerLosses.error": {"self": LOSSES, "layer": 1},
    "updates.layer_losses.LayerLosses.goodness_matrix": {"self": GOODNESS, "layer": 1},
    "updates.layer_losses.LayerLosses.read": {"self": LOSSES, "layer": 1},
    "updates.layer_losses.LayerLosses.readout": {"self": LOSSES, "layer": 1},
    "updates.layer_losses.LayerLosses.require": {"self": LOSSES, "layer": 1},
    "updates.layer_losses.LayerLosses.scored": {"self": LOSSES, "layer": 1},
    "updates.layer_losses.LayerLosses.spread": {
        "self": LOSSES,
        "layer": 1,
        "errors": [s.error for s in LOSSES.scored(1)],
    },
    "updates.signals.Signals": QUESTION,
    "updates.signals.Signals.local_error": {"self": SIGNALS, "layer": 1},
    "updates.signals.Signals.mismatch_errors": {"self": SIGNALS, "layer": 1},
    "updates.signals.Signals.scored": {"self": SIGNALS, "layer": 1},
    "updates.signals.Signals.taught_error": {"self": SIGNALS, "layer": 1},
    "updates.signals.Signals.teacher": {"self": SIGNALS, "layer": 1},
}

MADE_BY_US = "holds what the package found; nobody but the package makes one"
PROTOCOL = "a protocol: says what a class of the user's must have"
BY_HYPOTHESIS = "a strategy: hypothesis checks the ranges that it is given when it draws"
IN_THE_HOUSE = "used by the instruments alone, with the number of rows of a tensor"
ABSTRACT_TRAINER = "abstract; its two kinds are checked"
NOT_CHECKED = {
    "plots.style.layer_axis": "used by figures, which know the widths of their networks",
    "analysis.feedback.direct.target_error": "used by rules and networks, with their own numbers",
    "analysis.feedback.transformation.feedback_alignment": "changes its network, so a second call "
    "with it is refused; see test_feedback_alignment.py",
    "analysis.watching.gradients.windowed": "used by the meter alone, which checks the window",
    "analysis.alignment.recorder.AlignmentRecorder.step": "checks where it is entered; see "
    "test_recorder_company.py",
    "analysis.probing.monitor.Monitor.step": "checks where it is entered; see test_monitor.py",
    "analysis.hierarchy.batches.Epochs.at": "abstract; its two kinds are the inside of a loader",
    "analysis.hierarchy.batches.FreshBatches.at": "the inside of a loader, which numbers batches",
    "analysis.hierarchy.batches.StoredBatches.at": "the inside of a loader, which numbers batches",
    "analysis.local_losses.contract.LocalRule.build": PROTOCOL,
    "analysis.local_losses.pooling.Pool.along": "abstract; its two kinds are checked",
    "analysis.local_losses.heads.HeadedRule": "abstract; its two kinds are checked",
    "analysis.local_losses.soft_hebb.SoftHebbUpdate": "made by SoftHebb, which checks",
    "analysis.results.provenance.Provenance": MADE_BY_US,
    "analysis.training.checkpoints.Checkpoints.save": "writes files; see test_analysis.py",
    "analysis.training.one_by_one.train_one_by_one": "writes files; see test_one_by_one.py",
    "analysis.training.loaders.Loader.batches": PROTOCOL,
    "analysis.training.loop.Trainer": ABSTRACT_TRAINER,
    "analysis.watching.surveys.Survey": MADE_BY_US,
    "analysis.watching.window.cut": IN_THE_HOUSE,
    "analysis.watching.window.one_pass": IN_THE_HOUSE,
    "conditions.bounds.ResidualBounds": MADE_BY_US,
    "conditions.findings.Condition": MADE_BY_US,
    "conditions.findings.LayerExplanation": MADE_BY_US,
    "networks.linear.IsometryBound": MADE_BY_US,
    "projection.descent.descend": "the inside of a rule with `Trained`, which checks",
    "projection.problem.NewtonMatrix.largest": "the inside of a Projection",
    "projection.scratch.Scratch": "the inside of `sweep`, which checks",
    "projection.scratch.Scratch.empty": "the inside of `sweep`, which checks",
    "projection.stacked.StackedLoss.solve": "the inside of `sweep`, which checks",
    "projection.problem.Projection": MADE_BY_US,
    "projection.problem.ScoreProblem": "the inside of optimal_projection, which checks",
    "projection.problem.ScoreProblem.solution": "the inside of optimal_projection, which checks",
    "rhm.noises.Gaussian.back": "asked by `generate`, with times of its own",
    "rhm.noises.Masking.back": "asked by `generate`, with times of its own",
    "rhm.noises.Noise.back": "asked by `generate`, with times of its own",
    "rhm.noises.Uniform.back": "asked by `generate`, with times of its own",
    "rhm.noises.Noise.apply": "abstract; its kinds are checked",
    "rhm.noises.Noise.likelihood": "abstract; its kinds are checked",
    "rhm.inference.BayesError": MADE_BY_US,
    "rhm.tokens.TokenTask.bayes_loss": PROTOCOL,
    "rhm.trees.chunks": "cuts arrays of the package into pieces",
    "symbolic.proofs.Proof": MADE_BY_US,
    "symbolic.theorems.Theorem": MADE_BY_US,
    "rules.Given.at": "asked by the package, with numbers of its own",
    "testing.accept.<locals>.hierarchies": BY_HYPOTHESIS,
    "testing.accept.<locals>.networks": BY_HYPOTHESIS,
    "testing.accept.<locals>.pair_rules": BY_HYPOTHESIS,
    "testing.accept.<locals>.pairs": BY_HYPOTHESIS,
}
# What a message calls a parameter, where it is not its name.
CALLED = {"strength": "penalty", "widths": "width", "index": "index"}
# Numbers that are one of several keyword arguments.
VARIABLE = {"rules.LPL": "hebbian", "rules.VICReg": "variance"}

NO_NUMBERS = (NAN, INF, -INF, "a", 1j, True, None)
NO_WHOLE_NUMBERS = (2.5, 2.0)


def call(function, arguments):
    """Call it, in the order of its parameters where some are taken by position only."""
    kinds = {name: p.kind for name, p in inspect.signature(function).parameters.items()}
    if inspect.Parameter.VAR_POSITIONAL not in kinds.values():
        result = function(**arguments)
    else:
        named = {n: v for n, v in arguments.items() if kinds[n] == inspect.Parameter.KEYWORD_ONLY}
        result = function(*(v for n, v in arguments.items() if n not in named), **named)
    return list(result) if inspect.isgenerator(result) else result


def cases():
    """(name, number, its value in a call that works, its annotation) of everything."""
    for name, (function, numbers) in found().items():
        if name in NOT_CHECKED:
            continue
        parameters = inspect.signature(function).parameters
        for number, annotation in numbers.items():
            number = VARIABLE.get(name, number)
            default = parameters[number].default if number in parameters else 1.0
            yield name, number, CALLS.get(name, {}).get(number, default), annotation


CASES = {f"{name}: {number}": (name, number, value, a) for name, number, value, a in cases()}


def attempt(name, number, value):
    function, _ = found()[name]
    return call(function, {**CALLS.get(name, {}), number: value})


def test_the_tables_name_what_there_is():
    assert CALLS.keys() | NOT_CHECKED.keys() <= found().keys()
    assert not CALLS.keys() & NOT_CHECKED.keys()
    assert len(CASES) > 200


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_number_is_refused_with_its_name_and_value(case):
    name, number, value, annotation = CASES[case]
    attempt(name, number, value)  # refused for the number alone
    one = {"int", "float"} & set(re.findall(r"\w+", re.sub(r"\[.*\]", "", annotation)))
    entries = [*value] if isinstance(value, tuple | list) else None
    bad = [b for b in NO_NUMBERS if b is not None or "None" not in annotation]
    if "float" not in annotation:
        bad += NO_WHOLE_NUMBERS
    tried = [(b, b) for b in bad] if one or entries is None else []
    tried += [(b, [b, *entries[1:]]) for b in bad if b is not None] if entries else []
    assert tried
    for shown, given in tried:
        with pytest.raises((TypeError, ValueError)) as caught:
            attempt(name, number, given)
        message = str(caught.value)
        assert CALLED.get(number, number) in message, message
        assert repr(shown) in message, message
        last = traceback.extract_tb(caught.tb)[-1]
        assert last.filename.startswith(str(ROOT / "linlocal")), f"raised deep inside, {last}"


def of_other_libraries(value):
    """The same number, or numbers, as numpy and torch have them."""
    array = np.asarray(value)
    yield array
    yield torch.from_numpy(array)
    if array.ndim == 0:
        yield array[()]
        yield torch.from_numpy(array[None])[0]
    else:
        yield list(array)
        yield iter(array)


@pytest.mark.parametrize("case", CASES)
def test_numbers_of_numpy_and_torch_are_numbers(case):
    name, number, value, _ = CASES[case]
    if value is None or isinstance(value, rules.Penalty):
        value = 2
    expected = attempt(name, number, value)
    for same in of_other_libraries(value):
        result = attempt(name, number, same)
        if is_dataclass(expected) and type(expected).__eq__ is not object.__eq__:
            assert result == expected
            kept = getattr(result, number, None)
            assert isinstance(kept, int | float | tuple | rules.Penalty | None)
            assert type(kept).__module__ != "numpy"
