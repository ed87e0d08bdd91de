"""Laws of figures with other parameters: found by value, beside the preset's, and said so."""

import json
import shlex
import sys
import types
from pathlib import Path

import pytest
import xarray as xr
from matplotlib.figure import Figure
from typer.testing import CliRunner

from linlocal.analysis import results
from linlocal.analysis.results import Address, Provenance
from paper_figures import claims, registry
from paper_figures.__main__ import app
from paper_figures.addresses import strongest
from paper_figures.claims import Claim

PRESET = {"width": 128, "rate": 0.5, "sizes": [3, 4], "most": None}


def draw(datasets):
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot(datasets["toy"]["x"])
    return figure


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A figure of a result of the experiment ``toy``, in an empty current folder."""
    module = types.ModuleType(registry.module_of("toy"), "A toy.")
    module.INPUTS, module.PAPER, module.draw = ("toy",), "", draw
    module.claims = lambda datasets: [Claim("it is so", True, f"{float(datasets['toy']['x'][0])}")]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "NAMES", ("toy",))
    monkeypatch.chdir(tmp_path)
    return module


def store(x, settings=None, label="", name=None, preset="cpu"):
    """The result of a run with settings, as `python -m experiments run` writes it."""
    dataset = xr.Dataset({"x": ("n", [x, 2.0])})
    if settings:
        dataset = dataset.assign_attrs(settings=json.dumps(settings))
        label = "-".join(filter(None, [f"set-{'+'.join(sorted(settings))}-{int(x):08x}", label]))
    path = Address("toy", preset, 0, Path("results"), label).path
    origin = Provenance.collect("toy", preset, 0, PRESET | (settings or {}))
    return results.write(dataset, path if name is None else path.with_name(name), origin)


def cli(line):
    return CliRunner().invoke(app, shlex.split(line))


def drawn(output):
    """The number that the printed claim was decided by."""
    return float(output.partition("measured ")[2].partition(")")[0])


@pytest.mark.parametrize(
    ("line", "x"),
    [
        ("toy", 1),
        ("toy --set width=64", 2),
        ("toy --set rate=0.25 --set width=64", 3),
        ("toy --set rate=1", 4),
        ("toy --set sizes=[1,2]", 5),
        ("toy --set most=7", 6),
        ("toy --config few.toml", 3),
        ("toy --config few.toml --set rate=0.5", 2),
        # What the preset is anyway.
        ("toy --set width=128", 1),
        ("toy --set most=none", 1),
        ("toy --results results/toy-cpu-seed0-set-width-00000002.nc", 2),
        ("toy --results results/toy-cpu-seed0.nc", 1),
    ],
)
def test_a_figure_is_drawn_from_the_result_with_its_parameters(toy, line, x):
    every = [None, {"width": 64}, {"rate": 0.25, "width": 64}, {"rate": 1.0}, {"sizes": [1, 2]}]
    for number, settings in enumerate([*every, {"most": 7}], start=1):
        store(number, settings)
    Path("few.toml").write_text("width = 64\nrate = 0.25\n")
    done = cli(line)
    assert done.exit_code == 0, done.output
    assert drawn(done.output) == x


def test_a_figure_with_other_parameters_stands_beside_that_of_the_preset_and_says_so(toy):
    store(1)
    file = store(2, {"width": 64})
    assert cli("toy").exit_code == 0
    before = Path("figures/toy.png").read_bytes()
    assert cli("toy --set width=64").exit_code == 0
    assert Path("figures/toy.png").read_bytes() == before
    title = f"toy-{file.stem.removeprefix('toy-cpu-seed0-')}"
    assert "Not the preset: with width=64." in Path(f"figures/{title}.svg").read_text()
    assert "Not the preset" not in Path("figures/toy.svg").read_text()
    entries = claims.entries(Path("figures"))
    assert entries.keys() == {"toy", title}
    assert entries[title]["run"] == "preset cpu, seed 0, with width=64"
    assert "--set width=64" in entries[title]["inputs"][0]["command"]
    assert "--set" not in entries["toy"]["inputs"][0]["command"]


def test_of_several_data_one_is_chosen(toy):
    store(1, {"width": 64})
    store(2, {"width": 64}, label="mnist-1a2b3c4d")
    refused = cli("toy --set width=64")
    assert refused.exit_code == 2
    assert "from several data, embedded, mnist-1a2b3c4d: choose" in " ".join(refused.output.split())
    for data, x in (("embedded", 1), ("mnist-1a2b3c4d", 2)):
        done = cli(f"toy --set width=64 --data {data} --out {data}")
        assert drawn(done.output) == x
        ((entry),) = claims.entries(Path(data)).values()
        assert ("--data FOLDER" in entry["inputs"][0]["command"]) == (x == 2)


def test_the_preset_is_no_result_with_other_parameters(toy):
    store(2, {"width": 64})
    done = cli("toy")
    assert done.exit_code == 2
    assert "a result is missing" in done.output
    assert cli("kept").exit_code == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("toy --set width=63", "results has no result of toy with width=63."),
        ("toy --set wdth=64", "results has no result of toy with wdth=64."),
        ("toy --set width", "--set 'width' should be NAME=VALUE"),
        ("all --set width=64", "those of one figure: name it in place of `all`"),
        ("report --results results/toy-cpu-seed0.nc", "those of one figure"),
        ("toy --config broken.toml", "broken.toml cannot be read"),
        ("toy --results notes.txt", "notes.txt is damaged, cut off, or no result"),
        ("toy --results results/mine.nc", "mine.nc was renamed: give it back its name, toy-cpu"),
        ("toy --results results/toy-cpu-seed0-renamed.nc", "seed 0 with width=64: it was renamed"),
        ("other --results results/toy-cpu-seed0.nc", "is drawn from else, and results/toy-cpu"),
    ],
)
def test_what_cannot_be_drawn_costs_one_line(toy, monkeypatch, line, reason):
    other = types.ModuleType(registry.module_of("other"), "Another.")
    other.INPUTS, other.PAPER = ("else",), ""
    monkeypatch.setitem(sys.modules, other.__name__, other)
    monkeypatch.setattr(registry, "NAMES", ("other", "toy"))
    store(1)
    store(2, {"width": 64})
    store(1, name="mine.nc")
    store(2, {"width": 64}, name="toy-cpu-seed0-renamed.nc")
    Path("broken.toml").write_text("width: 64")
    Path("notes.txt").write_text("no result")
    done = cli(line)
    assert done.exit_code == 2
    assert reason in " ".join(done.output.split())
    assert "Traceback" not in done.output


@pytest.mark.parametrize("odd", ["[1]", "{", 3, "x" * 10])
def test_odd_settings_of_a_foreign_result_are_none(toy, odd):
    file = store(1)
    dataset = results.read(file)
    results.write(dataset.assign_attrs(settings=odd), file, Provenance.of(dataset))
    assert cli("toy").exit_code == 0


def test_a_result_with_other_parameters_is_no_evidence(toy):
    store(2, {"width": 64})
    assert strongest("toy", Path("results")) == []
    file = store(1)
    assert [each.path for each in strongest("toy", Path("results"))] == [file]


def test_kept_draws_what_was_made_with_settings_beside_the_presets(toy):
    store(1.0, preset="paper")
    store(2.0, {"width": 5}, preset="paper")
    store(3.0, {"width": 6})  # a demonstration
    done = cli("kept --out kept")
    assert done.exit_code == 0, done.output
    assert {path.name for path in Path("kept/paper").glob("*.png")} == {
        "toy.png",
        "toy-set-width-00000002.png",
    }
    assert not Path("kept/cpu").exists()
    recorded = claims.entries(Path("kept/paper"))
    assert recorded["toy-set-width-00000002"]["run"] == "preset paper, seed 0, with width=5"
    # The page shows the preset's; the other stands in the pictures and the claims.
    assert "set-width" not in Path("kept/paper/report.md").read_text()
    Path("results/toy-paper-seed0-set-width-00000002.nc").write_bytes(b"damaged")
    done = cli("kept --out kept")
    assert done.exit_code == 2
    assert "toy-paper-seed0-set-width-00000002.nc" in done.output
