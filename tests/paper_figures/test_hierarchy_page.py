"""The tables of the page on hierarchies are what the kept results say, and follow the numbers."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from linlocal.analysis import results
from paper_figures.look import needed
from paper_figures.report import hierarchy_page

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "hierarchy.md"


@pytest.fixture(scope="module")
def kept():
    return hierarchy_page.kept(ROOT / "results")


def cells(lines, *first):
    """The cells of the row that begins with these, a repeated first cell being empty."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    (row,) = (row for row in rows if tuple(row[: len(first)]) == first)
    return row


def test_the_page_shows_what_the_kept_results_say(kept):
    text = PAGE.read_text(encoding="utf-8")
    assert set(kept) >= {"rhm_feedback", "rhm_masks", "rhm_sample_complexity"}
    assert hierarchy_page.written(text, kept) == text, f"run `{hierarchy_page.COMMAND}`"


def test_what_a_rule_needs_and_whether_it_learns_follow_the_numbers(kept):
    data = kept["rhm_feedback"].isel(setting=[0])
    data = data.assign(finished=xr.ones_like(data["finished"]))
    tried = data["test_accuracy"].notnull()
    grammars = xr.DataArray(1e-3 * np.arange(8), dims="repetition")
    for accuracy, learns in ((0.99, "yes"), (0.5, "no")):
        changed = data.assign(test_accuracy=(tried * (accuracy - grammars)).where(tried))
        row = cells(hierarchy_page.by_rule(changed), "", "direct feedback alignment")
        assert row[2] == learns
        assert row[4] == f"{accuracy - 0.0035:.2f}"
        assert row[-1] == "0%"
        if learns == "no":
            said = hierarchy_page.statements({"rhm_feedback": changed})
            assert "nothing to compare" in cells(said, "direct feedback fails")[3]
        else:
            said = hierarchy_page.statements({"rhm_feedback": changed})
            assert "direct feedback alignment (accuracy" in cells(said, "direct feedback fails")[2]
    unfinished = changed.assign(finished=0 * changed["finished"])
    row = cells(hierarchy_page.by_rule(unfinished), "", "direct feedback alignment")
    assert (row[2], row[-1]) == ("undecided", "100%")


def test_the_data_that_networks_need_follow_the_numbers(kept):
    data = kept["rhm_sample_complexity"]
    learned = (data["multiple"] >= 1).where(data["test_accuracy"].notnull())
    row = cells(hierarchy_page.by_network(data.assign(test_accuracy=learned)), "v=8 m=6 L=3")
    assert row[1] == str(8 * 6**3)
    assert row[2].endswith("(0.5 to 1.0)")
    never = hierarchy_page.by_network(data.assign(test_accuracy=0 * learned))
    assert "above" in cells(never, "v=8 m=6 L=3")[2]


def test_terms_are_means_of_layer_1_with_their_intervals(kept):
    data = kept["rhm_masks"]
    values = data["masks_shapley"].copy()
    values[{"layer": 0}] = 0.5
    lines = hierarchy_page.by_term(data.assign(masks_shapley=values))
    shown = [line.split("|")[4].strip() for line in lines if line.startswith("| ") and "+-" in line]
    assert len(shown) == data.sizes["rule"] * data.sizes["grammar"]
    assert set(shown) == {"0.50 +- 0.00"}


def test_views_show_what_was_measured_at_the_most_data(smoke):
    small = results.read(smoke("rhm_local_ssl")).isel(multiple=0)
    sizes = xr.DataArray([1.0, 2.0, 4.0], dims="multiple", coords={"multiple": [1.0, 2.0, 4.0]})
    grammars = xr.DataArray(1e-3 * np.arange(8), dims="repetition")
    shape = small["test_accuracy"].isel(repetition=0, drop=True).drop_vars("multiple")
    accuracy = (xr.zeros_like(shape) + xr.where(sizes >= 2, 0.99, 0.3) - grammars).astype(float)
    late = accuracy.where(sizes >= 4, 0.3)
    of_rule = shape["rule"] == "VICReg local views"
    over_grammars = [name for name in small if "repetition" in small[name].dims]
    data = small.drop_vars([*over_grammars, "multiple"]).assign(
        test_accuracy=xr.where(of_rule, late, accuracy),
        hidden_accuracy=accuracy - 0.1,
        own_accuracy=accuracy.where(shape["loss"].isin(["supervised backpropagation"])),
        finished=xr.where(of_rule, 0.0, 1.0) + 0 * accuracy,
        steps=0 * accuracy + 70,
    )
    lines = hierarchy_page.by_view(data)
    supervised = cells(lines, "", "supervised backpropagation labels")
    assert supervised[2].endswith("(1.0 to 2.0) P*")
    assert supervised[4:] == ["0.99 +- 0.00", "0.89 +- 0.00", "0.99 +- 0.00", "4", "70", "0%"]
    assert cells(lines, "v=4 m=2 L=3", "CLAPP local views")[2] == "1.0 (0.5 to 2.0)"
    later = cells(lines, "", "VICReg local views")
    assert later[2].endswith("(1.0 to 4.0)")
    assert later[-1] == "100%"
    once = hierarchy_page.by_view(data.isel(multiple=[2]))
    assert cells(once, "", "VICReg local views")[2:4] == ["", ""]


