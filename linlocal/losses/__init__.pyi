from . import scores as scores
from .curvature import Curvature as Curvature, explicit as explicit
from .goodness import Goodness as Goodness
from .pairs import (
    InfoNCE as InfoNCE,
    PairLoss as PairLoss,
    SpectralScores as SpectralScores,
    SupervisedInfoNCE as SupervisedInfoNCE,
    TypeOne as TypeOne,
    TypeTwo as TypeTwo,
)
from .scores import (
    Hinge as Hinge,
    Linear as Linear,
    Score as Score,
    SmoothedHinge as SmoothedHinge,
    Softplus as Softplus,
)
from .views import (
    LPL as LPL,
    BarlowTwins as BarlowTwins,
    CosineInfoNCE as CosineInfoNCE,
    LogDet as LogDet,
    NTXent as NTXent,
    SpectralContrastive as SpectralContrastive,
    VICReg as VICReg,
    ViewLoss as ViewLoss,
    Whitening as Whitening,
)
