"""Laws of verification: an honest file passes, any other is named together with what differs."""

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from experiments.__main__ import app
from experiments.runner import verify
from linlocal.analysis import results
from linlocal.analysis.results import Provenance, ResultError

RESULT = Path("results/toy-smoke-seed0.nc")


def cli_alone(line):
    return CliRunner().invoke(app, shlex.split(line))


def cli(line):
    return CliRunner().invoke(app, [*shlex.split(line), "--workers", "1"])


def run(seed=0):
    done = cli(f"run toy --preset smoke --seed {seed}")
    assert done.exit_code == 0, done.output


def rewrite(change=lambda dataset: dataset, path=RESULT, **provenance):
    """Write a result anew, with other values or another origin and a checksum that fits."""
    dataset = results.read(path)
    stored = replace(Provenance.of(dataset), **provenance)
    results.write(change(dataset), path, stored)


def config_of(**changes):
    return json.dumps({"data": "embedded", "offset": 0.5, "points": 3, "seed": 0} | changes)


def times(factor):
    def change(dataset):
        dataset["square"][1] *= factor
        return dataset

    return change


def files(folder="results"):
    return sorted(path.name for path in Path(folder).rglob("*") if path.is_file())


def test_an_honest_file_passes_and_nothing_is_left_behind(toy):
    run(seed=4)
    before = files()
    toy.evaluated.clear()
    done = cli("verify --seed 1")
    assert done.exit_code == 0, done.output
    assert "results/toy-smoke-seed4.nc: exactly equal" in done.output
    assert "1 of 1 results, drawn with seed 1, made in" in done.output
    assert toy.evaluated == [0, 1, 2]
    assert files() == before
    assert not Path("results/.verify").exists()


def test_a_tampered_value_is_named_with_its_size(toy):
    run()
    rewrite(times(1.5))
    done = cli("verify")
    assert done.exit_code == 1
    assert f"{RESULT}: different" in done.output
    rows = {line.split()[0]: line.split() for line in done.output.splitlines()[2:5]}
    # 1.5 became 2.25, and the largest value is 4.5.
    assert rows["square"] == ["square", "different", f"{0.75 / 4.5:.1e}"]
    assert rows["number"] == ["number", "exactly", "equal", "0.0e+00"]
    assert "the same code, commit, versions and hardware" in done.output


def test_a_difference_of_rounding_passes_only_within_the_tolerance(toy):
    run()
    rewrite(times(1 + 1e-8))
    done = cli("verify")
    assert done.exit_code == 0
    assert f"{RESULT}: within tolerance" in done.output
    assert cli("verify --tolerance 1e-10").exit_code == 1


def test_versions_commit_and_hardware_that_differ_are_named(toy):
    run()
    stored = Provenance.of(results.read(RESULT))
    packages = json.dumps(json.loads(stored.packages) | {"numpy": "0.1"})
    hardware = json.dumps(json.loads(stored.hardware) | {"processor": "abacus"})
    rewrite(times(2), packages=packages, hardware=hardware, commit="abc")
    output = cli("verify").output
    assert f"otherwise: numpy 0.1, now {np.__version__}" in output
    assert "otherwise: processor abacus, now " in output
    assert "otherwise: commit abc, now " in output
    assert "otherwise: scipy" not in output
    rewrite(times(0.5))
    assert "otherwise" not in cli("verify").output


def test_every_damaged_file_is_reported_whatever_the_sample(toy):
    for seed in range(4):
        run(seed)
    RESULT.write_bytes(RESULT.read_bytes()[:-1])
    for seed in range(3):
        done = cli(f"verify --sample 1 --seed {seed}")
        assert done.exit_code == 1
        assert f"damaged: {RESULT} is damaged" in done.output
        assert done.output.count("exactly equal\n") == 1
    for seed in range(1, 4):
        Path(f"results/toy-smoke-seed{seed}.nc").unlink()
    assert cli("verify").exit_code == 1


def test_the_sample_is_random_and_repeatable():
    found = list(range(5))
    draws = [verify.draw(found, 2, seed) for seed in range(12)]
    assert draws == [verify.draw(found, 2, seed) for seed in range(12)]
    assert all(len(set(draw)) == 2 for draw in draws)
    assert {each for draw in draws for each in draw} == set(found)
    assert sorted(verify.draw(found, 9, 0)) == found


def test_the_printed_seed_repeats_the_sample(toy):
    for seed in range(3):
        run(seed)
    first = cli("verify --sample 1").output
    seed = first.partition("drawn with seed ")[2].partition(",")[0]
    assert cli(f"verify --sample 1 --seed {seed}").output == first


