"""Middleware that do nothing, or keep another average than they say, and their right twins."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch

from mapsto.core.compose import middleware
from mapsto.core.laws import Example
from mapsto.torch.middleware.copies import kept
from mapsto.torch.middleware.gradients import dense

from . import Mutant


# -- what does nothing
class Halves:
    """Halves gradients before the update."""

    def update(self, inner: Any) -> Any:
        def outer(state: Any, metrics: Any) -> Any:
            self.edit(dense(state.parameters))
            return inner(state, metrics)

        return outer

    def edit(self, gradients: Any) -> None:
        for gradient in gradients:
            gradient.mul_(0.5)


class HalvesCopies(Halves):
    """Edits copies: `g = g * 0.5` in a loop."""

    def edit(self, gradients: Any) -> None:
        for gradient in gradients:
            gradient = gradient * 0.5  # the bug


class HalvesNever(Halves):
    """Wraps, and gives back what it was given."""

    def update(self, inner: Any) -> Any:
        super().update(inner)
        return inner


class HalvesLater(Halves):
    """A condition that is never met: it counts on an attribute that nobody advances."""

    step = 0

    def edit(self, gradients: Any) -> None:
        if self.step > 0:
            super().edit(gradients)


class HalvesUnregistered(Halves):
    """The method has another name than the mapping that it is to wrap."""

    def updates(self, inner: Any) -> Any:
        return Halves.update(self, inner)

    def update(self, inner: Any) -> Any:
        return inner


# -- averages
@middleware("kept_average", provides="averaged_weights")
class Average:
    """update -> update, after which an exponential average follows; evaluations use it."""

    def __init__(self, decay: float = 0.7) -> None:
        self.decay = decay

    def begin(self, state: Any) -> None:
        self.live = list(state.parameters)
        self.averages = [self.first(p.detach()) for p in self.live]

    def first(self, weights: Any) -> Any:
        return weights.clone()

    def update(self, inner: Any) -> Any:
        def outer(state: Any, metrics: Any) -> Any:
            metrics = inner(state, metrics)
            self.follow()
            return metrics

        return outer

    def follow(self) -> None:
        for average, weights in zip(self.averages, self.live, strict=True):
            average.lerp_(weights.detach(), 1 - self.decay)

    @contextmanager
    def evaluation_weights(self, state: Any) -> Any:
        live = [p.detach() for p in self.live]
        with kept(live):
            torch._foreach_copy_(live, self.lent())
            yield

    def lent(self) -> Any:
        return self.averages

    def state_dict(self) -> Any:
        return {"averages": dict(enumerate(self.averages))}

    def load_state_dict(self, tree: Any) -> None:
        for i, average in enumerate(self.averages):
            average.copy_(tree["averages"][i])


class AverageFromZero(Average):
    """Starts from zero, without a correction."""

    def first(self, weights: Any) -> Any:
        return torch.zeros_like(weights)


class AverageTurned(Average):
    """The decay weighs the new weights."""

    def follow(self) -> None:
        for average, weights in zip(self.averages, self.live, strict=True):
            average.lerp_(weights.detach(), self.decay)


class AverageBefore(Average):
    """Averages what was before the update."""

    def update(self, inner: Any) -> Any:
        def outer(state: Any, metrics: Any) -> Any:
            self.follow()
            return inner(state, metrics)

        return outer


class AverageStill(Average):
    """Averages into a copy: it never moves."""

    def follow(self) -> None:
        for average, weights in zip(self.averages, self.live, strict=True):
            average.lerp(weights.detach(), 1 - self.decay)


class AverageAlias(Average):
    """The average is the weights themselves: a clone was forgotten."""

    def first(self, weights: Any) -> Any:
        return weights


class AverageOverstated(Average):
    """Shares that add up to more than one."""

    def follow(self) -> None:
        for average, weights in zip(self.averages, self.live, strict=True):
            average.mul_(self.decay).add_(weights.detach(), alpha=1.1 * (1 - self.decay))


def _mutant(law: str, bug: Any, twin: Any, **more: Any) -> Mutant:
    name = f"{bug.__name__}{'' if more or twin is Halves else ' without a formula'}"
    models = (bug.__doc__ or "").splitlines()[0]
    return Mutant(law=f"middleware.{law}", name=name, bug=bug, twin=twin, models=models, example=Example(more=more))


def _formula(average: Any, weights: Any, t: int, decay: float) -> Any:
    return decay * average + (1 - decay) * weights


MUTANTS = [
    *(_mutant("effect", bug, Halves) for bug in (HalvesCopies, HalvesNever, HalvesLater, HalvesUnregistered)),
    *(
        _mutant("average", bug, Average, average=_formula)
        for bug in (AverageFromZero, AverageTurned, AverageBefore, AverageStill, AverageAlias, AverageOverstated)
    ),
    *(_mutant("average", bug, Average) for bug in (AverageFromZero, AverageStill, AverageAlias)),
]
