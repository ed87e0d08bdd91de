"""A long run: killed anywhere it goes on to the same end; what it needs is known beforehand."""

import errno
import fcntl
import json
import os
import re
import resource
import shutil
import signal
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import xarray as xr
from PIL import Image
from torch import nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from typer.testing import CliRunner

from experiments.pretrain import __main__ as pretrain, dry_run
from experiments.pretrain.journal import Clock, Journal, bottleneck
from experiments.pretrain.loop import Pretraining, make_fabric
from experiments.pretrain.owner import owned
from experiments.pretrain.sealed import sealed
from experiments.pretrain.settings import PRESETS, claim, finished, synchronised
from linlocal.analysis import results
from linlocal.analysis.alignment import series
from linlocal.analysis.local_losses import labels_of
from linlocal.analysis.training import Checkpoints, LocalTrainer, Trainer, loop as tqdm_of

SMOKE = PRESETS["smoke"]
OPTIONS = ["--preset", "smoke", "--steps", "7", "--checkpoint-every", "3"]


class Killed(BaseException):
    pass


def invoke(folder, *options):
    return CliRunner().invoke(pretrain.app, [*map(str, options), "--out", str(folder)])


def run(folder, *options):
    done = invoke(folder, "--preset", "smoke", *options)
    assert done.exit_code == 0, done.output
    return done.output


def state(folder):
    found = Checkpoints(folder / "checkpoints").load()
    return {key: found[key] for key in ("place", "model", "losses", "optimisers", "schedulers")}


def assert_same_end(folder, other):
    torch.testing.assert_close(state(folder), state(other), rtol=0, atol=0)
    recorded = [series.read(each / "alignment") for each in (folder, other)]
    assert recorded[0].drop_attrs().identical(recorded[1].drop_attrs())
    losses = [results.read(each / "pretrain.nc")[["loss", "accuracy"]] for each in (folder, other)]
    assert losses[0].drop_attrs().identical(losses[1].drop_attrs())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of seven steps that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert invoke(folder, *OPTIONS).exit_code == 0
    return folder


def test_a_run_leaves_what_it_says(whole):
    data = results.read(whole / "pretrain.nc")
    assert data["block"].values.tolist() == ["1", "2", "3", "4", "all"]
    assert data["logged"].values.tolist() == list(range(1, 8))
    assert data["step"].values.tolist() == list(range(7))
    assert np.isfinite(data["loss"]).all()
    assert (abs(data["cosine"]) <= 1 + 1e-12).all()
    # The last block's local gradient is the end-to-end one, the others' are not.
    np.testing.assert_allclose(data["cosine"].sel(layer=4), 1, atol=1e-5)
    assert (data["cosine"].sel(layer=1) < 0.99).all()
    recorded = series.read(whole / "alignment")
    assert {"parameter_cosine", "cosine"} <= {*recorded.data_vars}
    assert float(data["chance"]) == 1 / 8
    assert data.attrs["experiment"] == "pretrain"
    assert json.loads(data.attrs["config"])["steps"] == 7
    entries = Journal(whole / "log.jsonl").entries()
    assert {"loss/1", "loss/4", "images_per_s", "waiting", "bottleneck", "skipped"} <= {*entries[0]}


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet50", "resnet18", "vit"])
def test_large_networks_train_as_the_narrow_one(tmp_path, network):
    run(tmp_path, "--network", network, "--size", 32)
    data = results.read(tmp_path / "pretrain.nc")
    assert np.isfinite(data["loss"]).all()
    np.testing.assert_allclose(data["cosine"].sel(layer=4), 1, atol=1e-5)
    assert (data["cosine"].sel(layer=1) < 0.99).all()
    assert data["accuracy"].sizes == {"block": 5}


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_killed_run_goes_on_to_the_same_end(whole, tmp_path, monkeypatch, step):
    killed_at(step, monkeypatch, tmp_path, *OPTIONS)
    assert not (tmp_path / "pretrain.nc").exists()
    assert invoke(tmp_path, *OPTIONS).exit_code == 0
    assert_same_end(tmp_path, whole)
    steps = [entry["step"] for entry in Journal(tmp_path / "log.jsonl").entries()]
    assert steps == list(range(1, 8))
    assert "finished" in invoke(tmp_path, *OPTIONS).output


def test_recording_changes_nothing(whole, tmp_path):
    assert invoke(tmp_path, *OPTIONS, "--record-every", "never").exit_code == 0
    torch.testing.assert_close(state(tmp_path), state(whole), rtol=0, atol=0)
    assert not (tmp_path / "alignment").exists()
    assert "cosine" not in results.read(tmp_path / "pretrain.nc")


