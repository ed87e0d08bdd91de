"""The benchmark runs on a CPU, and says what it did not measure."""

import json
from dataclasses import replace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from experiments.benchmarks import gpu as gpu_benchmark
from experiments.benchmarks.gpu import IN_MICRO_BATCHES, NETWORKS, PRESETS, measure, table
from linlocal.analysis import results
from linlocal.analysis.training import LocalTrainer

SMOKE = PRESETS["smoke"]


def test_the_smoke_preset_measures_everything_and_names_the_hardware(tmp_path):
    app = gpu_benchmark.app
    done = CliRunner().invoke(app, ["--preset", "smoke", "--out", str(tmp_path), "--seed", "3"])
    assert done.exit_code == 0, done.output
    data = results.read(tmp_path / "gpu_benchmark-smoke-seed3.nc")
    assert data.attrs["duration_s"] > 0
    hardware = json.loads(data.attrs["hardware"])
    assert hardware["processor"] in done.output
    # BatchNorm of the ResNet cannot be cut into micro-batches; all else is measured.
    refused = data.sel(network=NETWORKS[0], training=IN_MICRO_BATCHES)["why"]
    assert "depends on the other rows" in str(refused.squeeze().values)
    measured = data["why"] == ""
    assert measured.sum() == data["why"].size - 1
    assert ((data["images_per_s"] > 0) == measured).all()
    assert ((data["peak_gib"] > 0) == measured).all()
    recorded = data["recorder_ratio"]
    assert (recorded.sel(training="end to end") > 0).all()
    assert recorded.drop_sel(training="end to end").isnull().all()
    # Of eight layers one at a time is in memory, or a part of one.
    ratio = data["memory_ratio"].sel(network=NETWORKS[1]).squeeze().to_series()
    assert ratio[IN_MICRO_BATCHES] < ratio["local"] < ratio["end to end"] == 1
    lines = table(data).splitlines()
    assert len(lines) == 2 + 6
    assert f"| {float(data['images_per_s'][0, 0, 0]):.4g} |" in lines[2]


def test_eager_leaves_out_compiled_blocks(tmp_path, monkeypatch):
    seen = []

    def nothing(config, *cell):
        seen.append(cell)
        return {}

    monkeypatch.setitem(PRESETS, "smoke", replace(SMOKE, compiled=(False, True)))
    monkeypatch.setattr(gpu_benchmark, "_measured", nothing)
    for options in ([], ["--eager"]):
        command = ["--preset", "smoke", "--out", str(tmp_path), *options]
        CliRunner().invoke(gpu_benchmark.app, command)
    assert [cell[-1] for cell in seen] == [False, True] * 6 + [False] * 6


def test_what_fails_is_absent_and_its_reason_given(monkeypatch):
    class Broken(LocalTrainer):
        def backward(self, views, batch=None):
            raise RuntimeError("out of memory\nand more")

    monkeypatch.setitem(gpu_benchmark.TRAININGS, "local", Broken)
    monkeypatch.setattr(gpu_benchmark, "build", only_the_encoder)
    data = measure(SMOKE)
    broken = data.sel(training="local")
    for name in ("images_per_s", "peak_gib", "recorder_ratio"):
        assert broken[name].isnull().all()
    assert np.isnan(broken["memory_ratio"]).all()
    assert (broken["why"] == "RuntimeError: out of memory").all()
    assert "| local | False |  |  |  |  | RuntimeError: out of memory |" in table(data)
    assert (data.sel(training="end to end")["images_per_s"] > 0).all()


real_build = gpu_benchmark.build


def only_the_encoder(config, network):
    """For speed."""
    return real_build(config, NETWORKS[1])


def test_presets_are_known_by_name(tmp_path):
    with pytest.raises(typer.Exit):
        gpu_benchmark.main(out=tmp_path, preset="huge")
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_measured_nothing_is_written(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("no luck")

    monkeypatch.setattr(gpu_benchmark, "_measured", fails)
    app = typer.Typer()
    app.command()(gpu_benchmark.main)
    done = CliRunner().invoke(app, ["--preset", "smoke", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "nothing could be measured" in done.output
    assert "RuntimeError: no luck" in done.output
    assert not list(tmp_path.iterdir())
