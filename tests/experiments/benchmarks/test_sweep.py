"""The benchmark of sweeps compares equal results."""

from experiments.benchmarks import sweep


def test_the_sweep_and_the_loop_agree_and_are_shown():
    data = sweep.measure(sweep.Config(networks=2, batches=1, workers=(1, 2)))
    assert dict(data.sizes) == {"condition": len(sweep.CONDITIONS), "workers": 2}
    eps = 2.0**-52
    assert (data["difference"] <= 16 * eps * data["condition_number"].clip(min=1e3)).all()
    assert (data["residual"] <= 1e-13).all()
    assert (data["loop_s"] > 0).all()
    assert (data["sweep_s"] > 0).all()
    shown = "\n".join(sweep.section(data))
    assert all(f"| {condition} |" in shown for condition in sweep.CONDITIONS)
    assert f"{float(data['loop_s'].sum()):.0f} s" in sweep.summary(data)[2]
