"""Curves of the loss: one that rises, one that stays, one that falls in training and rises in evaluation."""

from __future__ import annotations

import math
import statistics

from ..figures import number
from ..record import as_float
from . import thresholds
from .curves import noise, stretches
from .evidence import Evidence
from .finding import Finding, Gravity


def loss_diverging(evidence: Evidence) -> list[Finding]:
    """A training loss that fell and rose again for good, or only rose."""
    points = evidence.points("train/loss")
    if len(points) < thresholds.TREND_LOGS:
        return []
    values = [value for _, value in points]
    medians, spread = stretches(values), noise(values)
    start = first_loss(evidence)
    best = min(range(len(medians)), key=medians.__getitem__)
    rise, gained = medians[-1] - medians[best], max(medians[0] if start is None else start, medians[0]) - medians[best]
    step, value = min(points, key=lambda p: p[1])
    least = max(thresholds.DIVERGED * gained, thresholds.NOISE * spread, thresholds.STUCK * abs(value))
    late = best > 0.7 * (len(medians) - 1)
    if start is not None and start < medians[best]:  # it was never again as low as before anything was learned
        rise, least, late, step, value = medians[-1] - start, thresholds.DIVERGED * abs(start), False, 0, start
    if late or rise <= least:
        return []
    rates = dict(evidence.points("train/lr"))
    said = [f"the medians of {len(medians)} stretches: {', '.join(number(m) for m in medians)}"]
    if step in rates:
        said.append(
            f"the learning rate was {number(rates[step])} at its best, and {number(rates.get(points[-1][0], 0.0))} at the end"
        )
    return [
        Finding(
            "loss_diverging",
            Gravity.WRONG,
            f"the training loss rose from {number(value)} at step {step:,} to {number(medians[-1])} at the end",
            evidence=tuple(said),
            where=(evidence.at(step), evidence.at(points[-1][0]), evidence.setting("optimizer.lr")),
            advice=(
                "a lower optimizer.lr or a decay of it; a warm-up, if it rose early",
                "clip_norm, if single steps throw it off (its metric grad_norm shows them)",
                f"go back to before it: mapsto train --resume {evidence.record.folder} --checkpoint best",
            ),
            steps=(step, points[-1][0]),
            values={"best": value, "last": medians[-1]},
        )
    ]


def first_loss(evidence: Evidence) -> float | None:
    """The loss of the very first step, where the first log tells it."""
    first = evidence.logs[0].detail.get("first") if evidence.logs else None
    value = as_float(first.get("loss")) if first else math.nan
    return None if math.isnan(value) else value


def loss_stuck(evidence: Evidence) -> list[Finding]:
    """A training loss that never fell below what it was before anything was learned."""
    points, start = evidence.points("train/loss"), first_loss(evidence)
    if len(points) < thresholds.TREND_LOGS or start is None:
        return []
    values = [value for _, value in points]
    medians, spread = stretches(values), noise(values)
    least, last = min(medians[len(medians) // 2 :]), points[-1][0]
    of_a_step = spread * max(evidence.logs[0].steps, 1) ** 0.5  # a log is a mean over its steps, the first loss is of one
    little = thresholds.STUCK * abs(start)
    if medians[0] - least > max(thresholds.NOISE * spread, little) or start - least > little + of_a_step:
        return []
    if medians[-1] > start + thresholds.NOISE * of_a_step:
        return []  # it rose, which is another finding
    return [
        Finding(
            "loss_stuck",
            Gravity.WRONG,
            f"the training loss did not fall: {number(start)} at the first step, {number(medians[-1])} at step {last:,}",
            evidence=(
                f"the medians of {len(medians)} stretches: {', '.join(number(m) for m in medians)}",
                f"its noise is {number(spread)} from log to log",
            ),
            where=(evidence.at(last), evidence.setting("optimizer.lr"), evidence.setting("data.train")),
            advice=(
                "can it learn one batch by heart? steps=200 data.train.shuffle=false on a few records must bring it to about 0",
                "a learning rate that is too small or far too large: try optimizer.lr ten times smaller and larger",
                "targets that do not belong to their inputs (shuffled apart, a wrong column)",
                "weights that had been trained to the end before: then it is no fault",
            ),
            steps=(0, last),
            values={"first": start, "last": medians[-1]},
        )
    ]


def overfitting(evidence: Evidence) -> list[Finding]:
    """An evaluation that becomes worse while the training loss goes on falling."""
    metric, mode = evidence.record.tracked
    points = evidence.points(metric)
    if len(points) < thresholds.EVALUATIONS or metric.startswith(("train/", "test")):
        return []
    sign = 1.0 if mode == "min" else -1.0
    values = [sign * value for _, value in points]
    best = min(range(len(values)), key=values.__getitem__)
    last = statistics.median(values[-max(len(values) // 5, 2) :])
    worse = last - values[best]
    if best > 0.7 * (len(values) - 1) or worse <= max(
        thresholds.OVERFITTED * abs(values[best]), thresholds.NOISE * noise(values)
    ):
        return []
    step, value = points[best]
    train = evidence.points("train/loss")
    then = [v for s, v in train if s <= step][-3:]
    end = [v for _, v in train][-3:]
    if not then or statistics.median(end) >= statistics.median(then):
        return []
    return [
        Finding(
            "overfitting",
            Gravity.WRONG,
            f"{metric} was best at step {step:,} ({number(value)}) and became worse, to {number(sign * last)}, while the "
            "training loss went on falling",
            evidence=(
                f"{metric}: {', '.join(f'{number(v)} ({s:,})' for s, v in points[:: max(len(points) // 6, 1)])}",
                f"train/loss: {number(statistics.median(then))} at step {step:,}, {number(statistics.median(end))} at the end",
            ),
            where=(evidence.at(step, "evaluate"), evidence.at(points[-1][0], "evaluate")),
            advice=(
                f"use the best checkpoint: mapsto evaluate {evidence.record.folder} --checkpoint best; the observer "
                "early_stopping ends a run there",
                "more data or augmentation, weight decay, dropout, label smoothing, a smaller model",
            ),
            steps=(step, points[-1][0]),
            values={"metric": metric, "best": value, "last": sign * last},
            cost=(points[-1][0] - step) / max(points[-1][0], 1),
        )
    ]
