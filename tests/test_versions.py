"""The versions that are named in several places are the same ones."""

import json
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from linlocal.analysis import results
from linlocal.analysis.results import Provenance

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
)


def required():
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *(each for extra in extras.values() for each in extra)]:
        if (found := Requirement(text)).name != "linlocal":
            yield found


def test_the_versions_of_the_results_are_some_that_the_project_allows():
    # Not of the environment of the results: whoever edits notebooks needs it.
    named = {canonicalize_name(each.name) for each in required()} - {"jupyterlab"}
    assert named <= PINNED.keys()
    for each in required():
        version = PINNED.get(canonicalize_name(each.name))
        assert version is None or each.specifier.contains(version), each


def test_committed_results_were_made_with_these_versions():
    files = [*ROOT.glob("results/*-paper-*.nc"), *ROOT.glob("docs/benchmarks/*.nc")]
    assert files
    for file in files:
        origin = Provenance.of(results.read(file))
        if "accelerator" in json.loads(origin.hardware):
            continue  # a GPU takes the torch of its driver
        made_with = json.loads(origin.packages)
        for name in ("numpy", "scipy", "torch", "xarray"):
            assert made_with[name].split("+")[0] == PINNED[name], file.name


def test_a_public_host_tests_the_oldest_and_newest_versions():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    pythons = [Version(each) for each in re.findall(r'python: "([\d.]+)"', text)]
    torches = re.findall(r'constraint: "torch([^"]+)"', text)
    assert f">={min(pythons)}" == PROJECT["requires-python"]
    (torch,) = (each for each in required() if each.name == "torch")
    (oldest,) = (each.version for each in torch.specifier if each.operator == ">=")
    assert torches == [f"=={oldest}.*", f">={oldest}"]
    assert "run: make test" in text
