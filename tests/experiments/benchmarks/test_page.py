"""The page of benchmarks is what its result files say."""

from pathlib import Path

from typer.testing import CliRunner

from experiments.benchmarks import registry
from experiments.benchmarks.__main__ import FOLDER, PAGE, app, page

ROOT = Path(__file__).parent.parent.parent.parent


def test_the_page_is_what_the_result_files_say():
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(ROOT / FOLDER)


def test_every_benchmark_was_measured_and_says_what_it_measures():
    for name in registry.NAMES:
        benchmark = registry.load(name)
        assert benchmark.TITLE
        assert "cpu" in benchmark.CONFIGS
        assert list((ROOT / FOLDER).glob(f"{name}-*.nc"))


def test_an_unknown_benchmark_is_named_in_one_line():
    done = CliRunner().invoke(app, ["recordre"])
    assert done.exit_code == 2
    assert "did you mean 'recorder'" in done.output
