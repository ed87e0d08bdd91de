"""Whole steps of training and the plain pass beside them go through the same encoder."""

import numpy as np
import pytest

from experiments.benchmarks import training as bench


@pytest.fixture(scope="module")
def data():
    return bench.measure(bench.Config(widths=(1 / 64, 1 / 32), images=2, size=16, steps=3))


def test_everything_takes_time(data):
    assert (data.to_array() > 0).all()


def test_the_page_shows_the_ratios_of_every_width(data):
    rows = [line.split("|")[1:-1] for line in bench.section(data) if line.startswith("| 0.")]
    shown = np.array([[float(cell) for cell in row] for row in rows])
    assert shown[:, 0] == pytest.approx(data["width"].values, abs=1e-6)
    ratios = (data["step_s"] / data["plain_s"]).transpose("width", "trainer")
    np.testing.assert_allclose(shown[:, -2:], ratios, atol=0.006)
    assert f"{float(ratios.sel(trainer='end to end').max()):.2f}" in bench.summary(data)[2]
