from . import scores as scores, shape as shape
from .curvature import Curvature as Curvature, explicit as explicit
from .goodness import Goodness as Goodness
from .normality import SlicedNormality as SlicedNormality
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
from .sketched import VISReg as VISReg
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
    LPLForm as LPLForm,
    NTXent as NTXent,
    SpectralContrastive as SpectralContrastive,
    VICReg as VICReg,
    VICRegForm as VICRegForm,
    ViewLoss as ViewLoss,
    Whitening as Whitening,
)
