"""Laws of running: nothing is computed twice, nothing is lost, mistakes cost one line."""

import errno
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import xarray as xr
from typer.testing import CliRunner

from experiments.__main__ import app
from experiments.data import DataError
from experiments.runner import Parts, Sweep, registry
from linlocal.analysis import results
from linlocal.analysis.results import Provenance, provenance as provenance_module


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(line):
        # One after the other: only here does the toy see what it evaluated. tests/experiments/
        # test_workers.py runs several at a time.
        serial = ["--workers", "1"] if line.startswith("run") else []
        return CliRunner().invoke(app, [*shlex.split(line), *serial])

    return call


RESULT = Path("results/toy-smoke-seed0.nc")
ROOT = Path(__file__).parents[2]


def test_a_run_leaves_one_file_that_describes_itself(toy, cli):
    done = cli("run toy --preset smoke --seed 4")
    assert done.exit_code == 0, done.output
    (file,) = (path for path in Path("results").rglob("*") if path.is_file())
    assert file.name == "toy-smoke-seed4.nc"
    dataset = results.read(file)
    assert dataset["square"].values.tolist() == [4.5, 5.5, 8.5]
    stored = Provenance.of(dataset)
    assert (stored.experiment, stored.preset, stored.seed) == ("toy", "smoke", 4)
    assert stored.config == '{"data": "embedded", "offset": 0.5, "points": 3, "seed": 4}'
    assert stored.code == results.code_version("experiments.catalogue.toy:run")
    assert stored.duration_s > 0


def test_an_up_to_date_result_is_not_computed_again_unless_forced(toy, cli):
    cli("run toy --preset smoke")
    before = RESULT.read_bytes()
    again = cli("run all --preset smoke")
    assert "up to date" in again.output
    assert toy.evaluated == [0, 1, 2]
    assert RESULT.read_bytes() == before
    cli("run toy --preset smoke --force")
    assert toy.evaluated == [0, 1, 2] * 2


@pytest.mark.parametrize("change", ["code", "parameters", "damage"])
def test_an_outdated_result_is_computed_again(toy, cli, monkeypatch, change):
    cli("run toy --preset smoke")
    if change == "code":
        monkeypatch.setattr(provenance_module, "code_version", lambda module: "edited")
        expected = "older code"
    elif change == "parameters":
        monkeypatch.setitem(toy.PRESETS, "smoke", toy.Config(points=3, offset=1.5))
        expected = "other parameters"
    else:
        RESULT.write_bytes(RESULT.read_bytes()[:-1])
        expected = "damaged"
    assert expected in cli("list").output
    assert "up to date" not in cli("run toy --preset smoke").output
    assert toy.evaluated == [0, 1, 2] * 2
    assert "up to date" in cli("list").output


def interrupt(toy, cli, at, options=""):
    toy.interrupt_at = at
    stopped = cli(f"run toy --preset smoke {options}")
    toy.interrupt_at = None
    toy.evaluated.clear()
    return stopped


def test_an_interrupted_run_resumes_with_the_command_that_it_prints(toy, cli):
    stopped = interrupt(toy, cli, at=2, options="--out 'my results'")
    assert stopped.exit_code == 130
    command = shlex.split(stopped.output.partition("resume with: ")[2])
    assert command[1:3] == ["-m", "experiments"]
    assert "interrupted" in cli("list --out 'my results'").output
    resumed = cli(shlex.join(command[3:]))
    assert resumed.exit_code == 0
    assert toy.evaluated == [2]
    cli("run toy --preset smoke")
    straight, pieced = (
        results.read(Path(folder) / RESULT.name) for folder in ("results", "my results")
    )
    xr.testing.assert_equal(straight, pieced)
    assert not list(Path("my results").glob(".parts/*"))


def test_the_duration_counts_the_points_of_earlier_sessions(toy, cli, monkeypatch):
    interrupt(toy, cli, at=1)
    (part,) = Path("results").rglob("*.nc")
    dataset = results.read(part)
    results.write(dataset, part, Provenance.of(dataset.assign_attrs(duration_s=1000.0)))
    cli("run toy --preset smoke")
    assert 1000 < results.read(RESULT).attrs["duration_s"] < 1100


def test_a_damaged_part_is_reported_in_one_line_and_computed_again(toy, cli):
    interrupt(toy, cli, at=2)
    first, second = Path("results").rglob("*.nc")
    first.write_bytes(first.read_bytes()[:100])
    resumed = cli("run toy --preset smoke")
    assert len(toy.evaluated) == 2
    assert 2 in toy.evaluated
    (line,) = [line for line in resumed.output.splitlines() if "damaged" in line]
    assert first.name in line
    assert second.name not in resumed.output
    assert results.read(RESULT)["square"].values.tolist() == [0.5, 1.5, 4.5]


