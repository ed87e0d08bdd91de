"""Laws of the stability of verdicts: what a second run with other threads changes is told."""

import shlex
import sys
import types
from types import SimpleNamespace

import pytest
import xarray as xr
from typer.testing import CliRunner

from linlocal.analysis import results
from linlocal.analysis.results import Address, Provenance
from paper_figures import registry
from paper_figures.claims import Claim, of_networks
from paper_figures.report import stability


def write(folder, values):
    address = Address("toy", "cpu", 0, folder)
    stored = Provenance.collect("toy", "cpu", 0, {})
    return results.write(xr.Dataset({"x": ("network", values)}), address.path, stored)


def claims(datasets):
    x = datasets["toy"]["x"]
    return [
        Claim("x is positive", of_networks(x, "network", above=0), "x"),
        Claim("x is below 9", of_networks(x, "network", below=9), "x"),
    ]


@pytest.fixture
def toy(monkeypatch, tmp_path):
    module = types.ModuleType(registry.module_of("toy"), "A toy.")
    module.INPUTS, module.PAPER, module.claims = ("toy",), "", claims
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "NAMES", ("toy",))
    write(tmp_path, [1.0, 1.1, 1.2])
    return tmp_path


def run(toy, monkeypatch, values, code=0):
    """The command, with a second run that gives these values; and what that run was."""
    seen = {}

    def second(line, env, **options):
        seen.update(line=line, threads=env["OMP_NUM_THREADS"])
        folder = line[line.index("--out") + 1]
        if not code:
            write(type(toy)(folder), values)
        return SimpleNamespace(returncode=code, stderr="no memory")

    monkeypatch.setattr(stability.subprocess, "run", second)
    options = ["toy", "--results", str(toy), "--threads", "3"]
    return CliRunner().invoke(stability.app, options), seen


def test_the_same_verdicts_end_with_0_and_others_with_1_and_both_numbers(toy, monkeypatch):
    same, seen = run(toy, monkeypatch, [1.0, 1.1, 1.21])
    assert (same.exit_code, same.output) == (0, "toy: 0 of 2 verdicts change\n")
    assert seen["threads"] == "3"
    assert " ".join(seen["line"][1:]).startswith("-m experiments run toy --preset cpu --seed 0")
    other, _ = run(toy, monkeypatch, [-1.0, 1.1, 1.2])
    assert other.exit_code == 1
    first, second = other.output.splitlines()
    assert first == "toy: 1 of 2 verdicts change"
    assert "x is positive: holds (x; interval +0.8" in second
    assert ", then undecided (x; interval -" in second


def test_a_run_that_fails_or_a_result_that_is_missing_costs_one_line(toy, monkeypatch):
    failed, seen = run(toy, monkeypatch, [1.0], code=1)
    assert failed.exit_code == 2
    assert shlex.join(seen["line"]) in failed.output
    assert "no memory" in failed.output
    missing = CliRunner().invoke(stability.app, ["toy", "--results", str(toy / "none")])
    assert missing.exit_code == 2
    assert "error: " in missing.output


def test_one_figure_of_each_kind_is_the_default():
    for name in stability.KINDS:
        assert registry.load(name).INPUTS
