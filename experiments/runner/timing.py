"""The time that a comparison of local and global updates takes."""

from __future__ import annotations

import time

from linlocal import Pairs, rules
from linlocal.networks import Network
from linlocal.threads import one_if_small
from linlocal.updates import Signals


def both_updates(network: Network, pairs: Pairs, rule: rules.Rule) -> Signals:
    """Every local and every global update, solving for each projection once."""
    signals = Signals(network, pairs, rule)
    with one_if_small(signals.size):
        for l in network.layers:
            network.update(l, signals.activities, signals.local_error(l))
            network.update(l, signals.activities, signals.global_errors[l - 1])
    return signals


def seconds(network: Network, pairs: Pairs, rule: rules.Rule, repeats: int) -> float:
    """Wall-clock time of `both_updates`, the fastest of ``repeats``."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        both_updates(network, pairs, rule)
        taken.append(time.perf_counter() - start)
    return min(taken)
