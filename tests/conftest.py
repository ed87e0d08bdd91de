"""For all tests: the examples of hypothesis, results of small runs, processes."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

# Before numpy: several test workers, each with its own threads, only get in each other's way.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import pytest  # noqa: E402  after the threads are set
from hypothesis import HealthCheck, Phase, settings  # noqa: E402

HERE = Path(__file__).resolve().parent

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    # Examples are a seed and some sizes, short as they are; shrinking them takes minutes.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("repeatable")


def pytest_configure(config):
    """Hide GPUs from all tests but their own: trainers would move their networks there."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """``smoke(name)``: the path of an experiment's smoke result, made by the command when asked.

    All workers of a test run share the results, which no test changes.
    """
    from typer.testing import CliRunner

    from experiments.__main__ import app
    from linlocal.analysis.results import Address

    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "smoke"
    folder.mkdir(exist_ok=True)

    def make(name):
        path = Address(name, "smoke", 0, folder).path
        with alone(folder / f"{name}.lock"):
            if not path.exists():
                done = CliRunner().invoke(
                    app, ["run", name, "--preset", "smoke", "--workers", "1", "--out", str(folder)]
                )
                assert done.exit_code == 0, done.output
        return path

    return make


@contextmanager
def alone(lock):
    """Wait until no other process is in a block of the same lock."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file
        yield


class Pair:
    """Two processes of `one_of_two.py`, started when first called."""

    def __init__(self, folder):
        self._folder, self._processes, self._calls = folder, [], 0

    def __call__(self, file, function, *arguments):
        """What ``function(fabric, *arguments)`` of a test file returns in each process.

        Arguments arrive as text; results are what ``torch.save`` can store.
        """
        if not self._processes:
            self._start()
        self._calls += 1
        answers = [self._folder / f"answer{self._calls}-{rank}.pt" for rank in range(2)]
        try:
            for process, answer in zip(self._processes, answers, strict=True):
                call = [file, function, [*map(str, arguments)], str(answer)]
                process.stdin.write(json.dumps(call) + "\n")
                process.stdin.flush()
            done = [self._done(process) for process in self._processes]
            assert all(done), "\n".join(file.read_text()[-3000:] for file in self._errors())
        except BaseException:
            # What one of them still waits for will not come.
            self.kill()
            raise
        import torch

        return [torch.load(answer, weights_only=True) for answer in answers]

    def kill(self):
        """End both; the next call starts two others."""
        for process in self._processes:
            process.kill()
            process.communicate()
        self._processes = []

    def _start(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        shared |= {"GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
        shared |= {"PYTHONPATH": str(HERE.parent)}
        for rank, errors in enumerate(self._errors()):
            with errors.open("w") as stderr:
                process = subprocess.Popen(
                    [sys.executable, HERE / "one_of_two.py"],
                    env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                )
            self._processes.append(process)

    def _errors(self):
        return [self._folder / f"errors{rank}.txt" for rank in range(2)]

    @staticmethod
    def _done(process):
        return any(line == "done\n" for line in process.stdout)


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """``pair(file, function, *arguments)`` calls a function of a test file in two processes."""
    pair = Pair(tmp_path_factory.mktemp("pair"))
    yield pair
    pair.kill()


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """``fresh(file, function, *arguments)``: calls a function of a test file in a new process.

    It returns the exit status, negative for a signal, and all that was printed. Nothing that other
    tests did is known there, but libraries are loaded (`fresh.py`). Arguments arrive as text.
    """
    printed = tmp_path_factory.mktemp("fresh") / "printed.txt"
    server = subprocess.Popen(
        [sys.executable, HERE / "fresh.py"],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        cwd=HERE.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def call(file, function, *arguments):
        line = [file, function, [*map(str, arguments)], str(printed)]
        server.stdin.write(json.dumps(line) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline()), printed.read_text()

    yield call
    server.kill()
    server.communicate()
