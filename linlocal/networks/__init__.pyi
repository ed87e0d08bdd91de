from .convolution import (
    Convolution as Convolution,
    Weight as Weight,
    average_pooling as average_pooling,
)
from .network import (
    Activities as Activities,
    DeepLinear as DeepLinear,
    DeepReLU as DeepReLU,
    Masks as Masks,
    Network as Network,
    nearest_isometry as nearest_isometry,
)
