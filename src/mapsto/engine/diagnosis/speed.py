"""Time: steps that wait for data, a run that slows down, checkpoints that cost too much."""

from __future__ import annotations

import math
import statistics

from ..figures import count, duration, share, short_time, size
from ..record import as_float
from . import thresholds
from .curves import noise, thirds
from .evidence import Evidence
from .finding import Finding, Gravity


def data_starved(evidence: Evidence) -> list[Finding]:
    """Steps that wait for the reader."""
    logs = evidence.logs[1:] if len(evidence.logs) > thresholds.LOGS else evidence.logs  # the first starts the workers
    told = [(log, log.metrics["time/data"], log.metrics["time/step"]) for log in logs if log.timed]
    ranks = {log.line: values for log, values in evidence.per_rank("data")}
    told = [(log, max(ranks.get(log.line, [data])), step) for log, data, step in told]  # the others wait for the slowest
    waited = sum(data * log.steps for log, data, _ in told)
    spent = sum(step * log.steps for log, _, step in told)
    most = max(((data * log.steps, step * log.steps) for log, data, step in told), default=(0.0, 0.0))
    for lost, of in ((waited, spent), (waited - most[0], spent - most[1]) if len(told) > thresholds.LOGS else (waited, spent)):
        if lost < thresholds.LEAST_SECONDS or lost <= thresholds.DATA_SHARE * of:  # one log alone is a hiccup of the machine
            return []
    worst = max(told, key=lambda t: t[1] / max(t[2], 1e-12))
    steps = sum(log.steps for log, _, _ in told)
    data = evidence.record.spec.get("data")
    train = data.get("train") if isinstance(data, dict) else None
    told_workers = train.get("workers") if isinstance(train, dict) else 0
    workers = told_workers if isinstance(told_workers, int) else 0
    said = [
        f"{duration(waited)} of {duration(spent)} were spent waiting for data: {short_time(waited / steps)} of "
        f"{short_time(spent / steps)} a step",
        f"worst at step {worst[0].step:,}: {short_time(worst[1])} of {short_time(worst[2])}",
        f"the reader has {workers} worker processes",
    ]
    return [
        Finding(
            "data_starved",
            Gravity.COSTLY,
            f"the steps wait for data {share(waited / spent)} of their time",
            evidence=tuple(said),
            where=(evidence.at(worst[0].step), evidence.setting("data.train.workers")),
            advice=(
                f"data.train.workers={max(2 * int(workers or 0), 2)}, as long as cores are free",
                "cheaper transforms, or what they compute kept on disk: transforms that do not draw need to run once only",
                "a source that reads many records at once (columns, memory maps) instead of files one by one",
            ),
            steps=(told[0][0].step, told[-1][0].step),
            values={"share": waited / spent, "seconds": waited},
            cost=waited / spent,
        )
    ]


