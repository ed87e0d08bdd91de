"""Where the blocks of a network lie: all on one device, or each on one of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.block import Block, resolve
from linlocal.analysis.random_states import drawing
from linlocal.analysis.watching import placed

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Device = str | torch.device


class Places:
    """The device of each block, and that of everything else.

    Args:
        fabric: knows the device of everything else.
        devices: the device of each block; None for the same.

    Raises:
        TypeError: ``devices`` are no devices.
        ValueError: there are several processes, or a precision that does not go with several
            devices.
    """

    def __init__(self, fabric: Fabric, devices: Sequence[Device] | None) -> None:
        self.home = fabric.device
        self._devices: list[torch.device] | None = None
        if devices is None:
            return
        given = inputs.sequence(devices, "devices", "devices, one for each block")
        self._devices = [_device(each) for each in given]
        if fabric.world_size > 1:
            raise ValueError(
                "devices gives each block a device of one process, but there are "
                f"{fabric.world_size} processes: give one of the two."
            )
        precision = str(getattr(fabric.strategy.precision, "precision", "32-true"))
        if "mixed" in precision and {d.type for d in self._devices} != {self.home.type}:
            raise ValueError(
                f'Precision "{precision}" casts on devices of one kind, {self.home.type}, got '
                f'{", ".join(map(str, self._devices))}: take "32-true" or "bf16-true".'
            )
        if precision == "16-mixed":
            raise ValueError('Several devices do not scale the loss: take "bf16-mixed".')

    def of(self, position: int) -> torch.device:
        """The device of a block, by its position from 0."""
        return self.home if self._devices is None else self._devices[position]

    def move(self, model: nn.Module, names: Iterable[str] | None) -> tuple[Block, ...]:
        """Move the blocks to their devices, one after the other, and everything else home.

        Args:
            model: the network.
            names: the names of its blocks, as for `linlocal.analysis.blocks`.

        Returns:
            The blocks, where they lie now.

        Raises:
            ValueError: there is not one device for each block, or one does not exist.
        """
        if self._devices is None:
            model.to(self.home)
            return resolve(model, names)
        blocks = resolve(model, names)
        if len(self._devices) != len(blocks):
            raise ValueError(
                f"devices needs one for each of the {len(blocks)} blocks, got {len(self._devices)}."
            )
        inside: set[int] = set()
        for block, device in zip(blocks, self._devices, strict=True):
            for member in block.members:
                try:
                    member.to(device)
                except (RuntimeError, AssertionError) as error:
                    raise ValueError(
                        f"Block {block.name!r} cannot be moved to {device}: {error}"
                    ) from error
                inside |= {id(part) for part in member.modules()}
        for module in model.modules():
            if id(module) not in inside:
                module._apply(lambda tensor: tensor.to(self.home), recurse=False)
        return resolve(model, {block.name: block.layout for block in blocks})

    def brought_home(self, value: Tensor) -> Tensor:
        """A value of a block on the device of everything else, if blocks lie elsewhere."""
        return value if self._devices is None else value.to(self.home)

    def running(self, blocks: Sequence[Block]) -> AbstractContextManager[None]:
        """Enclose forward passes, inside of the windows that look at the blocks."""
        if self._devices is None:
            return nullcontext()
        return placed(blocks, self._devices, self.home)

    @contextmanager
    def drawing(self, *key: int) -> Iterator[None]:
        """`random_states.drawing` on all devices."""
        with ExitStack() as stack:
            for device in {self.home, *(self._devices or ())}:
                stack.enter_context(drawing(device, *key))
            yield


def _device(value: Device) -> torch.device:
    if not isinstance(value, str | torch.device):
        raise TypeError(f'devices must be devices such as "cuda:1", got {inputs.described(value)}.')
    try:
        return torch.device(value)
    except RuntimeError as error:
        raise ValueError(f'devices must be devices such as "cuda:1", got {value!r}.') from error
