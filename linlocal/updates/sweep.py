"""`compare` over networks, batches, rules and penalties, with the work that they share done once.

The unit of work is a network on several batches of the same pairs. What can be stacked is computed
for all of them at once (`updates.stacked`), and the rest by `compare`, one after the other. Units
are independent, so workers take them side by side, with one BLAS thread each.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    Executor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.networks import Network
from linlocal.pairs import Pairs
from linlocal.projection import ConvergenceError, Scratch
from linlocal.rules import Goal, Penalty, Rule
from linlocal.threads import one_if_small
from linlocal.updates.comparison import compared
from linlocal.updates.shared import Shared
from linlocal.updates.signals import Signals
from linlocal.updates.stacked import ROOM, Stack, can_stack, chunks
from linlocal.vocabulary import described

if TYPE_CHECKING:
    import xarray as xr

Item = TypeVar("Item")
Label = str | float
Strength = Penalty | float | tuple[float, ...]


def sweep(
    networks: Mapping[Label, Network] | Sequence[Network],
    pairs: Mapping[Label, Pairs] | Sequence[Pairs],
    rules: Mapping[Label, Rule] | Sequence[Rule],
    penalties: Mapping[Label, Strength] | Sequence[Strength] | None = None,
    *,
    window: int = 1,
    goal: Goal | None = None,
    workers: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> xr.Dataset:
    """`compare` for every network, batch, rule and penalty, faster than one after the other.

    Each of the four is a mapping from labels to values, or a sequence. A sequence is labelled
    0, 1, 2, ..., but rules by their names, and penalties that are numbers by themselves.

    The values are those of `compare`, found to the same residual; rounding changes them by about
    the machine epsilon times ``condition_number``. Only ``iterations`` differs: a problem starts
    from the solution of the layer below, and a step may use an earlier Newton matrix again.

    Args:
        networks: networks with layers 1..L; L may differ.
        pairs: batches.
        rules: local rules.
        penalties: `Penalty` objects, or strengths lam (one, or one for each layer) that keep the
            metric of the rule; None keeps the penalty of the rule.
        window: as in `compare`.
        goal: as in `compare`, the same global loss for all.
        workers: number of processes, or of threads where processes cannot be forked from this one
            (elsewhere than on Linux): these take turns in Python and in LAPACK.
        progress: called with the number of cells that are done and that of all cells, whenever
            all rules and penalties of a network on some batches are done.

    Returns:
        The variables of `compare` over ``network``, ``batch``, ``rule``, ``penalty`` (if penalties
        are given) and ``layer`` = 1..L of the deepest network; NaN above the top layer of another.
        Where an optimal projection was not found the cell is NaN, and a RuntimeWarning at the end
        names it and says why.

    Raises:
        ValueError: an argument is empty or has two equal labels, or a network, a batch and a rule
            do not go together; the message names the cell. Nothing has been computed yet.
        TypeError: an argument is of another type.
        ConvergenceError: no cell at all could be computed.

    Example:
        >>> result = ll.sweep({"a": first, "b": second}, batches, [rules.CLAPP()], [0.01, 0.02])
        >>> result["cosine"].sel(network="a", penalty=0.01).mean("batch")
    """
    import xarray as xr

    grid = _Grid(
        _labelled(networks, "networks", Network),
        _labelled(pairs, "pairs", Pairs),
        _labelled(rules, "rules", Rule),
        None if penalties is None else _labelled(penalties, "penalties", Penalty),
        window,
        goal,
    )
    workers = inputs.whole(workers, "workers", 1)
    grid.check()

    found: dict[tuple[Label, Label], _Found] = {}
    # One BLAS thread for all: the workers must not set a limit each for itself.
    with one_if_small(0):
        for units in _side_by_side(grid, workers):
            found |= units
            if progress is not None:
                progress(len(found) * len(grid.cells), len(grid.units) * len(grid.cells))
    grid.warn_of_failures(found)
    return described(xr.Dataset(grid.variables(found), grid.axes), "sweep")


class _Found:
    """What was computed for one network and batch.

    Attributes:
        columns: each variable of `compare`, (cells, layers).
        failures: the errors of the cells that are NaN.
    """

    def __init__(self, grid: _Grid) -> None:
        self._shape = (len(grid.cells), grid.depth)
        self.columns: dict[str, Array] = {}
        self.failures: dict[tuple[Label, ...], ConvergenceError] = {}

    def keep(self, number: int, values: Mapping[str, Sequence[float] | Array]) -> None:
        """Write down the variables of one cell."""
        for name, of_layers in values.items():
            if name not in self.columns:
                self.columns[name] = np.full(self._shape, np.nan)
            self.columns[name][number, : len(of_layers)] = of_layers


class _Grid:
    """All cells, and how they are computed.

    Attributes:
        networks: the networks by label.
        batches: the batches by label.
        cells: the rules by label, each with each penalty.
        units: the labels of network and batch of each unit of work.
        axes: the labels along each dimension.
    """

    def __init__(
        self,
        networks: Mapping[Label, Network],
        batches: Mapping[Label, Pairs],
        rules: Mapping[Label, Rule],
        penalties: Mapping[Label, Strength] | None,
        window: int,
        goal: Goal | None,
    ) -> None:
        self.networks, self.batches, self.window, self.goal = networks, batches, window, goal
        self._of_thread = threading.local()
        self.cells: dict[tuple[Label, ...], Rule] = {(name,): rules[name] for name in rules}
        self.axes: dict[str, list[Any]] = {
            "network": list(networks),
            "batch": list(batches),
            "rule": list(rules),
        }
        if penalties is not None:
            self.axes["penalty"] = list(penalties)
            self.cells = {
                (name, label): _with_penalty(rules[name], penalties[label])
                for name, label in product(rules, penalties)
            }
        self.units = list(product(networks, batches))
        self.depth = max(network.depth for network in networks.values())
        self.axes["layer"] = list(range(1, self.depth + 1))

    def name(self, network: Label, batch: Label, cell: tuple[Label, ...]) -> str:
        """A cell in words."""
        named = zip(self.axes, (network, batch, *cell), strict=False)
        return ", ".join(f"{axis} {label!r}" for axis, label in named)

    def check(self) -> None:
        """Raise those errors of `compare` that need no computation."""
        for network, batch in self.units:
            shared = Shared(self.networks[network], self.batches[batch])
            for cell, rule in self.cells.items():
                try:
                    shared.network.check_input(shared.pairs.samples)
                    self._signals(shared, rule)
                except ValueError as error:
                    raise ValueError(f"{self.name(network, batch, cell)}: {error}") from error

    def _signals(self, shared: Shared, rule: Rule) -> Signals:
        return Signals(shared.network, shared.pairs, rule, self.window, self.goal, shared)

    def work(self) -> list[tuple[Label, list[Label]]]:
        """Each network with batches that are computed together."""
        batches = list(self.batches)
        return [
            (network, [batches[i] for i in numbers])
            for network in self.networks
            for numbers in chunks(self.networks[network], list(self.batches.values()))
        ]

    def run(self, network: Label, batches: list[Label]) -> dict[tuple[Label, Label], _Found]:
        """Compute all rules and penalties of one network on some batches."""
        if not hasattr(self._of_thread, "memory"):
            self._of_thread.memory = Scratch(ROOM), Scratch(ROOM)
        kept, passing = self._of_thread.memory
        with kept.frame():
            return self._run(network, batches, kept, passing)

    def _run(
        self, network: Label, batches: list[Label], *memory: Scratch
    ) -> dict[tuple[Label, Label], _Found]:
        found = {(network, batch): _Found(self) for batch in batches}
        pairs = [self.batches[batch] for batch in batches]
        shared = [Shared(self.networks[network], each) for each in pairs]
        stack: Stack | None = None
        for number, (cell, rule) in enumerate(self.cells.items()):
            left = list(range(len(batches)))
            plain = self.window == 1 and self.goal is None
            if plain and can_stack(self.networks[network], pairs[0], rule):
                stack = stack or Stack(self.networks[network], pairs, *memory)
                try:
                    columns, holds = stack.compared(rule)
                except Exception as error:
                    error.add_note(f"It happened at {self.name(network, batches[0], cell)}.")
                    raise
                for row in np.flatnonzero(holds):
                    values = {name: column[row] for name, column in columns.items()}
                    found[network, batches[row]].keep(number, values)
                left = [i for i in left if not holds[i]]
            for i in left:
                unit = found[network, batches[i]]
                try:
                    unit.keep(number, compared(self._signals(shared[i], rule)))
                except ConvergenceError as error:
                    unit.failures[cell] = error
                except Exception as error:
                    error.add_note(f"It happened at {self.name(network, batches[i], cell)}.")
                    raise
        return found

    def variables(
        self, found: Mapping[tuple[Label, Label], _Found]
    ) -> dict[str, tuple[list[str], Array]]:
        """The variables of the Dataset."""
        nothing = np.full((len(self.cells), self.depth), np.nan)
        names = dict.fromkeys(name for unit in found.values() for name in unit.columns)
        shape = [len(labels) for labels in self.axes.values()]
        stacks = {
            name: np.stack([found[unit].columns.get(name, nothing) for unit in self.units])
            for name in names
        }
        return {name: (list(self.axes), stack.reshape(shape)) for name, stack in stacks.items()}

    def warn_of_failures(self, found: Mapping[tuple[Label, Label], _Found]) -> None:
        """Name the cells that are NaN.

        Raises:
            ConvergenceError: all of them are.
        """
        lines = [
            f"{self.name(*unit, cell)}: {error}"
            for unit in self.units
            for cell, error in found[unit].failures.items()
        ]
        count = len(self.units) * len(self.cells)
        if len(lines) == count:
            raise ConvergenceError(f"No cell could be computed. {lines[0]}")
        if lines:
            shown = [*lines[:SHOWN], *(["..."] if len(lines) > SHOWN else [])]
            message = f"{len(lines)} of {count} cells are NaN:"
            warnings.warn("\n".join([message, *shown]), RuntimeWarning, stacklevel=3)


def _side_by_side(grid: _Grid, workers: int) -> Iterator[dict[tuple[Label, Label], _Found]]:
    """What each piece of work gives, in the order in which they are done."""
    if workers == 1:
        yield from (grid.run(*work) for work in grid.work())
        return
    pool: Executor
    if sys.platform == "linux":
        # Forked processes have the grid already: nothing of a user's needs to be pickled.
        fork = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(workers, fork, _inherit, (grid,))
        run: Callable[..., dict[tuple[Label, Label], _Found]] = _run_inherited
    else:
        pool, run = ThreadPoolExecutor(workers), grid.run
    with pool:
        futures = [pool.submit(run, *work) for work in grid.work()]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun never begins
            raise


_inherited: list[_Grid] = []


def _inherit(grid: _Grid) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that was forked from ends them
    _inherited[:] = [grid]


def _run_inherited(network: Label, batches: list[Label]) -> dict[tuple[Label, Label], _Found]:
    return _inherited[0].run(network, batches)


SHOWN = 10  # failures that a warning spells out


def _labelled(values: Any, name: str, kind: type) -> dict[Label, Any]:
    """The entries of one argument by label.

    Raises:
        ValueError: none, or two equal labels.
        TypeError: an entry or label of another type.
    """
    what = f"`{kind.__name__}` objects"
    if isinstance(values, Mapping):
        labels, entries = list(values), list(values.values())
    else:
        entries = list(inputs.sequence(values, name, what))
        labels = [_own_label(entry, number) for number, entry in enumerate(entries)]
    if not entries:
        raise ValueError(f"{name} must hold at least one of the {what}, got none.")
    for entry in entries:
        if kind is Penalty:
            Penalty.of(entry)
        else:
            inputs.instance(entry, kind, f"an entry of {name}", f"a `{kind.__name__}`")
    for label in labels:
        if not isinstance(label, str | int | float):
            raise TypeError(
                f"A label of {name} must be a word or a number, got {inputs.described(label)}."
            )
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(
            f"Two entries of {name} are called {twice!r}; pass a mapping from labels of your own."
        )
    return dict(zip(labels, entries, strict=True))


def _own_label(entry: Any, number: int) -> Label:
    if isinstance(entry, Rule):
        return entry.name
    return float(entry) if isinstance(entry, int | float | np.number) else number


def _with_penalty(rule: Rule, penalty: Strength) -> Rule:
    if isinstance(penalty, Penalty):
        return replace(rule, penalty=penalty)
    return rule.with_penalty(penalty)