def test_a_file_is_computed_by_its_own_parameters(toy, monkeypatch):
    with monkeypatch.context() as other:
        other.setitem(toy.PRESETS, "smoke", toy.Config(points=2, offset=1.25))
        run()
    toy.evaluated.clear()
    done = cli("verify")
    assert done.exit_code == 0, done.output
    assert toy.evaluated == [0, 1]


def test_a_result_of_other_code_is_skipped_unless_asked_for(toy):
    run()
    rewrite(code="0" * 16)
    run(seed=1)
    done = cli("verify")
    assert done.exit_code == 0
    assert f"skipped: {RESULT.name}: made by other code" in done.output
    assert "1 of 1 results" in done.output
    Path("results/toy-smoke-seed1.nc").unlink()
    done = cli("verify --any-version")
    assert done.exit_code == 0
    assert "exactly equal" in done.output
    rewrite(times(2))
    assert f"otherwise: code {'0' * 16}, now " in cli("verify --any-version").output


def test_where_all_is_of_other_code_it_says_what_to_do(toy):
    """As in a fresh clone, whose kept results are older than its code."""
    for seed, commit in enumerate(("0123456789", "0123456789-dirty", "unknown")):
        run(seed)
        path = Path(f"results/toy-smoke-seed{seed}.nc")
        # Its parameters may be others, too.
        rewrite(path=path, code="0" * 16, commit=commit, config='{"colour": 1}')
    toy.evaluated.clear()
    done = cli("verify")
    assert done.exit_code == 0
    *skipped, sentence = done.output.splitlines()
    for line, commit in zip(skipped, ("0123456", "0123456-dirty", "unknown"), strict=True):
        assert line.endswith(f".nc: made by other code (commit {commit}).")
    assert sentence.startswith("nothing was compared: no result in results was made by the present")
    assert "--any-version" in sentence
    assert "-m experiments run NAME" in sentence
    assert not toy.evaluated
    RESULT.write_bytes(b"damaged")
    assert cli("verify").exit_code == 1


@pytest.mark.parametrize("files", [[], ["notes.txt"]])
def test_a_folder_without_results_is_a_mistake(tmp_path, files):
    for name in files:
        (tmp_path / name).touch()
    done = cli(f"verify --out {tmp_path}")
    assert done.exit_code == 2
    assert "holds no result that can be computed again here" in done.output


@pytest.mark.parametrize(
    ("provenance", "reason"),
    [
        ({"experiment": "gone"}, "no experiment is called 'gone'"),
        ({"config": '{"data": "from a folder", "points": 3}'}, "name their folder by --data"),
        ({"config": '{"points": 3, "colour": 1}'}, "not those that this code knows"),
        ({"config": '{"points": 3}'}, "not those that this code knows"),
        ({"config": config_of(points=10**9)}, "points = 1000000000 is of another kind"),
        ({"config": config_of(points="many")}, "points = 'many' is of another kind"),
        ({"config": config_of(points=True)}, "points = True is of another kind"),
        ({"config": config_of(points=2.5)}, "points = 2.5 is of another kind"),
        ({"config": config_of(points=[3, 3])}, "points = [3, 3] is of another kind"),
        ({"config": config_of(points=None)}, "points = None is of another kind"),
        ({"config": config_of(offset=1e300)}, "offset = 1e+300 is of another kind"),
        ({"config": config_of(seed=-1)}, "seed = -1 is of another kind"),
        (
            {"config": config_of(data={"numbers": "contents 1"})},
            "computed from numbers: name their folder by --data",
        ),
    ],
)
def test_what_cannot_be_computed_again_is_skipped_with_the_reason(toy, provenance, reason):
    run()
    run(seed=1)
    rewrite(**provenance)
    done = cli("verify")
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("skipped")]
    assert RESULT.name in line
    assert reason in line


def test_a_result_from_a_folder_is_computed_again_from_the_same_data(toy, tmp_path):
    numbers = tmp_path / "named" / "numbers.txt"
    numbers.parent.mkdir()
    numbers.write_text("1 2 3")
    assert cli(f"run toy --preset smoke --data {numbers.parent}").exit_code == 0
    (kept,) = Path("results").glob("*.nc")

    assert "name their folder by --data" in cli("verify").output
    done = cli(f"verify --data {numbers.parent}")
    assert done.exit_code == 0, done.output
    assert "exactly equal" in done.output

    rewrite(times(2), path=kept)
    assert cli(f"verify --data {numbers.parent}").exit_code == 1

    numbers.write_text("1 2 4")
    other = cli(f"verify --data {numbers.parent}")
    assert f"computed from other numbers than {numbers.parent} holds" in other.output
    numbers.unlink()
    assert "computed from numbers, and " in cli(f"verify --data {numbers.parent}").output


