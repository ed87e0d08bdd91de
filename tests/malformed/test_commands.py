"""Malformed commands: one line that says what to do, exit code 2, no traceback, no file."""

import hashlib

import pytest
from typer import Typer
from typer.testing import CliRunner

from experiments.__main__ import app as experiments_app
from experiments.benchmarks import gpu as gpu_benchmark
from experiments.benchmarks.__main__ import app as benchmarks_app
from paper_figures.__main__ import app as figures_app

gpu_app = Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
gpu_app.command()(gpu_benchmark.main)

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
        "no results": (
            ("narrowing", "--results", "empty", "--out", "out"),
            "a result is missing; make it with",
        ),
        "damaged results": (
            ("narrowing", "--results", "damaged", "--out", "out"),
            "is damaged, cut off, or no result of",
        ),
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
