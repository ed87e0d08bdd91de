"""The rules of a Random Hierarchy Model: which tuples a symbol may be written as, and how often."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations, product
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linlocal import inputs
from linlocal.seeds import generator_for

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Symbols = NDArray[np.integer[Any]]
Placement = Literal["blocks", "ordered"]

BLANK = -1
"""The leaf where no symbol is."""

_DENSE_TABLE = 2**22  # entries up to which a tuple is looked up, and not searched


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """A random hierarchical grammar: each symbol owns m tuples of the level below, no two the same.

    Levels are numbered by height: the leaves are level 0, the class is level L. The rules of level
    l write a symbol of level l as a tuple of symbols of level l - 1; they differ from level to
    level and are the same at all positions. The owned tuples are drawn uniformly without
    replacement from all v^s (Cagnetta et al. 2024, PRX 14 031001, arXiv 2307.02129).

    Args:
        num_classes: n, the number of symbols of level L.
        num_symbols: v, the number of symbols of every level below, or one v for each level 0..L-1.
        num_synonyms: m, the number of tuples that each symbol (and class) owns, or one m for each
            level 1..L.
        num_levels: L, the number of levels that have rules.
        tuple_size: s, or one s for each level 1..L.
        seed: seeds the draw of the rules, and nothing else.
        rule_exponent: e, or one e for each level 1..L: the k-th rule of a symbol is used with
            probability proportional to k^-e. 0 is uniform; e = 1 + a is Zipf's law of
            arXiv 2505.07067.
        num_blanks: s_0, the number of blanks for each symbol in the sparse model of Tomasini and
            Wyart 2024, arXiv 2404.10727. A tuple of s symbols is spread over a patch of
            s (s_0 + 1) places; the other places stay blank, and so does everything below a blank.
        placement: where the symbols of a tuple lie in their patch, each way with equal
            probability. "blocks" puts the i-th symbol anywhere in the i-th block of s_0 + 1
            places, "ordered" puts them anywhere, in their order.
        class_weights: how probable each class is, n positive numbers in proportion; None for
            equally probable classes.
        rule_weights: how probable the rules of each level 1..L are, in proportion: (m,) positive
            numbers for all symbols, or (symbols, m) for each; None for the law of rule_exponent.
        given_rules: the rules themselves, whole numbers (symbols, m, s) for each level 1..L, the
            tuples that each symbol owns; None to draw them by the seed.

    Raises:
        ValueError: a number that is too small, lengths that differ from L, one of the
            inequalities m <= v^(s-1), n m <= v^s, v^s < 2^63, (s (s_0 + 1))^s < 2^63 broken,
            weights that are not positive, or given rules that are of another shape, have other
            symbols or a tuple twice.
        TypeError: something else than a (whole) number.
    """

    num_classes: int
    num_symbols: int | Sequence[int]
    num_synonyms: int | Sequence[int]
    num_levels: int
    tuple_size: int | Sequence[int] = 2
    seed: int = 0
    rule_exponent: float | Sequence[float] = 0.0
    num_blanks: int = 0
    placement: Placement = "blocks"
    class_weights: Sequence[float] | None = None
    rule_weights: Sequence[ArrayLike] | None = None
    given_rules: Sequence[ArrayLike] | None = None

    __repr__ = inputs.brief

    def __post_init__(self) -> None:
        for name in ("num_classes", "num_levels", "num_blanks"):
            # Python ints: the number of data exceeds those of numpy, which sweeps tend to pass.
            least = 0 if name == "num_blanks" else 1
            inputs.keep(self, partial(inputs.whole, least=least), name)
        inputs.keep(self, inputs.whole, "seed")
        if not inputs.is_one_of(self.placement, ("blocks", "ordered")):
            raise ValueError(f'placement must be "blocks" or "ordered", got {self.placement!r}.')
        size = partial(inputs.whole, least=1)
        per_level = partial(self._per_level, check=size)
        inputs.keep(self, per_level, "num_symbols", "num_synonyms", "tuple_size")
        inputs.keep(self, partial(self._per_level, check=inputs.not_negative), "rule_exponent")
        self._check_inequalities()
        if self.class_weights is not None:
            inputs.keep(self, self._checked_class_weights, "class_weights")
        if self.rule_weights is not None:
            if any(self.rule_exponents):
                raise ValueError("Give either rule_weights or a rule_exponent, got both.")
            inputs.keep(self, self._checked_rule_weights, "rule_weights")
        if self.given_rules is not None:
            inputs.keep(self, self._checked_rules, "given_rules")

    def _checked_class_weights(self, value: Any, name: str) -> tuple[float, ...]:
        each = inputs.sequence(value, name, "numbers")
        weights = tuple(inputs.positive(v, f"an entry of {name}") for v in each)
        if len(weights) != self.num_classes:
            raise ValueError(
                f"{name} must hold one number for each of the {self.num_classes} classes, got "
                f"{len(weights)}."
            )
        return weights

    def _checked_rule_weights(self, value: Any, name: str) -> tuple[Any, ...]:
        tables = self._tables(value, name)
        for l, table in enumerate(tables, start=1):
            weights, full = inputs.numbers(table, name), self._table_shape(l)
            if weights.shape not in (full, full[1:]):
                raise ValueError(
                    f"{name} of level {l} must have the shape {full[1:]} or {full}, got "
                    f"{weights.shape}."
                )
            if not (np.isfinite(weights) & (weights > 0)).all():
                raise ValueError(
                    f"{name} of level {l} must be positive and finite, got numbers from "
                    f"{weights.min()} to {weights.max()}; leave a rule out that is never used."
                )
        return tuple(_nested(inputs.numbers(table, name)) for table in tables)

    def _checked_rules(self, value: Any, name: str) -> tuple[Any, ...]:
        tables = [inputs.rows(table, name) for table in self._tables(value, name)]
        for l, table in enumerate(tables, start=1):
            full, v = (*self._table_shape(l), self.tuple_sizes[l - 1]), self.num_values(l - 1)
            if table.shape != full:
                raise ValueError(
                    f"{name} of level {l} must have the shape {full} (symbols, m, s), got "
                    f"{table.shape}."
                )
            if not 0 <= table.min() <= table.max() < v:
                raise ValueError(
                    f"{name} of level {l} must hold the symbols 0..{v - 1} of the level below, got "
                    f"{table.min()} to {table.max()}."
                )
            every, count = np.unique(table.reshape(-1, full[-1]), axis=0, return_counts=True)
            if count.max() > 1:
                raise ValueError(
                    f"{name} of level {l} have the tuple {tuple(every[count.argmax()].tolist())} "
                    f"{count.max()} times; a tuple has one owner, who owns it once."
                )
        return tuple(map(_nested, tables))

    def _tables(self, value: Any, name: str) -> tuple[Any, ...]:
        tables = inputs.sequence(value, name, "arrays, one for each level 1..L")
        if len(tables) != self.num_levels:
            raise ValueError(
                f"{name} must hold one array for each of the {self.num_levels} levels, got "
                f"{len(tables)}."
            )
        return tables

    def _table_shape(self, level: int) -> tuple[int, int]:
        return self.num_values(level), self.synonym_counts[level - 1]

    def _per_level(self, value: Any, name: str, check: Callable[[Any, str], Any]) -> Any:
        """One checked number, or a tuple of one for each level."""
        if not inputs.is_several(value):
            return check(value, name)
        each = tuple(check(v, name) for v in inputs.sequence(value, name, "numbers"))
        if len(each) != self.num_levels:
            raise ValueError(
                f"{name} must be one number or one for each of the {self.num_levels} "
                f"levels, got {len(each)} numbers."
            )
        return each

    def _check_inequalities(self) -> None:
        n = self.num_classes
        for l, s in enumerate(self.tuple_sizes, start=1):
            v, m, owners = self.num_values(l - 1), self.synonym_counts[l - 1], self.num_values(l)
            what = f"num_synonyms={m}, num_symbols={v}, tuple_size={s}"
            if l < self.num_levels and owners * m > v**s:
                broken = f"m <= v^(s-1) is broken at level {l}: {m} > {v ** (s - 1)}"
                if owners != v:
                    broken = f"q m <= v^s is broken at level {l}: {owners * m} > {v**s}"
                raise ValueError(
                    f"{broken} ({what}). The {owners} symbols cannot own {m} tuples each, there "
                    f"are {v**s}; use fewer synonyms, more symbols or larger tuples."
                )
            if l == self.num_levels and n * m > v**s:
                raise ValueError(
                    f"n m <= v^s is broken at level {l}: {n * m} > {v**s} (num_classes={n}, "
                    f"{what}). The classes cannot own different tuples; use fewer classes or "
                    "synonyms, more symbols or larger tuples."
                )
            if max(v, s * (self.num_blanks + 1)) ** s >= 2**63:
                raise ValueError(
                    f"v^s < 2^63 and (s (s_0 + 1))^s < 2^63 is broken at level {l}: tuples are "
                    f"numbered in 64 bits ({what}, num_blanks={self.num_blanks}); use fewer "
                    "symbols or smaller tuples with more levels."
                )

    # -- sizes -------------------------------------------------------------------------------------

    @property
    def levels(self) -> range:
        """1..L, the levels that have rules."""
        return range(1, self.num_levels + 1)

    @property
    def tuple_sizes(self) -> tuple[int, ...]:
        """s of the levels 1..L."""
        if isinstance(self.tuple_size, Sequence):
            return tuple(self.tuple_size)
        return (self.tuple_size,) * self.num_levels

    @property
    def symbol_counts(self) -> tuple[int, ...]:
        """v of the levels 0..L-1."""
        if isinstance(self.num_symbols, Sequence):
            return tuple(self.num_symbols)
        return (self.num_symbols,) * self.num_levels

    @property
    def synonym_counts(self) -> tuple[int, ...]:
        """m of the levels 1..L."""
        if isinstance(self.num_synonyms, Sequence):
            return tuple(self.num_synonyms)
        return (self.num_synonyms,) * self.num_levels

    @property
    def rule_exponents(self) -> tuple[float, ...]:
        """e of the levels 1..L."""
        if isinstance(self.rule_exponent, Sequence):
            return tuple(self.rule_exponent)
        return (self.rule_exponent,) * self.num_levels

    @property
    def patch_sizes(self) -> tuple[int, ...]:
        """S = s (s_0 + 1) of the levels 1..L: the places of a tuple and its blanks."""
        return tuple(s * (self.num_blanks + 1) for s in self.tuple_sizes)

    @property
    def uniform(self) -> bool:
        """Whether all data are equally probable."""
        if any(m > 1 and e for m, e in zip(self.synonym_counts, self.rule_exponents, strict=True)):
            return False
        given = [self.class_probabilities] if self.class_weights is not None else []
        given += self.rule_probabilities if self.rule_weights is not None else []
        return all(bool((p == p.flat[0]).all()) for p in given)

    @property
    def sparse(self) -> bool:
        """Whether there are blanks."""
        return self.num_blanks > 0

    @property
    def num_leaves(self) -> int:
        """d = prod_l S_l, the places of level 0."""
        return math.prod(self.patch_sizes)

    @property
    def num_data(self) -> int:
        """P_max = n prod_l (m K_l)^(symbols of level l in a tree), K_l placements; exact.

        Without blanks and with one s this is n m^((s^L - 1)/(s - 1)).
        """
        choices = (self.radix(l) ** self.num_nodes(l) for l in self.levels)
        return self.num_classes * math.prod(choices)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest signed integers that hold every symbol, every class and `BLANK`."""
        return np.dtype(np.min_scalar_type(-max(self.num_classes, *self.symbol_counts)))

    def num_nodes(self, level: int) -> int:
        """How many symbols (blanks not counted) a tree has at a level: prod_{h > level} s_h."""
        return math.prod(self.tuple_sizes[self._any_level(level) :])

    def num_values(self, level: int) -> int:
        """How many different symbols a level has: n at level L, v below."""
        number = self._any_level(level)
        return self.num_classes if number == self.num_levels else self.symbol_counts[number]

    def radix(self, level: int) -> int:
        """m K_l, the ways to write a given symbol of a level as a patch."""
        level = self.check_level(level)
        return self.synonym_counts[level - 1] * len(self.placements[level - 1])

    def _any_level(self, level: int) -> int:
        number = inputs.whole(level, "level", 0)
        return number if number == 0 else self.check_level(number)

    def check_level(self, level: int) -> int:
        """``level`` if it is one of 1..L.

        Raises:
            ValueError: otherwise.
        """
        number = inputs.whole(level, "level")
        if number not in self.levels:
            raise ValueError(
                f"Levels with rules are numbered 1..{self.num_levels} from the leaves up, got "
                f"level {number}" + ("; the leaves are level 0." if number == 0 else ".")
            )
        return number

    # -- rules -------------------------------------------------------------------------------------

    @cached_property
    def rules(self) -> tuple[Symbols, ...]:
        """The tuples that each symbol owns, (symbols of the level, m, s) for each level 1..L."""
        tables = []
        for l, s in enumerate(self.tuple_sizes, start=1):
            if self.given_rules is not None:
                table = np.array(self.given_rules[l - 1], dtype=self.dtype)
            else:
                shape, v = self._table_shape(l), self.num_values(l - 1)
                code = generator_for("rules", self.seed, l).choice(
                    v**s, size=math.prod(shape), replace=False
                )
                table = _digits(code, v, s).reshape(*shape, s).astype(self.dtype)
            table.setflags(write=False)
            tables.append(table)
        return tuple(tables)

    @cached_property
    def class_probabilities(self) -> Array:
        """(n,) how often each class is drawn."""
        given = self.class_weights
        weights = np.ones(self.num_classes) if given is None else np.array(given)
        return np.asarray(weights / weights.sum())

    @cached_property
    def rule_probabilities(self) -> tuple[Array, ...]:
        """How often each rule of a symbol is used, for each level 1..L.

        (m,) if that is the same for all symbols, else (symbols, m).
        """
        if self.rule_weights is not None:
            weights = [np.array(w, dtype=np.float64) for w in self.rule_weights]
        else:
            each = zip(self.synonym_counts, self.rule_exponents, strict=True)
            weights = [np.arange(1.0, m + 1) ** -e for m, e in each]
        found = tuple(w / w.sum(axis=-1, keepdims=True) for w in weights)
        for l, p in enumerate(found, start=1):
            if not (p > 0).all():
                raise ValueError(
                    f"At level {l} some rules have the probability 0 in float64, the least likely "
                    "of all are beyond it; lower rule_exponent or use fewer synonyms."
                )
        return found

    @cached_property
    def rule_tables(self) -> tuple[TupleTable, ...]:
        """For each level 1..L a table that finds the row m * owner + synonym of a tuple."""
        return tuple(
            TupleTable(table.reshape(-1, table.shape[-1]), v)
            for table, v in zip(self.rules, self.symbol_counts, strict=True)
        )

    @cached_property
    def placements(self) -> tuple[Index, ...]:
        """The placements of a tuple in its patch, (K, s) for each level 1..L.

        Places ascend in each row; K = 1 without blanks.
        """
        width = self.num_blanks + 1
        result = []
        for s in self.tuple_sizes:
            if self.placement == "blocks":
                blocks = (range(i * width, (i + 1) * width) for i in range(s))
                places = list(product(*blocks))
            else:
                places = list(combinations(range(s * width), s))
            result.append(np.array(places, dtype=np.int64))
        return tuple(result)

    @cached_property
    def placement_tables(self) -> tuple[TupleTable, ...]:
        """For each level 1..L a table that finds the number of a placement."""
        return tuple(
            TupleTable(places, size)
            for places, size in zip(self.placements, self.patch_sizes, strict=True)
        )

    @cached_property
    def productions(self) -> tuple[Productions, ...]:
        """For each level 1..L all ways to write symbols as patches, blanks included."""
        return tuple(map(self._productions, self.levels))

    def _productions(self, level: int) -> Productions:
        rules, places = self.rules[level - 1], self.placements[level - 1]
        values, m, s = rules.shape
        k, size = len(places), self.patch_sizes[level - 1]
        blank = self.num_values(level - 1)
        patches = np.full((values, m, k, size), blank, dtype=np.int64)
        np.put_along_axis(
            patches,
            np.broadcast_to(places, (values, m, k, s)),
            rules[:, :, None, :].astype(np.int64),
            axis=-1,
        )
        each = np.repeat(self.rule_probabilities[level - 1] / k, k, axis=-1)
        owner = np.repeat(np.arange(values), m * k)
        probability = each.ravel() if each.ndim == 2 else np.tile(each, values)
        rows = patches.reshape(-1, size)
        if self.sparse and level < self.num_levels:  # a blank is written as blanks; no class is one
            rows = np.vstack([rows, np.full((1, size), blank)])
            owner, probability = np.append(owner, values), np.append(probability, 1.0)
        return Productions(owner, rows, probability)


