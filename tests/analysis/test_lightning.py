"""The callback in Lightning records what the same loop records without Lightning."""

import subprocess
import sys

import pytest
import torch
import xarray as xr
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import linlocal as ll
from experiments.networks import import_torchvision
from linlocal.analysis import AlignmentRecorder, Monitor

import_torchvision()  # Lightning imports it, also where its compiled part does not fit torch
lightning = pytest.importorskip("lightning")
from linlocal.analysis.lightning import InstrumentsCallback  # noqa: E402

# Advice in classes of Lightning: with several workers pytest would import these elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore")

SAMPLES = torch.rand(32, 6, generator=torch.Generator().manual_seed(0))
BATCH = 8
RULE = ll.rules.CLAPP_DFB()


def encoder():
    torch.manual_seed(1)
    return nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)))


def stacked(batch):
    return torch.cat([batch, 0.5 * batch + batch.flip(1)])


class Module(lightning.LightningModule):
    """Learns to be small; ``without`` are the batches that give no loss."""

    def __init__(self, without=(), fails_at=None):
        super().__init__()
        self.encoder = encoder()
        self.without, self.fails_at = without, fails_at

    def training_step(self, batch, batch_idx):
        if batch_idx == self.fails_at:
            raise RuntimeError("out of luck")
        if batch_idx in self.without:
            return None
        return self.encoder(stacked(batch[0])).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(module, *callbacks, checkpoint=None, **options):
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, **options},
    )
    trainer.fit(module, DataLoader(TensorDataset(SAMPLES), BATCH), ckpt_path=checkpoint)
    return trainer


def by_hand(accumulate=1):
    network = encoder()
    recorder = AlignmentRecorder(network, rule=RULE, every=1)
    monitor = Monitor(network, every=1, views="stacked")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    batches = SAMPLES.split(BATCH)
    for first in range(0, len(batches), accumulate):
        optimizer.zero_grad()
        step = recorder.step(weight=1 / accumulate, micro_batches=accumulate)
        with step, monitor.step():
            for batch in batches[first : first + accumulate]:
                (network(stacked(batch)).square().mean() / accumulate).backward()
        optimizer.step()
    return network, recorder.dataset(), monitor.dataset()


def equal_weights(one, other):
    return all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_records_what_the_same_loop_records(accumulate):
    network, recorded, watched = by_hand(accumulate)
    module = Module()
    recorder = AlignmentRecorder(module.encoder, rule=RULE, every=1)
    monitor = Monitor(module.encoder, every=1, views="stacked")
    fit(module, InstrumentsCallback(recorder, monitor), accumulate_grad_batches=accumulate)
    assert equal_weights(module.encoder, network)
    xr.testing.assert_identical(recorder.dataset(), recorded)
    xr.testing.assert_identical(monitor.dataset(), watched)


def test_a_step_without_a_loss_is_not_recorded_and_the_count_goes_on():
    module = Module(without=(1,))
    recorder = AlignmentRecorder(module.encoder, rule=RULE, every=1)
    monitor = Monitor(module.encoder, every=1, views="stacked")
    fit(module, InstrumentsCallback(recorder, monitor))
    assert recorder.dataset().step.values.tolist() == [0, 2, 3]
    assert monitor.dataset().step.values.tolist() == [0, 2, 3]


def test_what_was_recorded_survives_an_error_and_no_hook_stays():
    module = Module(fails_at=2)
    recorder = AlignmentRecorder(module.encoder, rule=RULE, every=1)
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(module, InstrumentsCallback(recorder))
    assert recorder.dataset().step.values.tolist() == [0, 1]
    assert not any(part._forward_hooks for part in module.modules())


def test_a_checkpoint_of_lightning_takes_the_instruments_along(tmp_path):
    def watched(**options):
        module = Module()
        recorder = AlignmentRecorder(module.encoder, rule=RULE, every=1)
        return fit(module, InstrumentsCallback(recorder), **options), recorder

    whole, recorder = watched(max_epochs=2)
    half, _ = watched(max_epochs=1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    rest, resumed = watched(max_epochs=2, checkpoint=tmp_path / "half.ckpt")
    assert equal_weights(whole.lightning_module, rest.lightning_module)
    later = recorder.dataset().sel(step=resumed.dataset().step)
    assert later.step.values.tolist() == [4, 5, 6, 7]
    xr.testing.assert_identical(resumed.dataset(), later)


def test_what_cannot_be_watched_is_refused():
    class ByHand(Module):
        automatic_optimization = False

    module = ByHand()
    recorder = AlignmentRecorder(module.encoder, rule=RULE)
    with pytest.raises(RuntimeError, match=r"recorder\.step"):
        fit(module, InstrumentsCallback(recorder))
    with pytest.raises(TypeError, match="a recorder, a monitor, or both"):
        InstrumentsCallback()
    with pytest.raises(TypeError, match="recorder must be an AlignmentRecorder"):
        InstrumentsCallback(module)
    with pytest.raises(TypeError, match="monitor must be a Monitor"):
        InstrumentsCallback(recorder, recorder)


@pytest.mark.slow
def test_the_older_name_of_lightning_is_served_too():
    code = """
from experiments.networks import import_torchvision
import_torchvision()
import pytorch_lightning
from linlocal.analysis.lightning import InstrumentsCallback
print(issubclass(InstrumentsCallback, pytorch_lightning.Callback))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True"], done.stderr
