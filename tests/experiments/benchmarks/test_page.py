"""The page of benchmarks is what its result files say."""

import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import xarray as xr
from typer.testing import CliRunner

from experiments.benchmarks import __main__ as benchmarks, registry
from experiments.benchmarks.__main__ import FOLDER, PAGE, app, page
from linlocal.analysis import results
from linlocal.analysis.results import Provenance

ROOT = Path(__file__).parent.parent.parent.parent


def test_the_page_is_what_the_result_files_say():
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(ROOT / FOLDER)


def test_every_benchmark_was_measured_and_says_what_it_measures():
    for name in registry.NAMES:
        benchmark = registry.load(name)
        assert benchmark.TITLE
        assert "cpu" in benchmark.CONFIGS
        assert list((ROOT / FOLDER).glob(f"{name}-*.nc"))


@dataclass(frozen=True)
class Config:
    seed: int = 0


def takes_a_while(config):
    time.sleep(0.05)
    return xr.Dataset({"thing_s": ((), 1.0, {"units": "s"})})


SLOW = SimpleNamespace(
    CONFIGS={"cpu": Config()},
    TITLE="A thing",
    measure=takes_a_while,
    summary=lambda data: ("a thing", "1 s", ""),
    section=lambda data: ["1 s"],
)


def test_every_result_of_a_call_has_the_commit_before_it_and_its_duration(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "NAMES", ("one", "two"))
    monkeypatch.setattr(registry, "load", lambda name: SLOW)
    monkeypatch.setattr(benchmarks, "FOLDER", tmp_path)
    monkeypatch.setattr(benchmarks, "PAGE", tmp_path / "page.md")
    collected, files_before = Provenance.collect("a benchmark", "cpu", 0, {}), []

    def collect(*described):
        files_before.append(len([*tmp_path.iterdir()]))
        return collected

    monkeypatch.setattr(benchmarks.Provenance, "collect", collect)
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0, done.output
    assert files_before == [0, 0]
    for name in ("one", "two"):
        assert results.read(tmp_path / f"{name}-cpu.nc").attrs["duration_s"] >= 0.05
    assert "| a thing | 1 s |" in (tmp_path / "page.md").read_text(encoding="utf-8")


def test_an_unknown_benchmark_is_named_in_one_line():
    done = CliRunner().invoke(app, ["recordre"])
    assert done.exit_code == 2
    assert "did you mean 'recorder'" in done.output
