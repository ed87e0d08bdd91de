"""Two processes that write into one folder at the same time lose nothing and damage nothing."""

import json
import signal
import sys
import time
from multiprocessing import get_context

import numpy as np
import pytest
import xarray as xr

from experiments.runner import Parts
from linlocal.analysis import results
from linlocal.analysis.alignment import series
from paper_figures import claims

ROUNDS = 12
PROVENANCE = results.Provenance.collect("none", "smoke", 0, {})


def dataset(number, size=3):
    values = np.full((1, size), float(number))
    labels = {"step": [number], "layer": range(1, size + 1)}
    return xr.Dataset({"value": (("step", "layer"), values)}, labels)


def write_everything(folder, round, who):
    k = 2 * round + who
    results.write(dataset(k), folder / "same.nc", PROVENANCE)
    results.write(dataset(k), folder / f"own-{k}.nc", PROVENANCE)
    series.append(folder / "series", dataset(k), PROVENANCE)
    parts = Parts(folder / "parts", PROVENANCE)
    parts.store("points", {"k": k}, dataset(round), 1.0)
    parts.store("points", {"k": round}, dataset(round), 1.0)
    # Several at a time, so that both writers do meet.
    for i in range(9):
        claims.record(f"{k}-{i}", [claims.Claim("c", True, "1")], "smoke", folder)


def write_large(folder, round, who):
    results.write(dataset(round, 200_000), folder / "same.nc", PROVENANCE)
    series.append(folder / "series", dataset(round, 200_000), PROVENANCE)
    claims.record(f"{round}", [claims.Claim("c", True, "1" * 9999)], "smoke", folder)


def writer(write, folder, who, rounds):
    """A copy of this process, which has its libraries, that writes in rounds."""

    def go():
        # Both begin together: the first round needs the other's flag.
        (folder / f"ready{who}").touch()
        deadline = time.monotonic() + 60
        while not (folder / f"ready{1 - who}").exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        for round in range(rounds):
            write(folder, round, who)

    process = get_context("fork").Process(target=go)
    process.start()
    return process


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folders of two processes that did all of this at the same time."""
    folder = tmp_path_factory.mktemp("written")
    both = [writer(write_everything, folder, who, ROUNDS) for who in (0, 1)]
    for each in both:
        each.join(timeout=100)
        assert each.exitcode == 0
    for flag in ("ready0", "ready1"):
        (folder / flag).unlink()
    return folder


def test_two_writers_of_one_result_leave_one_whole_file(written):
    assert results.read(written / "same.nc")["value"].values[0, 0] in range(2 * ROUNDS)


def test_two_writers_of_different_results_leave_all(written):
    for k in range(2 * ROUNDS):
        assert results.read(written / f"own-{k}.nc")["value"].values[0, 0] == k


def test_two_writers_of_one_series_leave_every_step(written):
    together = series.read(written / "series")
    assert together["step"].values.tolist() == list(range(2 * ROUNDS))
    assert (together["value"].values[:, 0] == together["step"].values).all()
    assert len(list((written / "series").iterdir())) == 2 * ROUNDS


def test_two_writers_of_one_sweep_leave_every_point(written):
    parts = Parts(written / "parts", results.Provenance.collect("none", "smoke", 0, {}))
    assert all(parts.restore("points", {"k": k}) is not None for k in range(2 * ROUNDS))


def test_two_writers_of_the_claims_leave_every_figure(written):
    expected = {f"{k}-{i}" for k in range(2 * ROUNDS) for i in range(9)}
    assert set(json.loads((written / "claims.json").read_text())) == expected
    assert all(f"## {figure} (" in (written / "claims.md").read_text() for figure in expected)


def test_two_writers_leave_no_temporary_file(written):
    assert not [file for file in written.rglob("*") if file.name.startswith(".")]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_writer_leaves_no_damaged_file_under_its_final_name(tmp_path):
    """Large files, so that the kill comes in the middle of one with near certainty."""
    (tmp_path / "ready1").touch()
    process = writer(write_large, tmp_path, 0, 10_000)
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / "series" / "00000002.nc").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    results.read(tmp_path / "same.nc")
    assert series.read(tmp_path / "series").sizes["step"] >= 2
    assert json.loads((tmp_path / "claims.json").read_text())
    # The next writer is not in the way of what the killed one left.
    claims.record("after", [], "smoke", tmp_path)
    assert "after" in claims.entries(tmp_path)
