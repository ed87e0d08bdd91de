"""What a linear classifier reads from features, and what features are sensitive to."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
