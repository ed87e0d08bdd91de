"""The explorer: what the sliders show is what the theory computes."""

import numpy as np
import pytest

from linlocal.analysis.explore import RULES, SCORES, Explorer, Setting, cosines, explore


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("score", SCORES)
def test_isometric_settings_are_exact_but_for_two_contexts(rule: str, score: str) -> None:
    error = float(cosines(Setting(rule=rule, score=score))["relative_error"].max())
    if rule == "both":
        assert error > 1e-3  # every context counts twice below the top
    else:
        assert error < 1e-11


def test_a_narrowing_network_is_inexact_until_the_penalty_takes_the_metric() -> None:
    plain = cosines(Setting(top_width=4))
    metric = cosines(Setting(top_width=4, metric="downstream"))
    assert float(plain["cosine"].min()) < 0.5
    assert float(metric["relative_error"].max()) < 1e-10


def test_widths_go_from_the_first_to_the_top() -> None:
    assert Setting(depth=4, first_width=32, top_width=4).widths == [32, 32, 16, 8, 4]
    assert len(Setting(depth=7).widths) == 8


def test_the_figure_shows_the_setting_and_moves_with_it() -> None:
    explorer = Explorer()
    for changes in ({"depth": 3}, {"relu": True}, {"condition_number": 50.0, "relu": False}):
        explorer.update(**changes)
        expected = cosines(explorer.setting)
        (shown, _) = explorer.figure.axes[0].lines
        np.testing.assert_array_equal(shown.get_ydata(), expected["cosine"].values)
        np.testing.assert_array_equal(shown.get_xdata(), expected["layer"].values)
        found = explorer.explanation.comparison["cosine"].values
        np.testing.assert_array_equal(found, expected["cosine"].values)


def test_what_is_shown_does_not_depend_on_what_was_shown_before() -> None:
    moved, pictures = Explorer(), set()
    for depth, width in ((5, 32), (5, 8), (9, 8), (5, 8), (5, 32)):
        moved.update(depth=depth, top_width=width)
        picture = moved._repr_png_()
        assert picture == Explorer(Setting(depth=depth, top_width=width))._repr_png_()
        pictures.add(picture)
    assert len(pictures) == 3


def test_a_slider_changes_the_picture_and_what_explain_finds(monkeypatch) -> None:
    monkeypatch.setattr("IPython.get_ipython", object)  # as if there were a notebook
    controls, (picture, found) = (box.children for box in explore().children)
    before = bytes(picture.value)
    assert "equals backpropagation" in found.value
    (width,) = (control for control in controls if control.description == "top width")
    width.value = 8
    now = Explorer(Setting(top_width=8))
    assert before != bytes(picture.value) == now._repr_png_()
    assert found.value == now.explanation._repr_html_()
    assert "metric penalty" in found.value


def test_without_a_notebook_there_is_an_explorer_that_shows_its_figure() -> None:
    explorer = explore()
    assert isinstance(explorer, Explorer)
    before = explorer._repr_png_()
    assert before.startswith(b"\x89PNG")
    explorer.update(depth=3)
    assert explorer._repr_png_() != before


def test_unknown_fields_and_rules_are_named() -> None:
    with pytest.raises(TypeError, match="colour"):
        Explorer().update(colour="red")
    with pytest.raises(ValueError, match="same layer, direct feedback, both"):
        cosines(Setting(rule="prayer"))
