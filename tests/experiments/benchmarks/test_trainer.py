"""The trainers and the bare loop that they are timed against do the same."""

import numpy as np
import pytest

from experiments.benchmarks import trainer as bench


@pytest.fixture(scope="module")
def data():
    small = bench.Config(rows=8, width=8, encoder=1 / 64, small_steps=5, middle_steps=5)
    return bench.measure(small)


def test_the_bare_loop_and_every_trainer_end_with_the_same_weights(data):
    assert bool(data["same"].all())
    assert (data["bare_s"] > 0).all()
    assert (data["trainer_s"] > 0).all()


def test_the_page_shows_every_case_and_every_ratio(data):
    rows = [line for line in bench.section(data) if line.startswith("| 6 ")]
    assert len(rows) == data["same"].size
    shown = [float(row.split("|")[6]) for row in rows]
    ratios = (data["trainer_s"] / data["bare_s"]).values.ravel()
    np.testing.assert_allclose(shown, ratios, atol=0.006)
    assert all(row.rstrip().endswith("| yes |") for row in rows)
    times = data["trainer_s"].isel(network=-1)
    for share in times.sel(trainer="one pass") / times.sel(trainer="end to end"):
        assert f"{float(share):.2f}" in "\n".join(bench.section(data)[-4:])
    unequal = data.assign(same=~data["same"])
    assert sum(line.endswith("| NO |") for line in bench.section(unequal)) == data["same"].size
    assert "times the bare loop at most" in bench.summary(data)[1]
