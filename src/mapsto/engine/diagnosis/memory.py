"""Memory that goes on growing."""

from __future__ import annotations

from ..figures import count, size
from . import thresholds
from .curves import noise, thirds
from .evidence import Evidence
from .finding import Finding, Gravity


def memory_growing(evidence: Evidence) -> list[Finding]:
    """Memory that goes on growing: of the process (resident) or of the device (allocated)."""
    found = []
    for name, what in (("memory/resident", "the process"), ("memory/device", "the device")):
        points = evidence.points(name)
        points = points[len(points) // 4 :]
        if len(points) < thresholds.TREND_LOGS:
            continue
        values = [value for _, value in points]
        first, middle, last = thirds(values)
        grown = last - first
        if grown <= max(thresholds.MEMORY_BYTES, thresholds.MEMORY_SHARE * first) or grown <= thresholds.NOISE * noise(values):
            continue
        if last - middle < thresholds.MEMORY_LATE * grown:
            continue
        steps = points[-1][0] - points[0][0]
        a_step = (values[-1] - values[0]) / max(steps, 1)
        found.append(
            Finding(
                "memory_growing",
                Gravity.COSTLY,
                f"the memory of {what} grows by {size(a_step)} a step: {size(values[0])} at step {points[0][0]:,}, "
                f"{size(values[-1])} at step {points[-1][0]:,}",
                evidence=(f"the medians of three stretches: {size(first)}, {size(middle)}, {size(last)}",
                          f"at that pace {count(1e9 / a_step)} steps take another GB"),
                where=(evidence.at(points[0][0]), evidence.at(points[-1][0])),
                advice=(
                    "a list of tensors that is kept, such as metrics that still hold their graph: .detach() or float() them",
                    "a cache of a source or transform without a bound; in workers look at their own memory",
                    "hooks or modules that are added in each step",
                ),
                steps=(points[0][0], points[-1][0]),
                values={"what": name, "bytes_a_step": a_step},
                cost=min(grown / first, 1.0),
            )
        )  # fmt: skip
    return found
