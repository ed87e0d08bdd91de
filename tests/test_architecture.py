"""Imports go in one direction; heavy libraries stay in their rooms."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from linlocal import analysis

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("linlocal", "analysis", "experiments", "paper_figures")

# Of our own packages, what each may import.
MAY_IMPORT = {
    "linlocal": ("linlocal",),
    "analysis": ("linlocal", "analysis"),
    "experiments": ("linlocal", "analysis", "experiments"),
    "paper_figures": ("linlocal", "linlocal.analysis.results", "paper_figures"),
}
# Of others, what theory may import everywhere, and what in one room only.
THEORY_USES = ("numpy", "scipy", "threadpoolctl", "xarray")
ROOM_OF = {
    "torch": "linlocal.autodiff",
    "sympy": "linlocal.symbolic",
    "hypothesis": "linlocal.testing",
}


def imports(module: str, source: str) -> Iterator[str]:
    """Every imported name in full, relative ones resolved, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def violations(module: str, source: str) -> list[str]:
    room = module.split(".")[0]
    found = []
    for name in imports(module, source):
        top = name.split(".")[0]
        if top in (*ROOMS, "tests"):
            allowed = any(within(name, package) for package in MAY_IMPORT[room])
        elif room == "linlocal" and top in ROOM_OF:
            allowed = within(module, ROOM_OF[top])
        elif room == "linlocal":
            allowed = top in THEORY_USES or top in sys.stdlib_module_names
        else:
            allowed = room != "paper_figures" or top not in ("torch", "sklearn", "sympy")
        if not allowed:
            found.append(f"{module} imports {name}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_every_import_points_to_the_left(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    found = []
    for file in files:
        # An __init__ keeps its name here, so that "from ." means its package.
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        found += violations(module, file.read_text(encoding="utf-8"))
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("linlocal.rules", "import analysis"),
        ("linlocal.rules", "def f():\n    from experiments import data"),
        ("linlocal.rules", "import torch.nn"),
        ("linlocal.autodiff", "import sympy"),
        ("linlocal.rules", "from sklearn import datasets"),
        ("linlocal.rules", "from hypothesis import given"),
        ("linlocal.analysis.probing", "from experiments.data import load_images"),
        ("linlocal.analysis.probing", "import tests.laws"),
        ("experiments.catalogue.narrowing", "import paper_figures.look"),
        ("paper_figures.figures.narrowing", "import experiments"),
        ("paper_figures.figures.narrowing", "from analysis import Provenance"),
        ("paper_figures.figures.narrowing", "from analysis import results, probe"),
        ("paper_figures.figures.narrowing", "import torch"),
        ("linlocal.rhm.theory", "from ...analysis import results"),
    ],
)
def test_a_planted_violation_is_found(module, source):
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("linlocal.autodiff", "import torch"),
        ("linlocal.symbolic.proofs", "from sympy import Matrix"),
        ("linlocal.rhm.theory", "from .. import checks\nfrom . import grammar\nimport math"),
        (
            "experiments.catalogue.narrowing",
            "import linlocal\nimport torch\nfrom analysis import probe",
        ),
        (
            "paper_figures.figures.narrowing",
            "from linlocal.analysis.results import read\nfrom analysis import results",
        ),
    ],
)
def test_allowed_imports_pass(module, source):
    assert violations(module, source) == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("linlocal", {"torch", "sympy", "hypothesis", "xarray"}),
        ("linlocal.analysis.results", {"torch", "sympy", "matplotlib"}),
        ("experiments.__main__", {"torch", "sympy", "matplotlib", "sklearn"}),
        ("paper_figures.__main__", {"torch", "sympy", "sklearn"}),
    ],
)
def test_importing_stays_light(module, heavy):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert heavy.isdisjoint(done.stdout.split())


def test_every_lazy_name_of_analysis_exists():
    for name in analysis.__all__:
        assert getattr(analysis, name).__name__ == name
        assert name in dir(analysis)
    with pytest.raises(AttributeError, match="no attribute 'Provenence'"):
        analysis.Provenence  # noqa: B018 - the access itself raises