@pytest.mark.parametrize(
    "options",
    [
        ("--loss", "vicreg", "--precision", "bf16-mixed", "--record-every", "2"),
        ("--loss", "simclr", "--noise", "0", "--seed", "3", "--learning-rate", "0.5"),
        ("--loss", "supervised", "--record-every", "log", "--strategy", "auto"),
        ("--loss", "supervised", "--order", "end to end", "--epochs", "1", "--batch", "32"),
    ],
    ids=lambda options: " ".join(options[1:4:2]),
)
def test_every_option_is_what_the_run_is(tmp_path, options):
    run(tmp_path, *options)
    data = results.read(tmp_path / "pretrain.nc")
    stored = json.loads((tmp_path / "settings.json").read_text())
    for flag, value in zip(options[::2], options[1::2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        if name in stored:
            assert str(stored[name]) in (value, f"{value}.0")
    steps = 2 if "--epochs" in options else 3
    assert data["logged"].values.tolist() == list(range(1, steps + 1))
    local = "--order" not in options
    assert np.isfinite(data["loss"].sel(layer=1)).all() == local
    assert ("cosine" in data) == local


def test_labels_go_with_their_images(tmp_path, folder, monkeypatch):
    for k in range(8):
        Image.new("RGB", (12, 10), (128,) * 3).save(folder / "train" / "n1" / f"{k}.png")
    real, seen = LocalTrainer.backward, []

    def watched(self, views, batch=None):
        # Whatever the augmentation, an image of one colour stays one.
        plain = views.std((2, 3)).amax(1) < 1e-3
        assert torch.equal(plain, labels_of(batch, len(views), views.device) == 1)
        seen.append(plain)
        return real(self, views, batch)

    monkeypatch.setattr(LocalTrainer, "backward", watched)
    run(tmp_path / "run", "--loss", "supervised", "--data", f"folder:{folder}")
    assert len(seen) == 3
    assert 0 < torch.cat(seen).float().mean() < 1


@pytest.mark.parametrize("kind", ["rhm", "folder"])
def test_a_dry_run_measures_and_leaves_nothing(tmp_path, kind, request):
    data = "rhm" if kind == "rhm" else f"folder:{request.getfixturevalue('folder')}"
    found = run(tmp_path / "run", "--dry-run", "--data", data, "--workers", 1, "--batch", 4)
    assert not (tmp_path / "run").exists()
    count = 64 if kind == "rhm" else 16
    assert f"{count} training" in found
    for word in ("loader", "step", "bottleneck", "memory", "disk", "recording", "whole run"):
        assert re.search(rf"^{word} ", found, re.MULTILINE)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in range(2):
            inner = tmp_path / "images" / part / f"n{label}"
            inner.mkdir(parents=True)
            for k in range(8):
                pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(inner / f"{k}.png")
    return tmp_path / "images"


@pytest.mark.filterwarnings("ignore:skipped")
def test_damaged_images_are_in_the_report_and_counted_once_per_start(tmp_path, folder):
    (folder / "train" / "n0" / "2.png").write_bytes(b"no image")
    (folder / "val" / "n1" / "3.png").write_bytes(b"no image")
    options = ("--data", f"folder:{folder}", "--batch", 4, "--steps", 8)
    dry = run(tmp_path / "run", *options, "--dry-run")
    assert "16 training and 16 test images, 2 classes; of 16 read 1 damaged" in dry
    assert "skipped images: 2" in run(tmp_path / "run", *options)
    assert int(results.read(tmp_path / "run" / "pretrain.nc")["skipped"]) == 2
    assert Journal(tmp_path / "run" / "log.jsonl").entries()[-1]["skipped"] == 1


def estimated(**changes):
    found = dry_run.estimate(Pretraining(SMOKE, make_fabric("32-true")), Path("nowhere"))
    return replace(found, **changes)


def test_an_estimate_is_made_of_what_was_measured():
    assert estimated().records == SMOKE.steps
    found = estimated(loader=100.0, step=300.0, records=2, record_s=60.0, steps=30, batch=100)
    assert found.images_per_s == pytest.approx(75)
    assert found.hours == pytest.approx((30 * 100 / 75 + 120) / 3600)
    both = replace(found, prefetches=True)
    assert both.images_per_s == pytest.approx(100)
    assert "bottleneck  loader" in str(found)
    assert "bottleneck  step" in str(replace(both, loader=400.0))
    assert not replace(found, checkpoint_gib=1.0, free_gib=3.1).problem
    assert "3 checkpoints need" in replace(found, checkpoint_gib=1.0, free_gib=2.9).problem


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("out of memory\nmore"), "out of memory"),
        (FloatingPointError("The loss is nan"), "The loss is nan"),
    ],
)
def test_a_dry_run_that_fails_says_why(tmp_path, monkeypatch, error, reason):
    def broken(self, batch):
        raise error

    monkeypatch.setattr(Trainer, "step", broken)
    done = invoke(tmp_path, "--preset", "smoke", "--dry-run")
    assert done.exit_code == 1
    assert done.output.strip() == f"the run cannot succeed: {reason}"


