"""The benchmark of the recorder runs what training runs."""

from experiments.benchmarks import recorder

TINY = recorder.Config(widths=(4, 6, 5), pooled=(2,), batch=4, size=8, steps=3)


def test_all_costs_are_measured_and_shown():
    data = recorder.measure(TINY)
    assert (data.to_array() > 0).all()
    assert float(data["share"]) < float(data["ratio"])
    *_, row = recorder.section(data)
    assert f"{float(data['ratio']):.2f}" in row
