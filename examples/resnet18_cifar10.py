"""Record how local and global gradients agree while a ResNet-18 learns CIFAR-10 by SimCLR.

    python resnet18_cifar10.py --data DATA     # downloads CIFAR-10 into DATA if it is missing
    python resnet18_cifar10.py --smoke         # two steps on random pictures

The three lines that linlocal needs are marked.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, models
from torchvision.transforms import v2

import linlocal as ll
from linlocal.analysis import AlignmentRecorder, log_spaced  # 1
from linlocal.analysis.local_losses import NetworkRule

AUGMENT = v2.Compose(
    [
        v2.RandomResizedCrop(32, scale=(0.25, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ]
)


def two_views(picture):
    return AUGMENT(picture), AUGMENT(picture)


def encoder():
    """ResNet-18 as it is used for pictures of 32 x 32: no stride and no pooling at the start."""
    network = models.resnet18(num_classes=128)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def nt_xent(z, temperature=0.5):
    """The loss of SimCLR (Chen et al. 2020, arXiv 2002.05709) of two stacked views."""
    z = F.normalize(z, dim=1)
    scores = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(scores, torch.arange(len(z), device=z.device).roll(len(z) // 2))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of CIFAR-10")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("recorded"), help="folder of the record")
    parser.add_argument("--smoke", action="store_true", help="two steps on random pictures")
    options = parser.parse_args()
    if options.smoke:
        options.epochs, options.batch_size = 1, 4
        pictures = datasets.FakeData(8, (3, 32, 32), transform=two_views)
    else:
        pictures = datasets.CIFAR10(options.data, download=True, transform=two_views)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = encoder().to(device)
    loader = DataLoader(pictures, options.batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    rules = {
        "SimCLR": NetworkRule(rule=ll.rules.SimCLR(), pooling="global"),
        "direct feedback": NetworkRule(rule=ll.rules.CLAPP_DFB(), pooling="global"),
    }
    names = ["layer1", "layer2", "layer3", "layer4"]
    recorder = AlignmentRecorder(  # 2
        network, names, rule=rules, every=log_spaced(10), path=options.out
    )
    for epoch in range(options.epochs):
        for (first, second), _ in loader:
            views = torch.cat([first, second]).to(device)
            optimizer.zero_grad()
            with recorder.step():  # 3
                loss = nt_xent(network(views))
                loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
        recorder.flush()
        cosine = recorder.dataset()["cosine"].isel(step=-1)
        print(cosine.to_pandas().round(3))
    print(f"everything recorded: linlocal.analysis.alignment.series.read({str(options.out)!r})")


if __name__ == "__main__":
    main()
