"""Laws of the page of results: the strongest evidence decides, and nothing is dropped."""

import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from linlocal.analysis import results
from linlocal.analysis.results import Address, Provenance
from paper_figures import registry
from paper_figures.addresses import strongest
from paper_figures.claims import Claim, of_networks
from paper_figures.report import results_page

# The title of a paper and its number.
HEADING = re.compile(r"^## (.+) \(arXiv (\d{4}\.\d{5})\)$", re.MULTILINE)


def store(folder, preset, data="", values=(0.9, 1.0, 1.1), experiment="toy", **extra):
    address = Address(experiment, preset, extra.pop("seed", 0), folder, data)
    config = {"width": 3, **({"data": "x"} if data else {})}
    dataset = xr.Dataset({"x": ("network", list(values))}, attrs=extra)
    stored = Provenance.collect(experiment, preset, address.seed, config)
    results.write(dataset, address.path, stored)
    return address


def claims(datasets):
    x = datasets["toy"]["x"]
    return [
        Claim("x is positive", of_networks(x, "network", above=0), "a", "1 (arXiv 2302.01647)"),
        Claim("x is large | always", of_networks(x, "network", above=5), "b"),
        Claim("x is near 1", of_networks(x, "network", 0.9, 1.1), "c", "1", "other data"),
    ]


@pytest.fixture
def toy(monkeypatch):
    module = types.ModuleType(registry.module_of("toy"), "A toy.")
    module.INPUTS, module.PAPER, module.claims = ("toy",), "A", claims
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "NAMES", ("toy",))
    return module


def test_data_go_before_what_stands_in_and_larger_presets_before_smaller(tmp_path):
    def found():
        return [(each.preset, each.data) for each in strongest("toy", tmp_path)]

    assert found() == []
    for preset, data, expected in (
        ("smoke", "mnist-1", [("smoke", "mnist-1")]),
        ("cpu", "", [("cpu", "")]),
        ("paper", "", [("paper", "")]),
        ("cpu", "mnist-1", [("cpu", "mnist-1")]),
        ("workstation", "mnist-1", [("workstation", "mnist-1")]),
        ("cpu", "cifar10-2", [("workstation", "mnist-1"), ("cpu", "cifar10-2")]),
    ):
        store(tmp_path, preset, data)
        assert found() == expected
    # The results of another experiment are none of its own.
    store(tmp_path, "paper", "mnist-1", experiment="my_toy")
    assert found() == expected
    usable = strongest("toy", tmp_path, lambda address: address.preset != "workstation")
    assert [(each.preset, each.data) for each in usable] == [
        ("cpu", "cifar10-2"),
        ("cpu", "mnist-1"),
    ]


def test_every_claim_stands_under_its_paper_with_verdict_numbers_and_evidence(toy, tmp_path):
    store(tmp_path, "workstation", "mnist-1")
    found = results_page.gather(tmp_path)
    text = results_page.page(found)
    papers = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    (blockwise,) = (body for title, body in papers.items() if "2302.01647" in title)
    (local,) = (body for title, body in papers.items() if "2601.21683" in title)
    assert "*Reproduced*: x is positive." in blockwise
    assert "*Not comparable*: x is near 1." in local
    assert "undecided here: c; interval" in local
    own = papers["Our own statements"]
    assert "*Fails*: x is large | always." in own
    assert "Of 1 statements 0 hold, 1 fail, 0 are undecided." in own
    assert text.count("3 networks") == 3
    # Once for each part of a paper, and in the table of our own.
    assert text.count("`toy-workstation-seed0-mnist-1.nc` (preset workstation, mnist") == 4
    assert "| all | 1 | 0 | 0 | 1 |" in text
    assert "1 put to numbers, 1 is reproduced. On larger runs rest 1, on demonst" in blockwise


def test_stronger_evidence_takes_the_verdict_over(toy, tmp_path):
    store(tmp_path, "cpu")
    assert "*Reproduced*: x is positive." in results_page.page(results_page.gather(tmp_path))
    store(tmp_path, "paper", "mnist-1", -np.array([0.9, 1.0, 1.1]))
    text = results_page.page(results_page.gather(tmp_path))
    assert "*Contradicted*: x is positive." in text
    assert "cpu-seed0" not in text


def test_what_larger_runs_took_is_told_and_summed(toy, tmp_path):
    def told(preset, duration_s, data=""):
        address = store(tmp_path, preset, data)
        dataset = results.read(address.path)
        stored = replace(Provenance.of(dataset), duration_s=duration_s, hardware='{"cores": 7}')
        results.write(dataset, address.path, stored)
        text = results_page.page(results_page.gather(tmp_path))
        return text.partition("## What it took")[2]

    assert told("cpu", 60.0) == ""
    first = told("workstation", 540_000.0, "mnist-1")
    assert "took 150.0 hours" in first
    assert "| `toy-workstation-seed0-mnist-1.nc` | 9000.0 | 7 | unknown | present |" in first
    second = told("workstation", 1800.0, "cifar10-2")
    assert "took 150.5 hours" in second
    assert second.count("| `toy-workstation") == 2


