"""Malformed commands: one line that says what to do, exit code 2, no traceback, no file."""

import hashlib
import re

import pytest
from typer.testing import CliRunner

from experiments.__main__ import app as experiments_app
from experiments.benchmarks.__main__ import app as benchmarks_app
from experiments.benchmarks.gpu import app as gpu_app
from experiments.pretrain.__main__ import app as pretrain_app
from paper_figures.__main__ import app as figures_app
from paper_figures.report.printed import app as printed_app
from paper_figures.report.readme import app as readme_app

SMOKE = ("--preset", "smoke", "--workers", "1")
CASES = {
    "experiments": {
        "a negative seed": (
            ("run", "narrowing", *SMOKE, "--seed", "-1"),
            "Invalid value for '--seed'",
        ),
        "no command": ((), "Usage: "),
        "unknown command": (("ran", "narrowing"), "No such command 'ran'"),
        "unknown option": (("run", "narrowing", "--pre-set", "cpu"), "No such option: --pre-set"),
        "no experiment": (("run",), "Missing argument"),
        "two experiments": (("run", "narrowing", "spectrum"), "unexpected extra argument"),
        "unknown experiment": (
            ("run", "narowing"),
            "error: unknown experiment 'narowing'; did you mean 'narrowing'?",
        ),
        "a path for an experiment": (("run", "../narrowing"), "unknown experiment '../narrowing'"),
        "unknown preset": (
            ("run", "narrowing", "--preset", "smok"),
            "unknown preset 'smok'; did you mean 'smoke'?",
        ),
        "an empty preset": (
            ("run", "narrowing", "--preset", ""),
            "unknown preset ''. Possible: smoke, cpu, paper",
        ),
        "a seed in words": (("run", "narrowing", "--seed", "one"), "Invalid value for '--seed'"),
        "half a seed": (("run", "narrowing", "--seed", "0.5"), "Invalid value for '--seed'"),
        "nothing can be written": (
            ("run", "narrowing", *SMOKE, "--out", "file/below"),
            "error: nothing can be written into file/below",
        ),
        "no workers": (("run", "narrowing", "--workers", "0"), "Invalid value for '--workers'"),
        "negative workers": (
            ("run", "narrowing", "--workers", "-2"),
            "Invalid value for '--workers'",
        ),
        "data that do not exist": (
            ("run", "narrowing", "--data", "nowhere"),
            "'nowhere' does not exist",
        ),
        "a file for a folder of data": (("run", "narrowing", "--data", "file"), "'file' is a file"),
        "a file for a folder of results": (
            ("run", "narrowing", *SMOKE, "--out", "file"),
            "'file' is a file",
        ),
        "data without images": (
            ("run", "exactness_in_training", *SMOKE, "--data", "empty"),
            "error: no MNIST images in empty",
        ),
        "unknown data set": (
            ("data", "mnis"),
            "error: unknown data set 'mnis'; did you mean 'mnist'?",
        ),
        "unknown data set among known ones": (
            ("data", "mnist", "cifar100", "--out", "data"),
            "error: unknown data set 'cifar100'; did you mean 'cifar10'?",
        ),
        "a file for a folder of downloads": (
            ("data", "mnist", "--out", "file"),
            "'file' is a file",
        ),
        "a folder of downloads that cannot be made": (
            ("data", "mnist", "--out", "file/below"),
            "error: Not a directory: file/below",
        ),
        "half a data set": (
            ("data", "cifar10", "--out", "half"),
            "error: cifar10: half/cifar-10-batches-bin exists, but lacks data_batch_1.bin",
        ),
        "data without images say how to download": (
            ("run", "trained_cnn", *SMOKE, "--data", "empty"),
            "-m experiments data NAME --out empty",
        ),
        "a setting without a value": (
            ("run", "narrowing", *SMOKE, "--set", "networks"),
            "error: --set 'networks' should be NAME=VALUE",
        ),
        "unknown setting": (
            ("run", "narrowing", *SMOKE, "--set", "network=3"),
            "error: unknown setting 'network'; did you mean 'networks'?",
        ),
        "a setting in words": (
            ("run", "narrowing", *SMOKE, "--set", "networks=three"),
            'error: networks is "three", expected a whole number from 1 on, such as 2',
        ),
        "no network at all": (
            ("run", "narrowing", *SMOKE, "--set", "networks=0"),
            "error: networks is 0, expected a whole number from 1 on",
        ),
        "a setting that has an option": (
            ("run", "narrowing", *SMOKE, "--set", "seed=3"),
            "error: seed is no setting: give --seed",
        ),
        "a setting twice": (
            ("run", "narrowing", *SMOKE, "--set", "networks=3", "--set", "networks=4"),
            "error: networks is set twice",
        ),
        "a setting of all": (
            ("run", "all", *SMOKE, "--set", "networks=3"),
            "error: settings are those of one experiment",
        ),
        "settings that are no TOML": (
            ("run", "narrowing", *SMOKE, "--config", "file"),
            "error: file is no TOML",
        ),
        "settings that do not exist": (
            ("run", "narrowing", "--config", "nowhere"),
            "'nowhere' does not exist",
        ),
        "a folder for settings": (("run", "narrowing", "--config", "empty"), "'empty' is a dir"),
        "a device that is not there": (
            ("run", "trained_cnn", *SMOKE, "--set", "device=cuda"),
            "error: needs the device 'cuda'",
        ),
        "a list of nothing": (("list", "--seed", "x"), "Invalid value for '--seed'"),
        "verify no file": (("verify", "--sample", "0"), "Invalid value for '--sample'"),
        "verify to less than nothing": (
            ("verify", "--tolerance", "-1"),
            "Invalid value for '--tolerance'",
        ),
        "verify an empty folder": (
            ("verify", "--out", "empty"),
            "error: empty holds no result that can be computed again",
        ),
        "verify a folder that is not there": (
            ("verify", "--out", "nowhere"),
            "nowhere holds no result",
        ),
    },
    "paper_figures": {
        "nothing": ((), "Usage: "),
        "unknown figure": (("narowing",), "unknown figure 'narowing'; did you mean 'narrowing'?"),
        "unknown figure among known ones": (
            ("narrowing", "spectrm"),
            "unknown figure 'spectrm'; did you mean 'spectrum'?",
        ),
        "unknown preset": (
            ("narrowing", "--preset", "papr"),
            "unknown preset 'papr'; did you mean 'paper'?",
        ),
        "a seed in words": (("narrowing", "--seed", "one"), "Invalid value for '--seed'"),
        "a file for a folder": (("narrowing", "--out", "file"), "'file' is a file"),
        "nothing can be written": (
            ("narrowing", "--out", "file/below"),
            "error: nothing can be written into file/below",
        ),
        "no result with a setting": (
            ("narrowing", "--results", "empty", "--set", "networks=3"),
            "error: narrowing: empty has no result of narrowing with networks=3",
        ),
        "a setting of all figures": (
            ("all", "--set", "networks=3"),
            "error: a setting and a single result are those of one figure",
        ),
        "a setting without a value": (
            ("narrowing", "--set", "networks"),
            "error: --set 'networks' should be NAME=VALUE",
        ),
        "a file that is no result": (
            ("narrowing", "--results", "file", "--out", "out"),
            "error: narrowing: file is damaged, cut off, or no result of ours",
        ),
        "no results": (
            ("narrowing", "--results", "empty", "--out", "out"),
            "a result is missing; make it with",
        ),
        "damaged results": (
            ("narrowing", "--results", "damaged", "--out", "out"),
            "is damaged, cut off, or no result of",
        ),
    },
    "pretrain": {
        "no folder": (("--preset", "smoke"), "Missing option '--out'"),
        "unknown preset": (
            ("--out", "out", "--preset", "smok"),
            "error: unknown preset 'smok'; did you mean 'smoke'?",
        ),
        "a preset of others": (
            ("--out", "out", "--preset", "workstation"),
            "error: unknown preset 'workstation'. Possible: smoke, cpu, paper",
        ),
        "unknown option": (("--out", "out", "--gpu"), "No such option: --gpu"),
    },
    "benchmarks": {
        "unknown device": (("--device", "tpu"), "error: unknown device 'tpu'"),
        "unknown benchmark": (
            ("projektion",),
            "error: unknown benchmark 'projektion'; did you mean 'projection'?",
        ),
        "unknown option": (("--gpu",), "No such option: --gpu"),
        "no GPU": (("projection", "--device", "cuda"), "error: needs the device 'cuda'"),
        "not in a checkout": (("projection",), "is written in the root of a checkout"),
    },
    "gpu_benchmark": {
        "no GPU": (("--preset", "smoke", "--device", "cuda"), "error: needs the device 'cuda'"),
        "nothing can be written": (
            ("--preset", "smoke", "--out", "file/below"),
            "error: nothing can be written into file/below",
        ),
        "unknown preset": (("--preset", "smok"), "unknown preset 'smok'"),
        "a negative seed": (("--preset", "smoke", "--seed", "-1"), "Invalid value for '--seed'"),
        "a seed in words": (("--seed", "one"), "Invalid value for '--seed'"),
        "unknown option": (("--gpu",), "No such option: --gpu"),
    },
}
APPS = {
    "experiments": experiments_app,
    "pretrain": pretrain_app,
    "paper_figures": figures_app,
    "benchmarks": benchmarks_app,
    "gpu_benchmark": gpu_app,
}