@pytest.mark.parametrize("change", ["code", "parameters"])
def test_parts_of_another_code_or_config_do_not_count(toy, cli, monkeypatch, change):
    interrupt(toy, cli, at=2)
    if change == "code":
        monkeypatch.setattr(provenance_module, "code_version", lambda module: "edited")
    else:
        monkeypatch.setitem(toy.PRESETS, "smoke", toy.Config(points=3, offset=1.5))
    cli("run toy --preset smoke")
    assert toy.evaluated == [0, 1, 2]


def test_force_forgets_the_parts_and_can_itself_be_resumed(toy, cli):
    cli("run toy --preset smoke")
    interrupt(toy, cli, at=1, options="--force")
    cli("run toy --preset smoke")
    assert toy.evaluated == [1, 2]
    interrupt(toy, cli, at=1, options="--force")
    cli("run toy --preset smoke --force")
    assert toy.evaluated == [0, 1, 2]


def test_two_quantities_cannot_share_a_file(tmp_path):
    sweep = Sweep(Parts(tmp_path / "parts", Provenance.collect("toy", "smoke", 0, {})))

    def evaluate(n):
        return xr.Dataset({"x": n})

    sweep(evaluate, [{"n": 1}], "first")
    sweep(evaluate, [{"n": 1}], "second")
    with pytest.raises(ValueError, match="its own description"):
        sweep(evaluate, [{"n": 1}], "first")
    with pytest.raises(ValueError, match="other values"):
        sweep(evaluate, [{"n": 2}, {"n": 2}], "third")


def test_without_a_folder_nothing_is_stored(toy, tmp_path):
    dataset = toy.run(toy.PRESETS["smoke"])
    assert dataset["square"].values.tolist() == [0.5, 1.5, 4.5]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("run toi", "did you mean 'toy'? Possible: toy."),
        ("run toy --preset papr", "did you mean 'paper'? Possible: smoke, cpu, paper."),
        ("run all --preset huge", "Possible: smoke, cpu, workstation, paper."),
    ],
)
def test_an_unknown_name_costs_one_line(toy, cli, line, hint):
    done = cli(line)
    assert done.exit_code == 2
    assert len(done.output.splitlines()) == 1
    assert hint in done.output
    assert not Path("results").exists()


def test_infinity_costs_one_line_and_keeps_the_finished_points(toy, cli, monkeypatch):
    monkeypatch.setitem(toy.PRESETS, "smoke", toy.Config(points=3, offset=float("inf")))
    done = cli("run toy --preset smoke")
    assert done.exit_code == 2
    assert "infinite value in 'square'" in done.output
    assert not RESULT.exists()


def test_the_list_shows_purpose_sizes_and_state(toy, cli):
    cli("run toy --preset smoke")
    listed = cli("list").output
    assert "toy  (Fig. 0 of nowhere)\n  Squares of some numbers.\n" in listed
    smoke, cpu, paper = lines = [line for line in listed.splitlines() if "points=" in line]
    assert len({line.index("points=") for line in lines}) == 1
    assert smoke.split() == ["smoke", "up", "to", "date", "points=3"]
    assert cpu.split() == ["cpu", "no", "result", "points=5"]
    assert paper.split() == ["paper", "no", "result", "points=50"]


def test_all_leaves_out_what_lacks_the_preset_and_says_so(toy, cli, monkeypatch):
    done = cli("run all --preset workstation")
    assert (done.exit_code, done.output) == (0, "no preset workstation, left out: toy\n")
    assert toy.evaluated == []
    assert "Possible: smoke, cpu, paper." in cli("run toy --preset workstation").output
    monkeypatch.setitem(toy.PRESETS, "workstation", toy.Config(points=4))
    done = cli("run all --preset workstation")
    assert done.exit_code == 0
    assert "left out" not in done.output
    assert toy.evaluated == [0, 1, 2, 3]


def git(folder, *words):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout


