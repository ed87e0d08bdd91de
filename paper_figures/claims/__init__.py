"""Claims: what a figure must show, decided by numbers.

deciding  intervals against regions, for all claims alike
claim     a statement with its question and what was published
records   claims.json and claims.md
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
