"""What a user installs is one name, complete, and runs the README and the notebooks anywhere."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def call(command: list[str], **options) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def wheel_of(source: Path, folder: Path) -> Path:
    """Build a wheel with what is installed: no network is needed."""
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    call([*PIP, "wheel", *offline, "--wheel-dir", str(folder), str(source)])
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return wheel_of(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """The unpacked source archive."""
    folder = tmp_path_factory.mktemp("archive")
    build = "import sys; from hatchling.build import build_sdist; build_sdist(sys.argv[1])"
    call([sys.executable, "-c", build, str(folder)], cwd=ROOT)
    (packed,) = folder.glob("*.tar.gz")
    with tarfile.open(packed) as file:
        names = file.getnames()
        assert len(names) == len(set(names))
        file.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
        file.extractall(folder)
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """The interpreter of an environment that has the wheel and everything else but the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    call([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    packages = Path(paths["purelib"])
    # A folder that a .pth file names is searched, but .pth files in it are not read: so an editable
    # installation of the checkout stays out.
    libraries = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (packages / "libraries.pth").write_text("\n".join(libraries))
    call([*PIP, "install", "--no-deps", "--no-index", "--target", str(packages), str(wheel)])
    return Path(paths["scripts"]) / "python"


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A folder of a user, with files whose names could be taken for ours."""
    (tmp_path / "analysis.py").write_text("raise AssertionError('the wrong analysis')")
    for name in ("experiments", "paper_figures"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise AssertionError('the wrong {name}')")
    return tmp_path


def files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_the_wheel_is_the_package_file_by_file(wheel):
    inside = {
        name: text for name, text in files(wheel).items() if ".dist-info" not in name.split("/")[0]
    }
    package = ROOT / "linlocal"
    kept = [
        Path(folder, name)
        for folder, _, names in os.walk(package, followlinks=True)
        for name in names
        if name.endswith((".py", ".pyi", ".toml", ".typed"))
    ]
    assert package / "analysis" / "alignment" / "__init__.pyi" in kept
    assert inside == {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in kept}


def test_the_archive_makes_the_same_wheel(wheel, archive, tmp_path):
    assert files(wheel_of(archive, tmp_path)) == files(wheel)


def test_the_archive_runs_in_place(archive):
    call([sys.executable, "-c", "from linlocal.analysis import align"], cwd=archive)


def run_alone(code: str, python: Path, folder: Path) -> None:
    """Run code with the wheel as a user would, without the checkout.

    In a plain interpreter: kernels that start at the same time may draw the same port, and hang.
    """
    check = f"""
import sys
ours = {{n: m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "linlocal"}}
assert all(file.startswith({str(python.parent.parent)!r}) for file in ours.values()), ours
assert len(set(ours.values())) == len(ours) > 20
assert not {{"analysis", "paper_figures"}} & set(sys.modules)
"""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    variables["MPLBACKEND"] = "Agg"
    call([str(python), "-c", code + check], cwd=folder, env=variables, timeout=280)


def test_the_readme_runs_from_the_wheel_in_any_folder(python, elsewhere):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) >= 3
    check = "\nimport sys\nassert 'experiments' not in sys.modules"
    run_alone("\n".join([*blocks, check]), python, elsewhere)


# Where the compiled part of torchvision does not fit torch, experiments know what to do.
TORCHVISION = f"""
import sys, linlocal.analysis
sys.path.insert(0, {str(ROOT)!r})
from experiments.networks import import_torchvision as declared
declared()
sys.path.remove({str(ROOT)!r})
"""
# What was imported needs no other extras than were said; matplotlib brings PIL.
LOADED = """
import sys
from linlocal.doors import EXTRAS
used = {EXTRAS[name] for name in EXTRAS if name in sys.modules and name != "PIL"} - {None}
assert used <= SAID, used
"""


def brought(extras: set[str]) -> set[str]:
    """Extras with all that they bring."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    todo, found = [*extras], set[str]()
    while todo:
        found.add(extra := todo.pop())
        for each in known[extra]:
            if each.startswith("linlocal"):
                todo += re.findall(r"\w+", each.partition("[")[2])
    return found


@pytest.mark.timeout(300)  # half a minute of one core, where others do not want it, too
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_the_wheel_with_what_it_says_it_needs(python, elsewhere, path):
    first, *cells = nbformat.read(path, as_version=4).cells
    (said,) = re.findall(r"`pip install '?linlocal(?:\[([\w,]+)\])?'?`", first.source)
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    before = TORCHVISION if "torchvision" in code else ""
    after = LOADED.replace("SAID", repr(brought(set(filter(None, said.split(","))))))
    run_alone(f"{before}\n{code}\n{after}", python, elsewhere)
