"""The core works without heavy libraries, and a missing one is named with its extra."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import linlocal as ll
from linlocal import analysis
from linlocal.doors import EXTRAS, missing_explained

ROOT = Path(__file__).resolve().parent.parent
# Where a library is not installed under the name by which it is imported.
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "lightning_fabric": "lightning-fabric",
}


def run(code: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, in which some libraries cannot be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
    return subprocess.run(
        [sys.executable, "-c", block + code], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("code", "who", "library", "target"),
    [
        ("from linlocal.analysis import align", "analysis.align", "torch", "'linlocal[torch]'"),
        (
            "from linlocal.analysis.local_losses import CLAPP",
            "analysis.local_losses.CLAPP",
            "torch",
            "'linlocal[torch]'",
        ),
        (
            "import linlocal as ll; ll.autodiff.local_update",
            "autodiff.local_update",
            "torch",
            "'linlocal[torch]'",
        ),
        ("import linlocal as ll; ll.testing", "testing", "hypothesis", "'linlocal[testing]'"),
        ("from linlocal.testing import networks", "testing", "hypothesis", "'linlocal[testing]'"),
        (
            "from linlocal.analysis.explore import explore",
            "analysis.explore",
            "matplotlib",
            "'linlocal[plots]'",
        ),
        (
            "import linlocal as ll; ll.plots.cosines",
            "plots.cosines",
            "matplotlib",
            "'linlocal[plots]'",
        ),
        ("import linlocal as ll; ll.symbolic.prove", "symbolic.prove", "sympy", "linlocal"),
    ],
)
def test_a_missing_library_is_named_once_with_what_installs_it(code, who, library, target):
    done = run(code, library)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1] == (
        f"ModuleNotFoundError: linlocal.{who} needs {library}, which is not installed: "
        f"pip install {target}"
    )
    # The import that failed, and this explanation of it; no third error between them.
    assert done.stderr.count("Traceback") == 2


def test_theory_needs_none_of_the_extras():
    code = """
import numpy as np
import linlocal as ll, linlocal.rhm
import linlocal.analysis.results

x = np.random.default_rng(0).standard_normal((8, 6))
network = ll.DeepLinear.orthogonal([6, 6, 6], seed=0)
data = ll.compare(network, ll.Pairs.from_views(x, x + 1), ll.rules.CLAPP())
assert float(data["relative_error"].max()) < 1e-12
assert ll.explain(network, ll.Pairs.from_views(x, x + 1), ll.rules.CLAPP()).exact
model = ll.rhm.RandomHierarchyModel(
    num_classes=2, num_symbols=2, num_synonyms=2, num_levels=2, seed=0
)
assert ll.rhm.theory.sample_complexity(model) > 0
assert "align" in dir(linlocal.analysis)
"""
    done = run(code, *EXTRAS)
    assert done.returncode == 0, done.stderr


def test_other_missing_modules_are_reported_as_they_are():
    plain = ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")
    with pytest.raises(ModuleNotFoundError) as caught, missing_explained("who"):
        raise plain
    assert caught.value is plain


def test_a_part_that_an_installed_library_lacks_is_reported_as_it_is():
    with (
        pytest.raises(ModuleNotFoundError, match=r"No module named 'hypothesis\.nowhere'"),
        missing_explained("who"),
    ):
        import hypothesis.nowhere  # noqa: F401


def test_an_unknown_name_is_refused_and_a_near_one_suggested():
    with pytest.raises(AttributeError, match="no attribute 'Provenence'"):
        analysis.Provenence  # noqa: B018 - the access itself raises
    done = run("import linlocal as ll; ll.compar")
    assert "Did you mean: 'compare'?" in done.stderr


def test_the_folder_of_the_instruments_has_one_name():
    done = run("import analysis")
    assert done.returncode != 0
    assert "`from linlocal.analysis import align`" in done.stderr


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def brought_by(requirements: list[str]) -> set[str]:
    """Names of the distributions that a list of requirements names directly."""
    return {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}


@pytest.mark.parametrize("library", EXTRAS)
def test_the_extra_that_is_named_brings_the_library(library):
    extra = EXTRAS[library]
    declared = project()
    lists = {None: declared["dependencies"], **declared["optional-dependencies"]}
    assert DISTRIBUTIONS.get(library, library) in brought_by(lists[extra])


def test_no_heavy_library_comes_with_the_core():
    heavy = {DISTRIBUTIONS.get(name, name) for name, extra in EXTRAS.items() if extra is not None}
    assert heavy.isdisjoint(brought_by(project()["dependencies"]))


def test_every_library_of_an_extra_for_users_is_known_to_the_doors():
    extras = project()["optional-dependencies"]
    known = {DISTRIBUTIONS.get(name, name) for name in EXTRAS}
    brought = set().union(*(brought_by(extras[name]) for name in extras.keys() - {"dev", "docs"}))
    # Nothing imports the notebook's own program.
    assert brought - {"linlocal", "jupyterlab"} <= known


def test_all_means_all_that_users_have():
    extras = project()["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(re.findall(r"\w+", everything)) - {"linlocal"}
    assert named == extras.keys() - {"all", "dev", "docs"}


def test_the_installed_version_is_that_of_the_package():
    assert project()["version"] == ll.__version__
