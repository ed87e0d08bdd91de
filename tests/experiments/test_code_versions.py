"""The code versions of this project's experiments follow what their runs call, and little else."""

import ast
import inspect
import shutil
import sys
from pathlib import Path

import pytest

from experiments.runner import registry
from linlocal.analysis.results import code_version, sources, syntax

HERE = Path(__file__).resolve().parents[2]


def edit(file):
    """Let the module do one thing more when it is imported."""
    file.write_text(file.read_text() + "print()\n")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of this project."""
    monkeypatch.setattr(sources, "_folder", lambda package: tmp_path / package)
    for package in ("linlocal", "experiments"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE / package, tmp_path / package, ignore=ignore)
    return tmp_path


def versions(names):
    return {name: code_version(registry.entry_of(name)) for name in names}


def test_every_experiment_follows_itself_and_its_sweeps(copy):
    first = versions(registry.NAMES)
    edit(copy / "experiments" / "runner" / "sweep.py")
    second = versions(registry.NAMES)
    assert all(second[name] != first[name] for name in registry.NAMES)
    for name in registry.NAMES:
        edit(copy / "experiments" / "catalogue" / f"{name}.py")
        assert code_version(registry.entry_of(name)) != second[name]


@pytest.mark.parametrize(
    ("file", "followers"),
    [
        ("linlocal/rhm/sampling.py", {"rhm_covariances", "rhm_feedback"}),
        ("linlocal/analysis/hierarchy/networks.py", {"rhm_feedback"}),
        ("linlocal/projection/optimal.py", {"narrowing"}),
    ],
)
def test_grammars_and_projections_do_not_touch_each_others_experiments(copy, file, followers):
    names = ("narrowing", "rhm_covariances", "rhm_feedback")
    before = versions(names)
    edit(copy / file)
    after = versions(names)
    assert {name for name in names if after[name] != before[name]} == followers


def executed(function):
    """The functions of ours that are called meanwhile: module, file, first line."""
    found = set()

    def watch(frame, event, argument):
        module, code = frame.f_globals.get("__name__", ""), frame.f_code
        ours = module.split(".")[0] in ("linlocal", "experiments")
        # Bodies of modules and classes are no functions, and what dataclasses make is in no file.
        written = code.co_flags & inspect.CO_OPTIMIZED and code.co_filename[0] != "<"
        if event == "call" and ours and written:
            found.add((module, code.co_filename, code.co_firstlineno))

    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


def names_at(file, line):
    """What the statement at the top of a file defines that holds a line."""
    for each in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        decorators = [d.lineno for d in getattr(each, "decorator_list", [])]
        if min([each.lineno, *decorators]) <= line <= each.end_lineno:
            return set(syntax._defined(each))
    raise AssertionError(f"{file} has no statement at line {line}")


FEW = ("rhm_local_ssl", "trained_mlp")


@pytest.mark.parametrize(
    "name",
    [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in registry.NAMES],
)
def test_every_function_that_a_run_calls_counts(name):
    experiment = registry.load(name)
    called = executed(lambda: experiment.run(experiment.PRESETS["smoke"]))
    project = sources._Project(("linlocal", "experiments"))
    found = project.counted(registry.module_of(name), "run")
    counted = {(module, each) for module, code in found for each in code.defines}
    missed = [
        (module, line)
        for module, file, line in called
        if counted.isdisjoint((module, each) for each in names_at(file, line))
    ]
    assert len(called) > 50
    assert missed == []
