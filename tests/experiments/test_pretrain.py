"""A long run: killed anywhere it goes on to the same end; what it needs is known beforehand."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from experiments.pretrain import __main__ as pretrain, dry_run
from experiments.pretrain.journal import Clock, Journal, bottleneck
from experiments.pretrain.loop import Pretraining, make_fabric
from experiments.pretrain.settings import PRESETS, synchronised
from linlocal.analysis import results
from linlocal.analysis.alignment import series
from linlocal.analysis.local_losses import labels_of
from linlocal.analysis.training import Checkpoints, LocalTrainer, Trainer

ROOT = Path(__file__).resolve().parents[2]
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
    real = Trainer.step

    def killed(self, batch):
        if self.steps == step:
            raise Killed
        return real(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", killed)
        with pytest.raises(Killed):
            CliRunner().invoke(
                pretrain.app, [*OPTIONS, "--out", str(tmp_path)], catch_exceptions=False
            )
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


def test_a_line_cut_off_by_a_kill_is_forgotten(tmp_path):
    journal = Journal(tmp_path / "log.jsonl")
    for step in range(1, 5):
        journal.append({"step": step, "skipped": step})
    with journal.path.open("a") as file:
        file.write('{"step": 5, "ski')
    assert journal.resume(2) == 2
    assert [entry["step"] for entry in journal.entries()] == [1, 2]
    assert Journal(tmp_path / "none").resume(3) == 0


def test_batch_normalisation_of_network_and_heads_is_synchronised():
    module = synchronised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    assert isinstance(module[1], nn.SyncBatchNorm)


def test_a_killed_process_is_started_again_and_the_run_ends_as_if_nothing_was(tmp_path):
    # Two launches: in one, a process that is done first would meet the store of the run before.
    launched = [under_torchrun(tmp_path / name, name) for name in ("whole", "killed")]
    outputs = [each.communicate() for each in launched]
    assert [each.returncode for each in launched] == [0, 0], outputs
    assert [out.count("KILLED") for out, _ in outputs] == [0, 1]
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def under_torchrun(folder, name):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--max-restarts=1", __file__, str(folder), name]
    own = {"PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **own}, **pipes)


def process(folder, name):
    """One of two under torchrun; in the run "killed" the second is killed, once."""
    real, first = Trainer.step, os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"

    def step(self, batch):
        if first and self.fabric.global_rank == 1 and self.steps == 4:
            print("KILLED", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, batch)

    if name == "killed":
        Trainer.step = step
    pretrain.app([*OPTIONS, "--out", folder], standalone_mode=False)


if __name__ == "__main__":
    process(*sys.argv[1:])
