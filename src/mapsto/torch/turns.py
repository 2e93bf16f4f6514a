"""A program of turns: a step is several updates, each with a task, parameters, an optimizer and middleware of its own.

Each turn is a program over a state of its own, whose model is that of all; its updates are its steps, by which its schedule and
its random streams count. What a turn differentiates are its own parameters: those of others take no part in its backward pass,
their gradients are neither added to nor exchanged.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ..core.errors import CheckpointError, SpecError
from ..core.plan import MESH, Placed
from ..core.turns import Turn
from .mappings import Batch, Metrics, fold
from .middleware.accumulation import merged
from .program import Program
from .saving import compared, optimizer_state, put_back, same_keys
from .state import State

KEYS = ("model", "optimizer", "schedule", "middleware", "step", "turns")


class Optimizers:
    """The optimizers of the turns, for those who look at a program's: parameter groups and state of all, hooks on each."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.each = list(optimizers)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.each for group in optimizer.param_groups]

    @property
    def state(self) -> Mapping[Any, Any]:
        return ChainMap(*(optimizer.state for optimizer in self.each))

    def register_step_pre_hook(self, hook: Any) -> ExitStack:
        stack = ExitStack()
        for optimizer in self.each:
            stack.callback(optimizer.register_step_pre_hook(hook).remove)
        stack.remove = stack.close  # type: ignore[attr-defined]  # as torch's handles are let go
        return stack

    def step(self) -> None:
        raise SpecError("a program of turns has an optimizer a turn: program.turns[name].optimizer")


class TurnsProgram(Program):
    """A program whose `step` takes turns. turns: the program of each by name, whose `loss`, `grad`, `update` and `step_` are
    its own; what each says (`times`, `every`) stands in `said`.

    Metrics of a turn are named `NAME/loss`, ...; of several updates on a batch they are averaged. `task` evaluates.
    """

    def __init__(
        self,
        state: State,
        task: Any,
        middleware: Sequence[tuple[Placed, Any]],
        turns: Mapping[str, Program],
        said: Mapping[str, Turn],
    ) -> None:
        self.turns, self.said = dict(turns), dict(said)
        every: Any = Optimizers([turn.optimizer for turn in turns.values()])
        state.optimizer = every
        super().__init__(state, task, middleware)
        self.step_ = fold("step", self._take, [(made, placed.declared) for placed, made in middleware])
        self.grad = self.update = self._of_a_turn
        self._middleware = dict(self.middleware)
        self.middleware |= {f"{n}.{label}": made for n, turn in turns.items() for label, made in _own(turn).items()}

    def _of_a_turn(self, *_: Any) -> Any:
        raise SpecError(
            f"this program takes turns ({', '.join(self.turns)}): each has its own, program.turns[name].grad and .update"
        )

    def _take(self, state: State, batch: Batch) -> Metrics:
        found: Metrics = {}
        for name, turn in self.turns.items():
            said = self.said[name]
            if (state.step + 1) % said.every:
                continue
            window = [self._update(turn, batch) for _ in range(said.times)]
            metrics = window[0] if said.times == 1 else merged(window)
            found |= {f"{name}/{key}": value for key, value in metrics.items()}
        state.step += 1
        return found

    def _update(self, turn: Program, batch: Batch) -> Metrics:
        if turn.state.inputs is not None:
            return turn.step_(turn.state, batch)
        others = [
            (p, p.grad) for p in self._others(turn)
        ]  # sharded: a backward pass reaches all, and what it leaves is not theirs
        for parameter, _ in others:
            parameter.grad = None
        try:
            return turn.step_(turn.state, batch)
        finally:
            for parameter, gradient in others:
                parameter.grad = gradient

    def _others(self, turn: Program) -> list[nn.Parameter]:
        own = set(map(id, turn.state.parameters))
        return [p for p in self.state.parameters if id(p) not in own]

    # -- what the engine asks ----------------------------------------------------------------------------------------
    def rates(self) -> dict[str, float]:
        return {f"{name}/{key}": rate for name, turn in self.turns.items() for key, rate in turn.rates().items()}

    @property
    def awaits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for turn in self.turns.values() for name in turn.awaits))

    def observe(self, metrics: Mapping[str, float]) -> None:
        for turn in self.turns.values():
            turn.observe(metrics)

    @property
    def attention_requested(self) -> bool:
        return any(turn.attention_requested for turn in self.turns.values())

    def request_attention(self, wanted: bool = True) -> None:
        for turn in self.turns.values():
            turn.request_attention(wanted)

    def summary(self) -> dict[str, Any]:
        named = [f"{name}: {type(turn.optimizer).__name__}" for name, turn in self.turns.items()]
        scheduled = [f"{n}: {type(t.schedule).__name__}" for n, t in self.turns.items() if t.schedule is not None]
        middleware = [*(placed.name for placed in self.plan), *(n for n in self.middleware if n not in self._middleware)]
        return {
            **super().summary(),
            "optimizer": ", ".join(named),
            "schedule": ", ".join(scheduled) or None,
            "middleware": middleware,
        }

    # -- state -------------------------------------------------------------------------------------------------------
    def state_tree(self) -> dict[str, Any]:
        """As of other programs, with optimizers and schedules by turn, and how many updates each has made."""
        turns = self.turns.items()
        return {
            "model": dict(self.state.model.state_dict()),
            "optimizer": {n: optimizer_state(t.optimizer, t.state.names) for n, t in turns},
            "schedule": {n: None if t.schedule is None else t.schedule.state_dict() for n, t in turns},
            "middleware": {n: m.state_dict() for n, m in self.middleware.items() if hasattr(m, "state_dict")},
            "step": self.state.step,
            "turns": {n: t.state.step for n, t in turns},
        }

    def restore(self, tree: Mapping[str, Any], *, reschedule: bool = False) -> None:
        same_keys("the checkpoint", tree, KEYS)
        for key in ("optimizer", "schedule", "turns"):
            if not isinstance(tree[key], Mapping):
                raise CheckpointError(f"{key}: the checkpoint is not of a program of turns")
            same_keys(f"{key} of turns", tree[key], self.turns)
        same_keys("middleware", tree["middleware"], [n for n, m in self.middleware.items() if hasattr(m, "state_dict")])
        own = [(turn.state, _own(turn), self._tree(name, tree)) for name, turn in self.turns.items()]
        alone = {n: m for n, m in self._middleware.items() if hasattr(m, "state_dict")}
        for state, middleware, part in own:
            compared(state, middleware, part)
        for state, middleware, part in own:
            put_back(state, middleware, part, reschedule=reschedule)
        for name, made in alone.items():
            made.load_state_dict(tree["middleware"][name])
        self.state.step = int(tree["step"])

    def _tree(self, name: str, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Of the tree what a turn's own program would have."""
        own, steps = {f"{name}.{n}": n for n in _own(self.turns[name])}, tree["turns"][name]
        kept = {own[n]: value for n, value in tree["middleware"].items() if n in own}
        return {
            "model": tree["model"],
            "optimizer": tree["optimizer"][name],
            "schedule": tree["schedule"][name],
            "middleware": kept,
            "step": steps,
        }


def _own(turn: Program) -> dict[str, Any]:
    """The middlewares of a turn, without the mesh, which is that of all."""
    return {name: made for name, made in turn.middleware.items() if name != MESH}
