"""An edit outdates only what it can change: data know no training, experiments not each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "experiments"
# What each room may import from the others.
ALLOWED = {
    "data": set(),
    "networks": set(),
    "runner": {"catalogue"},
    "training": {"data", "networks", "runner"},
    "catalogue": {"data", "networks", "runner", "training"},
}


def rooms(code):
    """The rooms of experiments that code imports from."""
    for node in ast.walk(ast.parse(code)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("experiments."):
                yield name.split(".")[1]


def violations(room, code):
    return sorted(set(rooms(code)) - ALLOWED[room] - ({room} if room != "catalogue" else set()))


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_from_those_below_it(room):
    files = [file for file in (ROOT / room).rglob("*.py*") if file.suffix in (".py", ".pyi")]
    assert files
    for file in files:
        assert violations(room, file.read_text(encoding="utf-8")) == [], file


@pytest.mark.parametrize(
    ("room", "code", "found"),
    [
        ("data", "from experiments.training import fit_by_rule", "training"),
        ("data", "def f():\n    import experiments.runner.grids", "runner"),
        ("data", "from experiments import networks", "networks"),
        ("catalogue", "from experiments.catalogue import spectrum", "catalogue"),
        ("training", "from experiments.pretrain.loop import Pretraining", "pretrain"),
    ],
)
def test_a_planted_violation_is_found(room, code, found):
    assert violations(room, code) == [found]
