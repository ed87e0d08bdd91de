"""Train a ViT block by block, each block by a loss of its own, and probe what the blocks know.

    python vit_block_by_block.py --data DATA   # downloads CIFAR-10 into DATA if it is missing
    python vit_block_by_block.py --smoke       # one step on random pictures

No error is sent from one block to another, and the memory of a step is that of one block.
"""

import argparse
from pathlib import Path

import timm
import torch
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision.transforms import v2

import linlocal as ll
from linlocal.analysis import LocalTrainer, SeededLoader, audit_locality, blocks, probe_blocks
from linlocal.analysis.local_losses import NetworkRule

PICTURE = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
AUGMENT = v2.Compose(
    [v2.RandomResizedCrop(32, scale=(0.25, 1.0), antialias=True), v2.RandomHorizontalFlip()]
)


def two_views(batch):
    """Both views of a batch of pictures, stacked."""
    pictures = batch[0] if isinstance(batch, (list, tuple)) else batch
    return torch.stack([AUGMENT(each) for each in (*pictures, *pictures)])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of CIFAR-10")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--smoke", action="store_true", help="one step on random pictures")
    options = parser.parse_args()
    if options.smoke:
        options.epochs, options.batch_size = 1, 8
        train, test = (datasets.FakeData(8 * k, (3, 32, 32), 2, transform=PICTURE) for k in (1, 2))
    else:
        train, test = (
            datasets.CIFAR10(options.data, train=k, download=True, transform=PICTURE)
            for k in (True, False)
        )

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, num_classes=0, depth=6
    ).to(device)
    rule = NetworkRule(rule=ll.rules.CLAPP("hinge"), pooling="global")

    names = blocks(network)
    print(f"blocks: {list(names)}")
    audit_locality(network, names, rule, torch.rand(8, 3, 32, 32, device=device))
    trainer = LocalTrainer(network, names, rule, shape=(3, 32, 32), augment=two_views)
    loader = SeededLoader(train, batch_size=options.batch_size)
    trainer.fit(loader, epochs=options.epochs)

    seen = DataLoader(Subset(train, range(min(len(train), 10_000))), options.batch_size)
    unseen = DataLoader(test, options.batch_size)
    print(probe_blocks(network, names, seen, unseen, seed=0)["accuracy"].to_pandas())


if __name__ == "__main__":
    main()
