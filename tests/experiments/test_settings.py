"""Laws of settings: a value fits its field or is refused in words, and other values never share."""

import json
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
from typer.testing import CliRunner

from experiments.__main__ import app
from experiments.data import CORRUPTIONS
from experiments.runner import outlines, registry, settings
from linlocal.analysis import results
from linlocal.analysis.results import Provenance, ResultError


@dataclass(frozen=True)
class Config:
    count: int = 3
    shift: int = 0
    width: float = 0.5
    exact: bool = False
    order: Literal["one", "two"] = "one"
    text: str = "words"
    most: int | None = None
    widths: tuple[int, ...] = (64, 32)
    grammar: tuple[int, float] = (1, 2.0)
    grammars: tuple[tuple[int, int], ...] = ((1, 2),)
    odd: Path = Path()
    seed: int = 0
    data: Path | None = None


PRESETS = [Config(), Config(count=2)]


def changed(*pairs):
    return settings.changed(Config(), PRESETS, settings.read(pairs, None))


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("count=20", 20),
        (" count = 20 ", 20),
        ("shift=0", 0),
        ("width=0.25", 0.25),
        ("width=1", 1.0),
        ("width=1e-3", 1e-3),
        ("exact=true", True),
        ("order=two", "two"),
        ('order="two"', "two"),
        ("text=other words", "other words"),
        ("text=a=b", "a=b"),
        ("most=5", 5),
        ("most=none", None),
        ("widths=[8]", (8,)),
        ("grammar=[3,4]", (3, 4.0)),
        ("grammars=[[1,2],[3,4]]", ((1, 2), (3, 4))),
    ],
)
def test_a_value_that_fits_has_the_type_of_its_field(pair, value):
    name = pair.partition("=")[0].strip()
    found = getattr(changed(pair), name)
    assert found == value
    assert type(found) is type(value)
    assert asdict(changed(pair)) == asdict(Config()) | {name: value}


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("count", "should be NAME=VALUE"),
        ("=3", "should be NAME=VALUE"),
        ("count=", "should be NAME=VALUE"),
        ("cuont=3", "unknown setting 'cuont'; did you mean 'count'?"),
        ("seed=3", "seed is no setting: give --seed"),
        ("data=x", "data is no setting: give --data"),
        ("count=2.5", "count is 2.5, expected a whole number from 1 on, such as 3"),
        ("count=0", "count is 0, expected a whole number from 1 on"),
        ("shift=-1", "expected a whole number from 0 on"),
        ("count=true", "expected a whole number"),
        ("count=many", 'count is "many", expected a whole number'),
        ("width=inf", "expected a number"),
        ("width=nan", "expected a number"),
        ("width=1/4", 'width is "1/4", expected a number, such as 0.5'),
        ("exact=1", "expected true or false"),
        ("order=three", "expected one of one, two"),
        ("text=3", "text is 3, expected text"),
        ("most=x", "expected a whole number or none"),
        ("widths=8", r"widths is 8, expected a list, such as \[64, 32\]"),
        ("widths=[]", "expected a list"),
        ("widths=[1,0]", "expected a list whose items are a whole number from 1 on"),
        ("grammar=[1]", "expected a list of 2 values"),
        ("grammars=[[1,2],[3]]", "a list whose items are a list of 2 values"),
        ("odd=here", "odd is .*, expected nothing"),
        ("count=2020-01-01", "expected a whole number"),
        ("count={a=1}", "expected a whole number"),
        ("count=1\nwidth=2", "expected a whole number"),
        (f"widths={'[' * 5000}", "expected a list"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_words(pair, reason):
    with pytest.raises(ResultError, match=reason):
        changed(pair)


def test_the_command_wins_over_the_file(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("count = 5\nwidths = [1, 2]\n")
    assert settings.read(["count=6"], file) == {"count": 6, "widths": [1, 2]}
    with pytest.raises(ResultError, match="count is set twice"):
        settings.read(["count=6", "count=7"], file)
    for content in (b"count: 5", b"\xff", b"[" * 5000):
        file.write_bytes(content)
        with pytest.raises(ResultError, match="is no TOML"):
            settings.read([], file)


@pytest.mark.parametrize(
    "pairs",
    [
        ("count=20", "width=0.1"),
        ("text=with 'quotes' and \\ more",),
        ("most=7", "grammars=[[5,6]]"),
    ],
)
def test_the_words_of_a_command_give_the_same_settings(pairs):
    config = changed(*pairs)
    found = settings.differences(Config(), config)
    words = shlex.split(shlex.join(settings.options(found)))
    assert words[::2] == ["--set"] * len(pairs)
    assert changed(*words[1::2]) == config
    assert json.loads(json.dumps(found)) == found


def test_other_values_have_other_names():
    every = [
        changed(pair)
        for pair in ("count=4", "count=5", "width=4", "widths=[4]", "widths=[4,4]", "text=count")
    ]
    names = [settings.label(settings.differences(Config(), each)) for each in every]
    assert len(set(names)) == len(names)
    assert settings.label(settings.differences(Config(), changed("count=3", "width=0.5"))) == ""
    (long,) = {
        settings.label({f"parameter_{k}": k for k in order})
        for order in (range(40), reversed(range(40)))
    }
    assert long.startswith("set-40-values-")


@pytest.fixture
def cli(toy):
    def call(line):
        serial = [] if line.startswith("list") else ["--workers", "1"]
        return CliRunner().invoke(app, [*shlex.split(line), *serial])

    return call


def stored():
    return {path.name: results.read(path) for path in Path("results").glob("*.nc")}


def test_settings_are_stored_with_the_result_and_in_its_name(toy, cli):
    done = cli("run toy --preset smoke --set points=2 --set offset=1")
    assert done.exit_code == 0, done.output
    assert "toy (smoke, seed 0, offset=1.0, points=2): " in done.output
    ((name, dataset),) = stored().items()
    assert name.startswith("toy-smoke-seed0-set-offset+points-")
    assert dataset["square"].values.tolist() == [1.0, 2.0]
    assert json.loads(dataset.attrs["settings"]) == {"offset": 1.0, "points": 2}
    assert json.loads(Provenance.of(dataset).config)["points"] == 2
    assert "up to date" in cli("run toy --preset smoke --set offset=1.0 --set points=2").output
    assert toy.evaluated == [0, 1]


def test_two_settings_share_no_file_and_no_finished_point(toy, cli):
    for line in ("", "--set points=2", "--set points=4", "--set offset=2", "--set points=3"):
        assert cli(f"run toy --preset smoke {line}").exit_code == 0
    # The last is what the preset is anyway.
    assert len(stored()) == 4
    toy.evaluated.clear()
    toy.interrupt_at = 1
    assert cli("run toy --preset smoke --set offset=3").exit_code == 130
    toy.interrupt_at = None
    cli("run toy --preset smoke --set offset=4")
    assert toy.evaluated == [0, 0, 1, 2]


def test_an_interrupted_run_is_resumed_with_its_settings(toy, cli):
    Path("few.toml").write_text("points = 4\n")
    toy.interrupt_at = 2
    stopped = cli("run toy --preset smoke --config few.toml --set offset=0.25")
    toy.interrupt_at = None
    Path("few.toml").unlink()
    toy.evaluated.clear()
    resumed = cli(shlex.join(shlex.split(stopped.output.partition("resume with: ")[2])[3:]))
    assert resumed.exit_code == 0, resumed.output
    assert toy.evaluated == [2, 3]
    ((name, dataset),) = stored().items()
    assert "set-offset+points-" in name
    assert dataset["square"].values.tolist() == [0.25, 1.25, 4.25, 9.25]


def test_results_of_settings_are_listed_with_their_state(toy, cli, monkeypatch):
    cli("run toy --preset smoke --set points=4")
    lines = cli("list").output.splitlines()
    (place,) = (k for k, line in enumerate(lines) if line.split()[:1] == ["smoke"])
    assert lines[place].split()[1:3] == ["no", "result"]
    assert lines[place + 1].split() == ["up", "to", "date", "--set", "points=4"]
    monkeypatch.setitem(toy.PRESETS, "smoke", toy.Config(points=3, offset=1.5))
    assert "other parameters  --set points=4" in cli("list").output
    (path,) = Path("results").glob("*.nc")
    path.write_bytes(b"")
    assert f"damaged           {path.stem.removeprefix('toy-smoke-seed0-')}" in cli("list").output


def test_results_of_settings_are_verified(toy, cli):
    cli("run toy --preset smoke --set points=4 --set offset=1.25")
    toy.evaluated.clear()
    done = cli("verify")
    assert done.exit_code == 0, done.output
    assert "exactly equal" in done.output
    assert toy.evaluated == [0, 1, 2, 3]


def test_what_no_preset_comes_near_is_verified_when_asked_for(toy, cli):
    cli("run toy --preset smoke --set offset=501")
    refused = cli("verify")
    assert refused.exit_code == 2
    assert "offset = 501.0 is of another kind" in refused.output
    assert "give --any-size" in refused.output
    done = cli("verify --any-size")
    assert done.exit_code == 0, done.output
    assert "exactly equal" in done.output


def test_what_no_user_could_set_is_verified_never(toy, cli):
    cli("run toy --preset smoke --set points=4")
    ((name, dataset),) = stored().items()
    origin = Provenance.of(dataset)
    for value in (-4, 0, "many", [4]):
        config = json.dumps(json.loads(origin.config) | {"points": value}, sort_keys=True)
        results.write(dataset, Path("results", name), replace(origin, config=config))
        refused = cli("verify --any-size")
        assert refused.exit_code == 2
        assert "is of another kind" in refused.output


def test_settings_that_an_experiment_cannot_use_cost_one_line(toy, cli, monkeypatch):
    def fails(config, sweep):
        raise ZeroDivisionError("no luck")

    monkeypatch.setattr(toy, "run", fails)
    done = cli("run toy --preset smoke --set offset=-1")
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert "offset=-1.0) cannot be computed (ZeroDivisionError: no luck)" in line
    assert isinstance(cli("run toy --preset smoke").exception, ZeroDivisionError)


@pytest.mark.parametrize("name", registry.NAMES)
def test_every_parameter_of_every_preset_could_be_set(name):
    presets = [*registry.load(name).PRESETS.values()]
    for config in presets:
        for field in {*asdict(config)} - {"seed", "data"}:
            assert settings.fits(config, presets, field)


@pytest.mark.parametrize("name", registry.NAMES)
def test_a_list_says_what_the_experiment_says(name, monkeypatch):
    experiment = registry.load(name)
    monkeypatch.delitem(sys.modules, registry.module_of(name))
    outline = outlines.outline(name)
    assert not hasattr(outline, "run"), "it was imported"
    assert outline.PUBLISHED == experiment.PUBLISHED
    assert registry.summary(outline) == registry.summary(experiment)
    for found, expected in zip(outline.PRESETS.items(), experiment.PRESETS.items(), strict=True):
        assert found[0] == expected[0]
        assert asdict(found[1]) == asdict(expected[1])


def test_a_list_imports_no_torch(tmp_path):
    code = "import sys, runpy; sys.argv = ['experiments', 'list']\ntry:\n"
    code += "    runpy.run_module('experiments', run_name='__main__')\nexcept SystemExit: pass\n"
    code += "print(*sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    *listed, modules = done.stdout.splitlines()
    assert len(listed) > 3 * len(registry.NAMES)
    assert {"torch", "sklearn", "matplotlib", "sympy"}.isdisjoint(modules.split())


def test_lines_of_a_list_are_aligned_and_fit(cli, monkeypatch):
    monkeypatch.setattr(registry, "NAMES", ("blockwise_ssl", "toy"))
    monkeypatch.setenv("COLUMNS", "90")
    lines = cli("list").output.splitlines()
    assert max(map(len, lines)) <= 90
    states = {line.index("no result") for line in lines if "no result" in line}
    assert len(states) == 1


def test_blockwise_networks_see_every_corruption():
    assert registry.load("blockwise_ssl").PRESETS["paper"].corruptions == tuple(CORRUPTIONS)
