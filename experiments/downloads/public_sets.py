"""The public data sets, and where they are published.

Addresses and MD5 sums are those of torchvision (MNIST, STL-10), of the page of CIFAR-10, and of the
many projects that read Tiny ImageNet, whose page names none.
"""

from __future__ import annotations

from dataclasses import dataclass

MB = 10**6


@dataclass(frozen=True)
class Archive:
    """A published file.

    Attributes:
        urls: where it is published, tried in this order; the last part of each is its name.
        size: its length in bytes.
        md5: its MD5 sum.
    """

    urls: tuple[str, ...]
    size: int
    md5: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.urls[0].rpartition("/")[2]


@dataclass(frozen=True)
class PublicSet:
    """A data set that is published.

    Attributes:
        title: what it holds, in a few words.
        archives: the files that are published.
        folder: the folder that its archive unpacks to; "" where the archives are read as they are.
        holds: what the folder holds once it is unpacked, or what is read beside the folder.
        unpacked: most bytes that its archive unpacks to; 0 where nothing is unpacked.
    """

    title: str
    archives: tuple[Archive, ...]
    folder: str
    holds: tuple[str, ...]
    unpacked: int

    @property
    def size(self) -> int:
        """Bytes that are downloaded."""
        return sum(archive.size for archive in self.archives)


def _mnist(name: str, size: int, md5: str) -> Archive:
    mirrors = (
        "ossci-datasets.s3.amazonaws.com/mnist",
        "storage.googleapis.com/cvdf-datasets/mnist",
    )
    return Archive(tuple(f"https://{mirror}/{name}" for mirror in mirrors), size, md5)


_MNIST = (
    _mnist("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    _mnist("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
    _mnist("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
    _mnist("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
)
_CIFAR10 = Archive(
    (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
    ),
    170_052_171,
    "c32a1d4ab5d03f1284b67883e8d87530",
)
_STL10 = Archive(
    ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",),
    2_640_397_119,
    "91f7769df0f17e558f3565bffb0c7dfb",
)
_TINY_IMAGENET = Archive(
    ("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
    248_100_043,
    "90528d7ca1a48142e341f4ef8d21d0de",
)

# By the names that experiments call them.
PUBLIC = {
    "mnist": PublicSet(
        "70,000 grey digits of 28x28", _MNIST, "", tuple(each.name for each in _MNIST), 0
    ),
    "cifar10": PublicSet(
        "60,000 images of 32x32 in 10 classes, binary version",
        (_CIFAR10,),
        "cifar-10-batches-bin",
        (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"),
        200 * MB,
    ),
    "stl10": PublicSet(
        "113,000 images of 96x96, most without label, in 10 classes, binary version",
        (_STL10,),
        "stl10_binary",
        ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin"),
        3200 * MB,
    ),
    "tiny_imagenet": PublicSet(
        "120,000 images of 64x64 in 200 classes",
        (_TINY_IMAGENET,),
        "tiny-imagenet-200",
        ("wnids.txt", "train", "val/val_annotations.txt"),
        500 * MB,
    ),
}
