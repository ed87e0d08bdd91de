"""A claim: a statement, the question to numbers that decides it, and what was published."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from paper_figures.claims.deciding import Decision, Question, decide

# Three for what a paper says, two for what we say, one for either.
Verdict = Literal["reproduced", "contradicted", "not comparable", "holds", "fails", "undecided"]


@dataclass(frozen=True)
class Claim:
    """A statement that a result supports or not.

    A statement of a paper is reproduced or contradicted only where it was published on what we
    measured. Elsewhere it is not comparable, whatever comes out. Our own statements hold or fail.
    Either is undecided where the result cannot tell.

    Attributes:
        text: the statement.
        question: the numbers that decide, and where they must lie; None if there are none. A bool
            is a decision without numbers.
        measured: what was measured, as text.
        published: what the paper says, in numbers or words; None for a statement of our own.
        elsewhere: what it was published on, where we measured on something else.
        asked_together: the decision among all claims of a figure, see `decided`; without one, the
            question is decided alone.
    """

    text: str
    question: Question | bool | None
    measured: str
    published: str | None = None
    elsewhere: str | None = None
    asked_together: Decision | None = None

    @property
    def decision(self) -> Decision | None:
        """What intervals say; None where there are no numbers."""
        if self.asked_together is None and isinstance(self.question, Question):
            return decide([self.question])[0]
        return self.asked_together

    @property
    def holds(self) -> bool | None:
        """Whether the result supports the statement; None if it cannot tell."""
        if (decision := self.decision) is not None:
            return decision.holds
        return None if self.question is None else bool(self.question)

    @property
    def here(self) -> Verdict:
        """What the result says by itself."""
        return "undecided" if self.holds is None else "holds" if self.holds else "fails"

    @property
    def verdict(self) -> Verdict:
        """The decision in words."""
        if self.is_foreign:
            return "not comparable"
        if self.published is None or self.holds is None:
            return self.here
        return "reproduced" if self.holds else "contradicted"

    @property
    def paper(self) -> str | None:
        """The arXiv number of the paper that says so, where ``published`` names one."""
        found = re.search(r"\b\d{4}\.\d{5}\b", self.published or "")
        return found.group() if found else None

    @property
    def is_foreign(self) -> bool:
        """Whether it was published on something else, and so gets no verdict."""
        return self.published is not None and self.elsewhere is not None

    @property
    def numbers(self) -> str:
        """What was measured, and the intervals that decide."""
        return "; ".join(filter(None, (self.measured, str(self.decision or ""))))

    @property
    def evidence(self) -> str:
        """The numbers that decide, and what they say where nothing can be compared."""
        return f"{self.here} here: {self.numbers}" if self.is_foreign else self.numbers

    @property
    def source(self) -> str | None:
        """What the paper says, and what of."""
        return f"{self.published} (on {self.elsewhere})" if self.is_foreign else self.published

    def __str__(self) -> str:
        published = f"; published {self.source}" if self.source else ""
        return f"{self.verdict}: {self.text} (measured {self.evidence}{published})"


def decided(claims: Sequence[Claim]) -> list[Claim]:
    """The claims of one figure, decided together; apart from them, those that get no verdict."""
    found = list(claims)
    for foreign in (False, True):
        asked = {
            place: claim.question
            for place, claim in enumerate(claims)
            if isinstance(claim.question, Question) and claim.is_foreign is foreign
        }
        for place, decision in zip(asked, decide(list(asked.values())), strict=True):
            found[place] = replace(claims[place], asked_together=decision)
    return found
