"""Laws of drawing: the same bytes from the same results, and a way out when one is missing."""

import hashlib
import json
import shlex
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from typer.testing import CliRunner

from linlocal.analysis import results
from linlocal.analysis.results import Address, Provenance
from paper_figures import registry
from paper_figures.__main__ import app
from paper_figures.claims import Claim, record
from paper_figures.look import style
from paper_figures.report import sources


def make(seed=0):
    rng = np.random.default_rng(seed)
    return xr.Dataset(
        {"cosine": (("draw", "layer"), rng.random((6, 4)))},
        coords={"layer": [1, 2, 3, 4]},
        attrs={"experiment": "toy", "preset": "cpu", "seed": 0, "config": '{"width": 128}'},
    )


def draw(datasets):
    with style.house():
        figure = Figure()
        axes = figure.subplots()
        style.band(axes, datasets["toy"]["cosine"], "draw", color=style.PALETTE[0], label="toy")
        axes.set(xlabel="layer", ylabel="cosine", title="A toy")
        axes.legend()
        style.footer(figure, datasets["toy"])
    return figure


def claims(datasets):
    mean = float(datasets["toy"]["cosine"].mean())
    return [
        Claim("cosines are positive", mean > 0, f"{mean:.3f}", "1"),
        Claim("cosines exceed 2", mean > 2, f"{mean:.3f}"),
        Claim("holds at size | paper", None, "not run"),
    ]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy figure, registered under the name ``toy``, in an empty current folder."""
    module = types.ModuleType(registry.module_of("toy"), "A toy.\n\nMore about it.")
    module.INPUTS, module.PAPER, module.draw, module.claims = ("toy",), "A", draw, claims
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "NAMES", ("toy",))
    monkeypatch.chdir(tmp_path)
    return module


def cli(line):
    return CliRunner().invoke(app, shlex.split(line))


def store(preset="cpu", seed=0, folder="results"):
    path = Address("toy", preset, seed, Path(folder)).path
    config = {"width": 128, "rates": [0.1, 0.01]}
    return results.write(make(seed), path, Provenance.collect("toy", preset, seed, config))


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(folder).iterdir()}


def test_drawing_twice_gives_the_same_bytes(toy):
    store()
    assert cli("all").exit_code == 0
    first = digests("figures")
    assert set(first) == {"toy.png", "toy.svg", "claims.json", "claims.md"}
    assert cli("all").exit_code == 0
    assert cli("toy --out elsewhere").exit_code == 0
    assert digests("figures") == first == digests("elsewhere")
    store(seed=1)
    assert cli("toy --seed 1 --out other").exit_code == 0
    assert all(digests("other")[name] != first[name] for name in first)


def test_another_process_and_other_user_settings_give_the_same_bytes(tmp_path):
    style.save(draw({"toy": make()}), tmp_path / "here")
    code = """
