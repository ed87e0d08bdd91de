"""Laws of running several points at a time: as in turn, but elsewhere; nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import psutil
import pytest
import xarray as xr
from distributed import LocalCluster
from threadpoolctl import threadpool_info, threadpool_limits
from typer.testing import CliRunner

from experiments.__main__ import app
from experiments.runner import Parts, Sweep, Workers
from linlocal.analysis import results
from linlocal.analysis.results import Provenance, ResultError

POINTS = [{"n": n} for n in range(4)]


@pytest.fixture(scope="module")
def cluster():
    """Two processes that somebody else started."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster


@pytest.fixture
def pool(cluster):
    with Workers(1, cluster.scheduler_address) as pool:
        yield pool


def squares(folder, fails_at=None):
    """A function of a point that notes in ``folder`` where each was evaluated."""

    def square(n):
        import os
        import time

        import xarray as xr

        if n == fails_at:
            while len([*Path(folder).iterdir()]) < 3:  # until the others are evaluated
                time.sleep(0.01)
            time.sleep(0.5)
            raise RuntimeError("the disk is full")
        # The first is ready last.
        time.sleep(0.3 if n == 0 else 0.0)
        Path(folder, f"{n}-{os.getpid()}").touch()
        return xr.Dataset({"square": n**2, "process": os.getpid()})

    return square


def evaluated(folder):
    return sorted(int(path.name.partition("-")[0]) for path in folder.iterdir())


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def parts(tmp_path):
    return lambda: Parts(tmp_path / "parts", Provenance.collect("toy", "smoke", 0, {}))


def test_several_at_a_time_give_what_one_after_the_other_gives(pool, notes):
    together = Sweep(workers=pool)(squares(notes), POINTS, "x")
    in_turn = Sweep()(squares(notes), POINTS, "x")
    assert [int(each["square"]) for each in together] == [0, 1, 4, 9]
    for one, other in zip(together, in_turn, strict=True):
        xr.testing.assert_identical(one.drop_vars("process"), other.drop_vars("process"))
    assert {int(each["process"]) for each in in_turn} == {os.getpid()}


def test_the_points_go_to_the_processes_of_the_given_scheduler(cluster, pool, notes):
    theirs = {worker.pid for worker in cluster.workers.values()}

    def meet(n):
        import os
        import time

        import xarray as xr

        (notes / f"{os.getpid()}").touch()
        end = time.monotonic() + 60
        while len([*notes.iterdir()]) < 2 and time.monotonic() < end:  # until both are at work
            time.sleep(0.01)
        return xr.Dataset({"process": os.getpid()})

    found = Sweep(workers=pool)(meet, POINTS, "x")
    used = {int(each["process"]) for each in found}
    assert used == theirs
    assert len(theirs) == 2
    assert os.getpid() not in used


def test_a_function_that_measures_time_stays_alone_in_this_process(pool, notes):
    found = Sweep(workers=pool)(squares(notes), POINTS, "x", alone=True)
    assert {int(each["process"]) for each in found} == {os.getpid()}


def test_points_are_stored_and_not_evaluated_again(pool, notes, parts):
    first = Sweep(parts(), pool)(squares(notes), POINTS, "x")
    again = Sweep(parts(), pool)(squares(notes), POINTS, "x")
    assert evaluated(notes) == [0, 1, 2, 3]
    for one, other in zip(first, again, strict=True):
        xr.testing.assert_equal(one, other)


def test_points_computed_at_the_same_time_do_not_count_twice(pool, parts):
    def nap(n):
        import time

        import xarray as xr

        time.sleep(0.5)
        return xr.Dataset({"n": n})

    start = time.perf_counter()
    Sweep(parts(), pool)(nap, POINTS, "x")
    session_s = time.perf_counter() - start
    restored = parts()
    Sweep(restored, pool)(nap, POINTS, "x")
    assert 0.5 <= restored.restored_s <= session_s


def test_a_failing_point_keeps_the_finished_ones(pool, notes, parts):
    with pytest.raises(RuntimeError, match="the disk is full"):
        Sweep(parts(), pool)(squares(notes, fails_at=3), POINTS, "x")
    assert evaluated(notes) == [0, 1, 2]
    restored = parts()
    found = Sweep(restored, pool)(squares(notes), POINTS, "x")
    assert evaluated(notes) == [0, 1, 2, 3]
    assert [int(each["square"]) for each in found] == [0, 1, 4, 9]
    assert restored.restored_s >= 0.3


