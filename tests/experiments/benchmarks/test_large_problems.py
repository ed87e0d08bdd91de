"""What is measured of large problems, on small ones."""

import pytest

from experiments.benchmarks import large_problems
from experiments.benchmarks.large_problems import Config


@pytest.fixture(scope="module")
def measured():
    return large_problems.measure(Config(batches=(4, 24), pairs=(20, 6000)))


def test_every_problem_is_solved(measured):
    assert (measured.relative_gradient <= 1e-11).all()
    assert (measured.list_relative_gradient <= 1e-11).all()
    assert (measured.seconds > 0).all()
    assert (measured.list_peak_mb > 0).all()


def test_conjugate_gradients_take_the_large_ones_only(measured):
    assert (measured.products > 0).values.tolist() == [False, True]
    assert (measured.list_products > 0).values.tolist() == [False, True]


def test_the_section_and_the_summary_name_each_problem(measured):
    text = "\n".join(large_problems.section(measured))
    for n in (4, 24):
        assert f"InfoNCE, {n} samples, {n - 1} negatives each" in text
    for n in (20, 6000):
        assert f"softplus, {n} pairs in a list" in text
    assert "24 samples" in large_problems.summary(measured)[1]
