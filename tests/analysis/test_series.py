"""A series on disk costs the same at its thousandth piece, and loses nothing."""

import numpy as np
import pytest
import xarray as xr

from linlocal.analysis import results
from linlocal.analysis.alignment import series
from linlocal.analysis.results import Provenance, ResultError

PROVENANCE = Provenance.collect("none", "smoke", 0, {})


def piece(*steps, layers=2):
    values = np.array(steps)[:, None] + np.arange(layers) / 10
    return xr.Dataset(
        {"cosine": (("step", "layer"), values)}, {"step": [*steps], "layer": range(1, layers + 1)}
    )


@pytest.fixture
def read_files(monkeypatch):
    """The names of the files that are read."""
    found = []
    read = results.read

    def counting(path):
        found.append(path.name)
        return read(path)

    monkeypatch.setattr(results, "read", counting)
    return found


def test_neither_start_nor_flush_reads_more_than_the_newest_file(tmp_path, read_files):
    for k in range(6):
        series.append(tmp_path, piece(2 * k, 2 * k + 1), PROVENANCE)
        assert read_files == ([f"{k:08d}.nc"] if k else [])
        read_files.clear()
    assert series.last_step(tmp_path) == 11
    assert read_files == ["00000006.nc"]


def test_the_last_step_stays_the_last_when_a_training_goes_back(tmp_path):
    for steps in ([0, 1, 2, 3], [4, 5], [1, 2]):
        series.append(str(tmp_path), piece(*steps), PROVENANCE)
    assert series.last_step(str(tmp_path)) == 5
    together = series.read(str(tmp_path))
    assert together.step.values.tolist() == [0, 1, 2, 3, 4, 5]
    assert together.attrs.keys() == results.read(tmp_path / "00000001.nc").attrs.keys() - {
        "last step of the series"
    }


def test_a_writer_that_was_overtaken_counts_the_others_steps(tmp_path, monkeypatch):
    """Another process adds its file between a writer's look at the folder and its own file."""
    series.append(tmp_path, piece(0), PROVENANCE)
    write = results.write
    overtaken = []

    def slow(*arguments):
        monkeypatch.setattr(results, "write", write)
        overtaken.append(series.append(tmp_path, piece(7), PROVENANCE))
        return write(*arguments)

    monkeypatch.setattr(results, "write", slow)
    own = series.append(tmp_path, piece(3), PROVENANCE)
    assert [own.name, overtaken[0].name] == ["00000003.nc", "00000002.nc"]
    assert series.last_step(tmp_path) == 7
    assert series.read(tmp_path).step.values.tolist() == [0, 3, 7]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_file_is_passed_over_and_left_alone(tmp_path):
    for step in range(3):
        newest = series.append(tmp_path, piece(step), PROVENANCE)
    newest.write_bytes(b"torn")
    with pytest.warns(UserWarning, match="left out of the series"):
        assert series.last_step(tmp_path) == 1
    with pytest.warns(UserWarning, match="left out of the series"):
        assert series.append(tmp_path, piece(2), PROVENANCE).name == "00000004.nc"
    with pytest.warns(UserWarning, match="left out of the series"):
        assert series.read(tmp_path).step.values.tolist() == [0, 1, 2]
    assert newest.read_bytes() == b"torn"


def test_files_that_do_not_say_how_far_the_series_went_are_read(tmp_path):
    for number, steps in ((1, [0, 9]), (2, [3])):
        results.write(piece(*steps), tmp_path / f"{number:08d}.nc", PROVENANCE)
    assert series.last_step(tmp_path) == 9
    series.append(tmp_path, piece(5), PROVENANCE)
    assert series.last_step(tmp_path) == 9


def test_an_empty_series_has_no_last_step(tmp_path):
    assert series.last_step(tmp_path) is None
    assert series.last_step(tmp_path / "nowhere") is None


@pytest.mark.parametrize("wrong", [piece(0).isel(step=0), piece(0).isel(step=[]),
                                   piece(0).drop_vars("step")])  # fmt: skip
def test_a_piece_without_numbered_steps_is_refused(tmp_path, wrong):
    with pytest.raises(ResultError, match="needs steps, numbered by the coordinate 'step'"):
        series.append(tmp_path, wrong, PROVENANCE)


def test_another_series_is_refused(tmp_path):
    series.append(tmp_path, piece(0), PROVENANCE)
    with pytest.raises(ResultError, match="record into another folder"):
        series.append(tmp_path, piece(1, layers=3), PROVENANCE)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "other",
    [
        piece(1, layers=3),
        piece(1).rename(cosine="norm"),
        piece(1).assign(more=("step", [0.0])),
        piece(1).rename(layer="block"),
        piece(1).drop_vars("step"),
        xr.Dataset({"cosine": 1.0}),
    ],
)
def test_a_piece_of_another_form_that_somebody_put_there_is_refused_in_words(tmp_path, other):
    series.append(tmp_path, piece(0), PROVENANCE)
    results.write(other, tmp_path / "00000002.nc", PROVENANCE)
    with pytest.raises(ResultError, match=r"holds a (series|file)"):
        series.read(tmp_path)


RECORDED = {"rules": {"": "CLAPP(margin=1)"}, "against": "backward", "every": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rules", {"": "CLAPP(margin=5)"}),
        ("rules", {"": "CLAPP(margin=1)", "other": "LPL()"}),
        ("against", "rule"),
        ("every", 2),
        ("views", "separate"),
    ],
)
def test_a_series_that_was_recorded_in_another_way_is_refused(tmp_path, name, value):
    own = Provenance.collect("alignment", "recorded", 0, RECORDED)
    other = Provenance.collect("alignment", "recorded", 0, {**RECORDED, name: value})
    series.append(tmp_path, piece(0), own)
    with pytest.raises(ResultError, match=rf"a series with {name} = .*, this one has .*another"):
        series.append(tmp_path, piece(1), other)
    with pytest.raises(ResultError, match=f"a series with {name} = "):
        series.last_step(tmp_path, other)
    assert series.last_step(tmp_path, own) == 0
    series.append(tmp_path, piece(1), own)
    assert series.read(tmp_path).step.values.tolist() == [0, 1]
    # As versions before this check left them.
    results.write(piece(2), tmp_path / "00000003.nc", other)
    with pytest.raises(ResultError, match=f"a series with {name} = .*move the files"):
        series.read(tmp_path)


def test_of_long_texts_the_refusal_shows_where_they_differ(tmp_path):
    one, two = (
        Provenance.collect("alignment", "recorded", 0, {"rules": 200 * "a" + end + 900 * "b"})
        for end in ("margin=1", "margin=5")
    )
    series.append(tmp_path, piece(0), one)
    with pytest.raises(ResultError, match=r"\.\.\.a+margin=1b+\.\.\..*a+margin=5b+\.\.\.") as found:
        series.append(tmp_path, piece(1), two)
    assert len(str(found.value)) < 500