@dataclass(frozen=True, eq=False)
class Productions:
    """The rules of one level as a list; here the blank is the symbol after all others.

    Attributes:
        owner: (rules,) the symbol that each rule writes, ascending.
        patches: (rules, S) the symbols of the level below that it is written as.
        probability: (rules,) the probability of the rule given its owner.
    """

    owner: Index
    patches: Index
    probability: Array


class TupleTable:
    """Finds tuples in a list of different tuples.

    Args:
        tuples: (rows, s) numbers in 0..base-1.
        base: how many numbers there are; base^s < 2^63.
    """

    def __init__(self, tuples: NDArray[np.integer[Any]], base: int) -> None:
        self._base, self._size = base, tuples.shape[1]
        code = self._code(tuples)
        self._table: Index | None = None
        if base**self._size <= _DENSE_TABLE:
            self._table = np.full(base**self._size, -1, dtype=np.int64)
            self._table[code] = np.arange(len(code))
        else:
            self._order = np.argsort(code)
            self._sorted = code[self._order]

    def find(self, tuples: NDArray[np.integer[Any]]) -> Index:
        """Row of each tuple of (..., s), -1 where it is not in the list."""
        code = self._code(tuples)
        foreign = (tuples < 0).any(axis=-1) | (tuples >= self._base).any(axis=-1)
        if self._table is not None:
            row = self._table[np.where(foreign, 0, code)]
        else:
            place = np.minimum(np.searchsorted(self._sorted, code), len(self._sorted) - 1)
            row = np.where(self._sorted[place] == code, self._order[place], -1)
        return np.where(foreign, -1, row)

    def _code(self, tuples: NDArray[np.integer[Any]]) -> Index:
        code = tuples[..., 0].astype(np.int64)
        for i in range(1, self._size):
            code *= self._base
            code += tuples[..., i]
        return code


def _nested(array: NDArray[Any]) -> Any:
    """An array as tuples in tuples, which are equal and hashed by their numbers."""
    return tuple(map(_nested, array)) if array.ndim else array.item()


def _digits(code: Index, base: int, size: int) -> Index:
    """(..., size) digits of each number, the most significant first."""
    result = np.empty((*code.shape, size), dtype=np.int64)
    for i in reversed(range(size)):
        code, result[..., i] = np.divmod(code, base)
    return result
