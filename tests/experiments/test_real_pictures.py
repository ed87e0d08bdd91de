"""Experiments that read CIFAR-10 where its folder is named, and embedded images elsewhere."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.catalogue import blockwise_ssl, local_rules, trained_windows
from experiments.runner import registry
from linlocal.analysis.results import ResultError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CIFAR-10 with 20 images of noise in each file, two of every class."""
    into = tmp_path_factory.mktemp("data") / "cifar-10-batches-bin"
    into.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
        labels = np.repeat(np.arange(10, dtype=np.uint8), 2)[:, None]
        images = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        (into / name).write_bytes(np.hstack([labels, images]).tobytes())
    (into / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n", encoding="utf-8")
    return into.parent


def few(module):
    """The smoke preset of an experiment with one thing to compare."""
    chosen = {
        local_rules: {"rules": ("CLAPP++ DFB, random B",)},
        blockwise_ssl: {"variants": ("Barlow Twins, sequential, 25% of the steps",), "steps": 4},
        trained_windows: {"repetitions": 1, "deep": (1, 7)},
    }
    return replace(module.PRESETS["smoke"], **chosen[module])


@pytest.mark.parametrize("module", [local_rules, blockwise_ssl, trained_windows])
def test_the_pictures_of_a_folder_take_the_place_of_the_embedded_ones(module, folder, monkeypatch):
    monkeypatch.setattr(trained_windows, "RULES", {"CLAPP++ DFB": trained_windows.RULES["VICReg"]})
    result = module.run(replace(few(module), data=folder))
    assert result["data"].values.ravel().tolist() == ["cifar10"]
    assert np.isfinite(result["accuracy"]).all()
    assert result["accuracy"].sizes["layer" if module is not local_rules else "rule"] > 0
    (read,) = module.read_from(folder)
    assert read == "cifar10"
    name = module.__name__.rpartition(".")[2]
    paths = {registry.plan(name, "smoke", 0, data).address(folder).path for data in (None, folder)}
    assert len(paths) == 2


def test_a_sequential_training_can_share_the_steps_of_a_simultaneous_one(monkeypatch):
    config, steps = few(blockwise_ssl), []
    kept = blockwise_ssl.LARSSchedule
    monkeypatch.setattr(
        blockwise_ssl, "LARSSchedule", lambda count, rate: steps.append(count) or kept(count, rate)
    )
    for share in (1.0, 0.25, 0.1):
        variant = blockwise_ssl.Variant(order="sequential", share=share)
        blockwise_ssl.tried(config, variant, 2.0, 0)
    assert steps == [4, 1, 1]


def test_an_unknown_variant_is_answered():
    with pytest.raises(ResultError, match="did you mean 'Barlow Twins, sequential'"):
        blockwise_ssl.run(replace(few(blockwise_ssl), variants=("Barlow Twins, sequentiel",)))