def test_an_abandoned_sweep_leaves_the_scheduler_to_others(cluster, pool, notes):
    def slow(n):
        import time

        import xarray as xr

        time.sleep(0.2 * n)
        return xr.Dataset({"n": n})

    evaluation = pool(slow, [{"n": n} for n in range(40)])
    next(evaluation)
    evaluation.close()
    start = time.perf_counter()
    assert len(Sweep(workers=pool)(squares(notes), POINTS, "x")) == 4
    # The other 39 points together take over a minute.
    assert time.perf_counter() - start < 10


def test_processes_start_when_first_used_and_end_with_the_context(notes):
    before = set(psutil.Process().children(recursive=True))
    with Workers(2) as pool:
        assert set(psutil.Process().children(recursive=True)) == before
        found = Sweep(workers=pool)(squares(notes), POINTS, "x")
    used = {int(each["process"]) for each in found}
    assert os.getpid() not in used
    assert set(psutil.Process().children(recursive=True)) <= before
    assert not any(psutil.pid_exists(pid) for pid in used)


def test_without_workers_one_thread_computes_as_there():
    def threads(n):
        counts = [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]
        return xr.Dataset({"threads": max(counts)})

    with threadpool_limits(2, user_api="blas"):
        in_turn = Sweep()(threads, POINTS, "x")
        timed = Sweep()(threads, POINTS, "x", alone=True)
    assert [int(each["threads"]) for each in in_turn] == [1] * len(POINTS)
    assert [int(each["threads"]) for each in timed] == [2] * len(POINTS)


INTERRUPTED = """
import signal
import time
from pathlib import Path

from experiments.runner import Workers


def seconds(folder, n):
    import time
    from pathlib import Path

    Path(folder, f"{n}").touch()
    time.sleep(n)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Workers(2) as pool:
            list(pool(seconds, [{"folder": FOLDER, "n": n} for n in SECONDS]))
            time.sleep(600)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("seconds", [(0, 0.01), (600, 601)], ids=["idle", "busy"])
def test_an_interrupt_from_the_terminal_is_told_once_and_leaves_no_process(
    seconds, tmp_path, notes
):
    script = tmp_path / "sweep.py"
    script.write_text(
        INTERRUPTED.replace("FOLDER", repr(str(notes))).replace("SECONDS", f"{seconds}")
    )
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        while run.poll() is None and len(list(notes.iterdir())) < 2:
            time.sleep(0.05)
        time.sleep(0.5)
        family = psutil.Process(run.pid).children(recursive=True)
        os.killpg(run.pid, signal.SIGINT)
        assert run.communicate() == ("interrupted\n", "")
    assert len(family) >= 2
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def listening():
    """Process and address of all that this process and its children wait for."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {
        (process.pid, each.laddr)
        for process in family
        for each in process.net_connections()
        if each.status == psutil.CONN_LISTEN
    }


def test_ports_are_of_this_machine_alone_and_two_runs_do_not_meet():
    before = listening()  # clusters of other tests
    with Workers(1) as one, Workers(1) as two, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # that of a port in use
        one._connected(), two._connected()
        own = listening() - before
    assert own
    assert {address.ip for _, address in own} <= {"127.0.0.1", "::1"}


IMPATIENT = """
import importlib.util
import signal
import sys
from pathlib import Path

from experiments.__main__ import app
from experiments.runner import registry

spec = importlib.util.spec_from_file_location("experiments.catalogue.toy", TOY)
toy = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = toy
spec.loader.exec_module(toy)
registry.NAMES = ("toy",)


def run(config, sweep):
    def nap(n):
        import time
        from pathlib import Path

        Path(FOLDER, f"{n}").touch()
        time.sleep(600)

    return sweep(nap, [{"n": n} for n in range(4)], "naps")


if __name__ == "__main__":
    toy.run = run
    # A shell starts what runs in its background with interrupts ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    app(["run", "toy", "--workers", "2", "--seed", "3"])
"""


def all_of(process, stop):
    os.killpg(process.pid, stop)


