from .bounds import (
    ResidualBounds as ResidualBounds,
    cosine_bound as cosine_bound,
    residual_bounds as residual_bounds,
    window_bound as window_bound,
)
from .explanation import explain as explain
from .findings import (
    Condition as Condition,
    LayerExplanation as LayerExplanation,
    Remedy as Remedy,
)
from .report import Explanation as Explanation
