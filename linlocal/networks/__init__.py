"""Deep networks with frozen weights, linear or with ReLU, dense or convolutional."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
