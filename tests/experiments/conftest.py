"""The toy experiment."""

import importlib.util
import sys
from pathlib import Path

import pytest

from experiments.runner import registry


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The toy experiment as one of the catalogue, in an empty current folder."""
    spec = importlib.util.spec_from_file_location(
        "experiments.catalogue.toy", Path(__file__).with_name("toy.py")
    )
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    monkeypatch.setattr(registry, "NAMES", ("toy",))
    monkeypatch.chdir(tmp_path)
    spec.loader.exec_module(module)
    return module
