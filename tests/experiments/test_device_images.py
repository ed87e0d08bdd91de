"""Images drawn on the device follow the law of the model, and none is a test image."""

import os

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from experiments.data import device_images
from experiments.data.device_images import DeviceImages
from linlocal.rhm import RandomHierarchyModel, images

DEEP = RandomHierarchyModel(
    num_classes=6, num_symbols=5, num_synonyms=3, tuple_size=4, num_levels=3, seed=1
)
# 3 classes, 2 rules each and 2^4 spellings of these: 96 data.
SMALL = RandomHierarchyModel(
    num_classes=3, num_symbols=4, num_synonyms=2, tuple_size=4, num_levels=2, seed=0
)


def made(rhm=DEEP, test=0, level=1, **options):
    return DeviceImages(rhm, test=test, level=level, patch_size=2, num_channels=3, **options)


def test_leaves_parse_to_the_latents_that_were_drawn():
    levels = made().symbols(50, rank=0, step=0)
    parsed = DEEP.parse(levels[0].numpy())
    for drawn, found in zip(levels, parsed.symbols, strict=True):
        assert (drawn.numpy() == found).all()
    damaged = levels[0].numpy()
    damaged[:, 0] = (damaged[:, 0] + 1) % DEEP.num_symbols
    assert (DEEP.parse(damaged, strict=False).labels != levels[-1][:, 0].numpy()).any()


def test_all_data_are_equally_frequent_in_both_views():
    def unevenness(drawn):
        for view in drawn.symbols(40 * SMALL.num_data, 0, 0)[0].chunk(2):
            found = SMALL.index(SMALL.parse(view.numpy()))
            yield chisquare(np.bincount(found, minlength=SMALL.num_data)).pvalue

    drawn = made(SMALL)
    assert min(unevenness(drawn)) > 1e-3
    drawn._rules[0][1] = drawn._rules[0][0]  # one rule in place of its synonym
    assert max(unevenness(drawn)) < 1e-3


def test_views_with_test_data_kept_out_are_uniform_over_the_rest():
    drawn = made(SMALL, test=30, level=2)
    tested = SMALL.index(SMALL.parse(drawn.test_leaves.numpy()))
    assert len(set(tested.tolist())) == 30
    first, second = drawn.symbols(60 * SMALL.num_data, 0, 0)[0].chunk(2)
    found = np.bincount(SMALL.index(SMALL.parse(first.numpy())), minlength=SMALL.num_data)
    assert (found[tested] == 0).all()
    assert chisquare(np.delete(found, tested)).pvalue > 1e-3
    assert not np.isin(SMALL.index(SMALL.parse(second.numpy())), tested).any()
    single = drawn.labelled(1000, 0)
    known = {image.numpy().tobytes() for image in drawn.render(drawn.test_leaves)}
    assert not any(image.numpy().tobytes() in known for image in single[0])


def test_without_the_exclusion_test_data_are_met(monkeypatch):
    drawn = made(SMALL, test=30, level=2)
    monkeypatch.setattr(drawn, "_tested", lambda leaves: torch.zeros(len(leaves), dtype=torch.bool))
    known = SMALL.index(SMALL.parse(drawn.test_leaves.numpy()))
    for view in drawn.symbols(500, 0, 0)[0].chunk(2):
        assert np.isin(SMALL.index(SMALL.parse(view.numpy())), known).any()


@pytest.mark.parametrize("level", [1, 2, 3])
def test_views_share_the_latents_from_a_level_on_and_nothing_else(level):
    levels = made(level=level).symbols(200, 0, 0)
    for number, symbols in enumerate(levels):
        first, second = symbols.chunk(2)
        if number >= level:
            assert torch.equal(first, second)
        else:
            assert (first != second).float().mean() > 0.2
    # Below, draws are independent: rules of the two views agree once in m.
    parsed = [DEEP.parse(view.numpy()) for view in levels[0].chunk(2)]
    parts = [view.symbols[level - 1].reshape(200, -1, 4) for view in parsed]
    equal = (parts[0] == parts[1]).all(-1)
    deviation = np.sqrt(2 / 9 / equal.size)
    assert abs(equal.mean() - 1 / 3) < 4 * deviation


def test_pixels_are_those_of_the_library():
    drawn = made(seed=3)
    leaves = DEEP.sample(4, seed=0).leaves
    expected = images.render(DEEP, leaves, images.textures(5, 2, 3, seed=3))
    assert (drawn.render(torch.from_numpy(leaves.astype(np.int64))).numpy() == expected).all()
    views, labels = drawn.views(3, 0, 0)
    assert views.shape == (6, 3, 16, 16)
    assert torch.equal(labels[:3], labels[3:])


def test_draws_are_a_function_of_seed_rank_and_step():
    drawn = made(test=10)
    again = made(test=10)
    before = torch.get_rng_state()
    found = {key: drawn.symbols(4, *key)[0] for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    assert torch.equal(before, torch.get_rng_state())
    assert len({leaves.numpy().tobytes() for leaves in found.values()}) == 4
    assert torch.equal(again.symbols(4, 1, 1)[0], found[1, 1])
    assert not torch.equal(made(test=10, seed=1).symbols(4, 1, 1)[0], found[1, 1])
    assert torch.equal(drawn.labelled(4, 0)[0], again.labelled(4, 0)[0])
    assert not torch.equal(drawn.labelled(4, 0)[0], drawn.labelled(4, 1)[0])


def test_all_test_images_come_once():
    drawn = made(test=7)
    batches = list(drawn.test_batches(3))
    assert [len(labels) for _, labels in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([x for x, _ in batches]), drawn.render(drawn.test_leaves))
    labels = torch.cat([y for _, y in batches])
    assert (labels.numpy() == DEEP.parse(drawn.test_leaves.numpy()).labels).all()


def test_the_default_is_224_pixels_wide():
    large = RandomHierarchyModel(
        num_classes=8, num_symbols=8, num_synonyms=4, tuple_size=4, num_levels=5
    )
    views, labels = DeviceImages(large, test=100).views(1, 0, 0)
    assert views.shape == (2, 3, 224, 224)
    assert labels.shape == (2,)


def test_what_cannot_be_drawn_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="uniform rules and no blanks"):
        made(
            RandomHierarchyModel(
                num_classes=3,
                num_symbols=4,
                num_synonyms=2,
                tuple_size=4,
                num_levels=2,
                rule_exponent=1.0,
            )
        )
    with pytest.raises(ValueError, match="level 0"):
        made(level=0)
    with pytest.raises(ValueError, match="fewer test data"):
        made(SMALL, test=SMALL.num_data).symbols(1, 0, 0)
    monkeypatch.setattr(device_images, "_ATTEMPTS", 0)
    with pytest.raises(ValueError, match="fewer test data"):
        made(SMALL).symbols(1, 0, 0)


def test_gpus_are_hidden_from_all_tests_but_their_own():
    """Trainers would move their networks there."""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()
