"""Every notebook was committed with its outputs; tests/test_wheel.py runs them."""

from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_conditions",
        "02_proofs",
        "03_explore",
        "04_hierarchy",
        "05_your_own_network",
        "06_networks_of_libraries",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_committed_and_nothing_importable_is_defined(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in code)
    assert all(output.output_type != "error" for cell in code for output in cell.outputs)
    assert not any(
        line.startswith(("def ", "class ")) for cell in code for line in cell.source.splitlines()
    )
