"""Handwritten digits with labels: all four files of MNIST, read in their order or refused."""

import gzip
import struct

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.catalogue import feedback_alignment
from experiments.data import DataError, handwriting_identities, handwritten

COUNTS = {"train": 12, "t10k": 5}


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def arrays():
    rng = np.random.default_rng(0)
    return {
        (part, kind): rng.integers(0, 256, (count, 6, 6))
        if kind == "images"
        else rng.integers(0, 10, count)
        for part, count in COUNTS.items()
        for kind in ("images", "labels")
    }


@pytest.fixture
def folder(tmp_path):
    for (part, kind), array in arrays().items():
        packed = part == "train"
        name = f"{part}-{kind}-idx{array.ndim}-ubyte{'.gz' if packed else ''}"
        (tmp_path / name).write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return tmp_path


def test_the_four_files_are_training_and_test_data(folder):
    data, expected = handwritten(folder, seed=0), arrays()
    np.testing.assert_array_equal(data.train[:, 0], expected["train", "images"])
    np.testing.assert_array_equal(data.train_labels, expected["train", "labels"])
    np.testing.assert_array_equal(data.test[:, 0], expected["t10k", "images"])
    np.testing.assert_array_equal(data.test_labels, expected["t10k", "labels"])


def test_without_a_folder_they_are_the_small_digits():
    data = handwritten(None, seed=0)
    assert len(data.train) + len(data.test) == len(load_digits().target)
    assert data.train.shape[1:] == (1, 8, 8)


def test_the_fingerprint_is_that_of_all_files(folder):
    before = handwriting_identities(folder)
    assert feedback_alignment.read_from(folder) == before
    path = folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx(np.arange(5)))
    assert handwriting_identities(folder) != before


def test_what_is_missing_or_does_not_belong_together_is_refused(folder):
    path = folder / "t10k-labels-idx1-ubyte"
    for labels in (np.arange(4), np.arange(6, 11)):
        path.write_bytes(idx(labels))
        with pytest.raises(DataError, match=r"labels up to \d+ in its files t10k-\*"):
            handwritten(folder, seed=0)
    path.unlink()
    with pytest.raises(DataError, match=r"no MNIST labels in .*expected one of t10k-labels-idx1"):
        handwritten(folder, seed=0)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(5)))
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((5, 7, 6))))
    with pytest.raises(DataError, match=r"\(6, 6\) and test images of \(7, 6\) pixels"):
        handwritten(folder, seed=0)


def test_networks_learn_by_every_rule_and_only_backpropagation_is_itself():
    found = feedback_alignment.run(feedback_alignment.PRESETS["smoke"])
    last = found.isel(step=-1)
    hidden = last.cosine.isel(layer=slice(-1))
    np.testing.assert_allclose(last.cosine.isel(layer=-1), 1, atol=1e-6)
    assert (hidden.sel(rule="backpropagation") > 1 - 1e-6).all()
    assert (hidden.drop_sel(rule="backpropagation") < 0.999).all()
    first = found.test_accuracy.isel(step=0)
    assert float(abs(first - first.isel(rule=0)).max()) == 0  # one network for all rules
    learned = last.test_accuracy.mean("repetition").sel(rule=["backpropagation", "Kolen-Pollack"])
    assert (learned > first.isel(rule=0).mean("repetition")).all()
