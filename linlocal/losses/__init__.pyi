from . import scores as scores, shape as shape
from .goodness import Goodness as Goodness
from .pairs import InfoNCE as InfoNCE, PairLoss as PairLoss, TypeOne as TypeOne, TypeTwo as TypeTwo
from .scores import (
    Hinge as Hinge,
    Linear as Linear,
    Score as Score,
    SmoothedHinge as SmoothedHinge,
    Softplus as Softplus,
)
from .supervised import (
    CrossEntropy as CrossEntropy,
    SquaredError as SquaredError,
    SupervisedLoss as SupervisedLoss,
)
from .views import (
    LPL as LPL,
    BarlowTwins as BarlowTwins,
    CosineInfoNCE as CosineInfoNCE,
    LogDet as LogDet,
    NTXent as NTXent,
    SpectralContrastive as SpectralContrastive,
    VICReg as VICReg,
    VICRegForm as VICRegForm,
    ViewLoss as ViewLoss,
    Whitening as Whitening,
)
