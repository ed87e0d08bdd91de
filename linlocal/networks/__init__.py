"""Deep networks with frozen weights, linear or not: dense, convolutional, with biases and links."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
