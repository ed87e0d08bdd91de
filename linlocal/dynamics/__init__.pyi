from .curves import Modes as Modes
from .moments import Moments as Moments
from .optimisers import (
    SGD as SGD,
    Adam as Adam,
    Clipped as Clipped,
    Momentum as Momentum,
    Optimiser as Optimiser,
    Sign as Sign,
    compare_steps as compare_steps,
)
from .population import (
    Learning as Learning,
    Source as Source,
    expected_loss as expected_loss,
    expected_update as expected_update,
    update_of as update_of,
)
from .trajectories import aligned as aligned, flow as flow, simulate as simulate
