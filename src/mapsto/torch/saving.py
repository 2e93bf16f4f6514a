"""Saving: the state of a program as a tree, from names and back, with the dtypes it had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError
from .mesh.one import whole

if TYPE_CHECKING:
    from .program import Program


def program_state(program: Program) -> dict[str, Any]:
    """model, optimizer (state by parameter name), schedule, middleware (those that have state), step."""
    state = program.state
    return {
        "model": dict(state.model.state_dict()),
        "optimizer": optimizer_state(state.optimizer, state.names),
        "schedule": None if state.schedule is None else state.schedule.state_dict(),
        "middleware": {n: m.state_dict() for n, m in program.middleware.items() if hasattr(m, "state_dict")},
        "step": state.step,
    }


def restore_program(program: Program, tree: Mapping[str, Any]) -> None:
    """Put `program_state` back. Everything is compared before anything is changed.

    Raises CheckpointError naming every key that is missing, unexpected or of another shape.
    """
    state = program.state
    stateful = {n: m for n, m in program.middleware.items() if hasattr(m, "state_dict")}
    same_keys("the checkpoint", tree, ("model", "optimizer", "schedule", "middleware", "step"))
    same_keys("middleware", tree["middleware"], stateful)
    _same_model(state.model, tree["model"])
    same_keys("optimizer parameter", tree["optimizer"]["names"], state.names)
    if (tree["schedule"] is None) != (state.schedule is None):
        has, lacks = ("run", "checkpoint") if tree["schedule"] is None else ("checkpoint", "run")
        raise CheckpointError(f"the {has} has a schedule and the {lacks} has none")
    if state.schedule is not None:  # `load_state_dict` of schedules takes what there is; private names differ by version
        own = {n for n in state.schedule.state_dict() if not n.startswith("_")}
        same_keys("schedule", own & set(tree["schedule"]), sorted(own))
    state.model.load_state_dict(tree["model"])
    if state.schedule is not None:
        state.schedule.load_state_dict(tree["schedule"])
    restore_optimizer(state.optimizer, state.names, state.parameters, tree["optimizer"])
    for name, made in stateful.items():
        made.load_state_dict(tree["middleware"][name])
    state.step = int(tree["step"])


def optimizer_state(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Any]:
    """The optimizer's state_dict with parameter names in place of numbers."""
    plain = optimizer.state_dict()
    return {
        "names": list(names),
        "state": {names[k] if isinstance(k, int) else k: v for k, v in plain["state"].items()},
        "groups": [{**g, "params": [names[i] for i in g["params"]]} for g in plain["param_groups"]],
        **{k: v for k, v in plain.items() if k not in ("state", "param_groups")},
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: list[str], parameters: list[nn.Parameter], tree: Mapping[str, Any]
) -> None:
    """Put `optimizer_state` back, dtypes included (`load_state_dict` casts state to the parameter's dtype: pytorch#43706)."""
    number = {name: i for i, name in enumerate(names)}
    groups = [{**g, "params": [number[n] for n in g["params"]]} for g in tree["groups"]]
    state = {number.get(k, k): v for k, v in tree["state"].items()}
    more = {k: v for k, v in tree.items() if k not in ("names", "state", "groups")}
    sizes = [len(g["params"]) for g in optimizer.state_dict()["param_groups"]]
    saved = [len(g["params"]) for g in groups]
    if sizes != saved:
        raise CheckpointError(f"the optimizer's groups hold {sizes} parameters here, {saved} in the checkpoint")
    optimizer.load_state_dict({"state": state, "param_groups": groups, **more})
    for name, parameter in zip(names, parameters, strict=True):
        for key, value in tree["state"].get(name, {}).items():
            held = optimizer.state[parameter].get(key)
            if isinstance(value, Tensor) and isinstance(held, Tensor) and held.dtype != value.dtype:
                optimizer.state[parameter][key] = value.to(held.device, copy=True)


def weights(model: nn.Module) -> dict[str, Any]:
    """Copies of weights and buffers on the host: NumPy arrays, or CPU tensors of a dtype that NumPy lacks."""
    copies = {n: whole(v).to("cpu", copy=True) for n, v in model.state_dict().items() if isinstance(v, Tensor)}
    lacking = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
    return {n: v if v.dtype in lacking else v.numpy() for n, v in copies.items()}


def _same_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
    own = model.state_dict()
    same_keys("model key", saved, own)
    wrong = [
        f"{n}: {list(saved[n].shape)} in the checkpoint, {list(v.shape)} in the model"
        for n, v in own.items()
        if isinstance(v, Tensor) and saved[n].shape != v.shape
    ]
    if wrong:
        raise CheckpointError("weights do not fit:\n  " + "\n  ".join(wrong))


def same_keys(what: str, saved: Iterable[str], own: Iterable[str]) -> None:
    """Raises CheckpointError naming what is missing and what is unexpected."""
    saved, own = list(saved), list(own)
    missing, extra = [k for k in own if k not in set(saved)], [k for k in saved if k not in set(own)]
    if missing or extra:
        said = [f"missing: {', '.join(missing)}"] if missing else []
        said += [f"unexpected: {', '.join(extra)}"] if extra else []
        raise CheckpointError(f"{what}: the checkpoint does not fit this run ({'; '.join(said)})")
