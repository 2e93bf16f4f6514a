"""Examples of schedules: arguments by the names that schedules use, an optimizer of two groups, and a run over steps.

Beyond `args` an author may state a `formula`, f(t, base, **args) -> rate; `variants`, further arguments to check it with; and
`steps`, how far it can be stepped (30). Tag: `absolute` (it sets rates itself and does not scale those of the groups).
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from ...core.laws import Example, Subject, Trial
from ...core.parts import use
from ...formulas import schedules

STEPS = 30
"""Steps that are driven: past every boundary that the guessed arguments have."""
OFFERS = {"total_steps": 20, "steps_per_epoch": 4, "seed": 0}
"""What a run offers by name."""
RATES = (0.1, 0.05)
"""Learning rates of the two groups."""
NAMES: tuple[tuple[str, Any], ...] = (
    (r"(num_|n_)?(total|training|max|decay|t)_?(steps?|iters?|max|updates|epochs?)|steps|T_max", 20),
    (r"(num_|n_)?warm_?up.*(steps?|iters?|epochs?)?|rise", 5),
    (r"T_0|step_size.*|period|cycle.*|patience|interval|every", 4),
    (r"milestones|boundaries", [3, 7, 8]),
    (r"gamma|factor|decay.*|power|.*ratio|.*factor", 0.5),
    (r".*min.*|final.*|.*end.*", 1e-3),
    (r".*max.*|.*start.*|.*init.*|.*base.*", 0.02),
)
"""Patterns of argument names and what stands for them."""

Made = tuple[torch.optim.Optimizer, Any]


def _halving(t: int) -> float:
    return 0.5 ** (t // 3)


def _shrinking(t: int) -> float:
    return 1.0 - 0.5 / (t + 1)


def _chained(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    parts = [lr_scheduler.ConstantLR(optimizer, factor=0.1, total_iters=5), lr_scheduler.ExponentialLR(optimizer, gamma=0.9)]
    return {"optimizer": optimizer, "schedulers": parts}


def _sequential(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5), lr_scheduler.CosineAnnealingLR(optimizer, T_max=15)]
    return {"optimizer": optimizer, "schedulers": parts, "milestones": [5]}


def _chained_rate(t: int, base: float) -> float:
    """The chain of the example: a constant factor of 0.1 for 5 steps, times 0.9^t."""
    return base * (0.1 if t < 5 else 1.0) * 0.9**t


def _sequential_rate(t: int, base: float) -> float:
    """The sequence of the example: linear from 0.1 over 5 steps, then half a cosine over 15 (periodic)."""
    return base * (0.1 + 0.9 * t / 5) if t < 5 else base * (1 + math.cos(math.pi * (t - 5) / 15)) / 2


def _each_epoch_rate(t: int, base: float, *, steps_per_epoch: int) -> float:
    """The schedule of the example, halving every second epoch."""
    return base * 0.5 ** (t // steps_per_epoch // 2)


@dataclass(frozen=True)
class Known:
    """Its closed form, and how it is built: arguments (or a function of the optimizer that gives them), and others to try."""

    formula: schedules.Formula
    args: Mapping[str, Any] | Callable[[torch.optim.Optimizer], dict[str, Any]]
    variants: tuple[Mapping[str, Any], ...] = ()
    steps: int = STEPS
    tags: frozenset[str] = frozenset()


ABSOLUTE = frozenset({"absolute"})
KNOWN: dict[str, Known] = {
    "StepLR": Known(schedules.step, {"step_size": 4, "gamma": 0.5}, ({"step_size": 1, "gamma": 0.9},)),
    "MultiStepLR": Known(schedules.multi_step, {"milestones": [3, 7, 8], "gamma": 0.3},
                         ({"milestones": [2, 2, 5], "gamma": 0.5},)),
    "ConstantLR": Known(schedules.constant, {"factor": 0.25, "total_iters": 5}, ({"factor": 0.25, "total_iters": 1},)),
    "LinearLR": Known(schedules.linear, {"start_factor": 0.25, "end_factor": 0.75, "total_iters": 7},
                      ({"start_factor": 0.1, "total_iters": 1},)),
    "ExponentialLR": Known(schedules.exponential, {"gamma": 0.9}),
    "PolynomialLR": Known(schedules.polynomial, {"total_iters": 9, "power": 2.0},
                          ({"total_iters": 9, "power": 0.5}, {"total_iters": 1})),
    "CosineAnnealingLR": Known(schedules.cosine, {"T_max": 9, "eta_min": 0.001}, ({"T_max": 1}, {"T_max": 20})),
    "CosineAnnealingWarmRestarts": Known(schedules.warm_restarts, {"T_0": 4, "T_mult": 2, "eta_min": 0.001},
                                         ({"T_0": 1}, {"T_0": 5, "T_mult": 1})),
    "CyclicLR": Known(schedules.cyclic, {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "step_size_down": 4},
        tuple({"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4, "mode": m, "gamma": 0.9}
              for m in ("triangular2", "exp_range")),
        tags=ABSOLUTE,
    ),
    "OneCycleLR": Known(schedules.one_cycle, {"max_lr": 0.1, "total_steps": 20},
        ({"max_lr": 0.1, "total_steps": 20, "three_phase": True, "anneal_strategy": "linear"},),
        steps=19,
        tags=ABSOLUTE,
    ),
    "LambdaLR": Known(schedules.of_lambda, {"lr_lambda": _halving}),
    "MultiplicativeLR": Known(schedules.multiplicative, {"lr_lambda": _shrinking}),
    "ReduceLROnPlateau": Known(schedules.plateau, {"patience": 2, "factor": 0.5},
                               ({"patience": 0, "cooldown": 2, "min_lr": 0.02},)),
    "plateau": Known(schedules.plateau, {"patience": 2, "factor": 0.5}),
    "ChainedScheduler": Known(_chained_rate, _chained),
    "SequentialLR": Known(_sequential_rate, _sequential),
    "SWALR": Known(schedules.averaging, {"swa_lr": 0.02, "anneal_epochs": 6},
                   ({"swa_lr": 0.02, "anneal_epochs": 6, "anneal_strategy": "linear"},),
                   tags=ABSOLUTE),
    "warmup": Known(schedules.warmup, {"steps": 5},
                    tuple({"steps": 0.25, "decay": d, "final": 0.1} for d in ("linear", "constant", "inverse_sqrt"))),
    "EachEpoch": Known(_each_epoch_rate, {"schedule": use("step", step_size=2, gamma=0.5)}),
}  # fmt: skip


def complete(subject: Subject) -> Subject:
    """The subject with arguments and how far it can be stepped, where its author did not state them."""
    stated, target = subject.example, subject.target
    if subject.make is not None:
        return subject
    name = getattr(target, "__name__", "")
    own = str(getattr(target, "__module__", "")).startswith(("torch.optim", "mapsto.torch"))
    known = KNOWN.get(name) if own else None
    more: dict[str, Any] = {"steps": STEPS, "unfound": None, **stated.more}
    if known is not None:
        more.setdefault("formula", known.formula)
        if stated.args and not set(stated.args) <= {"total_steps"}:
            return replace(subject, example=replace(stated, more=more, tags=stated.tags | known.tags))
        more |= {"steps": stated.more.get("steps", known.steps), "variants": known.variants}
        plain = known.args if not callable(known.args) else {}
        if callable(known.args):
            more["from_optimizer"] = known.args
        example = replace(stated, args={**plain, **stated.args}, more=more, tags=stated.tags | known.tags)
        return replace(subject, example=example)
    guessed, unfound = _guess(target, stated)
    return replace(subject, example=replace(stated, args={**guessed, **stated.args}, more={**more, "unfound": unfound}))


def _guess(target: Any, stated: Example) -> tuple[dict[str, Any], str | None]:
    """Arguments by name; and the name that tells nothing, if there is one."""
    found: dict[str, Any] = {}
    for name, parameter in list(signature(target).items())[1:]:
        if parameter.default is not parameter.empty or name in stated.args or name in OFFERS:
            continue
        value = next((v for pattern, v in NAMES if re.fullmatch(pattern, name)), None)
        if value is None:
            return found, name
        found[name] = value
    return found, None


def signature(target: Any) -> dict[str, inspect.Parameter]:
    """Named parameters of a class or factory."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    try:
        return {n: p for n, p in inspect.signature(target).parameters.items() if p.kind not in kinds}
    except (TypeError, ValueError):
        return {}


