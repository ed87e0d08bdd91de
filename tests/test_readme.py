"""The README runs as it stands, and its table comes from the command."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

README = Path(__file__).parent.parent / "README.md"


def test_python_blocks_of_the_readme_run_in_order() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(block, namespace)


def test_every_rule_is_named_in_the_readme() -> None:
    from linlocal import rules

    text = README.read_text(encoding="utf-8")
    assert [name for name in rules.NAMES if f"`{name}`" not in text] == []


def test_tables_are_replaced_between_their_markers_and_nowhere_else(tmp_path: Path) -> None:
    import typer

    from paper_figures import claims
    from paper_figures.report import readme

    figures = tmp_path / "figures"
    figures.mkdir()
    claims.record("toy", [claims.Claim("a | b", None, "1")], "preset smoke, seed 0", figures)
    written = (figures / "claims.md").read_text()
    (figures / readme.PICTURE).write_bytes(b"picture")
    (figures / "claims.md").write_text("edited by hand")
    page = tmp_path / "README.md"
    parts = [
        "{}\nstale\n{}".format(*readme.markers(name)) for name in (readme.VERIFIED, readme.MEASURED)
    ]
    page.write_text("\n".join(["before", *parts, "after\n"]))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "benchmarks.md").write_text(
        f"# All\n\n{readme.IN_SHORT}\n| fast |\n\n## At length\n\n| slow |\n"
    )
    app = typer.Typer()
    app.command()(readme.main)
    done = CliRunner().invoke(app, ["--figures", str(figures), "--readme", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    assert "| toy | 0 | 0 | 0 | 0 | 0 | 1 |" in text
    assert "| all | 0 | 0 | 0 | 0 | 0 | 1 |" in text
    assert "| fast |" in text
    assert "| slow |" not in text
    assert (tmp_path / "docs" / "claims.md").read_text() == written
    assert (tmp_path / "docs" / readme.PICTURE).read_bytes() == b"picture"


def test_missing_figures_name_the_command(tmp_path: Path) -> None:
    import typer

    from paper_figures.report import readme

    app = typer.Typer()
    app.command()(readme.main)
    done = CliRunner().invoke(app, ["--figures", str(tmp_path)])
    assert done.exit_code == 2
    assert "make figures" in done.output


def test_verdicts_that_were_edited_by_hand_do_not_reach_the_readme(tmp_path: Path) -> None:
    import typer

    from paper_figures import claims
    from paper_figures.report import readme

    claims.record("toy", [claims.Claim("a", False, "1")], "preset smoke, seed 0", tmp_path)
    file = tmp_path / "claims.json"
    file.write_text(file.read_text().replace('"fails"', '"holds"'))
    app = typer.Typer()
    app.command()(readme.main)
    done = CliRunner().invoke(app, ["--figures", str(tmp_path)])
    assert done.exit_code == 2
    assert f"{file}: not as it was written" in done.output
    assert "make figures" in done.output


def test_a_readme_without_markers_is_refused() -> None:
    from paper_figures.report import readme

    with pytest.raises(ValueError, match="markers"):
        readme.replace_between("nothing here", readme.VERIFIED, "table")


def test_the_tables_of_the_readme_are_those_of_the_commands() -> None:
    from paper_figures.report import readme

    text = README.read_text(encoding="utf-8")
    measured = readme.timings(README.parent / "docs" / "benchmarks.md")
    assert readme.replace_between(text, readme.MEASURED, measured) == text
