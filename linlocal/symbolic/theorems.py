"""What a theorem is: statement, hypotheses, and the lemmas that make up the proof.

A lemma is an expression that the hypotheses must reduce to zero. A theorem about local and global
updates has two: the slopes of both losses agree, and then the updates do. `linlocal.symbolic.prove`
reduces them in words (all sizes) or in rational functions (one size, all parameter values). The
theorems themselves are in `linlocal.symbolic.statements`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from linlocal.rules import Rule
from linlocal.symbolic.formulas import NotApplicable
from linlocal.symbolic.words import Equation, Expression, Rewrite


@dataclass(frozen=True)
class Hypothesis:
    """One hypothesis of a theorem; without it the theorem is false, as a witness shows.

    Attributes:
        name: the name by which to drop the hypothesis.
        meaning: the hypothesis in words.
        latex: the hypothesis in symbols.
        note: "" if equality on all data fails without it; else what else equality needs.
    """

    name: str
    meaning: str
    latex: str
    note: str = ""


@dataclass(frozen=True)
class Lemma:
    """``expression`` = 0 by the rules ``given``; if so, ``gives`` may be used in later lemmas."""

    name: str
    expression: Expression
    given: tuple[Equation, ...]
    gives: Rewrite | None = None


@dataclass(frozen=True)
class Theorem:
    """A theorem; prove it with `linlocal.symbolic.prove`.

    Attributes:
        name: the name by which to call the theorem.
        number: the number of the statement in docs/theory.md.
        title: the theorem in a few words.
        statement: the theorem in full, in words.
        latex: the hypotheses and the conclusion in symbols.
        hypotheses: the hypotheses, all of them needed; each can be dropped.
        conclusion: the conclusion in words.
        inference: the steps of the proof that are not algebra, in words.
        source: the publication that the theorem comes from.
        rules: the rules that the theorem is proved for; others may be tried.
        words_only: why there is no proof at a size, if there is none.
    """

    name: str
    number: int
    title: str
    statement: str
    latex: str
    hypotheses: tuple[Hypothesis, ...]
    conclusion: str
    inference: str
    source: str
    rules: tuple[Rule, ...]
    _lemmas: Callable[[Rule, frozenset[str]], tuple[Lemma, ...]]
    _objection: Callable[[Rule], str]
    words_only: str = ""

    def hypothesis(self, name: str) -> Hypothesis:
        """The hypothesis of that name.

        Raises:
            ValueError: there is none.
        """
        for h in self.hypotheses:
            if h.name == name:
                return h
        known = ", ".join(h.name for h in self.hypotheses)
        raise ValueError(f"Theorem {self.name!r} has no hypothesis {name!r}; it has {known}.")

    def check(self, rule: Rule) -> None:
        """Raise if the theorem does not apply to ``rule``.

        Raises:
            NotApplicable: with the reason.
        """
        objection = self._objection(rule)
        if objection:
            raise NotApplicable(
                f"Theorem {self.name!r} does not apply to {rule.name}: {objection}."
            )

    def lemmas(self, rule: Rule, without: str | None = None) -> tuple[Lemma, ...]:
        """What must vanish.

        Args:
            rule: the rule that the theorem is applied to.
            without: a hypothesis that must not be used.

        Raises:
            NotApplicable: the theorem does not apply to the rule.
            ValueError: there is no such hypothesis.
        """
        if without is not None:
            self.hypothesis(without)
        self.check(rule)
        kept = frozenset(h.name for h in self.hypotheses if h.name != without)
        return self._lemmas(rule, kept)