def optimizer_for(rates: tuple[Any, ...] = RATES) -> torch.optim.Optimizer:
    """SGD with momentum over one parameter a group, each group with its own rate."""
    groups = [{"params": [nn.Parameter(torch.zeros(2, dtype=torch.float64))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def arguments(trial: Trial, variant: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the schedule is built with: the example's arguments or a variant, and what a run offers by name."""
    args = dict(trial.example.args if variant is None else variant)
    offered = {n: v for n, v in OFFERS.items() if n in signature(trial.subject.target)}
    return {**{n: v for n, v in offered.items() if _needed(trial, n)}, **args}


def _needed(trial: Trial, name: str) -> bool:
    parameter = signature(trial.subject.target)[name]
    return parameter.default is parameter.empty


def build(trial: Trial, *, rates: tuple[Any, ...] = RATES, variant: Mapping[str, Any] | None = None) -> Made:
    """A fresh optimizer and a fresh schedule on it."""
    if trial.subject.make is not None:
        trial.undecided(f"{trial.subject.label} is an instance, which is bound to its optimizer: check its class or factory")
    if (unfound := trial.example.more.get("unfound")) is not None:
        name = trial.subject.label.rpartition(":")[2].rpartition("/")[2]
        trial.undecided(
            f"its argument `{unfound}` could not be guessed; write beside it\n  mapsto.example({name}, "
            f"args={{{unfound!r}: ...}})"
        )
    optimizer = optimizer_for(rates)
    with warnings.catch_warnings(), trial.component("building it"):
        warnings.simplefilter("ignore")
        args = arguments(trial, variant)
        if variant is None and "from_optimizer" in trial.example.more:
            return optimizer, trial.subject.target(**args, **trial.example.more["from_optimizer"](optimizer))
        return optimizer, trial.subject.target(optimizer, **args)


def metric(t: int) -> float:
    """The metric at step t, for schedules that watch one: it improves, stays for long, improves once more and gets worse."""
    return 1.0 - 0.1 * min(t, 4) if t < 16 else (0.3 if t == 16 else 0.5 + 0.01 * t)


def advance(optimizer: torch.optim.Optimizer, schedule: Any, t: int) -> None:
    """One update, then one step of the schedule."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.step()
        if "metrics" in inspect.signature(schedule.step).parameters:
            schedule.step(metric(t))
        else:
            schedule.step()


def settings(optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """The numbers of each group that a schedule may set."""
    return [
        {k: float(v) for k, v in group.items() if isinstance(v, (int, float, torch.Tensor)) and not isinstance(v, bool)}
        for group in optimizer.param_groups
    ]


def sequence(optimizer: torch.optim.Optimizer, schedule: Any, start: int, stop: int) -> list[list[dict[str, float]]]:
    """The settings before the updates start, ..., stop - 1."""
    found = []
    for t in range(start, stop):
        found.append(settings(optimizer))
        if t + 1 < stop:
            advance(optimizer, schedule, t)
    return found


def steps(trial: Trial) -> int:
    """How many steps are driven."""
    return int(trial.example.more.get("steps", STEPS))


def rates_of(found: list[list[dict[str, float]]], group: int = 0) -> list[float]:
    """The learning rates of a group."""
    return [at[group]["lr"] for at in found]


def close(got: float, want: float) -> bool:
    """Equal within 1e-12 relative (and far below any rate in use)."""
    return math.isclose(got, want, rel_tol=1e-12, abs_tol=1e-16)
