from .bounds import (
    ResidualBounds as ResidualBounds,
    cosine_bound as cosine_bound,
    residual_bounds as residual_bounds,
    window_bound as window_bound,
)
from .explanation import explain as explain
from .report import (
    Condition as Condition,
    Explanation as Explanation,
    LayerExplanation as LayerExplanation,
    Remedy as Remedy,
)
