"""Exact proofs of the theory: theorems as objects, derivations, conditions, counterexamples.

>>> import linlocal as ll
>>> proof = ll.symbolic.prove("isometry", widths=(2, 2, 3))  # exact, for all parameter values
>>> proof.holds, proof.residual
(True, Matrix([[0, 0], [0, 0]]))
>>> print(ll.symbolic.prove("isometry").derivation)  # all sizes, step by step
>>> print(ll.symbolic.derive(ll.rules.CLAPP_DFB("linear")))  # (G - I) X = 0
>>> print(ll.symbolic.counterexample("isometry", without="same_penalty"))

Imports point from right to left: words, matrices, assumptions <- formulas <- theorems <- windows <-
statements <- proofs, conditions, counterexamples <- document. Only here is sympy imported.
"""

from linlocal.doors import lazily

__getattr__, __dir__, __all__ = lazily(__name__, __file__)
