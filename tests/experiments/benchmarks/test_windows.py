"""The windows that are timed span local training and backpropagation."""

from experiments.benchmarks import windows as bench


def test_every_window_is_measured_and_shown():
    data = bench.measure(bench.Config(rows=8, width=1 / 64, windows=(1, 2, 8), steps=3))
    assert bool(data["same"])
    assert (data["seconds"] > 0).all()
    assert float(data["bytes"][0]) < float(data["whole_bytes"])
    assert data["bytes"].values[:2].tolist() == sorted(data["bytes"].values[:2])
    rows = bench.section(data)[-3:]
    for row, window in zip(rows, (1, 2, 8), strict=True):
        ratio = float(data["bytes"].sel(window=window) / data["whole_bytes"])
        assert row.startswith(f"| {window} |")
        assert row.endswith(f" {ratio:.2f} |")
    assert "OTHER" in bench.section(data.assign(same=False))[0]
    assert bench.summary(data)[0] == "a step in windows of 2 of 8 blocks"
