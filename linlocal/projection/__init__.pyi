from .descent import descend as descend
from .optimal import optimal_projection as optimal_projection
from .problem import (
    ConvergenceError as ConvergenceError,
    Projection as Projection,
    Rows as Rows,
    ScoreProblem as ScoreProblem,
)
