"""Training of networks by local losses or by backpropagation, on any number of processes."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
