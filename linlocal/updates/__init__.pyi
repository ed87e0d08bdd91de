from .comparison import (
    compare as compare,
    compare_signals as compare_signals,
    global_update as global_update,
    local_update as local_update,
    mismatch as mismatch,
    vanishing_updates as vanishing_updates,
)
from .layer_losses import LayerLosses as LayerLosses
from .projections import Projections as Projections, projections as projections
from .signals import Signals as Signals
from .sweep import sweep as sweep
from .values import loss_values as loss_values
