"""Results: labelled arrays in netCDF files that say where they come from."""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