def test_parts_of_a_long_run_are_committed_and_finish_in_a_clone(toy, cli, tmp_path, monkeypatch):
    """What `git add results/.parts` takes is enough; the finished run leaves none of it."""
    monkeypatch.setattr(provenance_module, "ROOT", tmp_path)
    shutil.copyfile(ROOT / ".gitignore", tmp_path / ".gitignore")
    git(tmp_path, "init")
    toy.interrupt_at = 3
    for preset in ("cpu", "paper"):
        assert cli(f"run toy --preset {preset}").exit_code == 130
    git(tmp_path, "add", ".gitignore", "results")
    git(tmp_path, "commit", "-m", "first points")
    names = git(tmp_path, "ls-files", "results").split()
    assert len(names) == 3
    assert all(name.startswith("results/.parts/toy-paper-seed0/") for name in names)

    git(tmp_path, "clone", tmp_path, tmp_path / "clone")
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.setattr(provenance_module, "ROOT", tmp_path / "clone")
    toy.interrupt_at = None
    toy.evaluated.clear()
    run = ["run", "toy", "--preset", "paper", "--workers", "1"]
    assert CliRunner().invoke(app, run).exit_code == 0
    assert toy.evaluated == list(range(3, 50))
    assert not Path("results/.parts/toy-paper-seed0").exists()
    git(Path(), "add", "-A", "results")
    assert git(Path(), "ls-files", "results") == "results/toy-paper-seed0.nc\n"


def numbers(folder, text):
    """A folder of data that the toy can be pointed at."""
    Path(folder).mkdir(exist_ok=True)
    Path(folder, "numbers.txt").write_text(text)
    return folder


def stored_of(folder="results"):
    return {path.name: Provenance.of(results.read(path)) for path in Path(folder).glob("*.nc")}


def test_a_run_is_known_by_what_its_data_hold(toy, cli, tmp_path):
    numbers("A", "1 2")
    cli("run toy --preset smoke --data A")
    ((name, stored),) = stored_of().items()
    assert name.startswith("toy-smoke-seed0-numbers-")
    assert '"data": {"numbers": "contents ' in stored.config
    assert str(tmp_path) not in stored.config
    # A copy elsewhere holds the same.
    numbers("copy", "1 2")
    assert "up to date" in cli("run toy --preset smoke --data copy").output
    assert toy.evaluated == [0, 1, 2]
    assert "up to date" in cli("list --data copy").output


def test_other_data_are_another_result_beside_the_first(toy, cli):
    cli(f"run toy --preset smoke --data {numbers('A', '1 2')}")
    cli(f"run toy --preset smoke --data {numbers('B', '1 3')}")
    cli("run toy --preset smoke")
    assert toy.evaluated == [0, 1, 2] * 3
    assert len(stored_of()) == len({each.config for each in stored_of().values()}) == 3
    for data in ("--data A", "--data B", ""):
        assert "up to date" in cli(f"run toy --preset smoke {data}").output
    # The same folder with another content, of the same size.
    numbers("A", "1 4")
    assert "up to date" not in cli("run toy --preset smoke --data A").output
    assert len(stored_of()) == 4


def test_parts_of_other_data_do_not_count(toy, cli):
    interrupt(toy, cli, at=2, options=f"--data {numbers('A', '1 2')}")
    cli(f"run toy --preset smoke --data {numbers('B', '1 3')}")
    assert toy.evaluated == [0, 1, 2]
    toy.evaluated.clear()
    # Nor does the other run forget those of the first.
    cli("run toy --preset smoke --data A")
    assert toy.evaluated == [2]


def test_data_that_are_not_there_are_an_error_before_anything_is_computed(toy, cli):
    Path("empty").mkdir()
    done = cli("run toy --preset smoke --data empty")
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert "numbers.txt cannot be read (No such file or directory)" in line
    assert toy.evaluated == []
    assert not Path("results").exists()
    assert "cannot run: " in cli("list --data empty").output


def test_data_that_change_during_a_run_leave_no_result(toy, cli, monkeypatch):
    original = toy.run

    def run(config, sweep):
        found = original(config, sweep)
        numbers("A", "1 5")
        return found

    monkeypatch.setattr(toy, "run", run)
    done = cli(f"run toy --preset smoke --data {numbers('A', '1 2')}")
    assert done.exit_code == 2
    assert "have changed while toy" in done.output
    assert not list(Path("results").rglob("*.nc"))


def test_parameters_that_json_changes_are_no_change_of_the_data(toy, cli, monkeypatch):
    @dataclass(frozen=True)
    class Config(toy.Config):
        sizes: tuple[int, ...] = (1, 2)

    monkeypatch.setitem(toy.PRESETS, "smoke", Config(points=2))
    for data in (f"--data {numbers('A', '1 2')}", ""):
        assert cli(f"run toy --preset smoke {data}").exit_code == 0
        assert "up to date" in cli(f"run toy --preset smoke {data}").output


