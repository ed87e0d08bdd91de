"""The benchmark of workers runs both kinds and leaves the environment alone."""

import os

import pytest

from experiments.benchmarks import workers


@pytest.mark.slow
def test_both_kinds_are_measured_and_shown():
    before = dict(os.environ)
    data = workers.measure(workers.Config(steps=1, repetitions=1))
    assert dict(os.environ) == before
    assert dict(data.sizes) == {"settings": 2, "repetition": 1}
    assert (data["seconds"] > data["system_seconds"]).all()
    assert [row.split("|")[1].strip() for row in workers.section(data)[-2:]] == [
        workers.DASK,
        workers.OURS,
    ]
    assert f"{float(data['seconds'].sel(settings=workers.OURS).item()):.1f} s" in workers.summary(
        data
    )
