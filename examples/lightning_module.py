"""A recorder and a monitor in Lightning: one callback, the module stays as it is.

    python lightning_module.py                 # scikit-learn's digits, a minute
    python lightning_module.py --smoke         # a few steps

Numbers go to Lightning's CSVLogger here. ``log=`` of both instruments takes any function that is
called as log(numbers, step=step): logger.log_metrics of a TensorBoardLogger or WandbLogger,
wandb.log, mlflow.log_metrics.
"""

import argparse
from pathlib import Path

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import linlocal as ll
from linlocal.analysis import AlignmentRecorder, Monitor
from linlocal.analysis.lightning import InstrumentsCallback
from linlocal.analysis.local_losses import NetworkRule


class SelfSupervised(lightning.LightningModule):
    """VICReg (Bardes et al. 2022, arXiv 2105.04906) on a small convolutional network."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        )
        self.loss = ll.autodiff.view_formula(ll.losses.VICReg())

    def training_step(self, batch, batch_idx):
        (images,) = batch
        views = torch.cat([images, images])
        views = views + 0.2 * torch.randn_like(views)
        return self.loss(*self.encoder(views).mean((2, 3)).chunk(2))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("lightning"), help="folder of the logs")
    parser.add_argument("--smoke", action="store_true", help="a few steps")
    options = parser.parse_args()

    images = torch.from_numpy(load_digits().images).float()[:, None] / 16
    images = images[:192] if options.smoke else images
    module, logger = SelfSupervised(), CSVLogger(options.out)
    rule = NetworkRule(rule=ll.rules.VICReg(), pooling="global")
    recorder = AlignmentRecorder(module.encoder, rule=rule, every=5, log=logger.log_metrics)
    monitor = Monitor(module.encoder, every=5, views="stacked", log=logger.log_metrics)

    trainer = lightning.Trainer(
        max_epochs=1 if options.smoke else options.epochs,
        logger=logger,
        callbacks=[InstrumentsCallback(recorder, monitor)],
        enable_checkpointing=False,
        log_every_n_steps=5,
    )
    trainer.fit(module, DataLoader(TensorDataset(images), batch_size=64, shuffle=True))
    print(recorder.dataset()["cosine"].to_pandas().round(3))
    print(monitor.dataset()["effective_rank"].to_pandas().round(1))


if __name__ == "__main__":
    main()
