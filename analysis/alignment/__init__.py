"""Local against global gradients: on one batch, or recorded during training."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
