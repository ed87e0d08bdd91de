"""Small problems run on one BLAS thread, and the setting of the user comes back."""

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import linlocal as ll
from linlocal.threads import LARGEST, one_if_small


def threads() -> set[int]:
    return {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def _two_threads():
    np.linalg.inv(np.eye(2))
    with threadpool_limits(2, user_api="blas"):
        yield


def test_small_blocks_have_one_thread_and_large_ones_keep_theirs() -> None:
    with one_if_small(LARGEST):
        assert threads() == {1}
    assert threads() == {2}
    with one_if_small(LARGEST + 1):
        assert threads() == {2}


def test_the_last_one_out_restores_also_after_an_error() -> None:
    with pytest.raises(RuntimeError), one_if_small(1), one_if_small(1):
        raise RuntimeError
    assert threads() == {2}
    with one_if_small(1):
        with one_if_small(1):
            pass
        assert threads() == {1}
    assert threads() == {2}


def test_overlapping_python_threads_do_not_leave_the_limit_behind() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with one_if_small(1):
            entered.set()
            leave.wait(5)

    thread = threading.Thread(target=other)
    with one_if_small(1):
        thread.start()
        assert entered.wait(5)
    leave.set()
    thread.join()
    assert threads() == {2}


def test_a_comparison_leaves_the_threads_as_they_were() -> None:
    rng = np.random.default_rng(0)
    pairs = ll.Pairs.from_views(rng.standard_normal((6, 4)), rng.standard_normal((6, 4)))
    ll.compare(ll.DeepLinear.orthogonal([4, 4, 4]), pairs, ll.rules.CLAPP("softplus"))
    assert threads() == {2}
