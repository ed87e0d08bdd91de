"""Local losses of blocks: what a rule becomes on a network."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
