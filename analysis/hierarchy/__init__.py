"""Networks, batches and exact inference for the Random Hierarchy Model."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
