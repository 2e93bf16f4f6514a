"""The driver of schedules: a scheduler on an optimizer of two groups, and what is known of the framework's own and of ours."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from ...core.laws import Subject, Trial
from ...core.parts import use
from ...formulas import schedules
from ...laws.schedule_inputs import RATES, STEPS, arguments, demand_arguments, guess, metric


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
    """The subject with its driver, and with arguments and how far it can be stepped, where its author did not state them."""
    stated, target = subject.example, subject.target
    subject = replace(subject, driver=DRIVER)
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
    guessed, unfound = guess(target, stated, given=1)
    more |= {"unfound": unfound, "guessed": not stated.args}
    return replace(subject, example=replace(stated, args={**guessed, **stated.args}, more=more))


def optimizer_for(rates: tuple[Any, ...] = RATES) -> torch.optim.Optimizer:
    """SGD with momentum over one parameter a group, each group with its own rate."""
    groups = [{"params": [nn.Parameter(torch.zeros(2, dtype=torch.float64))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


@dataclass
class Driven:
    """An optimizer and the scheduler that sets its rates (`mapsto.laws.drivers.Schedule`)."""

    optimizer: torch.optim.Optimizer
    schedule: Any
    bases: Sequence[Any]

    def settings(self) -> list[dict[str, float]]:
        return [
            {k: float(v) for k, v in group.items() if isinstance(v, (int, float, torch.Tensor)) and not isinstance(v, bool)}
            for group in self.optimizer.param_groups
        ]

    def reported_rates(self) -> list[float] | None:
        return [float(x) for x in self.schedule.get_last_lr()] if hasattr(self.schedule, "get_last_lr") else None

    def advance(self, t: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.optimizer.step()
            if "metrics" in inspect.signature(self.schedule.step).parameters:
                self.schedule.step(metric(t))
            else:
                self.schedule.step()

    def save(self) -> Any:
        return copy.deepcopy(self.optimizer.state_dict()), copy.deepcopy(self.schedule.state_dict())

    def load(self, saved: Any, order: str) -> None:
        parts = list(zip((self.optimizer, self.schedule), saved, strict=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for part, state in parts if order == "optimizer first" else reversed(parts):
                part.load_state_dict(copy.deepcopy(state))


class Driver:
    """Schedules as the laws see them (`mapsto.laws.drivers.ScheduleDriver`)."""

    orders = ("optimizer first", "schedule first")

    def build(self, trial: Trial, *, variant: Mapping[str, Any] | None = None, rates: tuple[Any, ...] = RATES) -> Driven:
        """A fresh optimizer and a fresh schedule on it; rates may be tensors."""
        demand_arguments(trial)
        optimizer = optimizer_for(rates)
        args, guessed = arguments(trial, variant), bool(trial.example.more.get("guessed")) and variant is None
        with warnings.catch_warnings(), trial.building(args, guessed=guessed):
            warnings.simplefilter("ignore")
            if variant is None and "from_optimizer" in trial.example.more:
                given = trial.example.more["from_optimizer"](optimizer)
                return Driven(optimizer, trial.subject.target(**args, **given), rates)
            return Driven(optimizer, trial.subject.target(optimizer, **args), rates)


DRIVER = Driver()