def test_a_full_disk_is_seen_beforehand(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda path: usage)
    done = invoke(tmp_path, "--preset", "smoke", "--dry-run")
    assert done.exit_code == 1
    assert "3 checkpoints need" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--preset", "smoked"), "did you mean 'smoke'"),
        (("--network", "resnet"), "unknown network 'resnet'"),
        (("--loss", "barlov"), "did you mean 'barlow'"),
        (("--order", "random"), "unknown order"),
        (("--precision", "bf16"), "unknown precision"),
        (("--strategy", "dpp"), "did you mean 'ddp'"),
        (("--record-every", "0"), "record_every must be"),
        (("--batch", "0"), "batch must be positive"),
        (("--noise", "-1"), "noise must not be negative"),
        (("--data", "imagenet"), "must be folder:PATH"),
        (("--data", "folder:/nowhere"), "There is no folder"),
        (("--size", "7"), "no multiple"),
        (("--network", "vit", "--size", "36"), "patches of 8"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_line_and_code_2(tmp_path, options, message):
    first = () if "--preset" in options else ("--preset", "smoke")
    done = invoke(tmp_path / "run", *first, *options)
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.startswith("error: ")
    assert done.output.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_restarts_with_stale_addresses_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    done = invoke(tmp_path, "--preset", "smoke")
    assert done.exit_code == 2
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in done.output
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert invoke(tmp_path, "--preset", "smoke", "--dry-run").exit_code == 0


def test_a_probe_of_too_few_images_is_refused():
    with pytest.raises(results.ResultError, match="may lack some of the 8 classes"):
        Pretraining(replace(SMOKE, probe=60), make_fabric("32-true"))


def test_another_run_is_refused_in_the_same_folder(whole):
    done = invoke(whole, *OPTIONS, "--seed", 5)
    assert done.exit_code == 2
    assert "holds a run with seed = 0, this one has 5" in done.output


def test_the_bottleneck_is_what_the_other_waits_for():
    assert bottleneck(1.0, 9.0, prefetches=True) == "loader"
    assert bottleneck(0.1, 9.0, prefetches=True) == "step"
    assert bottleneck(1.0, 9.0, prefetches=False) == "step"
    assert bottleneck(9.0, 1.0, prefetches=False) == "loader"
    clock = Clock(10, prefetches=False)
    with clock.waiting():
        pass
    assert clock.read()["images_per_s"] > 0
    assert clock.read()["images_per_s"] == 0


def logged(path, steps=4):
    journal = Journal(path / "log.jsonl")
    for step in range(1, steps + 1):
        new = {"damaged": [f"image {step}"]} if step % 2 else {}
        journal.append({"step": step, "loss/1": step / 8, "skipped": (step + 1) // 2, **new})
    return journal


def test_a_line_cut_off_by_a_kill_is_forgotten(tmp_path):
    journal = logged(tmp_path)
    with journal.path.open("a") as file:
        file.write('{"step": 5, "ski')
    assert journal.resume(3) == {"image 1", "image 3"}
    assert journal.resume(2) == {"image 1"}
    assert [entry["step"] for entry in journal.entries()] == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    assert Journal(tmp_path / "none").resume(3) == frozenset()
    assert not (tmp_path / "none").exists()


@pytest.mark.filterwarnings("ignore:.*damaged, were edited")
def test_of_a_damaged_log_only_what_was_written_counts(tmp_path):
    journal = logged(tmp_path)
    written, content = journal.entries(), journal.path.read_bytes()
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(300):
        place, length = rng.integers(len(content)), int(rng.integers(0, 40))
        other = bytes(rng.integers(0, 256, int(rng.integers(0, 3)), dtype=np.uint8))
        journal.path.write_bytes(content[:place] + other + content[place + length :])
        entries = journal.entries()
        assert all(entry in written for entry in entries)
        found.add(len(entries))
    assert {2, 3, 4} <= found


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 2, "loss/1": 0.5, "skipped": 0}',
        b'{"step": 2, "loss/1": 0.5, "sha256": "' + b"0" * 64 + b'"}',
        b"[]",
        b"[" * 100_000,
        b"2" * 10_000,
        b"\xff\xfe",
        b"",
        json.dumps(sealed({"loss/1": 1.0})).encode(),
    ],
    ids=lambda line: line[:12].decode(errors="replace"),
)
def test_a_line_that_is_not_ours_is_left_out_and_the_file_kept(tmp_path, line):
    journal = logged(tmp_path)
    lines = journal.path.read_bytes().split(b"\n")
    lines[1] = line
    content = b"\n".join(lines)
    journal.path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"log.jsonl: line 2 and 0 others are damaged"):
        assert [entry["step"] for entry in journal.entries()] == [1, 3, 4]
    with pytest.warns(UserWarning, match="line 2"):
        journal.resume(3)
    assert [entry["step"] for entry in journal.entries()] == [1, 3]
    assert (tmp_path / "log.damaged").read_bytes() == content


