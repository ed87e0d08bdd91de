"""Every reader of the benchmark reads all images, and the page says how fast."""

import numpy as np
import pytest

from experiments.benchmarks import loading as bench


@pytest.fixture(scope="module")
def data():
    small = bench.Config(images=8, height=40, width=60, sizes=(8, 16), batch=4, rounds=1)
    return bench.measure(small)


def test_every_reader_reads(data):
    assert (data["images_per_s"] > 0).all()
    assert np.isfinite(data["images_per_s"]).all()


def test_the_page_shows_the_rates(data):
    rows = [line.split("|")[1:-1] for line in bench.section(data) if line.startswith("| ")][1:]
    shown = np.array([[float(cell) for cell in row] for row in rows])
    assert shown[:, 0] == pytest.approx(data["size"].values)
    np.testing.assert_allclose(shown[:, 1:], data["images_per_s"], atol=0.6)