@pytest.mark.parametrize(
    ("begun", "send", "stop"),
    [
        pytest.param(0, all_of, signal.SIGINT, marks=pytest.mark.slow, id="starting"),
        pytest.param(2, all_of, signal.SIGINT, id="busy"),
        pytest.param(2, subprocess.Popen.send_signal, signal.SIGTERM, id="terminated"),
        pytest.param(2, all_of, signal.SIGTERM, marks=pytest.mark.slow, id="all terminated"),
    ],
)
def test_impatience_costs_one_line_and_leaves_no_process(begun, send, stop, tmp_path, notes):
    script = tmp_path / "impatient.py"
    toy = Path(__file__).with_name("toy.py")
    script.write_text(IMPATIENT.replace("FOLDER", repr(str(notes))).replace("TOY", repr(str(toy))))
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as run:
        process = psutil.Process(run.pid)
        family = []
        while run.poll() is None and (len(list(notes.iterdir())) < begun or not family):
            time.sleep(0.05)
            every = process.children(recursive=True)
            family = [each for each in every if each.is_running() and "python" in each.name()]
        for pause in (0.3, 0.3, 0.3):
            if run.poll() is None:
                send(run, stop)
            time.sleep(pause)
        try:
            out, errors = run.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGABRT)  # faulthandler then says where it hangs
            out, errors = run.communicate()
    assert (run.returncode, out) == (130, ""), errors
    (line,) = errors.splitlines()
    assert line.startswith("interrupted; resume with: ")
    assert "run toy --preset cpu --seed 3 --out results" in line
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="concerns the C library of Linux")
@pytest.mark.parametrize("pages", [2**9, 2**13])
def test_freed_memory_is_kept_for_the_next_step(monkeypatch, pages):
    # What other clusters of this process left in the environment.
    for name in ("ARENA_MAX", "TRIM_THRESHOLD_", "MMAP_THRESHOLD_"):
        monkeypatch.delenv(f"MALLOC_{name}", raising=False)

    def faults(steps):
        import resource

        import numpy as np
        import xarray as xr

        def faulted():
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

        found = []
        for _ in range(steps):
            before = faulted()
            for _ in range(10):
                [np.ones(pages * 2**9) for _ in range(4)]
            found += [faulted() - before]
        return xr.Dataset({"faults": ("step", found)})

    with Workers(1) as pool:
        ((_, found),) = pool(faults, [{"steps": 6}])
    # Other threads of the process add faults of their own to some of the steps.
    assert found["faults"].min() < 4 * 10 * pages / 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_other_threads_of_the_process_rarely_wake_while_a_point_is_computed():
    def woken(seconds):
        import threading
        import time
        from pathlib import Path

        import xarray as xr

        def woken_so_far():
            tasks = Path("/proc/self/task").iterdir()
            lines = [
                line
                for task in tasks
                if int(task.name) != threading.get_native_id()
                for line in (task / "status").read_text().splitlines()
            ]
            return sum(int(x.split()[1]) for x in lines if x.startswith("voluntary_ctxt_switches"))

        before, end = woken_so_far(), time.monotonic() + seconds
        while time.monotonic() < end:
            pass
        return xr.Dataset({"per_second": (woken_so_far() - before) / seconds})

    with Workers(1) as pool:
        ((_, found),) = pool(woken, [{"seconds": 4}])
    assert found["per_second"] < 60  # by dask's own settings more than three hundred


@pytest.mark.slow
def test_the_command_uses_a_scheduler_and_lets_it_go_on(smoke, tmp_path, cluster):
    before = set(psutil.Process().children(recursive=True))
    line = ["run", "narrowing", "--preset", "smoke", "--workers", "1", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*line, "--scheduler", cluster.scheduler_address])
    assert done.exit_code == 0, done.output
    in_turn = smoke("narrowing")
    xr.testing.assert_equal(results.read(tmp_path / in_turn.name), results.read(in_turn))
    # No processes but those that were there did it, and they are still there.
    assert set(psutil.Process().children(recursive=True)) == before
    assert len(cluster.scheduler_info["workers"]) == 2


@pytest.mark.parametrize("address", ["x://y", "localhost", "tcp://localhost", "x://y:8786"])
def test_an_address_that_is_none_costs_one_line(toy, address):
    done = CliRunner().invoke(app, ["run", "toy", "--preset", "smoke", "--scheduler", address])
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert line.startswith(f"error: no scheduler answers at {address!r}")
    assert "tcp://HOST:8786" in line


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_costs_one_line(toy):
    address = "tcp://127.0.0.1:9"
    done = CliRunner().invoke(app, ["run", "toy", "--preset", "smoke", "--scheduler", address])
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert line.startswith(f"error: no scheduler answers at '{address}'")


def test_without_dask_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with Workers(2) as pool, pytest.raises(ResultError, match=r"linlocal\[sweep\].*--workers 1"):
        pool._connected()