def test_a_step_that_is_logged_twice_counts_once(tmp_path):
    journal = logged(tmp_path)
    journal.append({"step": 2, "loss/1": 9.0})
    data = journal.dataset(1, [1, 2, 3, 4])
    assert data["logged"].values.tolist() == [1, 2, 3, 4]
    assert data["loss"].values[:, 0].tolist() == [1 / 8, 9.0, 3 / 8, 4 / 8]


def test_steps_that_the_log_has_lost_are_undefined(tmp_path):
    journal = logged(tmp_path)
    with pytest.warns(UserWarning, match="lost the entries of 2 of 6 logged steps, the first 5"):
        data = journal.dataset(1, [1, 2, 3, 4, 5, 6])
    assert data["loss"].values[:4, 0].tolist() == [1 / 8, 2 / 8, 3 / 8, 4 / 8]
    assert np.isnan(data["loss"].values[4:]).all()
    assert np.isnan(data["waiting"])


def edited(content):
    return content.replace(b'"batch": 8', b'"batch": 9')


@pytest.mark.parametrize(
    "damage",
    [
        edited,
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"[]",
        lambda content: b"{}",
        lambda content: b"\xff",
        lambda content: b"[" * 100_000,
    ],
    ids=["edited", "cut", "empty", "list", "nothing", "no text", "deep"],
)
def test_damaged_settings_are_refused(tmp_path, damage):
    claim(tmp_path, SMOKE)
    claim(tmp_path, SMOKE)
    path = tmp_path / "settings.json"
    content = path.read_bytes()
    assert damage(content) != content
    path.write_bytes(damage(content))
    with pytest.raises(results.ResultError, match="is damaged, was edited, or is of"):
        claim(tmp_path, SMOKE)
    path.write_bytes(content)
    claim(tmp_path, SMOKE)


def a_result(path, settings=SMOKE, experiment="pretrain"):
    config = asdict(settings) if settings else {}
    provenance = results.Provenance.collect(experiment, "smoke", 0, config)
    results.write(xr.Dataset({"x": 1.0}), path, provenance)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"garbage"), "is damaged, cut off, or no result"),
        (lambda path: path.write_bytes(b""), "is damaged, cut off, or no result"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: a_result(path, experiment="narrowing"), "a result of 'narrowing', not of"),
        (lambda path: a_result(path, replace(SMOKE, seed=5)), "holds a run with seed = 5"),
        (lambda path: a_result(path, None), "holds a run with data = None"),
    ],
    ids=["garbage", "empty", "folder", "experiment", "settings", "no settings"],
)
def test_only_the_result_of_this_run_is_called_finished(tmp_path, make, message):
    assert finished(tmp_path, SMOKE) is None
    make(tmp_path / "pretrain.nc")
    done = invoke(tmp_path, "--preset", "smoke")
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.startswith("error: ")
    assert done.output.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pretrain.nc"]


def hold(folder, owner):
    with owned(folder):
        owner.set()
        signal.pause()


