from .explaining import explanation as explanation
from .hierarchy import tree as tree
from .layers import cosines as cosines, knowledge as knowledge, mismatch as mismatch
from .recorded import training as training
from .style import (
    MARKERS as MARKERS,
    PALETTE as PALETTE,
    band as band,
    interval as interval,
    layer_axis as layer_axis,
    spread as spread,
    step_axis as step_axis,
)
