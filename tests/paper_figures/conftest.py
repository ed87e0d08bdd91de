"""Results for tests of figures."""

import pytest

from linlocal.analysis import results


@pytest.fixture
def stored(smoke):
    """A fresh copy of the smoke result of an experiment."""
    return lambda name: results.read(smoke(name))
