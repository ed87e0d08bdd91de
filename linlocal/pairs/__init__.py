"""Positive and negative pairs of samples: who is compared with whom, and with which sign."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
