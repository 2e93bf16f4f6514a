"""The driver of middleware: programs of a small classifier with them in its list, and what the laws read of these."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from ...core.laws import Subject, Trial
from ...core.values import use
from ...core.wings import lineage
from ...laws.compare import Array
from ...laws.middleware_inputs import RECORDS, Evaluations, Interrupted
from ..build import build_program
from ..laws.compare import arrays
from ..mappings import Grad, Metrics, Update
from ..program import Program
from ..state import State
from . import middleware_examples as examples

NAMES = {"named_parameters", "named_modules", "named_children", "named_buffers", "get_parameter", "get_submodule", "names"}
"""How code asks for the parameters and modules of a model by name."""


def complete(subject: Subject) -> Subject:
    """The subject with its driver, and with what is known of our own."""
    return replace(examples.complete(subject), driver=DRIVER)


class Watch:
    """Stands around `grad` or `update`: what passes there (`mapsto.laws.drivers.Watch`)."""

    def __init__(self, where: str) -> None:
        self.where, self.seen = where, list[dict[str, Array]]()
        self.failing = False

    def __call__(self, inner: Any) -> Any:
        return inner

    def grad(self, inner: Grad) -> Grad:
        if self.where != "grad":
            return inner

        def seen(state: State, batch: Mapping[str, Any]) -> Metrics:
            metrics = inner(state, batch)
            self._note(state)
            return metrics

        return seen

    def update(self, inner: Update) -> Update:
        if self.where != "update":
            return inner

        def seen(state: State, metrics: Metrics) -> Metrics:
            self._note(state)
            if self.failing:
                raise Interrupted("the update fails, as the law wants it to")
            return inner(state, metrics)

        return seen

    def _note(self, state: State) -> None:
        pairs = zip(state.names, state.parameters, strict=True)
        self.seen.append(arrays({n: p.grad.detach().clone() for n, p in pairs if p.grad is not None}))


class Driven:
    """A program as the laws drive it (`mapsto.laws.drivers.MiddlewareProgram`)."""

    def __init__(self, trial: Trial, made: Program, dtype: torch.dtype) -> None:
        self.trial, self.made, self.dtype = trial, made, dtype
        self.step, self.fetch, self.evaluate = made.step, made.fetch, made.evaluate
        self.state_tree, self.restore = made.state_tree, made.restore

    @property
    def position(self) -> int:
        return self.made.position

    def batch(self, step: int, size: int = RECORDS) -> dict[str, Tensor]:
        return examples.batch_of(self.trial, step, size, self.dtype)

    def parameters(self) -> dict[str, Array]:
        found: dict[str, Array] = arrays(examples.parameters(self.made))
        return found

    def evaluation_weights(self) -> dict[str, Array]:
        with self.made.evaluating():
            return self.parameters()

    def trained(self) -> dict[str, Any]:
        state, kept = self.made.state, self.made.optimizer.state
        named = zip(state.names, state.parameters, strict=True)
        found = {"model": state.model.state_dict(), "optimizer": {n: dict(kept.get(p, {})) for n, p in named}}
        copies: dict[str, Any] = arrays(copy.deepcopy(found))
        return copies

    def snapshot(self) -> dict[str, Any]:
        state = self.made.state
        decides = ("shard", "summing", "training", "step")
        return {
            "weights": self.parameters(),
            "modes": {n or "model": m.training for n, m in state.model.named_modules()},
            "requires_grad": {n: p.requires_grad for n, p in state.model.named_parameters()},
            "state": {"model": type(state.model).__name__, **{name: getattr(state, name) for name in decides}},
            "hooks": _hooks(state.model),
        }


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


class Driver:
    """How programs with middleware are built (`mapsto.laws.drivers.MiddlewareDriver`)."""

    micro_batches, scaled = examples.ACCUMULATE, use("mixed_precision", dtype="fp16")

    def build(
        self,
        trial: Trial,
        middleware: Sequence[Any],
        *,
        plain: bool = False,
        momentum: bool = False,
        seed: int | None = None,
        evaluations: Evaluations | None = None,
    ) -> Driven:
        """Dropout, statistics, AdamW and a schedule in float32; or SGD in float64 where `plain`."""
        more = trial.example.more
        model, task = more.get("model", examples.noisy_model), more.get("task", examples.classify)
        if plain:
            model = more.get("plain_model", examples.plain_model if "model" not in more else _double(model))
        optimizer: Any = use("sgd", lr=0.1, momentum=0.9 if momentum else 0.0) if plain else use("adamw", lr=1e-2)
        made = build_program(
            use(model),
            task if evaluations is None else _noting(task, evaluations),
            optimizer,
            None if plain else use("step", step_size=2, gamma=0.5),
            middleware,
            seed=trial.seed if seed is None else seed,
            device="cpu",
        )
        return Driven(trial, made, torch.float64 if plain else torch.float32)

    def watch(self, where: str) -> Watch:
        return Watch(where)

    def acts_by_name(self, trial: Trial) -> bool:
        """Whether its own code asks for the names of parameters or modules, which are others in another model."""
        own = [c for c in lineage(trial.subject.target) if c is not object]
        found = [f for c in own for f in (vars(c).values() if isinstance(c, type) else [c])]
        return any(_names(code) & NAMES for f in found if (code := getattr(f, "__code__", None)) is not None)

    def edited(self, trial: Trial, gradients: Mapping[str, Array]) -> dict[str, Array]:
        made = trial.example.more["edits"]([torch.tensor(g) for g in gradients.values()])
        return dict(zip(gradients, arrays(list(made)), strict=True))

    def arrays(self, tree: Any) -> Any:
        return arrays(tree)


def _names(code: CodeType) -> set[str]:
    """The attributes and globals that a function and those within it use."""
    return set(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


def _double(model: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def doubled() -> nn.Module:
        return model().double()

    return doubled


def _noting(task: Any, evaluations: Evaluations) -> Callable[[Any, Any], Any]:
    def noted(model: Any, batch: Any) -> Any:
        evaluations.note()
        return task(model, batch)

    return noted


DRIVER = Driver()
