from .comparison import (
    compare as compare,
    compare_signals as compare_signals,
    global_update as global_update,
    local_update as local_update,
    mismatch as mismatch,
    vanishing_updates as vanishing_updates,
)
from .projections import Projections as Projections, projections as projections
from .signals import LayerLosses as LayerLosses, Signals as Signals
from .values import loss_values as loss_values
