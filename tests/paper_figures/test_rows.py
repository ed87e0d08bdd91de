"""Dots in rows, and names beside points."""

import itertools

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from paper_figures.look import rows, style


@pytest.fixture
def axes():
    figure = Figure(figsize=(4, 3))
    return figure.subplots()


def test_a_row_has_its_mean_and_its_interval(axes):
    values = [xr.DataArray(np.array(v), dims="network") for v in ([0.1, 0.3, 0.2], [1.0, 2.0, 4.0])]
    rows.dots(axes, [3, 5], values, "network", color="red", marker="o")
    (drawn,) = axes.containers
    points, _, (bars,) = drawn.lines
    for k, each in enumerate(values):
        mean, half = (float(part) for part in style.interval(each, "network"))
        assert (points.get_xdata()[k], points.get_ydata()[k]) == (mean, [3, 5][k])
        assert bars.get_segments()[k][:, 0] == pytest.approx([mean - half, mean + half])


def test_one_repetition_is_a_dot_without_interval(axes):
    rows.dots(axes, [0], [xr.DataArray([0.5], dims="network")], "network", color="k", marker="o")
    (drawn,) = axes.containers
    ((low, high),) = drawn.lines[2][0].get_segments()[0][:, 0][None]
    assert low == high == 0.5


def test_names_lie_in_the_panel_and_cover_neither_points_nor_each_other(axes):
    rng = np.random.default_rng(0)
    x, y = rng.random(8), np.linspace(0, 1, 8)
    x[:2] = 1.0  # at the edge
    axes.plot(x, y, "o")
    axes.set(xlim=(0, 1), ylim=(-0.1, 1.1))
    axes.figure.draw_without_rendering()
    rows.name_points(axes, x, y, [f"point {k}" for k in range(8)], ["black"] * 8)
    assert [text.get_text() for text in axes.texts] == [f"point {k}" for k in range(8)]
    boxes = [text.get_window_extent() for text in axes.texts]
    frame = axes.get_window_extent()
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    points = axes.transData.transform(np.column_stack([x, y]))
    assert not any(box.contains(*point) for box in boxes for point in points)


def test_where_there_is_no_room_a_name_is_written_all_the_same(axes):
    x = y = np.full(40, 0.5)
    axes.figure.draw_without_rendering()
    rows.name_points(axes, x, y, ["here"] * 40, ["black"] * 40)
    assert len(axes.texts) == 40


@pytest.mark.parametrize(
    ("heights", "wanted"),
    [([0.5, 0.1, 0.52], [0.5, 0.1, 0.6]), ([0.2, 0.2], [0.2, 0.3]), ([], [])],
)
def test_labels_move_up_no_more_than_they_must(heights, wanted):
    assert rows.apart(heights, 0.1) == pytest.approx(wanted)
