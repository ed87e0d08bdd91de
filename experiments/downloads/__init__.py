"""Public data sets: fetched from where they are published, checked, and unpacked."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