def throughput_dropping(evidence: Evidence) -> list[Finding]:
    """A run that becomes slower as it goes on."""
    points, logs = evidence.points("throughput/records")[1:], [log for log in evidence.logs[1:] if log.timed]
    if min(len(points), len(logs)) < thresholds.TREND_LOGS:
        return []
    first, middle, last = thirds([value for _, value in points])
    if last >= thresholds.THROUGHPUT * first or not last <= middle * 1.05 <= first * 1.1:
        return []
    if first - last <= thresholds.NOISE * noise([value for _, value in points]):
        return []
    lost = sum(log.metrics["time/step"] * log.steps for log in logs[-len(points) // 3 :]) * (1 - last / first)
    if lost < thresholds.LEAST_SECONDS / 2:
        return []
    waits = [log.metrics["time/data"] / max(log.metrics["time/step"], 1e-12) for log in logs]
    before, _, after = thirds(waits)
    memory = evidence.points("memory/resident")
    said = [
        f"records a second: {count(first)} in the first third, {count(middle)} in the middle, {count(last)} in the last",
        f"waiting for data was {share(before)} of a step and is {share(after)}",
    ]
    if memory:
        said.append(f"memory: {size(memory[0][1])} at step {memory[0][0]:,}, {size(memory[-1][1])} at step {memory[-1][0]:,}")
    return [
        Finding(
            "throughput_dropping",
            Gravity.COSTLY,
            f"the run became slower: {share(1 - last / first)} fewer records a second in its last third than in its first",
            evidence=tuple(said),
            where=(evidence.at(points[len(points) // 3][0]), evidence.at(points[-1][0])),
            advice=(
                "something grows with the steps: a list that is kept and walked through, hooks that are added and not removed",
                "a clock that throttles, or a neighbour on the machine: run the same step again on its own",
                "the share that waits for data tells whether it is the reader",
            ),
            steps=(points[0][0], points[-1][0]),
            values={"first": first, "last": last},
            cost=1 - last / first,
        )
    ]


def checkpoints_costly(evidence: Evidence) -> list[Finding]:
    """Checkpoints that take a large share of the time: because there are many, or because the disk is slow."""
    points = evidence.points("time/checkpoint")
    spent, whole = sum(v for _, v in points), evidence.record.seconds
    if spent < thresholds.LEAST_SECONDS or spent <= thresholds.CHECKPOINT_SHARE * whole or len(points) < 2:
        return []
    times = _own_times(evidence)
    own = statistics.median(times) * len(times) if times else spent  # one that a busy machine held up is none of its plan
    slow = max(spent - own, 0.0)  # on a disk that is not slow the same run would have taken so much less in all
    grave = own >= thresholds.LEAST_SECONDS and own > thresholds.CHECKPOINT_SHARE * (whole - slow)
    plan = evidence.record.spec.get("checkpoint")
    every = plan.get("every") if isinstance(plan, dict) else None
    apart = (points[-1][0] - points[0][0]) / (len(points) - 1)
    wanted = max(round(apart * spent / (whole * thresholds.CHECKPOINT_SHARE / 2)), 1)
    said = [
        f"{len(points)} of them, {short_time(spent / len(points))} each: {duration(spent)} of {duration(whole)} in all",
        f"checkpoint.every is {every or 'an epoch'}; "
        f"each holds {size(evidence.record.checkpoints[-1]['size']) if evidence.record.checkpoints else '?'}",
    ]
    said += [f"{duration(slow)} of it were waiting for the disk, beyond what a usual one takes"] if slow > 0 else []
    return [
        Finding(
            "checkpoints_costly" if grave else "disk_slow",
            Gravity.COSTLY if grave else Gravity.NOTE,
            f"writing checkpoints took {share(spent / whole)} of the time of the run{'' if grave else ': the disk is slow'}",
            evidence=tuple(said),
            where=(evidence.setting("checkpoint.every"), evidence.at(points[-1][0], "checkpoint")),
            advice=(
                f"checkpoint.every={wanted}, for a twentieth of the time",
                "checkpoint.asynchronous=true: the run goes on while they are written",
                "a faster disk for the run folder",
            ),
            steps=(points[0][0], points[-1][0]),
            values={"share": spent / whole, "seconds": spent, "slow": slow},
            cost=spent / whole,
        )
    ]


def _own_times(evidence: Evidence) -> list[float]:
    """Seconds that the run stood for each checkpoint, but for what a slow disk added."""
    bytes_of = {kept["step"]: float(kept["size"]) for kept in evidence.record.checkpoints}
    usual = max(bytes_of.values(), default=0.0)
    found = []
    for event in evidence.record.events:
        stood = as_float((event.get("metrics") or {}).get("time/checkpoint")) if event.get("name") == "checkpoint" else math.nan
        if math.isfinite(stood):
            waited = as_float((event.get("detail") or {}).get("waited", 0.0))
            fair = thresholds.DISK_SECONDS + bytes_of.get(event["step"], usual) / thresholds.DISK_RATE
            slow = min(waited, stood) - fair  # what was written while the run went on, nobody stood for
            found.append(stood - max(slow, 0.0) if math.isfinite(slow) else stood)
    return found