def test_a_result_from_a_folder_of_an_experiment_that_reads_none_is_skipped(
    toy, tmp_path, monkeypatch
):
    run()
    rewrite(config=config_of(data={"numbers": "contents 1"}))
    monkeypatch.delattr(toy, "read_from")
    assert "not those that this code knows" in cli(f"verify --data {tmp_path}").output


def test_an_interrupted_verification_from_a_folder_names_it(toy, tmp_path):
    (tmp_path / "numbers.txt").touch()
    cli(f"run toy --preset smoke --data {tmp_path}")
    toy.interrupt_at = 2
    stopped = cli(f"verify --sample 1 --data {tmp_path}")
    assert stopped.exit_code == 130
    assert f"--data {tmp_path}" in stopped.output


def test_a_result_of_a_gpu_is_skipped_where_there_is_none(toy, monkeypatch):
    @dataclass(frozen=True)
    class Config(toy.Config):
        device: str = "cpu"

    monkeypatch.setitem(toy.PRESETS, "smoke", Config(points=2, device="cuda"))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "an accelerator")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    run()
    run(seed=1)
    with monkeypatch.context() as without:
        without.setattr("torch.cuda.is_available", lambda: False)
        done = cli("verify")
    assert done.exit_code == 2
    assert done.output.count("needs a CUDA device") == 2
    assert cli("verify").exit_code == 0


def test_an_interrupted_verification_resumes_with_the_command_that_it_prints(toy):
    run()
    toy.evaluated.clear()
    toy.interrupt_at = 2
    stopped = cli("verify --sample 1")
    assert stopped.exit_code == 130
    command = shlex.split(stopped.output.partition("resume with: ")[2])
    assert command[1:4] == ["-m", "experiments", "verify"]
    toy.interrupt_at = None
    resumed = cli(shlex.join(command[3:]))
    assert resumed.exit_code == 0, resumed.output
    assert toy.evaluated == [0, 1, 2]
    assert "up to date" in cli("run toy --preset smoke").output
    assert not Path("results/.verify").exists()


def test_the_parts_of_the_run_itself_do_not_vouch_for_it(toy):
    run()
    rewrite(times(2))
    toy.interrupt_at = 2
    assert cli("run toy --preset smoke --force").exit_code == 130
    toy.interrupt_at = None
    toy.evaluated.clear()
    assert cli("verify").exit_code == 1
    assert toy.evaluated == [0, 1, 2]


def test_only_results_of_the_wanted_size_are_computed(toy):
    run()
    cli("run toy --preset cpu")
    toy.evaluated.clear()
    assert "1 of 1 results" in cli("verify --preset smoke").output
    assert toy.evaluated == [0, 1, 2]
    assert "2 of 2 results" in cli("verify").output
    assert "Possible: smoke, cpu, workstation, paper." in cli("verify --preset smok").output


def compare(one, other, tolerance=1e-6):
    return {row.variable: row.verdict for row in verify.compare(one, other, tolerance)}


def test_only_what_is_measured_in_seconds_is_not_compared():
    one = xr.Dataset({"took": ("n", [1.0, 2.0], {"units": "s"}), "x": ("n", [1.0, 2.0])})
    other = one.assign(took=one["took"] * 3)
    assert compare(one, other) == {"took": "not compared", "x": "exactly equal"}
    one["took"].attrs = {}
    assert compare(one, other)["took"] == "different"
    assert compare(one, other.drop_vars("took"))["took"] == "different"


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ([np.nan, 1.0], [np.nan, 1.0], "exactly equal"),
        ([np.nan, 1.0], [1.0, np.nan], "different"),
        ([np.nan, np.nan], [np.nan, np.nan], "exactly equal"),
        ([0.0, 0.0], [0.0, 1e-3], "different"),
        ([1e-14, 1e-15], [3e-14, 1e-15], "within tolerance"),
        ([1.0, 1e-3], [1.0, 1.1e-3], "different"),
        ([1 + 1j, 2], [1 + 1j, 2], "exactly equal"),
        ([1 + 1j, 2], [1 - 1j, 2], "different"),
        ([1, 2], [1, 3], "different"),
        ([True, False], [True, True], "different"),
        (["a", "b"], ["a", "c"], "different"),
        (["a", "b"], ["a", "b"], "exactly equal"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "different"),
        ([], [], "exactly equal"),
    ],
)
def test_the_verdict_on_one_variable(one, other, verdict):
    one, other = (xr.Dataset({"x": ("n", values)}) for values in (one, other))
    assert compare(one, other) == {"x": verdict}


