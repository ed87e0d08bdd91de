"""Every reader of files on damaged and hostile ones: ``python -m tests.fuzz``, or ``make fuzz``.

A case takes a whole file of the format, changes it (bytes, numbers, pieces, its length), makes its
checksums right again in most cases, as a stranger would, and reads it. A reader may read the file
or raise its documented error. Anything else (another error, a crash, more than 10 seconds or 2 GiB
of memory) is printed with the command that repeats it, and the exit status is 1.

Cases are functions of the seed, the reader and their number. They run in processes of their own.
"""

from __future__ import annotations

import argparse
import faulthandler
import gzip
import hashlib
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from PIL import Image

from experiments.data import DataError
from experiments.data.folder import square
from experiments.data.grey_sets.mnist import read_idx
from experiments.data.labelled_register import load
from experiments.data.shards import TarShards
from linlocal.analysis import results
from linlocal.analysis.alignment import series
from linlocal.analysis.results import ResultError
from linlocal.analysis.training import CheckpointError, Checkpoints
from paper_figures import claims

SECONDS_OF_A_CASE = 10
MEMORY_OF_A_CASE = 2**31
OUTCOMES = ("read", "refused", "other")


@dataclass(frozen=True)
class Reader:
    """What is tried.

    Attributes:
        seeds: whole files, by the name that each has in its folder.
        read: reads the folder in which one file was changed.
        error: what a file that cannot be used raises; () if it counts as missing.
        lay_out: puts the other files into the folder.
        repair: makes the checksums of a changed file right.
    """

    seeds: Callable[[], list[tuple[str, bytes]]]
    read: Callable[[Path], object]
    error: type[Exception] | tuple[()]
    lay_out: Callable[[Path], None] = lambda folder: None
    repair: Callable[[bytes], bytes] = bytes


# -- whole files -----------------------------------------------------------------------------------

RNG = np.random.default_rng(0)


