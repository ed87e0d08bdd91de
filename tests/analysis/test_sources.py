"""Laws of the version of an experiment: it follows the files that the experiment reaches."""

import shutil
from pathlib import Path

import pytest

from analysis import sources
from analysis.sources import code_version
from experiments import registry

FILES = {
    "linlocal/__init__.py": (
        '_HOME = {"Pairs": "p_pairs", "Rule": "p_rules"}\n_MODULES = ("p_rhm",)\n'
    ),
    "linlocal/p_rhm.py": "",
    "linlocal/p_pairs.py": "import numpy\n",
    "linlocal/p_rules.py": "from linlocal.p_pairs import x\n",
    "analysis/__init__.py": "",
    "analysis/p_meter.py": "",
    "analysis/p_series.py": "",
    "analysis/p_unused.py": "",
    "analysis/p_typed.py": "",
    "analysis/p_else.py": "from . import p_near\nfrom .p_near import x\n",
    "analysis/p_near.py": "",
    "experiments/__init__.py": "",
    "experiments/p_lazy.py": "from linlocal import Pairs\n",
    "experiments/p_whole.py": "import linlocal as ll\n",
    "experiments/p_deep.py": "def run():\n    from analysis import p_meter\n",
    "experiments/p_typed.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from analysis.p_typed import x\n"
        "else:\n    from analysis import p_else\n"
    ),
    "experiments/p_chain.py": "from analysis import p_series as s\nimport experiments.p_deep\n",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty project."""
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def small(root):
    """A project of a few files."""
    for name, content in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)
    return root


def edit(file):
    file.write_text(file.read_text() + "# edited\n")


REACHED = {
    "p_lazy": {"linlocal/__init__.py", "linlocal/p_pairs.py"},
    "p_whole": {
        "linlocal/__init__.py",
        "linlocal/p_pairs.py",
        "linlocal/p_rules.py",
        "linlocal/p_rhm.py",
    },
    "p_deep": {"analysis/__init__.py", "analysis/p_meter.py"},
    "p_typed": {"analysis/__init__.py", "analysis/p_else.py", "analysis/p_near.py"},
    "p_chain": {
        "analysis/__init__.py",
        "analysis/p_series.py",
        "analysis/p_meter.py",
        "experiments/__init__.py",
        "experiments/p_deep.py",
    },
}


@pytest.mark.parametrize("name", REACHED)
def test_the_version_follows_exactly_the_files_that_are_reached(small, name):
    module = f"experiments.{name}"
    changed = set()
    for file in FILES:
        before = code_version(module)
        assert code_version(module) == before
        edit(small / file)
        if code_version(module) != before:
            changed.add(file)
    assert changed == REACHED[name] | {f"experiments/{name}.py"}


def test_files_that_are_no_source_do_not_count(small):
    before = code_version("experiments.p_whole")
    (small / "linlocal" / "notes.txt").write_text("no source\n")
    (small / "linlocal" / "p_new.py").write_text("x = 1\n")
    assert code_version("experiments.p_whole") == before


def test_a_renamed_file_is_still_reached(small):
    before = code_version("experiments.p_chain")
    (small / "analysis" / "p_meter.py").rename(small / "analysis" / "p_moved.py")
    deep = small / "experiments" / "p_deep.py"
    deep.write_text(deep.read_text().replace("p_meter", "p_moved"))
    moved = code_version("experiments.p_chain")
    assert moved != before
    edit(small / "analysis" / "p_moved.py")
    assert code_version("experiments.p_chain") != moved


def test_names_count_beside_contents(root):
    (root / "experiments").mkdir()
    for name in ("p_first", "p_second"):
        (root / "experiments" / f"{name}.py").write_text("x = 1\n")
    assert code_version("experiments.p_first") != code_version("experiments.p_second")


def test_the_version_is_the_same_in_any_folder(small, tmp_path_factory, monkeypatch):
    here = code_version("experiments.p_chain")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(small, elsewhere)
    monkeypatch.setattr(sources, "ROOT", elsewhere)
    assert code_version("experiments.p_chain") == here
    edit(elsewhere / "analysis" / "p_meter.py")
    assert code_version("experiments.p_chain") != here


def test_a_module_that_does_not_exist_is_refused(small):
    with pytest.raises(ModuleNotFoundError, match=r"experiments\.p_nothing"):
        code_version("experiments.p_nothing")


@pytest.fixture
def copy(root):
    """A copy of this project."""
    here = Path(sources.__file__).parent.parent
    for package in sources.PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(here / package, root / package, ignore=ignore)
    return root


def versions(names):
    return {name: code_version(f"experiments.{name}") for name in names}


def test_every_experiment_follows_itself_and_the_schema_of_results(copy):
    first = versions(registry.NAMES)
    edit(copy / "analysis" / "results.py")
    second = versions(registry.NAMES)
    assert all(second[name] != first[name] for name in registry.NAMES)
    for name in registry.NAMES:
        edit(copy / "experiments" / f"{name}.py")
        assert code_version(f"experiments.{name}") != second[name]


@pytest.mark.parametrize(
    ("file", "followers"),
    [
        ("linlocal/rhm/sampling.py", {"rhm_covariances", "rhm_feedback"}),
        ("analysis/hierarchy.py", {"rhm_feedback"}),
        ("linlocal/projection.py", {"narrowing"}),
    ],
)
def test_grammars_and_projections_do_not_touch_each_others_experiments(copy, file, followers):
    names = ("narrowing", "rhm_covariances", "rhm_feedback")
    before = versions(names)
    edit(copy / file)
    after = versions(names)
    assert {name for name in names if after[name] != before[name]} == followers
