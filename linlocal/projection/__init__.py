"""The optimal projection B of a penalised convex loss of scored pairs."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
