from .activations import (
    GELU as GELU,
    Activation as Activation,
    LeakyReLU as LeakyReLU,
    ReLU as ReLU,
    Tanh as Tanh,
)
from .convolution import (
    Convolution as Convolution,
    Weight as Weight,
    average_pooling as average_pooling,
)
from .linear import (
    DeepLinear as DeepLinear,
    IsometryBound as IsometryBound,
    nearest_isometry as nearest_isometry,
)
from .links import Links as Links
from .network import (
    Activities as Activities,
    Masks as Masks,
    Network as Network,
    Parameters as Parameters,
)
from .nonlinear import (
    DeepNonlinear as DeepNonlinear,
    DeepReLU as DeepReLU,
)