def test_the_command_that_resumes_repeats_every_option(toy, cli):
    numbers("my data", "1 2")
    stopped = interrupt(toy, cli, at=2, options="--seed 3 --out 'my results' --data 'my data'")
    command = shlex.split(stopped.output.partition("resume with: ")[2])
    assert "--workers" in command
    resumed = CliRunner().invoke(app, command[3:])
    assert resumed.exit_code == 0, resumed.output
    assert toy.evaluated == [2]
    assert len(stored_of("my results")) == 1


def test_a_failed_run_leaves_a_valid_result_valid(toy, cli, monkeypatch):
    cli("run toy --preset smoke")

    def fails(config, sweep):
        raise DataError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr(toy, "run", fails)
        assert cli("run toy --preset smoke --force").exit_code == 2
    # Leftovers of other code.
    (Path("results/.parts") / RESULT.stem).mkdir(parents=True, exist_ok=True)
    smoke = next(line for line in cli("list").output.splitlines() if "smoke" in line)
    assert smoke.split() == ["smoke", "up", "to", "date", "points=3"]
    toy.evaluated.clear()
    assert "up to date" in cli("run toy --preset smoke").output
    assert toy.evaluated == []


def test_an_older_result_beside_finished_points_is_both(toy, cli, monkeypatch):
    cli("run toy --preset smoke")
    monkeypatch.setattr(provenance_module, "code_version", lambda module: "edited")
    interrupt(toy, cli, at=2)
    assert "older code; interrupted" in cli("list").output


def test_a_run_keeps_the_parts_that_another_stores_meanwhile(tmp_path):
    folder = tmp_path / "parts"
    one, other = (
        Parts(folder, Provenance.collect("toy", "smoke", 0, {"size": size})) for size in (1, 2)
    )
    for parts in (one, other):
        assert parts.restore("x", {"n": 1}) is None
        parts.store("x", {"n": 1}, xr.Dataset({"x": 1}), 0.0)
    one.clear()
    later = Parts(folder, Provenance.collect("toy", "smoke", 0, {"size": 2}))
    assert later.restore("x", {"n": 1}) is not None
    other.clear()
    assert not folder.exists()


def test_a_point_is_stored_though_another_run_clears_the_folder(tmp_path, monkeypatch):
    parts = Parts(tmp_path / "parts", Provenance.collect("toy", "smoke", 0, {}))
    parts.restore("x", {"n": 1})
    write, folder_was_cleared = results.write, []

    def once_too_late(dataset, path, provenance):
        if not folder_was_cleared:
            folder_was_cleared.append(True)
            raise FileNotFoundError(path)
        return write(dataset, path, provenance)

    monkeypatch.setattr(results, "write", once_too_late)
    parts.store("x", {"n": 1}, xr.Dataset({"x": 1}), 0.0)
    assert folder_was_cleared
    assert len(list((tmp_path / "parts").glob("*.nc"))) == 1


@pytest.mark.parametrize("out", ["file/below", "dangling", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_is_an_error_before_anything_is_computed(toy, cli, out):
    Path("file").touch()
    Path("dangling").symlink_to("/nowhere/at/all")
    done = cli(f"run toy --preset smoke --out {out}")
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert line.startswith(f"error: nothing can be written into {out} (")
    assert toy.evaluated == []


def test_a_disk_that_fills_up_costs_one_line_and_no_finished_point(toy, cli, monkeypatch):
    write = results.write

    def full(dataset, path, provenance):
        if path.parent.name == "results":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(dataset, path, provenance)

    with monkeypatch.context() as patch:
        patch.setattr(results, "write", full)
        done = cli("run toy --preset smoke")
    assert done.exit_code == 2
    assert done.output.splitlines() == ["error: No space left on device"]
    toy.evaluated.clear()
    assert cli("run toy --preset smoke").exit_code == 0
    assert toy.evaluated == []


def test_a_gpu_that_is_not_there_is_an_error_before_anything_is_computed(toy, cli, monkeypatch):
    @dataclass(frozen=True)
    class Config(toy.Config):
        device: str = "cuda"

    monkeypatch.setitem(toy.PRESETS, "paper", Config())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = cli("run toy --preset paper")
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert line.startswith("error: needs the device 'cuda', and torch finds no GPU here")
    assert toy.evaluated == []
    assert cli("list").exit_code == 0


def test_all_registered_experiments_load():
    for name in registry.NAMES:
        experiment = registry.load(name)
        assert {"smoke", "cpu", "paper"} <= set(experiment.PRESETS) <= set(results.PRESETS)
        assert registry.summary(experiment)
        assert experiment.PUBLISHED
        # Without it, results of different data would have the same name.
        assert hasattr(experiment.PRESETS["cpu"], "data") == hasattr(experiment, "read_from")
