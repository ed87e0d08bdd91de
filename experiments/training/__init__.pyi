from .blockwise import LARSSchedule as LARSSchedule, Order as Order, train_blocks as train_blocks
from .blockwise_losses import (
    SUPERVISED as SUPERVISED,
    VIEW_LOSSES as VIEW_LOSSES,
    headed_rule as headed_rule,
)
from .convergence import Convergence as Convergence, Progress as Progress
from .cosines import (
    Batch as Batch,
    masked_cosines as masked_cosines,
    update_cosines as update_cosines,
)
from .fitting import (
    RECORDED_PER_DECADE as RECORDED_PER_DECADE,
    Credit as Credit,
    Divergence as Divergence,
    Schedule as Schedule,
    fabric_on as fabric_on,
    fit_by_rule as fit_by_rule,
    fit_supervised as fit_supervised,
)
from .hierarchy_effort import (
    DAYS as DAYS,
    GRID as GRID,
    HOURS as HOURS,
    SECONDS as SECONDS,
    Effort as Effort,
)
from .hierarchy_ladder import climb as climb, learn_with_best_rate as learn_with_best_rate
from .hierarchy_pairs import (
    LOSS_CANDIDATES as LOSS_CANDIDATES,
    PairSource as PairSource,
    Positives as Positives,
    fit_pairs as fit_pairs,
    fit_told as fit_told,
    own_parameters as own_parameters,
)
from .hierarchy_rules import (
    FEEDBACK_RULES as FEEDBACK_RULES,
    Setting as Setting,
    data_needed as data_needed,
)
from .hierarchy_stack import (
    Examples as Examples,
    Remedy as Remedy,
    Rule as Rule,
    fit_together as fit_together,
)
from .hierarchy_tasks import (
    Architecture as Architecture,
    NetworkRecipe as NetworkRecipe,
    Optimiser as Optimiser,
    Task as Task,
    accuracy as accuracy,
    class_labels as class_labels,
    fit_labels as fit_labels,
    layer_activities as layer_activities,
    one_hot_leaves as one_hot_leaves,
)
from .hierarchy_terms import (
    TERMS as TERMS,
    error_terms as error_terms,
    terms_along_training as terms_along_training,
)
from .hierarchy_tokens import (
    Reader as Reader,
    TokenNet as TokenNet,
    last_token_losses as last_token_losses,
)
from .optimisers import lars as lars
from .released import (
    MatchedInTraining as MatchedInTraining,
    released_clapp as released_clapp,
    released_infonce as released_infonce,
)
from .released_fit import ReleasedFit as ReleasedFit
from .robustness import corrupted_accuracy as corrupted_accuracy
from .search import (
    SEARCH_SEED as SEARCH_SEED,
    Choice as Choice,
    Search as Search,
    best_rate as best_rate,
    chosen as chosen,
    table as table,
    unsearched as unsearched,
    with_best_rate as with_best_rate,
    words as words,
)
