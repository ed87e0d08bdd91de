from .blockwise import BlockwiseRecipe as BlockwiseRecipe, Order as Order, train as train
from .blockwise_losses import SUPERVISED as SUPERVISED, VIEW_LOSSES as VIEW_LOSSES, headed as headed
from .fitting import (
    RECORDED_PER_DECADE as RECORDED_PER_DECADE,
    Credit as Credit,
    Divergence as Divergence,
    Schedule as Schedule,
    aligned as aligned,
    fabric_on as fabric_on,
    fit as fit,
    fit_supervised as fit_supervised,
    masked_cosines as masked_cosines,
)
from .hierarchies import (
    Architecture as Architecture,
    Optimiser as Optimiser,
    Recipe as Recipe,
    Task as Task,
    accuracy as accuracy,
    activities as activities,
    classes as classes,
    encode as encode,
    fit_labels as fit_labels,
    trained as trained,
)
from .hierarchy_pairs import LOSSES as LOSSES, Source as Source, fit_pairs as fit_pairs
from .optimisers import lars as lars
from .robustness import corrupted_accuracy as corrupted_accuracy
