from .explanation import explain as explain
from .report import (
    Condition as Condition,
    Explanation as Explanation,
    LayerExplanation as LayerExplanation,
    Remedy as Remedy,
)
