from . import (
    commands as commands,
    listing as listing,
    registry as registry,
    settings as settings,
    verify as verify,
)
from .comparing import compare_batches as compare_batches
from .grids import grid as grid, stack as stack
from .interrupts import first_interrupt_only as first_interrupt_only
from .outlines import outline as outline
from .registry import Experiment as Experiment
from .sweep import Parts as Parts, Sweep as Sweep
from .timing import both_updates as both_updates, seconds as seconds
from .workers import Workers as Workers
