"""Numbers that went wrong: what is not finite, a loss scale that collapses, steps that change nothing."""

from __future__ import annotations

import math
import re

from ..figures import number, share
from . import thresholds
from .endings import failure, is_nonfinite
from .evidence import Evidence
from .finding import Finding, Gravity

_MODULE = re.compile(r" is ('[^']*'|the model) \((\w+)\)")
_STEP = re.compile(r"step (\d+)")


def nonfinite(evidence: Evidence) -> list[Finding]:
    """A loss or gradient that was not finite: where it began, if the guard told it, else since when."""
    error = failure(evidence)
    if error is not None and is_nonfinite(error):
        return [_guarded(error)]
    found = []
    for name, points in evidence.record.series.items():
        bad = [step for step, value in points if not math.isfinite(value)]
        if bad and not name.startswith(("time/", "throughput/", "memory/")):
            found.append((bad[0], name, bad, len(points)))
    if not found:
        return []
    step, name, bad, logs = min(found)
    before = [(s, v) for s, v in evidence.points(name) if s < step]
    last_good = f"; it was {number(before[-1][1])} at step {before[-1][0]:,}" if before else ", from the first log on"
    ended = len(bad) == logs or bad[-1] == evidence.record.series[name][-1][0]
    rates = dict(evidence.points("train/lr"))
    said = [f"{n} was not finite at {len(b)} of {total} records, first at step {s:,}" for s, n, b, total in sorted(found)]
    if before and before[-1][0] in rates:
        said.append(f"the learning rate was {number(rates[before[-1][0]])} then")
    return [
        Finding(
            "nonfinite",
            Gravity.WRONG,
            f"{name} is not finite {'since' if ended else 'at'} step {step:,}{last_good}",
            evidence=tuple(said),
            where=(evidence.at(step, "log" if name.startswith("train/") else "evaluate"),),
            advice=(
                "be told in which module it begins: middleware+=nonfinite (it stops the step before a weight is changed)",
                "a lower optimizer.lr, a warm-up, or clip_norm; in float16 mixed_precision with a loss scale, or bf16",
            ),
            steps=(step, bad[-1]),
            values={"metric": name, "records": len(bad)},
            cost=len(bad) / logs,
        )
    ]


def _guarded(error: dict[str, object]) -> Finding:
    message = str(error.get("message", ""))
    module, told_step = _MODULE.search(message), _STEP.search(message)
    step = int(told_step[1]) if told_step else int(str(error.get("step") or 0))
    where = f" in module {module[1]} ({module[2]})" if module else ""
    on = f" on rank {error['rank']}" if "rank" in error else ""
    lines = [line.strip() for line in message.splitlines()]
    return Finding(
        "nonfinite",
        Gravity.FATAL,
        f"{lines[0].rstrip(';') if lines else 'a value is not finite'}{on}: it began{where or ' outside of the modules'}",
        evidence=tuple(lines[1:]),
        where=(str(error.get("file", "")),),
        advice=(
            "look at what the module was given: a logarithm or root of 0, a division by a norm of 0, an exponent too large",
            "a lower optimizer.lr, a warm-up or clip_norm, if it came after a spike of the loss",
            "go on past it: middleware.nonfinite.action=skip",
        ),
        steps=(step, step),
        values={
            "step": step,
            "module": module[1].strip("'") if module else None,
            "rank": error.get("rank"),
        },
    )


def loss_scale(evidence: Evidence) -> list[Finding]:
    """A loss scale that falls and falls: there is no scale at which the gradients are finite."""
    points = evidence.points("train/loss_scale")
    if not points:
        return []
    skipped = dict(evidence.points("train/skipped"))
    late = [v for step, v in skipped.items() if step > points[len(points) // 2][0]] or list(skipped.values())
    rate = sum(late) / len(late) if late else 0.0
    first, last = points[0], points[-1]
    if last[1] >= thresholds.LOSS_SCALE and rate <= thresholds.SKIPPED:
        return []
    return [
        Finding(
            "loss_scale",
            Gravity.WRONG,
            f"the loss scale fell from {number(first[1])} (step {first[0]:,}) to {number(last[1])} (step {last[0]:,}), "
            f"and {share(rate)} of the steps of the second half changed no weight",
            evidence=(
                f"the scale at some logs: {', '.join(f'{number(v)} ({s:,})' for s, v in points[:: max(len(points) // 5, 1)])}",
                "a scale below 1 scales nothing up: what is not finite at it is not the scale's doing"
                if last[1] < thresholds.LOSS_SCALE
                else f"a scaler that settled skips less than {share(thresholds.SKIPPED)}",
            ),
            where=(evidence.at(last[0]), evidence.setting("middleware")),
            advice=(
                "middleware.mixed_precision.dtype=bf16, which needs no scale",
                "find what overflows in float16: middleware+=nonfinite names the module once the scale is below 1",
            ),
            steps=(first[0], last[0]),
            values={"first": first[1], "last": last[1], "skipped": rate},
            cost=rate,
        )
    ]


def steps_skipped(evidence: Evidence) -> list[Finding]:
    """Steps whose update was skipped, where no loss scale explains them."""
    points = evidence.points("train/skipped")
    if evidence.points("train/loss_scale") or not points:
        return []
    late = points[len(points) // 2 :]
    rate = sum(value for _, value in late) / len(late)
    if rate <= thresholds.SKIPPED:
        return []
    first = next(step for step, value in points if value > 0)
    return [
        Finding(
            "steps_skipped",
            Gravity.WRONG,
            f"{share(rate)} of the steps of the second half changed no weight: their gradients were not finite",
            evidence=(f"the first of them was taken by step {first:,}",),
            where=(evidence.at(first), evidence.setting("middleware")),
            advice=("middleware.nonfinite.action=raise names the module and the batch",),
            steps=(first, points[-1][0]),
            values={"skipped": rate},
            cost=rate,
        )
    ]
