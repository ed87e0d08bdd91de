"""Random generators: their states, seeds of several numbers, and draws that leave no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from linlocal.seeds import seed_for


@contextmanager
def drawing(device: torch.device, *key: int) -> Iterator[None]:
    """Make torch's random numbers inside a function of the key, and restore their state afterwards.

    Args:
        device: the device whose generator is seeded, beside that of the CPU.
        key: the numbers that make the seed, as for `linlocal.seeds.seed_for`.
    """
    seed, gpus = seed_for(*key), [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(seed)
        if gpus:
            with torch.cuda.device(device):  # torch.manual_seed would seed the others too
                torch.cuda.manual_seed(seed)
        yield


def random_states() -> dict[str, Any]:
    """The states of the generators of Python, numpy and torch, as `Checkpoints` can hold them."""
    # NPY002 is ignored three times: other people's data sets draw from numpy's global generator.
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put the generators where `random_states` found them.

    Raises:
        ValueError: the states are those of another number of GPUs.
    """
    if len(states["cuda"]) != torch.cuda.device_count():
        raise ValueError(
            f"The checkpoint has random states of {len(states['cuda'])} GPUs and this machine "
            f"shows {torch.cuda.device_count()}: show as many, by CUDA_VISIBLE_DEVICES."
        )
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    torch.cuda.set_rng_state_all(states["cuda"])


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and torch, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
