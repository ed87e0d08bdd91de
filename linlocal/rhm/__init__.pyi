from . import (
    clustering as clustering,
    corruption as corruption,
    diffusion as diffusion,
    encoding as encoding,
    export as export,
    images as images,
    inference as inference,
    noises as noises,
    sampling as sampling,
    shallow as shallow,
    theory as theory,
    tokens as tokens,
    trees as trees,
)
from .grammar import BLANK as BLANK, Grammar as Grammar
from .inference import (
    BayesError as BayesError,
    Posterior as Posterior,
    bayes_error as bayes_error,
    sample_posterior as sample_posterior,
)
from .model import RandomHierarchyModel as RandomHierarchyModel
from .trees import Trees as Trees
