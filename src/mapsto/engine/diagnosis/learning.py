"""Learning that does not take place: rates of zero, parameters without gradients, weights that do not move."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..figures import number, share
from . import thresholds
from .evidence import Evidence, Log
from .finding import Finding, Gravity


def learning_rate_zero(evidence: Evidence) -> list[Finding]:
    """A learning rate of zero for most of the run."""
    logs = [(log, [v for n, v in log.metrics.items() if n == "train/lr" or n.startswith("train/lr/")]) for log in evidence.logs]
    logs = [(log, rates) for log, rates in logs if rates and log.steps]
    zero = [log for log, rates in logs if not any(rates)]
    steps, of = sum(log.steps for log in zero), sum(log.steps for log, _ in logs)
    if len(logs) < thresholds.LOGS or steps <= thresholds.ZERO_RATE * of:
        return []
    return [
        Finding(
            "learning_rate_zero",
            Gravity.WRONG,
            f"the learning rate was 0 in {share(steps / of)} of the steps, from step {zero[0].step:,} on",
            evidence=(f"0 at {len(zero)} of {len(logs)} logs; what is trained at that rate does not change",),
            where=(
                f"{evidence.record.folder / 'metrics.jsonl'}:{zero[0].line}",
                evidence.setting("schedule"),
                evidence.setting("optimizer.lr"),
            ),
            advice=(
                "look at optimizer.lr and at what the schedule makes of it: mapsto show prints both",
                "a schedule that counts epochs is asked for each step: wrap it in each_epoch, or give it steps",
                "a warm-up or decay longer or shorter than the run: compare its steps with the run's",
            ),
            steps=(zero[0].step, zero[-1].step),
            values={"share": steps / of},
            cost=steps / of,
        )
    ]


# -- parameters --------------------------------------------------------------------------------------------------------
def _always(logs: Iterable[Log], names: Callable[[Mapping[str, Any]], Iterable[str]]) -> tuple[list[str], int]:
    """The parameters that are named in every log that tells of parameters, and how many such logs there are."""
    told = [log.detail["health"] for log in logs if isinstance(log.detail.get("health"), Mapping)]
    sets = [dict.fromkeys(names(health)) for health in told]
    kept = [name for name in sets[0] if all(name in other for other in sets)] if sets else []
    return kept, len(told)


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _parameters(evidence: Evidence) -> int:
    found = [log.detail["health"].get("parameters", 0) for log in evidence.logs if log.detail.get("health")]
    return int(max(found, default=0))


def without_gradient(evidence: Evidence) -> list[str]:
    """Parameters whose gradient was missing, or exactly zero, at every log."""
    names, logs = _always(evidence.logs, lambda h: [*h.get("no_gradient", ()), *h.get("zero_gradient", ())])
    return names if logs >= thresholds.LOGS else []


NO_GRADIENT = (
    "follow its output to the loss: is the module called at all? .detach(), .item(), torch.no_grad(), an argmax or a cast to "
    "int cut the graph"
)
ZERO_GRADIENT = "look for units that are never active (dead ReLU), a mask of zeros, a factor that is 0 to begin with"


def no_gradient(evidence: Evidence) -> list[Finding]:
    """Parameters that no gradient reaches."""
    names = without_gradient(evidence)
    if not names:
        return []
    missing, logs = _always(evidence.logs, lambda h: h.get("no_gradient", ()))
    zero = [name for name in names if name not in missing]
    of = _parameters(evidence)
    said = (
        [f"no gradient at all (the loss does not depend on it) in {logs} of {logs} logs: {_listed(missing)}"] if missing else []
    )
    if zero:
        said.append(f"a gradient of exactly zero (or none) in {logs} of {logs} logs: {_listed(zero)}")
    first, last = evidence.logs[0], evidence.logs[-1]
    return [
        Finding(
            "no_gradient",
            Gravity.WRONG,
            f"no gradient reaches {'any' if len(names) == of else len(names)} of {of} trained parameters: {_listed(names, 3)}",
            evidence=tuple(said),
            where=(evidence.at(last.step), evidence.setting("model")),
            advice=(
                *([NO_GRADIENT] if missing else []),
                *([ZERO_GRADIENT] if zero else []),
                "if it is meant so, say it: the middleware freeze",
            ),
            steps=(first.step, last.step),
            values={"missing": missing, "zero": zero, "parameters": of},
            cost=len(names) / max(of, 1),
        )
    ]


def weights_unchanged(evidence: Evidence) -> list[Finding]:
    """Weights that have a gradient and stay, bit by bit, what they were."""
    names, logs = _always(evidence.logs[1:], lambda h: h.get("unchanged", ()))
    lifeless = set(without_gradient(evidence))
    names = [name for name in names if name not in lifeless]
    if logs < thresholds.LOGS - 1 or not names:
        return []
    of = _parameters(evidence)
    first, last = evidence.logs[0], evidence.logs[-1]
    rates = [v for _, v in evidence.points("train/lr")]
    said = [f"the same bits at {logs + 1} logs in a row, though a gradient is there: {_listed(names)}"]
    if rates:
        said.append(f"the learning rate was {number(min(rates))} to {number(max(rates))}")
    return [
        Finding(
            "weights_unchanged",
            Gravity.WRONG,
            f"{'all' if len(names) == of else len(names)} of {of} trained parameters stayed bit by bit what they were from "
            f"step {first.step:,} to {last.step:,}: {_listed(names, 3)}",
            evidence=tuple(said),
            where=(evidence.at(last.step), evidence.setting("optimizer")),
            advice=(
                "an update smaller than the resolution of the weights' type is rounded away: keep weights in float32 "
                "(mixed_precision computes in bf16 all the same), or raise optimizer.lr",
                "a learning rate of 0 for its group: middleware param_groups",
                "a hook or middleware that puts weights back, or an optimizer that was built of other parameters",
            ),
            steps=(first.step, last.step),
            values={"names": names, "parameters": of},
            cost=len(names) / max(of, 1),
        )
    ]


def update_ratio(evidence: Evidence) -> list[Finding]:
    """Updates that are far too small or too large for their weights, as the middleware `health` measured them."""
    begin = "train/update_ratio/"
    medians = {
        name.removeprefix(begin): statistics.median(v for _, v in evidence.points(name))
        for name in evidence.record.series
        if name.startswith(begin) and evidence.points(name)
    }
    small = {n: v for n, v in medians.items() if 0 < v < thresholds.UPDATE_SMALL}
    large = {n: v for n, v in medians.items() if v > thresholds.UPDATE_LARGE}
    found = []
    for kind, names, limit in (("small", small, thresholds.UPDATE_SMALL), ("large", large, thresholds.UPDATE_LARGE)):
        if names:
            worst = (min if kind == "small" else max)(names, key=lambda n: names[n])
            side = "below" if kind == "small" else "above"
            found.append(
                Finding(
                    f"update_too_{kind}",
                    Gravity.WRONG,
                    f"the updates of {len(names)} of {len(medians)} parameters are too {kind}: {worst} moves by "
                    f"{number(names[worst])} of its length a step",
                    evidence=tuple(f"{n}: {number(v)} (median), {side} {number(limit)}" for n, v in list(names.items())[:8]),
                    where=(evidence.setting("optimizer.lr"),),
                    advice=(
                        "around 1e-3 is usual: change optimizer.lr, or that of these parameters (middleware param_groups)",
                    ),
                    values={"parameters": names},
                    cost=len(names) / len(medians),
                )
            )
    return found
