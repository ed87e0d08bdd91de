"""Block outputs of a running network: captured, cut off, recomputed, masked, audited."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
