"""What every malformed input must meet: a documented error, in words, from our own boundary."""

import traceback
import warnings
from pathlib import Path

import pytest

from tests.malformed.instruments import NET

ROOT = Path(__file__).resolve().parents[2]
# The instruments are in linlocal, too.
OURS = tuple(str(ROOT / name) for name in ("linlocal", "experiments", "paper_figures"))


@pytest.fixture
def refused():
    """``refused(call, error, message)``: the law, for one malformed input."""

    def check(call, error, message):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(Exception, match=message) as caught:
                call()
        # No subclass by chance: UnicodeError is a ValueError. numpy has a MemoryError of its own.
        exact = caught.type is error or error is MemoryError
        assert exact, f"{caught.type.__name__}, expected {error.__name__}"
        # More than the name of a key or a bare number: expected, got, what to change.
        assert len(str(caught.value).split()) >= 3, str(caught.value)
        last = traceback.extract_tb(caught.tb)[-1]
        assert last.filename.startswith(OURS), (
            f"raised deep inside, at {last.filename}:{last.lineno}"
        )

    return check


@pytest.fixture
def left_alone(refused, tmp_path, monkeypatch):
    """``refused``, and the network of the instruments and the folder are as they were."""

    def check(call, error, message):
        monkeypatch.chdir(tmp_path)
        refused(call, error, message)
        hooks = [m._forward_hooks or m._forward_pre_hooks for m in NET.modules()]
        assert not any(hooks), "a hook was left on the network"
        assert all(p.grad is None and not p._backward_hooks for p in NET.parameters())
        assert not list(tmp_path.iterdir()), "a file was left behind"

    return check
