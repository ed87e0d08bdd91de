"""Pooling is a matrix along each axis, the one of the theory for windows."""

import pytest
import torch

from linlocal.analysis.local_losses import Cells, Window
from linlocal.analysis.local_losses.pooling import as_map, pools
from linlocal.networks import average_pooling

SHAPE = (3, 7, 5)


def maps(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, *shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("pool", [Window(1), Window(2), Window(5), Cells(1), Cells(3), Cells(9)])
@pytest.mark.parametrize("shape", [SHAPE, (6, 6, 6)])
def test_the_matrices_along_both_axes_are_the_pooling(pool, shape):
    z = maps(*shape)
    rows, columns = (pool.along(n) for n in shape[1:])
    by_matrices = torch.einsum("nchw,rh,sw->ncrs", z, rows, columns).flatten(1)
    torch.testing.assert_close(pool(z), by_matrices, rtol=1e-12, atol=1e-12)
    assert pool.features(shape) == by_matrices.shape[1]


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_windows_are_those_of_the_theory(side):
    z = maps(*SHAPE)
    expected = z.flatten(1) @ torch.tensor(average_pooling(SHAPE, side)).T
    torch.testing.assert_close(Window(side)(z), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_cells_that_divide_a_map_are_windows_and_others_cover_it(side):
    z = maps(3, 6, 6)
    torch.testing.assert_close(Cells(side)(z), Window(6 // side)(z), rtol=1e-12, atol=1e-12)
    assert (Cells(side).along(7).sum(0) > 0).all()
    assert (Window(2).along(7).sum(0) > 0).sum() == 6


def test_one_cell_is_the_mean_of_pixels_or_tokens():
    z = maps(*SHAPE)
    torch.testing.assert_close(Cells(1)(z), z.mean((2, 3)))
    tokens = maps(6, 5)
    torch.testing.assert_close(Cells(1)(tokens), tokens.mean(1))
    torch.testing.assert_close(Window(3)(tokens)[:, ::2], tokens[:, :3].mean(1))
    torch.testing.assert_close(Window(3)(tokens[:, 0]), tokens[:, 0])


def test_an_unpooled_map_is_no_copy():
    z = maps(*SHAPE)
    for pool in (Window(1), Cells(9)):
        assert pool(z).data_ptr() == z.data_ptr()


def test_one_pooling_serves_all_blocks():
    assert pools("global", 2) == (Cells(1), Cells(1))
    assert pools(3, 2) == (Window(3), Window(3))
    assert pools(Cells(2), 2) == (Cells(2), Cells(2))
    assert pools([4, Cells(2)], 2) == (Window(4), Cells(2))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"got shape \(4, 2, 2, 2, 2\); choose another block"):
        as_map(maps(2, 2, 2, 2))
