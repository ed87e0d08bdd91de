"""Encoders, and networks cut into blocks."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
