"""The Random Hierarchy Model: data whose hidden hierarchy is known exactly.

    n, v, m    classes, symbols of a level, synonyms: tuples that a symbol owns
    s, S       symbols of a tuple, places of a patch (S = s without blanks)
    L, l       levels; leaves are level 0, level-l symbols own tuples of level l - 1, the class is
               level L
    d          leaves of a datum, s^L
    P_max, P*  how many data there are, how many a deep network needs

`grammar` <- `trees` <- `sampling` <- `corruption` <- `inference` <- `shallow` <- `model`; `theory`,
`encoding` and `images` need the grammar alone, `noises` <- `diffusion` and `tokens` need inference,
`export` and `clustering` the trees.

Sources: Cagnetta et al. 2024 (arXiv 2307.02129), Cagnetta and Wyart 2024 (2406.00048), Tomasini and
Wyart 2024 (2404.10727), Cagnetta et al. 2025 (2505.07067), Sclocchi et al. 2024 (2402.16991),
Korchinski, Favero and Wyart 2026 (2605.27734).
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