def images() -> list[tuple[str, bytes]]:
    picture = Image.fromarray(RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    found = [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"]
    kinds = [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("GIF", {}), ("BMP", {}),
             ("PPM", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("TIFF", {}),
             ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"}),
             ("TIFF", {"compression": "tiff_adobe_deflate"})]  # fmt: skip
    for kind, options in kinds:
        for mode in ("RGB", "L", "1", "P", "CMYK", "RGBA", "I;16"):
            room = io.BytesIO()
            try:
                picture.convert(mode).save(room, kind, **options)
            except (OSError, ValueError):  # not every format has every mode
                continue
            found.append(room.getvalue())
    return [("a.jpg", each) for each in found]


def idx() -> list[tuple[str, bytes]]:
    whole = struct.pack(">HBBIII", 0, 8, 3, 5, 6, 7) + bytes(range(210))
    return [("idx", whole), ("idx", gzip.compress(whole))]


def jpeg() -> bytes:
    room = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 99, 199)).save(room, "JPEG")
    return room.getvalue()


ARCHIVES = {
    **{f"data_batch_{k}.bin": bytes(3073) * 2 for k in range(1, 6)},
    "test_batch.bin": bytes(3073) * 2,
    **{f"{part}_X.bin": bytes(3 * 96**2) for part in ("train", "test", "unlabeled")},
    **{f"{part}_y.bin": b"\1" for part in ("train", "test")},
    "wnids.txt": b"n01\nn02\n",
    "val/val_annotations.txt": b"a.JPEG\tn01\t0\t0\nb.JPEG\tn02\t0\t0\n",
    **{f"train/{name}/images/a.JPEG": jpeg() for name in ("n01", "n02")},
    **{f"val/images/{name}.JPEG": jpeg() for name in "ab"},
}


def of_archives(*names: str) -> Callable[[], list[tuple[str, bytes]]]:
    return lambda: [(name, ARCHIVES[name]) for name in names]


def lay_out_archives(folder: Path) -> None:
    for name, content in ARCHIVES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def tar_files() -> list[tuple[str, bytes]]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for long in ("", "ä/" + 120 * "long"):
            room = io.BytesIO()
            with tarfile.open(fileobj=room, mode="w", format=form) as archive:
                for k in range(3):
                    for ending, content in (("jpg", jpeg()), ("json", b"{}"), ("cls", b"%d" % k)):
                        info = tarfile.TarInfo(f"{long}{k}.{ending}"[-250:])
                        info.size, info.mtime = len(content), 0.5
                        try:
                            archive.addfile(info, io.BytesIO(content))
                        except ValueError:  # too long a name for this form
                            break
            found.append(("a.tar", room.getvalue()))
    return found


PROVENANCE = results.Provenance.collect("toy", "smoke", 0, {"width": 4})


def result() -> bytes:
    dataset = xr.Dataset(
        {
            "cosine": (("step", "layer"), [[1.0, np.nan], [0.5, 1.0]]),
            "names": ("layer", ["a", "bb"]),
            "loose": ("layer", np.array(["c", "é" * 40], dtype=object)),
            "when": ("step", np.array([1, 2], "M8[ns]")),
        },
        {"layer": [1, 2], "step": [1, 2]},
        {"list": [1, (2.0, None)], "array": np.arange(3), "text": np.array(["x", "yy"])},
    )
    with tempfile.TemporaryDirectory() as folder:
        return results.write(dataset, Path(folder) / "a.nc", PROVENANCE).read_bytes()[:-32]


def first_schema() -> bytes:
    dataset = xr.Dataset({"x": ("k", ["a", "b"]), "y": ("k", [1.0, 2.0])}, {"k": [1, 2]}, {"a": 1})
    with tempfile.TemporaryDirectory() as folder:
        dataset.to_netcdf(Path(folder) / "a.nc", engine="h5netcdf")
        return (Path(folder) / "a.nc").read_bytes()


def of_series() -> list[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        lay_out_series(Path(folder))
        return [(each.name, each.read_bytes()[:-32]) for each in sorted(Path(folder).iterdir())]


def lay_out_series(folder: Path) -> None:
    for step in (1, 2):
        piece = xr.Dataset(
            {"cosine": (("step", "layer"), [[1.0, 0.5]])}, {"step": [step], "layer": [1, 2]}
        )
        series.append(folder, piece, PROVENANCE)


def of_checkpoints() -> list[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        state = {"step": 3, "weights": torch.arange(6.0).reshape(2, 3), "names": ["a", (1, None)]}
        path = Checkpoints(Path(folder)).save(3, state)
        return [(path.name, path.read_bytes())]


def of_claims() -> list[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        found = {"figure": {"code": "c", "claims": [{"claim": "a", "verdict": "open"}]}}
        (Path(folder) / "claims.json").write_text(json.dumps(found), encoding="utf-8")
        return [("claims.json", (Path(folder) / "claims.json").read_bytes())]


# -- right checksums -------------------------------------------------------------------------------


def with_right_png(content: bytes) -> bytes:
    """The checksums of the chunks of a PNG."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    fixed, place = bytearray(content), 8
    while place + 12 <= len(fixed):
        length = int.from_bytes(fixed[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(fixed[place + 4 : end]))
        place = end + 4
    return bytes(fixed)


def with_right_headers(content: bytes) -> bytes:
    """The checksum of each block of a tar file that looks like a header."""
    fixed = bytearray(content)
    for place in range(0, len(fixed) - 511, 512):
        if fixed[place + 257 : place + 262] == b"ustar":
            fixed[place + 148 : place + 156] = b" " * 8
            total = sum(fixed[place : place + 512])
            fixed[place + 148 : place + 156] = b"%06o\0 " % total
    return bytes(fixed)


def sealed(content: bytes) -> bytes:
    """With the checksum of a result."""
    return content + hashlib.sha256(content).digest()


def with_right_zip(content: bytes) -> bytes:
    """The checksums of the members of a zip file, as far as its directory is whole."""
    fixed = bytearray(content)
    place = fixed.find(b"PK\1\2")
    while place >= 0 and place + 46 <= len(fixed):
        size, start = (int.from_bytes(fixed[place + k : place + k + 4], "little") for k in (20, 42))
        if fixed[start : start + 4] == b"PK\3\4":
            name, extra = struct.unpack_from("<HH", fixed, start + 26)
            first = start + 30 + name + extra
            crc = struct.pack("<I", zlib.crc32(fixed[first : first + size]))
            fixed[place + 16 : place + 20] = fixed[start + 14 : start + 18] = crc
        place = fixed.find(b"PK\1\2", place + 4)
    return bytes(fixed)


# -- readers ---------------------------------------------------------------------------------------


def read_shards(folder: Path) -> None:
    for _ in TarShards([folder / "a.tar"], 8, 2, 1).once():
        pass


READERS: dict[str, Reader] = {
    "images": Reader(
        images, lambda folder: square(folder / "a.jpg", 8), DataError, repair=with_right_png
    ),
    "idx": Reader(idx, lambda folder: read_idx(folder / "idx", 3), DataError),
    "cifar10": Reader(
        of_archives("data_batch_2.bin", "test_batch.bin"),
        lambda folder: load("cifar10", folder),
        DataError,
        lay_out_archives,
    ),
    "stl10": Reader(
        of_archives("train_X.bin", "train_y.bin", "unlabeled_X.bin"),
        lambda folder: load("stl10", folder),
        DataError,
        lay_out_archives,
    ),
    "tiny_imagenet": Reader(
        of_archives("wnids.txt", "val/val_annotations.txt", "val/images/a.JPEG"),
        lambda folder: load("tiny_imagenet", folder),
        DataError,
        lay_out_archives,
    ),
    "shards": Reader(tar_files, read_shards, DataError, repair=with_right_headers),
    "results": Reader(
        lambda: [("a.nc", result()), ("a.nc", first_schema())],
        lambda folder: results.read(folder / "a.nc"),
        ResultError,
        repair=sealed,
    ),
    "series": Reader(of_series, series.read, ResultError, lay_out_series, sealed),
    "checkpoints": Reader(
        of_checkpoints,
        lambda folder: Checkpoints(folder).load(),
        CheckpointError,
        repair=with_right_zip,
    ),
    "claims": Reader(of_claims, claims.entries, ()),
}

# -- changes ---------------------------------------------------------------------------------------

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def changed(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """A file with 1 to 4 changes; ``other`` lends pieces."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        # Formats say most at their beginning.
        place = rng.randrange(min(len(found), rng.choice((64, 1024, 2**30))) + 1)
        length = rng.choice((1, 2, 4, 8, 16, 512))
        kind = rng.randrange(8)
        if kind == 0:
            found[place : place + length] = rng.randbytes(length)
        elif kind == 1:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(EXTREMES) % 256**width
            order = "little" if rng.random() < 0.5 else "big"
            found[place : place + width] = value.to_bytes(width, order)
        elif kind == 2:
            del found[rng.randrange(len(found) + 1) :]
        elif kind == 3:
            del found[place : place + length]
        elif kind == 4:
            found[place:place] = found[place : place + length] * rng.choice((1, 2, 100))
        elif kind == 5 and place < len(found):
            found[place] ^= 1 << rng.randrange(8)
        elif kind == 6 and other:
            start = rng.randrange(len(other))
            found[place : place + length] = other[start : start + length]
        else:  # a number written as text
            start = rng.randrange(len(found) + 1)
            at = next((k for k in range(start, len(found)) if 48 <= found[k] <= 57), None)
            if at is not None:
                found[at : at + 1] = rng.choice((b"-", b"9" * 9, b"0", b"e", b"-1", b"7" * 3))
    return bytes(found)


# -- running ---------------------------------------------------------------------------------------


def tried(reader: Reader, seeds: list[tuple[str, bytes]], rng: random.Random, folder: Path) -> str:
    """The outcome of one case: "read", "refused", or what else happened."""
    name, whole = rng.choice(seeds)
    _, other = rng.choice(seeds)
    content = changed(whole, other, rng)
    if reader.repair is sealed or rng.random() < 0.9:
        content = reader.repair(content)
    (folder / name).write_bytes(content)
    try:
        reader.read(folder)
    except reader.error:
        return "refused"
    except BaseException as error:  # what must not happen, whatever it is
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    finally:
        (folder / name).write_bytes(reader.repair(whole))
    return "read"


def in_child(reader: Reader, name: str, seed: int, cases: range, until: float, pipe: int) -> None:
    """Run cases in a process of their own, and write a line for each."""
    faulthandler.disable()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever it is doing
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY_OF_A_CASE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff writes a line for each fault
    seeds = reader.seeds()
    with tempfile.TemporaryDirectory() as root, os.fdopen(pipe, "w", encoding="utf-8") as lines:
        folder = Path(root)
        reader.lay_out(folder)
        for case in cases:
            if time.monotonic() > until:
                return
            signal.alarm(SECONDS_OF_A_CASE)
            outcome = tried(reader, seeds, random.Random(f"{seed} {name} {case}"), folder)
            signal.alarm(0)
            lines.write(outcome + "\n")
            lines.flush()


def outcomes(reader: Reader, name: str, seed: int, cases: range, until: float) -> Iterator[str]:
    """The outcome of each case, also of one that ends its process."""
    done = 0
    while done < len(cases) and time.monotonic() < until:
        source, target = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.close(source)
                in_child(reader, name, seed, cases[done:], until, target)
                status = 0
            finally:
                os._exit(status)
        os.close(target)
        with os.fdopen(source, encoding="utf-8") as lines:
            for line in lines:
                done += 1
                yield line.rstrip("\n")
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            done += 1
            number = os.WTERMSIG(status)
            what = (
                f"more than {SECONDS_OF_A_CASE} seconds" if number == signal.SIGALRM else "a crash"
            )
            yield f"{what} ({signal.Signals(number).name})"
        elif status:
            raise RuntimeError(f"the process that tries {name} ended by itself with {status}")


def fuzz(names: list[str], seed: int, first: int, cases: int, seconds: float) -> int:
    """Try readers, print a table, and return the exit status."""
    print("| reader | tried | read | refused | other |\n|---|---|---|---|---|")
    failures = []
    for name in names:
        count = Counter[str]()
        until = time.monotonic() + seconds / len(names)
        found = outcomes(READERS[name], name, seed, range(first, first + cases), until)
        for case, outcome in enumerate(found, first):
            kind = outcome if outcome in OUTCOMES else "other"
            count[kind] += 1
            if kind == "other":
                again = f"--seed {seed} --reader {name} --first {case} --cases 1"
                failures.append(f"{name}, case {case}: {outcome}\n  python -m tests.fuzz {again}")
        row = (name, count.total(), *(count[kind] for kind in OUTCOMES))
        print("|", " | ".join(map(str, row)), "|", flush=True)
    print(*failures[:50], sep="\n", file=sys.stderr)
    return 1 if failures else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=100, help="time for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=100_000, help="most cases of each reader")
    parser.add_argument("--reader", choices=READERS, help="try this one only")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = [given.reader] if given.reader else list(READERS)
    return fuzz(names, given.seed, given.first, given.cases, given.seconds)


if __name__ == "__main__":
    sys.exit(main())
