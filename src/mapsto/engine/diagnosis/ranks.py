"""Ranks: one that works longer than the others, which wait for it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from ..figures import duration, share, short_time
from . import thresholds
from .evidence import Evidence, Log
from .finding import Finding, Gravity

SIGNALS = {
    "data": "waits longer for its data",
    "busy": "takes longer before it meets the others",
    "cpu": "computes longer",
}
"""What a rank does in a step on its own, whose time the others wait for: seconds a step by rank, in `detail.ranks`."""


def slow_rank(evidence: Evidence) -> list[Finding]:
    """One rank for which all others wait: its own part of a step is long, while the step as a whole is as long everywhere."""
    worst: tuple[float, str, int, list[tuple[Log, list[float]]]] | None = None
    for signal in SIGNALS:
        told = [(log, values) for log, values in evidence.per_rank(signal) if log.timed]
        told = told[1:] if len(told) > thresholds.LOGS else told
        if len(told) < thresholds.LOGS:
            continue
        late = [(log, *_behind(values)) for log, values in told]
        behind = Counter(r for log, r, excess in late if _matters(log, excess)).most_common(1)
        rank, logs = behind[0] if behind else (0, 0)
        if logs < max(thresholds.SLOW_RANK_LOGS * len(late), 2):
            continue
        excess = statistics.median(e / log.metrics["time/step"] for log, r, e in late if r == rank and log.metrics["time/step"])
        if worst is None or excess > worst[0]:
            worst = (excess, signal, rank, told)
    if worst is None:
        return []
    excess, signal, rank, told = worst
    means = [statistics.fmean(values[r] for _, values in told) for r in range(len(told[0][1]))]
    others = statistics.median(m for r, m in enumerate(means) if r != rank)
    lost = excess * evidence.spent("time/step")
    if lost < thresholds.LEAST_SECONDS:
        return []
    first, last = told[0][0], told[-1][0]
    log = evidence.record.folder / "logs" / f"rank-{rank}.log"
    return [
        Finding(
            "slow_rank",
            Gravity.COSTLY,
            f"rank {rank} is slow and the others wait for it: it {SIGNALS[signal]}, {share(excess)} of a step",
            evidence=(
                f"{signal}, a step: {short_time(means[rank])} on rank {rank}, {short_time(others)} on the median of the others",
                f"by rank: {', '.join(short_time(m) for m in means[:16])}{' ...' if len(means) > 16 else ''}",
                f"about {duration(lost)} of the run were lost to it",
            ),
            where=(evidence.at(last.step), *([str(log)] if log.is_file() else [])),
            advice=(
                "data: the disk or network of its host, or records that are longer there"
                if signal == "data"
                else "another process on its cores or device, a clock that throttles, another machine: look at its host",
                "work that only this rank does in a step (`if rank == ...`), or parts of unequal size",
            ),
            steps=(first.step, last.step),
            values={"rank": rank, "signal": signal, "share": excess, "by_rank": means},
            cost=excess,
        )
    ]


def _behind(values: Sequence[float]) -> tuple[int, float]:
    """The rank with the most, and how much more than the median of the others that is."""
    rank = max(range(len(values)), key=values.__getitem__)
    return rank, values[rank] - statistics.median(v for r, v in enumerate(values) if r != rank)


def _matters(log: Log, excess: float) -> bool:
    return excess > thresholds.SLOW_RANK * log.metrics.get("time/step", float("inf"))
