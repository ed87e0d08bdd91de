from . import blockwise as blockwise
from .blockwise import NoTop as NoTop
from .locality import LocalityError as LocalityError, audit_locality as audit_locality
from .masking import Masks as Masks, masked_gradients as masked_gradients
from .micro_batches import MicroBatches as MicroBatches
from .window import (
    Rescale as Rescale,
    capture as capture,
    error_signal as error_signal,
    local_gradient as local_gradient,
    output_shapes as output_shapes,
    untouched as untouched,
    watch as watch,
)