def test_a_folder_has_one_owner_until_that_process_ends_however_it_does(tmp_path):
    folder = tmp_path / "run"
    copies = get_context("fork")  # of this process, which has its libraries
    owner = copies.Event()
    holder = copies.Process(target=hold, args=(folder, owner))
    holder.start()
    try:
        assert owner.wait(60)
        done = invoke(folder, "--preset", "smoke")
        assert done.exit_code == 2
        assert f"is in use by another run (process {holder.pid} on " in done.output
        assert done.output.count("\n") == 1
        assert [path.name for path in folder.iterdir()] == [".lock"]
    finally:
        holder.kill()
        holder.join()
    with owned(folder):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with pytest.warns(UserWarning, match="cannot be locked .No locks available"), owned(tmp_path):
        pass


def killed_at(step, monkeypatch, folder, *options):
    real = Trainer.step

    def killed(self, batch):
        if self.steps == step:
            raise Killed
        return real(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", killed)
        with pytest.raises(Killed):
            CliRunner().invoke(
                pretrain.app, [*map(str, options), "--out", str(folder)], catch_exceptions=False
            )


def test_code_that_changed_in_between_is_said_and_recorded(tmp_path, monkeypatch):
    real = pretrain.provenance_of

    def before(*arguments):
        return replace(real(*arguments), code="before")

    with monkeypatch.context() as patched:
        patched.setattr(pretrain, "provenance_of", before)
        killed_at(4, monkeypatch, tmp_path, *OPTIONS)
    assert Checkpoints(tmp_path / "checkpoints").load()["about"] == {"code": {"0": "before"}}
    done = invoke(tmp_path, *OPTIONS)
    assert done.exit_code == 0
    now = real(SMOKE, "smoke").code
    assert "trained by code before from step 0 on" in done.output
    assert f"trained by code {now} from step 3 on" in done.output
    data = results.read(tmp_path / "pretrain.nc")
    assert json.loads(data.attrs["code_from_step"]) == {"0": "before", "3": now}
    assert data.attrs["code"] == f"before+{now}"
    assert f"by other code, before+{now}" in invoke(tmp_path, *OPTIONS).output


def test_undisturbed_runs_name_one_code(whole):
    data = results.read(whole / "pretrain.nc")
    assert json.loads(data.attrs["code_from_step"]) == {"0": data.attrs["code"]}
    assert "by other code" not in invoke(whole, *OPTIONS).output


@pytest.mark.filterwarnings("ignore:skipped")
def test_damaged_images_are_counted_once_however_often_a_run_is_killed(
    tmp_path, folder, monkeypatch
):
    for name in ("n0/2.png", "n0/3.png", "n1/5.png"):
        (folder / "train" / name).write_bytes(b"no image")
    options = ["--preset", "smoke", "--data", f"folder:{folder}", "--batch", 4, "--steps", 10]
    options += ["--checkpoint-every", 1]
    totals = []
    real = tqdm_of.tqdm

    def watched(batches, title, total, **others):
        totals.append((title, total))
        return real(batches, title, total, **others)

    monkeypatch.setattr(tqdm_of, "tqdm", watched)
    for step in (5, 9):
        killed_at(step, monkeypatch, tmp_path / "run", *options)
    assert invoke(tmp_path / "run", *options).exit_code == 0
    assert int(results.read(tmp_path / "run" / "pretrain.nc")["skipped"]) == 3
    assert Journal(tmp_path / "run" / "log.jsonl").entries()[-1]["skipped"] == 3
    # The last epoch is shorter, and still that of the same training.
    assert {*totals} == {("epoch 1/3", 4), ("epoch 2/3", 4), ("epoch 3/3", 2)}


def again(whole, tmp_path):
    """The finished run, of which only the probe is missing."""
    folder = tmp_path / "again"
    shutil.copytree(whole, folder)
    (folder / "pretrain.nc").unlink()
    return folder


@pytest.mark.filterwarnings("ignore:.*has lost")
def test_a_lost_log_or_series_does_not_cost_the_result(whole, tmp_path):
    folder = again(whole, tmp_path)
    (folder / "log.jsonl").unlink()
    shutil.rmtree(folder / "alignment")
    assert invoke(folder, *OPTIONS).exit_code == 0
    lost, kept = (results.read(each / "pretrain.nc") for each in (folder, whole))
    assert lost["accuracy"].identical(kept["accuracy"])
    assert lost["logged"].identical(kept["logged"])
    assert np.isnan(lost["loss"]).all()
    assert "cosine" not in lost


def foreign_state(path):
    torch.save({}, path)


def no_place(path):
    torch.save({"training": {}, "place": None}, path)


@pytest.mark.parametrize("make", [foreign_state, no_place])
def test_a_checkpoint_that_is_none_of_this_training_is_one_line(tmp_path, make):
    (tmp_path / "checkpoints").mkdir()
    make(tmp_path / "checkpoints" / "step-000000000003.pt")
    done = invoke(tmp_path, "--preset", "smoke")
    assert done.exit_code == 2
    assert "Training cannot go on from the newest checkpoint" in done.output
    assert done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("checkpoints", True),
        ("alignment", True),
        ("log.jsonl", False),
        ("settings.json", False),
        (".lock", False),
        ("checkpoints/step-000000000003.pt", False),
    ],
)
def test_what_is_in_the_way_is_one_line(tmp_path, name, file):
    path = tmp_path / name
    if file:
        path.write_text("in the way")
    else:
        path.mkdir(parents=True)
    done = invoke(tmp_path, "--preset", "smoke")
    assert done.exit_code == 2, done.exception
    assert path.name in done.output
    assert re.search("cannot be (written|read)", done.output)
    assert done.output.count("\n") == 1


