from . import (
    analysis as analysis,
    autodiff as autodiff,
    conditions as conditions,
    dynamics as dynamics,
    losses as losses,
    plots as plots,
    rhm as rhm,
    rules as rules,
    symbolic as symbolic,
    testing as testing,
)
from .conditions import explain as explain
from .losses import scores as scores
from .networks import (
    Convolution as Convolution,
    DeepLinear as DeepLinear,
    DeepNonlinear as DeepNonlinear,
    DeepReLU as DeepReLU,
)
from .pairs import Direction as Direction, Pairs as Pairs
from .projection import (
    ConvergenceError as ConvergenceError,
    Projection as Projection,
    optimal_projection as optimal_projection,
)
from .rules import Penalty as Penalty, Rule as Rule
from .updates import (
    compare as compare,
    global_update as global_update,
    local_update as local_update,
    loss_values as loss_values,
    mismatch as mismatch,
    projections as projections,
    sweep as sweep,
)

__version__: str
