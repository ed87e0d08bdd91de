"""Trees as images: every block of an image is a tuple."""

import numpy as np
import pytest

from linlocal.rhm import RandomHierarchyModel, images

SHAPE = {"num_classes": 6, "num_symbols": 6, "num_synonyms": 4}
SQUARE = RandomHierarchyModel(**SHAPE, tuple_size=4, num_levels=3)
MIXED = RandomHierarchyModel(**SHAPE, tuple_size=(9, 4), num_levels=2)
SPARSE = RandomHierarchyModel(**SHAPE, tuple_size=3, num_levels=2, num_blanks=2)


@pytest.mark.parametrize("rhm", [SQUARE, MIXED, SPARSE], ids=["2x2", "3x3 in 2x2", "blanks"])
def test_every_block_is_a_patch_in_reading_order(rhm):
    leaves = rhm.sample(4, seed=0).leaves
    grid = images.grid(rhm, leaves)
    side = images.side(rhm)
    assert grid.shape == (4, side, side)
    size = rhm.patch_sizes[0]
    b = int(np.sqrt(size))
    # The block at (row, column) is the patch of the node that stands there one level up.
    nodes = leaves.reshape(4, -1, size)
    above = np.arange(nodes.shape[1])[None]
    upper = RandomHierarchyModel(
        **SHAPE,
        tuple_size=rhm.tuple_sizes[1:],
        num_levels=rhm.num_levels - 1,
        num_blanks=rhm.num_blanks,
    )
    places = images.grid(upper, above)[0]
    for row, column in np.ndindex(places.shape):
        block = grid[:, row * b : (row + 1) * b, column * b : (column + 1) * b]
        assert (block.reshape(4, -1) == nodes[:, places[row, column]]).all()
    assert (images.ungrid(rhm, grid) == leaves).all()
    assert (rhm.parse(images.ungrid(rhm, grid)).leaves == leaves).all()


def test_one_level_is_read_like_a_page():
    page = RandomHierarchyModel(**SHAPE, tuple_size=4, num_levels=1)
    assert images.grid(page, [[0, 1, 2, 3]]).tolist() == [[[0, 1], [2, 3]]]


@pytest.mark.parametrize("rhm", [SQUARE, SPARSE], ids=["dense", "blanks"])
def test_pixels_are_the_patch_of_their_symbol(rhm):
    leaves = rhm.sample(3, seed=1).leaves
    looks = images.textures(6, patch_size=5, channels=2, seed=0)
    pixels = images.render(rhm, leaves, looks)
    grid = images.grid(rhm, leaves)
    side = images.side(rhm)
    assert pixels.shape == (3, 2, 5 * side, 5 * side)
    assert pixels.dtype == np.float32
    for datum, row, column in np.ndindex(3, side, side):
        patch = pixels[datum, :, 5 * row : 5 * row + 5, 5 * column : 5 * column + 5]
        symbol = grid[datum, row, column]
        assert (patch == (looks[symbol] if symbol >= 0 else 0)).all()


def test_symbols_look_different():
    colours = images.colours(32)
    assert colours.shape == (32, 3, 1, 1)
    assert len(np.unique(colours.round(4), axis=0)) == 32
    assert 0 <= colours.min() <= colours.max() <= 1
    looks = images.textures(32, 4).reshape(32, -1)
    assert looks.mean(axis=1) == pytest.approx(0, abs=1e-6)
    assert looks.std(axis=1) == pytest.approx(1, abs=1e-6)
    overlap = looks @ looks.T / 16
    assert np.abs(overlap - np.eye(32)).max() < 0.95
    assert (images.textures(4, seed=0) != images.textures(4, seed=1)).all()


def test_what_is_no_image_is_refused():
    line = RandomHierarchyModel(**SHAPE, tuple_size=2, num_levels=2)
    with pytest.raises(ValueError, match=r"square patches.*got \(2, 2\)"):
        images.grid(line, line.sample(1, seed=0).leaves)
    with pytest.raises(ValueError, match=r"patches must be \(6, channels, patch, patch\)"):
        images.render(SQUARE, SQUARE.sample(1, seed=0).leaves, images.colours(5))
    with pytest.raises(ValueError, match="larger patch"):
        images.textures(4, patch_size=1)
