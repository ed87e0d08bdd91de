from . import view_losses as view_losses
from .gather import GatheredRule as GatheredRule
from .heads import (
    ActivityNoise as ActivityNoise,
    HeadedClasses as HeadedClasses,
    HeadedRule as HeadedRule,
    HeadedViews as HeadedViews,
    HeadKind as HeadKind,
    Labels as Labels,
    Spread as Spread,
)
from .hebbian import hebbian_update as hebbian_update
from .hybrids import hybrid_images as hybrid_images
from .pooling import Cells as Cells, Shape as Shape, Window as Window
from .rules import (
    CLAPP as CLAPP,
    SCFF as SCFF,
    ForwardForward as ForwardForward,
    InfoNCE as InfoNCE,
    LocalRule as LocalRule,
    PhyLL as PhyLL,
    Views as Views,
    checked_rule as checked_rule,
)
from .scored_pairs import ScoredPairs as ScoredPairs, ScoredRule as ScoredRule
