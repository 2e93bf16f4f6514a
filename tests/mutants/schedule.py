"""Schedules with a planted bug, and their correct twins."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from mapsto.core.laws import Example

from . import Mutant

RISE, TOTAL = 5, 20


def _rising(t: int, base: float, **_: Any) -> float:
    return base * min(1.0, (t + 1) / RISE)


def rises(optimizer: torch.optim.Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / RISE))


def rises_late(optimizer: torch.optim.Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda t: min(1.0, t / RISE))


def _cosine(t: int, base: float, **_: Any) -> float:
    return base * (1 + math.cos(math.pi * min(t / TOTAL, 1.0))) / 2


def falls(optimizer: torch.optim.Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda t: (1 + math.cos(math.pi * min(t / TOTAL, 1.0))) / 2)


def falls_and_rises(optimizer: torch.optim.Optimizer) -> LambdaLR:
    """Right at every step but those after the last."""
    return LambdaLR(optimizer, lambda t: (1 + math.cos(math.pi * t / TOTAL)) / 2)


class Halving(LRScheduler):
    """Halved every three steps."""

    def get_lr(self) -> list[float]:
        return [base * 0.5 ** (self.last_epoch // 3) for base in self.base_lrs]


class HalvingTellsOld(Halving):
    """The rate that get_last_lr tells is the one before."""

    def step(self, epoch: int | None = None) -> None:
        before = [group["lr"] for group in self.optimizer.param_groups]
        super().step(epoch)
        self._last_lr = before


def _halving(t: int, base: float, **_: Any) -> float:
    return base * 0.5 ** (t // 3)


class Counted:
    """Its own count of steps, saved or not."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.count = optimizer, 0
        self.bases = [group["lr"] for group in optimizer.param_groups]

    def step(self) -> None:
        self.count += 1
        for group, base in zip(self.optimizer.param_groups, self.bases, strict=True):
            group["lr"] = base * 0.9**self.count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class CountedForgets(Counted):
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class CountedLate(Counted):
    """Off by one after a restore."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = max(0, state["count"] - 1)


class BestSoFar(Counted):
    """Halved where a metric got worse than the best seen, which it keeps in its state."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        self.best, self.factor = math.inf, 1.0

    def step(self, metrics: float) -> None:
        if metrics > self.best:
            self.factor *= 0.5
        self.best = min(self.best, metrics)
        for group, base in zip(self.optimizer.param_groups, self.bases, strict=True):
            group["lr"] = base * self.factor

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.factor = state["best"], state["factor"]


class BestForgotten(BestSoFar):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factor = state["factor"]


class StartsInConstructor(LRScheduler):
    """The constructor writes the first rate, which a wrapper's constructor takes back."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * 0.1

    def get_lr(self) -> list[float]:
        return [group["lr"] * (10.0 if self.last_epoch == RISE else 1.0) for group in self.optimizer.param_groups]


class StartsLow(LRScheduler):
    def get_lr(self) -> list[float]:
        return [base * (0.1 if self.last_epoch < RISE else 1.0) for base in self.base_lrs]


class StepsInside(Halving):
    """A schedule of two parts whose inner count moves each time anyone initialises it (pytorch#196243)."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.passed = -1
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        self.passed += 1
        return [base * 0.5 ** (self.passed // 3) for base in self.base_lrs]


class Filled(Counted):
    """A tensor rate stays the tensor it was; the base rate is a copy."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        self.bases = [float(group["lr"]) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"].clone() if isinstance(group["lr"], torch.Tensor) else group["lr"]

    def step(self) -> None:
        self.count += 1
        for group, base in zip(self.optimizer.param_groups, self.bases, strict=True):
            self.write(group, base * 0.9**self.count)

    def write(self, group: dict[str, Any], rate: float) -> None:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class Replaced(Filled):
    def write(self, group: dict[str, Any], rate: float) -> None:
        group["lr"] = torch.tensor(rate, dtype=torch.float64) if isinstance(group["lr"], torch.Tensor) else rate


class Aliased(Filled):
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]


class Floated(Filled):
    def write(self, group: dict[str, Any], rate: float) -> None:
        group["lr"] = rate


class SetsNothing(Halving):
    def get_lr(self) -> list[float]:
        return list(self.base_lrs)


class FirstForAll(Halving):
    def get_lr(self) -> list[float]:
        return [Halving.get_lr(self)[0]] * len(self.base_lrs)


PLAIN = Example()
MUTANTS = [
    Mutant(
        law="schedule.formula",
        name="warm-up starts one step late",
        bug=rises_late,
        twin=rises,
        models="pytorch#67586",
        example=Example(more={"formula": _rising}),
    ),
    Mutant(
        law="schedule.formula",
        name="rises again after the last step",
        bug=falls_and_rises,
        twin=falls,
        models="pytorch#185872",
        example=Example(more={"formula": _cosine}),
    ),
    Mutant(
        law="schedule.formula",
        name="get_last_lr tells the rate before",
        bug=HalvingTellsOld,
        twin=Halving,
        models="_last_lr not set with the rate",
        example=Example(more={"formula": _halving}),
    ),
    Mutant(
        law="schedule.resume",
        name="count is not saved",
        bug=CountedForgets,
        twin=Counted,
        models="pytorch#60265",
        example=PLAIN,
    ),
    Mutant(
        law="schedule.resume",
        name="off by one after a restore",
        bug=CountedLate,
        twin=Counted,
        models="lightly-train#301",
        example=PLAIN,
    ),
    Mutant(
        law="schedule.resume",
        name="best metric is forgotten",
        bug=BestForgotten,
        twin=BestSoFar,
        models="pytorch#60265",
        example=PLAIN,
    ),
    Mutant(
        law="schedule.wrapping",
        name="first rate written by the constructor",
        bug=StartsInConstructor,
        twin=StartsLow,
        models="pytorch#196243",
        example=PLAIN,
    ),
    Mutant(
        law="schedule.wrapping",
        name="an inner count moves when it is initialised",
        bug=StepsInside,
        twin=Halving,
        models="pytorch#196243",
        example=PLAIN,
    ),
    Mutant(
        law="schedule.tensor_rates",
        name="tensor replaced at each step",
        bug=Replaced,
        twin=Filled,
        models="a captured graph reads the old tensor",
        example=PLAIN,
    ),
    Mutant(
        law="schedule.tensor_rates",
        name="tensor becomes a float",
        bug=Floated,
        twin=Filled,
        models="compiled optimizers recompile",
        example=PLAIN,
    ),
    Mutant(
        law="schedule.tensor_rates",
        name="base rate is the rate",
        bug=Aliased,
        twin=Filled,
        models="pytorch#162359",
        example=PLAIN,
    ),
    Mutant(
        law="schedule.group_ratios",
        name="first group's rate for all",
        bug=FirstForAll,
        twin=Halving,
        models="a schedule that writes one rate",
        example=PLAIN,
    ),
    Mutant(
        law="schedule.group_ratios",
        name="no rate is set at all",
        bug=SetsNothing,
        twin=Halving,
        models="a control that could not fail",
        example=PLAIN,
        status="vacuous",
    ),
]
