from .assumptions import Assumption as Assumption, NotApplicable as NotApplicable
from .conditions import (
    DerivedCondition as DerivedCondition,
    Implication as Implication,
    derive as derive,
)
from .counterexamples import (
    Witness as Witness,
    counterexample as counterexample,
    directions_counterexample as directions_counterexample,
    literature_counterexample as literature_counterexample,
)
from .proofs import Proof as Proof, prove as prove
from .statements import THEOREMS as THEOREMS, theorem as theorem
from .theorems import Hypothesis as Hypothesis, Theorem as Theorem
