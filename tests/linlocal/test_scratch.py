"""Memory that is used again: what lives never overlaps, and a frame gives back what it took."""

import numpy as np
from hypothesis import given, strategies as st

from linlocal.projection import Scratch

SHAPES = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=8)


@given(SHAPES, st.integers(0, 2000))
def test_arrays_that_live_do_not_share_memory(shapes, size):
    scratch = Scratch(size)
    arrays = [scratch.empty(*shape) for shape in shapes]
    for number, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        assert array.shape == tuple(shape)
        array[...] = number
    for number, array in enumerate(arrays):
        assert (array == number).all()


@given(SHAPES)
def test_a_frame_gives_back_what_was_made_inside(shapes):
    scratch = Scratch(2**16)
    kept = scratch.empty(3)
    with scratch.frame():
        inside = [scratch.empty(*shape) for shape in shapes]
    again = scratch.empty(*shapes[0])
    assert np.shares_memory(again, inside[0])
    assert not np.shares_memory(again, kept)


def test_a_frame_that_fails_gives_back_as_well():
    scratch = Scratch(2**10)
    try:
        with scratch.frame():
            first = scratch.empty(4)
            raise KeyError
    except KeyError:
        assert np.shares_memory(scratch.empty(4), first)
