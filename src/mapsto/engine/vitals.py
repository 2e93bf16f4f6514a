"""Vitals: what a log tells of the processes of a run beside its metrics, at next to no cost and with no effect on it.

Memory at each log; of several ranks their times too. Parameters without gradients, and weights that did not change, at the
1st, 2nd, 3rd, 4th, 6th, 8th, 12th, 16th, ... log of a session: a pass over the weights costs little once and something often.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .ranks import Ranks
from .wing import Program

_STATM = Path("/proc/self/statm")
NAMES = 100
"""Parameters that a log names at most, of each list."""
cpu_clock = time.process_time


def resident() -> int | None:
    """Bytes of memory that this process holds now; None where the system does not tell."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def samples(log: int) -> bool:
    """Whether parameters are looked at in the log of this number, from 1: powers of two, and one between two of them."""
    odd = log
    while odd % 2 == 0:
        odd //= 2
    return odd in (1, 3)


class HealthProbe:
    """Asks the program of this process at each log, and puts together what all ranks tell."""

    def __init__(self, program: Program, ranks: Ranks) -> None:
        self.probe = getattr(program, "vitals", None)  # a wing need not have it
        self.ranks = ranks
        self.logs = 0

    def __call__(self, steps: int, wall: float, data: float, cpu: float) -> tuple[dict[str, float], dict[str, Any]]:
        """(metrics, detail) of a log of so many steps and seconds: in all, waiting for data, of the processor's time."""
        self.logs += 1
        own = dict(self.probe(samples(self.logs))) if self.probe is not None else {}
        memory = {"resident": resident(), "device": own.get("device")}
        metrics = {f"memory/{name}": float(held) for name, held in memory.items() if held is not None}
        health = own.get("parameters")
        if self.ranks.world == 1:
            return metrics, {"health": merged([health])} if health else {}
        seconds = {"step": wall, "data": data, "cpu": cpu, "busy": own.get("busy", 0.0)}
        every = self.ranks.gather(({**{name: spent / steps for name, spent in seconds.items()}, **metrics}, health))
        times = [told for told, _ in every]
        detail: dict[str, Any] = {"ranks": {name: [one.get(name) for one in times] for name in times[0]}}
        if found := merged([told for _, told in every if told]):
            detail["health"] = found
        return {name: max(one[name] for one in times if name in one) for name in metrics}, detail


def merged(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What ranks tell of parameters as one: of ranks with the same parameters (copies or parts of them) a parameter has no
    gradient, or did not change, only where all say so; ranks with other parameters (stages) add theirs."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for one in told:
        groups.setdefault(one["digest"], []).append(one)
    found: dict[str, Any] = {"parameters": sum(group[0]["count"] for group in groups.values())} if groups else {}
    lists: dict[str, list[str]] = {}
    for group in groups.values():
        none, zero, same = (
            [n for n in group[0][key] if all(n in one[key] for one in group)] for key in ("none", "lifeless", "unchanged")
        )
        lists.setdefault("no_gradient", []).extend(none)
        lists.setdefault("zero_gradient", []).extend(n for n in zero if n not in none)
        lists.setdefault("unchanged", []).extend(same)
    return found | {name: names[:NAMES] for name, names in lists.items() if names}
