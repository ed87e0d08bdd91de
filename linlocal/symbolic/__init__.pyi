from .conditions import (
    DerivedCondition as DerivedCondition,
    Implication as Implication,
    derive as derive,
)
from .counterexamples import (
    Witness as Witness,
    counterexample as counterexample,
    literature_counterexample as literature_counterexample,
)
from .formulas import NotApplicable as NotApplicable
from .proofs import Proof as Proof, prove as prove
from .statements import THEOREMS as THEOREMS, theorem as theorem
from .theorems import Hypothesis as Hypothesis, Theorem as Theorem
