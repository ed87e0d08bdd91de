"""The tables of the page on hierarchies are what the kept results say, and follow the numbers."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

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
    assert page.read_text(encoding="utf-8").count("no result of this size is kept") == 3
    (tmp_path / "rhm_masks-workstation-seed0.nc").write_bytes(b"no result")
    damaged = CliRunner().invoke(hierarchy_page.app, line)
    assert damaged.exit_code == 2
    assert "rhm_masks-workstation-seed0.nc" in damaged.output
    with pytest.raises(ValueError, match="needs the markers"):
        hierarchy_page.written("no markers", kept)