def on_a_full_disk(folder):
    """A limit on the size of files is a full disk that a test can have."""
    said = []
    for number, limit in enumerate([0, 100, 700, 3000, 30_000, 80_000, -1]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
        if limit < 0:
            number -= 1
        done = invoke(Path(folder, str(number)), "--preset", "smoke")
        lines = [line for line in done.output.splitlines() if line]
        said.append(" ".join([f"{done.exit_code} {type(done.exception).__name__}", *lines[-1:]]))
    print(*said, sep="\n")  # now that there is room for it


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(tmp_path, fresh):
    code, printed = fresh(__file__, "on_a_full_disk", tmp_path)
    assert code == 0, printed
    *full, last = [line for line in printed.splitlines() if re.match(r"\d+ \w+ ", line)]
    assert len(full) == 6
    places = []
    for line in full:
        code, kind, message = line.split(" ", 2)
        assert (code, kind) == ("2", "SystemExit"), line
        assert message.startswith("error: ")
        assert "File too large" in message
        assert "make room" in message
        places.append(Path(message.split()[1]).name)
    assert places[0] == ".lock"
    assert {"settings.json", "step-000000000002.pt"} <= {*places}
    assert last.startswith("0 NoneType written")
    assert not [*tmp_path.rglob(".*.tmp")]


def test_a_name_that_is_too_long_is_one_line(tmp_path):
    done = invoke(tmp_path / ("a" * 300), "--preset", "smoke")
    assert done.exit_code == 2
    assert "too long" in done.output


def test_batch_normalisation_of_network_and_heads_is_synchronised():
    module = synchronised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    assert isinstance(module[1], nn.SyncBatchNorm)


def test_a_killed_process_is_started_again_and_the_run_ends_as_if_nothing_was(
    tmp_path, pair, fresh
):
    code, printed = fresh(__file__, "as_torchrun", tmp_path / "killed")
    assert code == 0, printed
    assert printed.count("KILLED") == 1
    pair(__file__, "in_two", tmp_path / "whole")
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def test_a_run_goes_on_with_another_number_of_processes(tmp_path, monkeypatch, pair):
    killed_at(4, monkeypatch, tmp_path, *OPTIONS)
    pair(__file__, "in_two", tmp_path)
    steps = [entry["step"] for entry in Journal(tmp_path / "log.jsonl").entries()]
    assert steps == list(range(1, 8))
    assert "finished" in invoke(tmp_path, *OPTIONS).output


def in_two(fabric, folder):
    """A run in the processes that stand by, which stay connected."""
    leave, dist.destroy_process_group = dist.destroy_process_group, fabric.barrier
    try:
        pretrain.app([*OPTIONS, "--out", folder], standalone_mode=False)
    finally:
        dist.destroy_process_group = leave


def as_torchrun(folder):
    """What ``torchrun --standalone --nproc-per-node=2 --max-restarts=1`` does, in copies."""
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    here = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test"}
    config = LaunchConfig(1, 1, 2, max_restarts=1, start_method="fork", **here)
    elastic_launch(config, one_of_which_the_second_is_killed_once)(folder)


def one_of_which_the_second_is_killed_once(folder):
    real, first = Trainer.step, os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"

    def step(self, batch):
        if first and self.fabric.global_rank == 1 and self.steps == 4:
            print("KILLED", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, batch)

    Trainer.step = step
    pretrain.app([*OPTIONS, "--out", folder], standalone_mode=False)