def said(command, arguments):
    done = CliRunner(env={"TERM": "dumb", "COLUMNS": "200"}).invoke(APPS[command], list(arguments))
    return done, " ".join(done.output.split())


def refuse(command, arguments, message):
    done, output = said(command, arguments)
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == 2, output
    assert message in output
    assert "Traceback" not in output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the commands run; afterwards its files are what they were."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "half" / "cifar-10-batches-bin").mkdir(parents=True)
    (tmp_path / "damaged" / "narrowing-cpu-seed0.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))

    def files():
        found = (f for f in tmp_path.rglob("*") if f.is_file())
        return {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in found}

    before = files()
    yield
    assert files() == before


@pytest.mark.parametrize(
    ("command", "case"), [(command, case) for command, table in CASES.items() for case in table]
)
def test_malformed_command(folder, command, case, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refuse(command, *CASES[command][case])


@pytest.mark.parametrize("app", [*APPS.values(), readme_app, printed_app])
def test_commands_look_alike(app):
    done = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["--help"])
    assert done.exit_code == 0
    assert done.output.startswith("Usage: ")
    # No frames, no colours, a last option that is the same.
    assert not {*"╭│\x1b"} & {*done.output}
    # Examples are not wrapped: they can be copied.
    examples = re.compile("    (python -m|[A-Z_0-9=]+ torchrun) ")
    lines = [line for line in done.output.splitlines() if not examples.match(line)]
    assert max(map(len, lines)) <= 80
    (last,) = (line for line in lines if line.split()[:1] == ["--help"])
    assert last.endswith("Show this message and exit.")


@pytest.mark.parametrize(
    ("command", "arguments", "step"),
    [
        ("paper_figures", ("narrowing",), "paper_figures.__main__.load_inputs"),
        ("benchmarks", ("projection",), "experiments.benchmarks.projection.measure"),
    ],
)
def test_an_interrupt_says_how_to_go_on(folder, command, arguments, step, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(step, interrupted)
    monkeypatch.setattr("experiments.benchmarks.__main__.PAGE", tmp_path / "page.md")
    monkeypatch.setattr("experiments.benchmarks.__main__.FOLDER", tmp_path)
    done, output = said(command, arguments)
    assert done.exit_code == 130
    assert "interrupted; " in output
