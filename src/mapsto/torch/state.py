"""The state that the four mappings act on, and the builder that middleware may change before there is an optimizer."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import SpecError, nearest
from ..core.random import derive, extend
from .mesh.one import OneProcess
from .modes import modes_kept


class State:
    """Everything a program changes, in place.

    model, optimizer, schedule (or None): the framework's own; parameters: the trainable ones, in order; step: steps
    taken; seed; device; shard: the micro-shard being computed; training: False while evaluating or predicting;
    summing: True while an outer mapping wants gradients of the sum and divides by the weight itself; skip: None, or a flag
    on the device that is above 0 where this step's update must change nothing; batch: the batch of the current step, only
    kept for optimizers that evaluate a closure; inputs: None, or the parameters that alone are differentiated;
    mesh: what may be asked of the ranks (see `OneProcess`).
    """

    __slots__ = (
        *(
            "_generators",
            "_stream",
            "batch",
            "device",
            "inputs",
            "mesh",
            "model",
            "names",
            "optimizer",
            "parameters",
            "schedule",
        ),
        *("seed", "shard", "skip", "step", "summing", "training"),
    )

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Any

    def __init__(self, model: nn.Module, seed: int, device: torch.device) -> None:
        self.model, self.seed, self.device = model, seed, device
        self.schedule = None
        self.mesh = OneProcess()
        self.parameters: list[nn.Parameter] = []
        self.names: list[str] = []
        self.step, self.shard = 0, 0
        self.training, self.summing = True, False
        self.skip: Tensor | None = None
        self.batch: Mapping[str, Any] | None = None
        self.inputs: list[nn.Parameter] | None = None
        self._stream = derive(seed, "step")
        self._generators = [torch.default_generator]
        if device.type == "cuda":
            self._generators.append(torch.cuda.default_generators[device.index or 0])

    def reseed(self) -> None:
        """Seed the framework's default generators for this step and micro-shard: nothing random is carried over."""
        number = extend(self._stream, self.step, self.shard)
        for generator in self._generators:
            generator.manual_seed(number)

    def generator(self, name: str) -> torch.Generator:
        """A generator on the state's device for the stream `name` at this step and micro-shard."""
        return torch.Generator(self.device).manual_seed(derive(self.seed, name, self.step, self.shard))

    @contextmanager
    def sums(self) -> Iterator[None]:
        """Within it, `grad` leaves gradients of the summed loss; whoever enters divides by the summed weight."""
        before, self.summing = self.summing, True
        try:
            yield
        finally:
            self.summing = before

    @contextmanager
    def isolated_gradients(self) -> Iterator[None]:
        """Within it gradients start from none, and at its end those of before are added: for who edits only its own."""
        saved = [(p, p.grad) for p in self.parameters if p.grad is not None] if self.summing else []
        if saved:
            self.clear()
        yield
        for parameter, gradient in saved:
            parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)

    def apart(self) -> AbstractContextManager[None]:
        """What `isolated_gradients` was called before."""
        warnings.warn("state.apart is called isolated_gradients now", DeprecationWarning, stacklevel=2)
        return self.isolated_gradients()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it the model is in evaluation mode and nothing is differentiated; both are put back as they were."""
        before, self.training = self.training, False
        try:
            with modes_kept(self.model), torch.no_grad():
                self.model.eval()
                yield
        finally:
            self.training = before

    def clear(self) -> None:
        """Set the gradient of every parameter to None."""
        for parameter in self.parameters:
            parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """The gradients of those parameters that have one."""
        return [p.grad for p in self.parameters if p.grad is not None]


@dataclass(slots=True)
class Builder:
    """What a middleware's `setup(builder)` sees: the model on its device, before the optimizer is built from names.

    groups: (patterns, options) pairs; each option of a parameter comes from the first pair that matches it and states that
    option, and what none states is the optimizer's own. strict: whether weights must be bitwise the same on any number of
    ranks: who cannot hold that refuses. local_updates: the middleware that brings replicas together by itself, so that the
    mesh does not sum their gradients; buckets: one that says how a bucket of gradients is summed, (bucket, group) -> future,
    and how; local_stages: where this rank keeps some stages of the model, what is known of the whole (`LocalStages`); turns:
    whether a step is made of several; turn, only: the one that is built, and patterns of what it trains.
    """

    model: nn.Module
    seed: int
    device: torch.device
    groups: list[tuple[tuple[str, ...], dict[str, Any]]] = field(default_factory=list)
    strict: bool = False
    local_updates: str | None = None
    buckets: tuple[str, Callable[[Tensor, Any], Any]] | None = None
    local_stages: Any = None
    turns: bool = False
    turn: str | None = None
    only: tuple[str, ...] | None = None

    def match(self, patterns: tuple[str, ...] | list[str] | str, where: str) -> list[str]:
        """Names of parameters that match shell-style patterns (`encoder.*`). Raises SpecError where one matches none."""
        every = (
            list(self.local_stages.everywhere)
            if self.local_stages is not None
            else [name for name, _ in self.model.named_parameters()]
        )
        known, found = set(every), dict[str, None]()
        for pattern in (patterns,) if isinstance(patterns, str) else patterns:
            if pattern in known:  # many patterns are names, and there are as many of these
                hits = [pattern]
            else:
                hits = [n for n in every if fnmatch.fnmatchcase(n, pattern) or n.startswith(pattern + ".")]
            if not hits:
                raise SpecError(f"{where}: no parameter matches {pattern!r}; {nearest(pattern, every)}")
            found.update(dict.fromkeys(hits))
        return list(found)

    def freeze(self, patterns: tuple[str, ...] | list[str] | str, where: str = "freeze") -> list[str]:
        """Stop the training of the parameters that match, and return their names."""
        names = self.match(patterns, where)
        for name in names:
            self.model.get_parameter(name).requires_grad_(False)
        return names

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters that are trained. Raises SpecError where there are none."""
        found = [(self.name(n, p), p) for n, p in self.model.named_parameters() if p.requires_grad]
        if self.only is not None:
            own = set(self.match(self.only, f"turns.{self.turn}.parameters"))
            found = [(name, p) for name, p in found if name in own]
            if not found:
                raise SpecError(f"turns.{self.turn}.parameters: all that match are frozen, so the turn trains nothing")
        if not found:
            raise SpecError(f"model: {type(self.model).__name__} has no parameter to train (all are frozen, or there are none)")
        return found

    def name(self, name: str, parameter: nn.Parameter) -> str:
        """What a parameter of the model is called in the whole model."""
        known: str = name if self.local_stages is None else self.local_stages.names[id(parameter)]
        return known

    def grouped(self) -> list[tuple[tuple[int, ...], list[str]]]:
        """The rules that apply, and the names of the trained parameters of the whole model to which they do: in the order of
        the optimizer's groups, one for each set of rules, and within each in the model's order."""
        rules = [set(self.match(patterns, "param_groups")) for patterns, _ in self.groups]
        here = [name for name, _ in self.trainable()]
        found: dict[tuple[int, ...], list[str]] = {}
        for name in (
            here if self.local_stages is None else [n for n, trained in self.local_stages.everywhere.items() if trained]
        ):
            found.setdefault(tuple(i for i, names in enumerate(rules) if name in names), []).append(name)
        return sorted(found.items())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups as torch optimizers take them, each with `names`; see `grouped`. A rank that keeps a part of the
        model has all groups, some of them empty."""
        here = dict(self.trainable())
        made: list[dict[str, Any]] = []
        for applying, every in self.grouped():
            names = [name for name in every if name in here]
            options = {k: v for i in reversed(applying) for k, v in self.groups[i][1].items()}
            made.append({"params": [here[name] for name in names], "names": names, **options})
        return made
