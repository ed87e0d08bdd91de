from .pairs import (
    PairFormula as PairFormula,
    goodness_formula as goodness_formula,
    pair_formula as pair_formula,
    summed as summed,
)
from .projection import MAX_ENTRIES as MAX_ENTRIES, optimal_projection as optimal_projection
from .scores import Elementwise as Elementwise, score_formula as score_formula, slope as slope
from .supervised import (
    SupervisedFormula as SupervisedFormula,
    supervised_formula as supervised_formula,
)
from .updates import global_update as global_update, local_update as local_update, loss as loss
from .views import ViewFormula as ViewFormula, view_formula as view_formula
