"""A meeting of all processes that cannot hang where one of them never comes."""

from __future__ import annotations

from datetime import timedelta
from itertools import count

import torch.distributed as dist
from torch.distributed import DistStoreError, distributed_c10d

PATIENCE = timedelta(minutes=2)
"""How long a process waits for the others. They have just run the same backward pass."""

_NUMBERS = count()


class Meeting:
    """Lets every process wait for all others, by name, before they add up anything together.

    Collective operations wait without end, or until the time limit of the process group, for a
    process that does not take part. All processes must make their meetings in the same order.
    """

    def __init__(self) -> None:
        self._name = f"linlocal/meeting/{next(_NUMBERS)}"

    def attend(self, step: int) -> None:
        """Wait until all processes are at this step; nothing is done where there is one.

        Raises:
            RuntimeError: a process did not come.
        """
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        # The store at which the processes met when they began; every backend has one.
        store = distributed_c10d._get_default_store()
        names = [f"{self._name}/{step}/{rank}" for rank in range(dist.get_world_size())]
        store.set(names[dist.get_rank()], "")
        for rank, name in enumerate(names):
            try:
                store.wait([name], PATIENCE)
            except DistStoreError as error:
                raise RuntimeError(
                    f"Process {rank} did not record step {step} within "
                    f"{PATIENCE.total_seconds():.0f} seconds. Recorded gradients are means over "
                    "all processes: make a recorder on every one (the first writes), with the same "
                    "steps, in the same order. Or that process has stopped with an error."
                ) from error
