"""A file in the folder of data sets is a data set, and each keeps its contract."""

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.data import grey_register, grey_sets, labelled_register, labelled_sets

LABELLED = labelled_register.known_sets()
WITHOUT_FILES = [name for name, each in LABELLED.items() if each.FOLDER is None]


@pytest.mark.parametrize(
    ("folder", "known"),
    [(labelled_sets, LABELLED), (grey_sets, grey_register.known_sets())],
    ids=["labelled", "grey"],
)
def test_every_file_is_a_data_set_of_its_own_name(folder, known):
    files = {str(file) for file in Path(folder.__path__[0]).glob("*.py")}
    assert files - {folder.__file__} == {module.__file__ for module in known.values()}
    assert len(known) == len(files) - 1


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_views_are_two_of_each_row_drawn_by_the_seed(name):
    data = labelled_register.load(name, seed=1)
    images = torch.as_tensor(data.train[:20])
    images = images / 255 if images.dtype == torch.uint8 else images
    views = LABELLED[name].views(images, 1)
    rows = torch.tensor([3, 0, 5])
    first, again, other = (views(rows, seed) for seed in (7, 7, 8))
    assert first.shape == (6, *images.shape[1:])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_the_seed_decides_and_the_test_data_are_others(name):
    first, again, other = (labelled_register.load(name, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train, again.train)
    assert not np.array_equal(first.train, other.train)
    train, test = ({image.tobytes() for image in part} for part in (first.train, first.test))
    assert not train & test
