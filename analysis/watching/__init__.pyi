from .averaged import averaged_errors as averaged_errors
from .downstream import (
    averaged_jacobians as averaged_jacobians,
    downstream as downstream,
    measure_downstream as measure_downstream,
)
from .forward_mode import (
    pushed_forward as pushed_forward,
    refuse_interaction as refuse_interaction,
)
from .gradients import (
    Rescale as Rescale,
    error_signal as error_signal,
    errors_below as errors_below,
    local_gradient as local_gradient,
    windowed as windowed,
)
from .locality import LocalityError as LocalityError, audit_locality as audit_locality
from .masking import masked_gradients as masked_gradients
from .micro_batches import MicroBatches as MicroBatches
from .restore import own_pass as own_pass, untouched as untouched
from .surveys import Survey as Survey, leaves as leaves, survey as survey
from .window import (
    accumulated as accumulated,
    capture as capture,
    complete_from_above as complete_from_above,
    cut as cut,
    gated as gated,
    hooked as hooked,
    one_pass as one_pass,
    overlook as overlook,
    placed as placed,
    watch as watch,
)
