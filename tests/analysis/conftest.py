"""Two connected processes for all tests that need them: to start a pair takes seconds."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


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
        shared |= {"PYTHONPATH": str(HERE.parents[1])}
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
