"""What runs experiments: sweeps that survive a kill, grids, searches, processes, verification."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
