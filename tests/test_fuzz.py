"""The fuzzing command: it tells a read and a documented error from all else, and repeats itself."""

import os
import signal
import subprocess
import sys
import time
from importlib import util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def fuzz():
    # Under a name of its own, as `tests` is no package.
    spec = util.spec_from_file_location("fuzz_of_readers", ROOT / "tests" / "fuzz.py")
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_no_reader_does_anything_but_read_or_refuse():
    # In a process of its own, because it forks, and threads of other tests would not come along.
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "30", "--seconds", "90"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:] if line]
    assert len(rows) == 10
    for name, tried, *kinds in rows:
        assert int(tried) == sum(map(int, kinds)) > 0, name


def wait(folder):
    time.sleep(20)


def crash(folder):
    os.kill(os.getpid(), signal.SIGSEGV)


def swell(folder):
    bytearray(3 * 2**30)


FAULTS = {
    "another error": (lambda folder: [][0], "IndexError: 'list index out of range'"),
    "a warning that ends it": (lambda folder: sys.exit(), "SystemExit"),
    "too much memory": (swell, "MemoryError"),
    "a crash": (crash, "a crash (SIGSEGV)"),
    "no end": (wait, "more than 1 seconds (SIGALRM)"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_every_other_end_is_seen_and_named(fuzz, monkeypatch, capfd, case):
    read, message = FAULTS[case]
    planted = fuzz.Reader(lambda: [("a", b"content 12")], read, ValueError)
    monkeypatch.setitem(fuzz.READERS, "planted", planted)
    monkeypatch.setattr(fuzz, "SECONDS_OF_A_CASE", 1)
    given = ["--reader", "planted", "--seed", "7", "--first", "4", "--cases", "2"]
    assert fuzz.main(given) == 1
    shown = capfd.readouterr()
    assert "| planted | 2 | 0 | 0 | 2 |" in shown.out
    assert f"planted, case 4: {message}" in shown.err
    assert "python -m tests.fuzz --seed 7 --reader planted --first 5 --cases 1" in shown.err


def test_a_read_and_the_documented_error_are_none(fuzz, monkeypatch, capfd):
    def read(folder):
        if len((folder / "a").read_bytes()) != 10:
            raise ValueError

    monkeypatch.setitem(
        fuzz.READERS, "planted", fuzz.Reader(lambda: [("a", b"content 12")], read, ValueError)
    )
    tables = []
    for first in (0, 0, 40):
        assert fuzz.main(["--reader", "planted", "--first", str(first), "--cases", "40"]) == 0
        tables.append(capfd.readouterr().out)
    assert tables[0] == tables[1] != tables[2]
    assert tables[0].splitlines()[-2 if not tables[0].splitlines()[-1] else -1].endswith("| 0 |")


def test_cases_are_a_function_of_the_seed(fuzz):
    whole = fuzz.jpeg()
    draws = [fuzz.changed(whole, whole, fuzz.random.Random(k)) for k in (*range(50), *range(50))]
    assert draws[:50] == draws[50:]
    assert len(set(draws)) > 40