import importlib.util, sys
from pathlib import Path
import matplotlib as mpl
mpl.rcParams.update({"svg.hashsalt": None, "font.size": 20, "savefig.dpi": 300})
spec = importlib.util.spec_from_file_location("framework", sys.argv[1])
framework = importlib.util.module_from_spec(spec)
spec.loader.exec_module(framework)
figure = framework.draw({"toy": framework.make()})
framework.style.save(figure, Path(sys.argv[2]) / "there")
"""
    subprocess.run([sys.executable, "-c", code, __file__, tmp_path], check=True)
    for suffix in ("png", "svg"):
        here, there = (tmp_path / f"{name}.{suffix}" for name in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()


def test_a_missing_result_prints_the_command_that_makes_it(toy):
    done = cli("all --preset smoke --seed 2 --results 'my results'")
    assert done.exit_code == 2
    command = " -m experiments run toy --preset smoke --seed 2 --out 'my results'"
    assert done.output.splitlines()[-1].strip() == shlex.quote(sys.executable) + command
    store("smoke", 2, "my results")
    assert cli("all --preset smoke --seed 2 --results 'my results'").exit_code == 0


def test_a_missing_result_does_not_keep_the_other_figures_from_being_drawn(toy, monkeypatch):
    lacking = types.ModuleType(registry.module_of("lacking"), "Lacks one.")
    lacking.INPUTS, lacking.PAPER = ("toy", "absent"), ""
    monkeypatch.setitem(sys.modules, lacking.__name__, lacking)
    monkeypatch.setattr(registry, "NAMES", ("lacking", "toy"))
    store()
    done = cli("all")
    assert done.exit_code == 2
    assert "run absent --preset cpu" in done.output
    assert "run toy" not in done.output
    assert Path("figures/toy.png").exists()


def test_kept_draws_the_figures_whose_results_all_exist(toy, monkeypatch):
    lacking = types.ModuleType(registry.module_of("lacking"), "Lacks one.")
    lacking.INPUTS, lacking.PAPER = ("toy", "absent"), ""
    monkeypatch.setitem(sys.modules, lacking.__name__, lacking)
    monkeypatch.setattr(registry, "NAMES", ("lacking", "toy"))
    done = cli("kept --preset paper")
    assert done.exit_code == 2
    assert "run absent --preset paper" in done.output
    store("paper")
    store("cpu")
    assert cli("kept --preset workstation").exit_code == 2
    for line in ("kept --preset paper", "kept"):
        assert cli(f"{line} --out 'for {line}'").exit_code == 0
        assert [path.name for path in Path(f"for {line}").iterdir()] == ["paper"]
        assert set(json.loads(Path(f"for {line}/paper/claims.json").read_text())) == {"toy"}
        page = Path(f"for {line}/paper/claims.md").read_text()
        assert page.startswith("# Claims, preset paper\n")
    store("workstation")
    assert cli("kept").exit_code == 0
    for preset in ("workstation", "paper"):
        page = Path(f"figures/{preset}/report.html").read_text()
        assert f"preset {preset}" in page
        assert 'id="toy"' in page
        assert 'id="lacking"' not in page


def test_a_result_of_older_code_is_drawn_and_named_with_its_commit(toy, monkeypatch):
    store("paper")
    stored = Provenance.of(results.read(Path("results/toy-paper-seed0.nc")))
    said = f"made by other code than the present, commit {stored.commit}"
    for code, expected in (("unknown", False), ("edited", True)):
        monkeypatch.setattr(sources, "code_version", lambda module, code=code: code)
        done = cli("kept --force")
        assert done.exit_code == 0
        assert Path("figures/paper/toy.png").exists()
        pages = [Path(f"figures/paper/report.{kind}").read_text() for kind in ("html", "md")]
        assert [said in text for text in (done.output, *pages)] == [expected] * 3


def test_a_damaged_result_costs_one_line(toy):
    path = store()
    path.write_bytes(path.read_bytes()[:50])
    done = cli("toy")
    assert done.exit_code == 2
    assert len(done.output.splitlines()) == 1
    assert "damaged" in done.output


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("toi", "did you mean 'toy'? Possible: toy."),
        ("all --preset big", "smoke, cpu, workstation, paper."),
    ],
)
def test_an_unknown_name_costs_one_line(toy, line, hint):
    done = cli(line)
    assert done.exit_code == 2
    assert len(done.output.splitlines()) == 1
    assert hint in done.output


def test_the_list_shows_captions(toy):
    assert cli("list").output == "toy: A toy.\n"


def test_claims_are_printed_and_recorded_with_their_verdicts(toy):
    store()
    printed = cli("toy").output
    assert "  reproduced: cosines are positive (measured 0." in printed
    assert "published 1)" in printed
    assert "  fails: cosines exceed 2" in printed
    assert "  undecided: holds at size | paper (measured not run)" in printed
    entry = json.loads(Path("figures/claims.json").read_text())["toy"]
    assert entry["run"] == "preset cpu, seed 0"
    verdicts = [claim["verdict"] for claim in entry["claims"]]
    assert verdicts == ["reproduced", "fails", "undecided"]
    table = [line for line in Path("figures/claims.md").read_text().splitlines() if "|" in line]
    assert table[-1] == r"| holds at size \| paper | undecided | not run |  |  |"


def test_a_verdict_accepts_the_booleans_of_numpy():
    verdicts = [Claim("x", np.float64(1) > limit, "1").verdict for limit in (0, 2)]
    assert verdicts == ["holds", "fails"]


@pytest.mark.parametrize(
    ("published", "elsewhere", "words"),
    [
        (None, None, ("holds", "fails", "undecided")),
        ("1", None, ("reproduced", "contradicted", "undecided")),
        ("1", "other data", ("not comparable",) * 3),
    ],
)
def test_what_a_paper_says_is_judged_on_its_own_data_only(published, elsewhere, words):
    decided = [Claim("x", holds, "2", published, elsewhere) for holds in (True, False, None)]
    assert tuple(claim.verdict for claim in decided) == words
    assert [claim.here for claim in decided] == ["holds", "fails", "undecided"]
    if elsewhere:  # what came out is told all the same, and what it cannot be compared with
        assert [claim.evidence for claim in decided] == [f"{c.here} here: 2" for c in decided]
        assert {claim.source for claim in decided} == {"1 (on other data)"}


def test_recording_one_figure_keeps_the_others_whatever_the_order(tmp_path):
    one, two = Claim("one", True, "1"), Claim("two", False, "2")
    for folder, order in (("a", "xyx"), ("b", "yx")):
        for figure in order:
            record(figure, [{"x": one, "y": two}[figure]], "preset cpu", tmp_path / folder)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert set(json.loads((tmp_path / "a" / "claims.json").read_text())) == {"x", "y"}
    (tmp_path / "a" / "claims.json").write_text('{"x": ')
    record("y", [two], "preset cpu", tmp_path / "a")
    assert set(json.loads((tmp_path / "a" / "claims.json").read_text())) == {"y"}


def band_edges(values):
    axes = Figure().subplots()
    style.band(axes, values, "draw", color="k", label="x")
    (line,), (fill,) = axes.lines, axes.collections
    return line.get_ydata(), fill.get_paths()[0].vertices


def test_the_band_is_the_student_interval_of_the_mean():
    values = xr.DataArray([[1.0, 5.0], [3.0, np.nan], [5.0, 7.0]], dims=("draw", "layer"))
    values = values.assign_coords(layer=[1, 2])
    mean, corners = band_edges(values)
    np.testing.assert_allclose(mean, [3.0, 6.0])
    # t(0.975) is 4.303 with 2 degrees of freedom, 12.706 with 1.
    half = [4.302653 * 2 / np.sqrt(3), 12.706205 * np.sqrt(2) / np.sqrt(2)]
    for layer, expected in zip((1, 2), half, strict=True):
        heights = corners[corners[:, 0] == layer, 1]
        assert heights.max() - heights.min() == pytest.approx(2 * expected, rel=1e-6)


def test_one_repetition_has_a_mean_and_no_interval_and_no_warning():
    one = xr.DataArray([[1.0, 2.0]], dims=("draw", "layer"), coords={"layer": [1, 2]})
    axes = Figure().subplots()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        style.band(axes, one, "draw", color="k", label="x")
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [1.0, 2.0])


def test_a_band_over_a_dimension_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"needs 'seed' and one other dimension"):
        style.band(Figure().subplots(), make()["cosine"], "seed", color="k", label="x")


def test_the_footer_names_the_run_and_no_commit():
    figure = draw({"toy": make()})
    (text,) = figure.texts
    assert text.get_text() == "toy: preset cpu, seed 0, width 128"


def test_all_registered_figures_load():
    for name in registry.NAMES:
        module = registry.load(name)
        assert module.INPUTS
        assert registry.caption(module)


@pytest.mark.parametrize("level", [0.95, 0.99])
@pytest.mark.parametrize("count", [3, 20])
def test_the_spread_holds_a_further_repetition_as_often_as_it_says(count, level):
    """The interval of the mean shrinks with the repetitions, and so holds it more rarely."""
    rng = np.random.default_rng(count)
    values = xr.DataArray(rng.standard_normal((count + 1, 20_000)), dims=("draw", "trial"))
    seen, further = values.isel(draw=slice(count)), values.isel(draw=count)
    hits = {}
    for name in ("spread", "interval"):
        mean, half = getattr(style, name)(seen, "draw", level)
        hits[name] = float((np.abs(further - mean) <= half).mean())
    error = 4 * np.sqrt(level * (1 - level) / values.sizes["trial"])
    assert abs(hits["spread"] - level) < error
    assert hits["interval"] < level - error
