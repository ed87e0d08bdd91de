"""One hypothesis profile for all tests, the same examples on every run; results of small runs."""

import fcntl
import os
from contextlib import contextmanager

# Before numpy: several test workers, each with its own threads, only get in each other's way.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import pytest  # noqa: E402  after the threads are set
from hypothesis import HealthCheck, Phase, settings  # noqa: E402

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