@pytest.mark.parametrize("tolerance", [1e-9, 1e-6, 1e-2])
@pytest.mark.parametrize("scale", [1.0, 40.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_tolerance_is_relative_to_the_largest_stored_magnitude(tolerance, scale, sign):
    stored = np.array([-scale, 0.5 * scale, 0.0])

    def verdict(change):
        again = stored + np.array([0.0, 0.0, sign * change])
        return compare(*(xr.Dataset({"x": ("n", x)}) for x in (stored, again)), tolerance)["x"]

    assert verdict(0.98 * tolerance * scale) == "within tolerance"
    assert verdict(1.02 * tolerance * scale) == "different"


def test_what_is_computed_now_has_no_say_in_what_counts_as_large():
    one, other = (xr.Dataset({"x": ("n", [x, 0.0])}) for x in (1.0, 1.9))
    assert compare(one, other, 0.5) == {"x": "different"}
    assert compare(other, one, 0.5) == {"x": "within tolerance"}


def test_rounding_passes_whatever_the_tolerance():
    def verdict(change):
        return compare(*(xr.Dataset({"x": ("n", [x])}) for x in (0.0, change)), 0.0)["x"]

    assert verdict(0.9 * verify.ROUNDING) == "within tolerance"
    assert verdict(1.1 * verify.ROUNDING) == "different"


@pytest.mark.parametrize(
    ("stored", "again", "words"),
    [
        (1e-15, 4e-15, "within tolerance   3.0e-15 in all, rounding"),
        (1.0, 1.0 + 2e-7, "within tolerance   2.0e-07"),
        (1.0, 1.5, "different          5.0e-01"),
    ],
)
def test_a_variable_that_is_rounding_is_told_by_its_own_difference(stored, again, words):
    one, other = (xr.Dataset({"x": ("n", [x])}) for x in (stored, again))
    (row,) = verify.compare(one, other, 1e-6)
    assert str(row).endswith(words)


@pytest.mark.parametrize("values", [np.ones((2, 2)), np.ones((2, 2), int), np.full((2, 2), "a")])
def test_axes_of_other_names_are_different_whatever_the_values(values):
    stored = xr.Dataset({"x": (("rule", "layer"), values)})
    for dims in (("layer", "rule"), ("rule", "level")):
        assert compare(stored, xr.Dataset({"x": (dims, values)}))["x"] == "different"
    flat = xr.Dataset({"x": (("rule", "layer"), values[:1])})
    assert compare(stored, flat)["x"] == "different"
    assert compare(stored.isel(rule=0), flat)["x"] == "different"  # would broadcast
    assert compare(stored, stored.copy(deep=True)) == {"x": "exactly equal"}


def test_coordinates_are_compared_too():
    stored = xr.Dataset({"x": ("rate", [1.0, 2.0])}, {"rate": [0.1, 0.2]})
    assert compare(stored, stored.assign_coords(rate=[0.1, 0.3])) == {
        "rate": "different",
        "x": "exactly equal",
    }


def test_the_worst_variable_decides():
    rows = [verify.Row("x", each) for each in ("exactly equal", "within tolerance", "different")]
    assert verify.overall(rows) == "different"
    assert verify.overall(rows[:2]) == "within tolerance"
    assert verify.overall([rows[0], verify.Row("t", "not compared")]) == "exactly equal"


ODD = {
    "experiment": ["toy"],
    "preset": 3,
    "seed": "zero",
    "config": "[]",
    "code": np.arange(2),
    "commit": None,
    "packages": "{",
    "hardware": {"cores": 2},
    "duration_s": float("nan"),
}


def with_odd(field):
    """The file of a run with another value in one field, its checksum right."""
    run()
    dataset = results.read(RESULT)
    stored = replace(Provenance.of(dataset), **{field: ODD[field]})
    with pytest.MonkeyPatch.context() as unchecked:
        unchecked.setattr(Provenance, "check", lambda self: None)
        results.write(dataset, RESULT, stored)


@pytest.mark.parametrize("field", ODD)
def test_odd_attributes_of_a_run_are_damage_to_every_command(toy, field):
    try:
        with_odd(field)
    except (ResultError, TypeError):
        return  # no such file can be written even by an unchecked writer
    with pytest.raises(ResultError, match=f"{field!r} of its run should be|lacks the attributes"):
        results.read(RESULT)
    assert "damaged" in cli_alone("list").output
    verified = cli("verify")
    assert verified.exit_code == 1
    assert "damaged: " in verified.output
    assert cli("run toy --preset smoke").exit_code == 0
    assert "up to date" in cli_alone("list").output


@pytest.mark.parametrize("field", ODD)
def test_odd_attributes_of_a_run_are_not_written(toy, field):
    run()
    with pytest.raises(ResultError, match=f"{field!r} of its run should be"):
        rewrite(**{field: ODD[field]})


def test_odd_units_are_no_time(toy):
    stored = xr.Variable("n", [1.0], {"units": np.array(["s", "s"])})
    (row,) = verify.compare(xr.Dataset({"x": stored}), xr.Dataset({"x": stored}), 0.0)
    assert row.verdict == "exactly equal"
