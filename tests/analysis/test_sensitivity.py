"""Laws of what layers know: exact where the layers are symbols, NaN where they say nothing."""

import numpy as np
import pytest
import torch
import xarray as xr

from linlocal.analysis.probing import decodability, synonymic_sensitivity
from linlocal.rhm import RandomHierarchyModel

LEVELS = 3


@pytest.fixture(scope="module")
def rhm():
    return RandomHierarchyModel(
        num_classes=4, num_symbols=4, num_synonyms=2, num_levels=LEVELS, seed=1
    )


@pytest.fixture(scope="module")
def trees(rhm):
    return rhm.sample(400, seed=2)


def one_hot(symbols, count=4):
    return torch.nn.functional.one_hot(torch.from_numpy(symbols.astype(np.int64)), count).double()


def latents(rhm):
    """A perfect network: layer k is the symbols of level k."""
    return lambda leaves: [one_hot(each) for each in rhm.parse(leaves).symbols[1:]]


def leaves_only(leaves):
    return [one_hot(leaves)]


def test_symbols_are_blind_to_synonyms_of_their_level_and_below_and_see_those_above(rhm, trees):
    found = synonymic_sensitivity(latents(rhm), rhm, trees, seed=0)
    assert found.dims == ("layer", "level")
    for layer in range(1, LEVELS + 1):
        for level in range(1, LEVELS + 1):
            value = float(found.sel(layer=layer, level=level))
            # Exchanging the tuple of a symbol changes what is below it, not the symbol.
            assert value == 0 if level <= layer else value > 0.1


def test_a_layer_that_tells_all_data_apart_and_nothing_else_has_sensitivity_one():
    small = RandomHierarchyModel(num_classes=3, num_symbols=3, num_synonyms=2, num_levels=2, seed=0)

    def index(leaves):
        return [one_hot(small.index(small.parse(leaves)), small.num_data)]

    everything = small.data(range(small.num_data))
    found = synonymic_sensitivity(index, small, everything, seed=0)
    np.testing.assert_array_equal(found, 1.0)
    for scale in (2, 2.0**-40):
        scaled = synonymic_sensitivity(
            lambda x, scale=scale: [scale * z for z in index(x)], small, everything, seed=0
        )
        np.testing.assert_array_equal(scaled, found)


def test_leaves_have_the_sensitivity_that_counting_gives():
    small = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=2, num_levels=2, seed=3)
    everything = small.data(range(small.num_data))
    # With two synonyms there is one other tuple; every differing leaf counts 2.
    rules = small.rules[0].reshape(4, 2, 2)
    differing = (rules[:, 0] != rules[:, 1]).sum(axis=1)
    moved = 2 * differing[everything.symbols[1]].sum(axis=1).mean()
    unequal = everything.leaves[:, None] != everything.leaves[None]
    apart = 2 * unequal.sum() / (small.num_data * (small.num_data - 1))
    found = [
        moved / float(synonymic_sensitivity(leaves_only, small, everything, seed=seed)[0, 0])
        for seed in range(100)
    ]
    # The other datum is drawn: its distance has the mean of all pairs of different data.
    error = np.std(found) / np.sqrt(len(found))
    assert 0 < error < 0.1
    assert abs(np.mean(found) - apart) < 4 * error


def test_the_order_of_data_cancels_between_levels(rhm, trees):
    order = np.random.default_rng(0).permutation(len(trees))
    one, other = (
        synonymic_sensitivity(leaves_only, rhm, each, seed=0)[0] for each in (trees, trees[order])
    )
    np.testing.assert_allclose(one / one[0], other / other[0], rtol=1e-12)


def test_a_constant_layer_has_no_sensitivity(rhm, trees):
    def layers(leaves):
        return [torch.ones(len(leaves), 3), one_hot(leaves)]

    found = synonymic_sensitivity(layers, rhm, trees, seed=0)
    assert found.sel(layer=1).isnull().all()
    assert found.sel(layer=2).notnull().all()


def test_one_datum_or_no_synonym_is_refused(rhm, trees):
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        synonymic_sensitivity(leaves_only, rhm, trees[:1], seed=0)
    plain = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=1, num_levels=2)
    with pytest.raises(ValueError, match="no tuple has a synonym"):
        synonymic_sensitivity(leaves_only, plain, plain.sample(9, seed=0), seed=0)


def test_symbols_are_read_from_their_own_layer_and_lost_above(rhm, trees):
    found = decodability(latents(rhm), rhm, trees, rhm.sample(200, seed=3), seed=0)
    for layer in range(1, LEVELS + 1):
        assert float(found.sel(layer=layer, level=layer)) == 1
        for level in range(1, layer):
            # Which of two synonyms was written is not in the symbol above.
            assert float(found.sel(layer=layer, level=level)) < 0.9


def test_each_place_under_a_position_counts_alike(rhm, trees):
    def left(leaves):
        return [one_hot(rhm.parse(leaves).symbols[1][:, ::2])]

    test = rhm.sample(400, seed=3)
    found = float(decodability(left, rhm, trees, test, seed=0).sel(layer=1, level=1))
    # The left child is read without error; the right one hardly better than guessed.
    assert 0.5 < found < 0.9


def test_noise_tells_no_more_than_how_often_symbols_occur(rhm, trees):
    generator = torch.Generator().manual_seed(0)

    def noise(leaves):
        return [torch.randn(len(leaves), 2, 6, generator=generator, dtype=torch.float64)]

    test = rhm.sample(400, seed=4)
    found = decodability(noise, rhm, trees, test, seed=0).sel(layer=1)
    for level in range(1, LEVELS + 1):
        symbols = test.symbols[level]
        often = np.bincount(symbols.reshape(-1)).max() / symbols.size
        assert float(found.sel(level=level)) < often + 4 * 0.5 / np.sqrt(len(test))


def test_positions_that_do_not_tile_the_tree_are_refused(rhm, trees):
    def layers(leaves):
        return [torch.zeros(len(leaves), 3, 2)]

    with pytest.raises(ValueError, match="3 positions does not tile the 4 symbols"):
        decodability(layers, rhm, trees, trees, seed=0)


def test_the_same_seed_gives_the_same_and_the_global_state_stays(rhm, trees):
    before = torch.get_rng_state()
    for measure in (
        lambda seed: synonymic_sensitivity(leaves_only, rhm, trees, seed=seed),
        lambda seed: decodability(latents(rhm), rhm, trees, trees[:100], seed=seed),
    ):
        first, again = measure(0), measure(0)
        xr.testing.assert_identical(first, again)
    assert not synonymic_sensitivity(leaves_only, rhm, trees, seed=1).equals(
        synonymic_sensitivity(leaves_only, rhm, trees, seed=0)
    )
    assert torch.equal(torch.get_rng_state(), before)
