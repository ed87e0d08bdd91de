from .bank import MomentumContrast as MomentumContrast
from .closed_form import (
    least_squares as least_squares,
    match as match,
    match_forward as match_forward,
    penalty_optimal as penalty_optimal,
)
from .contract import (
    Activity as Activity,
    LocalLoss as LocalLoss,
    LocalRule as LocalRule,
    contracted as contracted,
    labels_of as labels_of,
    refuse_without_loss as refuse_without_loss,
    views_of as views_of,
)
from .gather import GatheredRule as GatheredRule
from .heads import (
    ActivityNoise as ActivityNoise,
    HeadedClasses as HeadedClasses,
    HeadedRule as HeadedRule,
    HeadedViews as HeadedViews,
    HeadKind as HeadKind,
    Spread as Spread,
)
from .hebbian import hebbian_update as hebbian_update
from .hybrids import hybrid_images as hybrid_images
from .many_views import ManyViewsRule as ManyViewsRule
from .masked import (
    MaskedReconstruction as MaskedReconstruction,
    Reconstruction as Reconstruction,
    mask_patches as mask_patches,
    pixel_decoder as pixel_decoder,
)
from .mono_forward import ClassScores as ClassScores, MonoForward as MonoForward
from .named import (
    CLAPP as CLAPP,
    SCFF as SCFF,
    ForwardForward as ForwardForward,
    InfoNCE as InfoNCE,
    PhyLL as PhyLL,
    Views as Views,
)
from .network_rule import NetworkRule as NetworkRule, on_network as on_network
from .pooling import (
    Cells as Cells,
    Shape as Shape,
    Window as Window,
    shapes_of as shapes_of,
)
from .regression import LeastSquares as LeastSquares
from .scored_pairs import ScoredPairs as ScoredPairs
from .soft_hebb import (
    SoftHebb as SoftHebb,
    SoftHebbUpdate as SoftHebbUpdate,
    soft_hebb_update as soft_hebb_update,
)
