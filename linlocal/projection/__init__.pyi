from .descent import descend as descend
from .iterative import Preconditioner as Preconditioner
from .optimal import optimal_projection as optimal_projection
from .problem import (
    ConvergenceError as ConvergenceError,
    NewtonMatrix as NewtonMatrix,
    Projection as Projection,
    Rows as Rows,
    ScoreProblem as ScoreProblem,
)
from .scratch import Scratch as Scratch
from .stacked import (
    StackedLoss as StackedLoss,
    StackedProjections as StackedProjections,
    StackedRows as StackedRows,
)
