"""Data sets: grey and coloured images, archives, folders, shards, hierarchies; their views."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
