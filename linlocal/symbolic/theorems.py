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
from linlocal.symbolic.assumptions import Assumption, NotApplicable, assumptions
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
        base: of a theorem about a window, the name of the one about a layer that it follows from.
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
    base: str = ""

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

    def check(self, rule: Rule, without: str | None = None) -> tuple[Assumption, ...]:
        """Raise if the theorem does not apply to ``rule``.

        Args:
            rule: the rule that the theorem is to be applied to.
            without: a hypothesis that the rule may violate.

        Returns:
            What the proof takes for granted of the rule's loss.

        Raises:
            NotApplicable: the rule is of another kind, or violates a hypothesis itself.
        """
        kept = {h.name for h in self.hypotheses} - {without}
        objection = self._objection(rule)
        if not objection and "same_penalty" in kept:
            objection = unequal_penalties(rule)
        if objection:
            raise NotApplicable(
                f"Theorem {self.name!r} does not apply to {rule.name}: {objection}."
            )
        return assumptions(rule, optimal="optimal" in kept)

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
        self.check(rule, without)
        kept = frozenset(h.name for h in self.hypotheses if h.name != without)
        return self._lemmas(rule, kept)


def unequal_penalties(rule: Rule) -> str:
    """How the penalties of a rule violate the hypothesis "same_penalty"; "" if they do not.

    It asks for lam_l = lam_L, or twice that for a rule with both contexts, which sees each context
    twice.
    """
    given = rule.penalty.strength
    twofold = rule.context == "both"
    wanted = "lam_l = 2 lam_L in every layer below the top" if twofold else "lam_l = lam_L"
    if not isinstance(given, tuple):
        if not twofold:
            return ""
        return (
            f"it violates the hypothesis 'same_penalty', {wanted}: its penalty is {given:g} in all "
            f"layers; take the penalty ({2 * given:g}, ..., {2 * given:g}, {given:g})"
        )
    *below, top = given
    wrong = [l for l, x in enumerate(below, start=1) if x != (2 if twofold else 1) * top]
    if not wrong:
        return ""
    layers = f"layer {wrong[0]}" if len(wrong) == 1 else f"layers {', '.join(map(str, wrong))}"
    return (
        f"it violates the hypothesis 'same_penalty', {wanted}: its penalties {given} do so in "
        f"{layers} (statement 3 says where other penalties are right)"
    )