def test_blocks_show_the_accuracy_of_each(smoke):
    data = results.read(smoke("rhm_images"))
    values = 0 * data["accuracy"] + data["layer"] / 10
    shown = hierarchy_page.by_block(data.assign(accuracy=values, finished=0 * data["finished"]))
    row = cells(shown, "VICReg local")
    assert [cell[:4] for cell in row[1:-2]] == [f"{l / 10:.2f}" for l in data["layer"].values]
    assert row[-1] == "100%"
    assert cells(shown, "untrained")[-2:] == ["", ""]


def test_below_a_table_stand_its_command_and_how_its_run_ended(kept):
    data = kept["rhm_feedback"]
    data = data.assign(
        inside=("cell", [1.0, 1.0, 0.0, np.nan]),
        steps=("cell", [5.0, 5.0, 0.0, np.nan]),
        finished=("cell", [1.0, 0.0, 0.0, np.nan]),
    ).assign_attrs(duration_s=150.0, hardware='{"cores": 7}')
    command = (
        "`python -m experiments run rhm_feedback --preset workstation`, 2 minutes of 7 cores: "
    )
    cap = "50.0% of the trainings met the cap of steps."
    inside = "2 of 3 learning rates lie inside their grids, "
    assert hierarchy_page.run(data) == command + inside + cap
    assert hierarchy_page.run(data.drop_vars("inside")) == command + cap
    page = PAGE.read_text(encoding="utf-8")
    assert all(page.count(hierarchy_page.run(each)) == 1 for each in kept.values())


def test_a_result_that_is_not_kept_is_said_to_be_missing(tmp_path):
    assert hierarchy_page.kept(tmp_path) == {}
    lines = hierarchy_page.statements({})
    assert sum("no result of this size is kept" in line for line in lines) == 3


def test_the_command_writes_the_page_and_answers_damage(tmp_path, kept):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    line = ["--results", str(tmp_path), "--page", str(page)]
    done = CliRunner().invoke(hierarchy_page.app, line)
    assert done.exit_code == 0, done.output
    missing = len(hierarchy_page.STATEMENTS) + len(hierarchy_page.TABLES)
    assert page.read_text(encoding="utf-8").count("no result of this size is kept") == missing
    (tmp_path / "rhm_masks-workstation-seed0.nc").write_bytes(b"no result")
    damaged = CliRunner().invoke(hierarchy_page.app, line)
    assert damaged.exit_code == 2
    assert "rhm_masks-workstation-seed0.nc" in damaged.output
    with pytest.raises(ValueError, match="needs the markers"):
        hierarchy_page.written("no markers", kept)


@pytest.mark.parametrize(
    ("estimate", "low", "high", "words", "middle"),
    [
        (2.4, 2.0, 2.83, "2.4 (2.0 to 2.8)", "2.4"),
        (2.4, 2.0, np.inf, "2.4 (above 2.0)", "2.4"),
        (0.5, 0.0, 0.5, "at most 0.5", "0.5"),
        (np.nan, 16.0, np.inf, "above 16.0", "above 16.0"),
        (np.nan, 0.0, np.inf, "unknown", "unknown"),
        (np.nan, np.nan, np.nan, "unknown", "unknown"),
    ],
)
def test_a_size_in_words(estimate, low, high, words, middle):
    size = xr.Dataset({"estimate": estimate, "low": low, "high": high})
    assert needed.words(size) == words
    assert needed.middle(size) == middle