def test_a_run_of_other_code_is_told_apart(toy, tmp_path, monkeypatch):
    store(tmp_path, "workstation", "mnist-1")
    found = results_page.gather(tmp_path)
    assert " | present |" in results_page.page(found)
    monkeypatch.setattr(results_page, "outdated", lambda *made: "made by other code")
    assert " | other |" in results_page.page(found)


def test_results_of_other_parameters_stand_below_and_decide_nothing(toy, tmp_path):
    store(tmp_path, "workstation", "mnist-1")
    plain = results_page.page(results_page.gather(tmp_path))
    label = "set-width-0123abcd-mnist-1"
    store(tmp_path, "workstation", label, (-1.1, -1.0, -0.9), settings='{"width": 3}')
    store(tmp_path, "cpu", label, settings='{"width": 3}')  # a demonstration

    def written():
        out = tmp_path / "page.md"
        CliRunner().invoke(results_page.app, ["--results", str(tmp_path), "--out", str(out)])
        return out.read_text()

    above, _, below = written().partition("## With other parameters\n")
    assert above == plain.partition("## What it took")[0]
    said, _, took = below.partition("## What it took")
    assert f"`toy-workstation-seed0-{label}.nc` (preset workstation, mnist, seed 0," in said
    assert "with width=3." in said
    assert "- x is positive. Measured: a; interval " in said
    assert [line.rpartition(": ")[2] for line in said.splitlines() if line.startswith("- ")] == [
        "fails.",
        "fails.",
        "fails.",
    ]
    assert " here: " not in said
    assert took.count(label) == 1
    assert "cpu" not in said


def test_a_result_of_other_parameters_and_older_code_is_named_and_left_out(
    toy, tmp_path, monkeypatch, capsys
):
    label = "set-width-0123abcd"
    address = store(tmp_path, "workstation", label, settings='{"width": 3}')
    both = types.ModuleType(registry.module_of("both"), "Needs two.")
    both.INPUTS, both.PAPER, both.claims = ("toy", "absent"), "", claims
    monkeypatch.setitem(sys.modules, both.__name__, both)
    monkeypatch.setattr(registry, "NAMES", ("both", "toy"))
    assert [each.figure for each in results_page.beside(tmp_path)] == ["toy"]
    assert capsys.readouterr().err == ""
    stored = Provenance.collect("toy", "workstation", 0, {})
    results.write(xr.Dataset({"y": 1.0}, attrs={"settings": '{"width": 3}'}), address.path, stored)
    assert results_page.beside(tmp_path) == []
    assert address.path.name in capsys.readouterr().err


def test_a_figure_without_a_result_is_named(toy, tmp_path, monkeypatch):
    store(tmp_path, "cpu")
    assert "Without a result" not in results_page.page(results_page.gather(tmp_path))
    lacking = types.ModuleType(registry.module_of("lacking"), "Lacks one.")
    lacking.INPUTS, lacking.PAPER, lacking.claims = ("absent",), "", claims
    monkeypatch.setitem(sys.modules, lacking.__name__, lacking)
    monkeypatch.setattr(registry, "NAMES", ("lacking", "toy"))
    text = results_page.page(results_page.gather(tmp_path))
    assert text.endswith("Without a result that the present code reads: lacking.\n")


def test_a_result_of_older_code_leaves_its_place_to_the_next(toy, tmp_path):
    store(tmp_path, "cpu")
    older = store(tmp_path, "paper")
    stored = Provenance.collect("toy", "paper", 0, {})
    results.write(xr.Dataset({"y": 1.0}), older.path, stored)
    (found,) = results_page.gather(tmp_path)
    assert "preset cpu" in found.words
    older.path.write_bytes(b"damaged")
    assert "preset cpu" in results_page.gather(tmp_path)[0].words


def test_the_command_writes_the_page_and_says_what_is_missing(toy, tmp_path):
    out = tmp_path / "results.md"
    app = results_page.app
    nothing = CliRunner().invoke(app, ["--results", str(tmp_path), "--out", str(out)])
    assert (nothing.exit_code, out.exists()) == (2, False)
    assert "holds no results" in nothing.output
    store(tmp_path, "cpu")
    for _ in range(2):
        done = CliRunner().invoke(app, ["--results", str(tmp_path), "--out", str(out)])
        assert done.exit_code == 0
        assert out.read_text() == results_page.page(results_page.gather(tmp_path))


def test_the_page_in_the_documentation_is_one_that_the_command_wrote():
    written = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    assert written.startswith(f"# Results\n\n{results_page.METHOD}\n")
    introduced = {number for _, number in HEADING.findall(written)}
    assert introduced == results_page.PAPERS.keys()
