"""Saving: the state of a program as a tree, from names and back, with the dtypes it had."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError
from .mesh.one import is_shard, local, whole
from .rates import advanced
from .state import State

EXECUTION = ("foreach", "fused", "capturable", "differentiable")
"""Options of an optimizer's groups that say how it computes, not what: each program has its own."""


def program_state(state: State, middleware: Mapping[str, Any]) -> dict[str, Any]:
    """model, optimizer (state by parameter name), schedule, middleware (those that have state), step."""
    return {
        "model": {**state.model.state_dict(), **canonical(state, middleware)},
        "optimizer": optimizer_state(state.optimizer, state.names),
        "schedule": None if state.schedule is None else state.schedule.state_dict(),
        "middleware": {n: m.state_dict() for n, m in middleware.items() if hasattr(m, "state_dict")},
        "step": state.step,
    }


def restore_program(state: State, middleware: Mapping[str, Any], tree: Mapping[str, Any], *, reschedule: bool = False) -> None:
    """Put `program_state` back. Everything is compared before anything is changed.

    reschedule: the rates from here on are those of the program's own schedule, fresh as it is, at the tree's step.
    Raises CheckpointError naming every key that is missing, unexpected or of another shape.
    """
    compared(state, middleware, tree)
    put_back(state, middleware, tree, reschedule=reschedule)


def compared(state: State, middleware: Mapping[str, Any], tree: Mapping[str, Any]) -> None:
    """Raises CheckpointError naming every key of a `program_state` that is missing, unexpected or of another shape."""
    stateful = {n: m for n, m in middleware.items() if hasattr(m, "state_dict")}
    same_keys("the checkpoint", tree, ("model", "optimizer", "schedule", "middleware", "step"))
    same_keys("middleware", tree["middleware"], stateful)
    tree = state.mesh.local_state(tree)
    _same_model(state.model, tree["model"])
    same_keys("optimizer parameter", tree["optimizer"]["names"], state.names)
    if (tree["schedule"] is None) != (state.schedule is None):
        has, lacks = ("run", "checkpoint") if tree["schedule"] is None else ("checkpoint", "run")
        raise CheckpointError(f"the {has} has a schedule and the {lacks} has none")
    if state.schedule is not None:  # `load_state_dict` of schedules takes what there is; private names differ by version
        own = {n for n in state.schedule.state_dict() if not n.startswith("_")}
        same_keys("schedule", own & set(tree["schedule"]), sorted(own))


def put_back(state: State, middleware: Mapping[str, Any], tree: Mapping[str, Any], *, reschedule: bool = False) -> None:
    """Put back a `program_state` that fits (see `compared`)."""
    stateful = {n: m for n, m in middleware.items() if hasattr(m, "state_dict")}
    tree = state.mesh.local_state(tree)
    model = state.model.state_dict()
    state.model.load_state_dict({name: placed(value, model[name]) for name, value in tree["model"].items()})
    scheduled: Any = tree["schedule"]
    written: list[dict[str, Any]] = []
    if state.schedule is not None:
        if reschedule:
            scheduled, written = advanced(state.optimizer, state.schedule, int(tree["step"]))
        state.schedule.load_state_dict(scheduled)
    restore_optimizer(state.optimizer, state.names, state.parameters, tree["optimizer"])
    for group, options in zip(state.optimizer.param_groups, written, strict=False):
        group.update(options)
    for name, made in stateful.items():
        made.load_state_dict(placed(tree["middleware"][name], made.state_dict()))
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
    more = {k: v for k, v in tree.items() if k not in ("names", "state", "groups")}
    sizes = [len(g["params"]) for g in optimizer.param_groups]
    saved = [len(g["params"]) for g in tree["groups"]]
    if sizes != saved:
        raise CheckpointError(f"the optimizer's groups hold {sizes} parameters here, {saved} in the checkpoint")
    number, held = {name: i for i, name in enumerate(names)}, dict(zip(names, parameters, strict=True))
    groups = [
        {**there, **{k: own[k] for k in EXECUTION if k in own}, "params": sorted(number[n] for n in there["params"])}
        for there, own in zip(tree["groups"], optimizer.param_groups, strict=True)
    ]  # sorted: the optimizer goes by place, and stages of a pipeline have parameters in another order
    if [i for group in groups for i in group["params"]] != list(range(len(names))):
        raise CheckpointError("the optimizer's groups hold other parameters here than in the checkpoint")
    state = {number.get(k, k): placed(v, _alike(v, held.get(k))) for k, v in tree["state"].items()}
    optimizer.load_state_dict({"state": state, "param_groups": groups, **more})
    for name, parameter in zip(names, parameters, strict=True):
        for key, value in state.get(number[name], {}).items():
            found = optimizer.state[parameter].get(key)
            if isinstance(value, Tensor) and isinstance(found, Tensor) and found.dtype != value.dtype:
                optimizer.state[parameter][key] = value.to(found.device, copy=True)


def host(tensors: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the host, each with storage of its own; a tensor of `held` is written over where it has the same layout."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kept = held.get(name)
        if kept is not None and _fits(kept, tensor):
            local(kept).copy_(local(tensor.detach()), non_blocking=True)
            found[name] = kept
        elif is_shard(tensor):
            found[name] = tensor.detach().to("cpu", copy=True)
        else:
            found[name] = tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found


def _fits(kept: Tensor, tensor: Tensor) -> bool:
    same = type(kept) is type(tensor.detach()) and kept.shape == tensor.shape and kept.dtype == tensor.dtype
    return same and getattr(kept, "placements", None) == getattr(tensor, "placements", None)


def _alike(state: Any, parameter: Any) -> dict[str, Any]:
    """Each tensor of a parameter's state lies on the ranks as the parameter does."""
    return dict.fromkeys(state, parameter) if isinstance(state, Mapping) else {}


def placed(value: Any, like: Any) -> Any:
    """A state in which tensors lie on the ranks as those of `like` do at the same place; nothing is sent."""
    if isinstance(value, Tensor):
        fits = isinstance(like, Tensor) and is_shard(like) and not is_shard(value) and like.shape == value.shape
        return _cut(value, like) if fits else value
    if type(value) is dict:
        known = like if isinstance(like, Mapping) else {}
        return {key: placed(item, known.get(key)) for key, item in value.items()}
    if type(value) is list and isinstance(like, list) and len(like) == len(value):
        return [placed(item, other) for item, other in zip(value, like, strict=True)]
    return value


def _cut(full: Tensor, like: Any) -> Tensor:
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def canonical(state: State, middleware: Mapping[str, Any]) -> dict[str, Tensor]:
    """By name the weights that a middleware says are those of the run, where ranks hold different ones; all ranks must ask."""
    model, parameters = state.model, state.parameters
    found: dict[int, Tensor] = {}
    for made in middleware.values():
        if hasattr(made, "canonical") and (values := made.canonical()):
            found |= dict(zip(map(id, parameters), values, strict=True))
    if not found:
        return {}
    return {n: found[id(t)] for n, t in model.state_dict(keep_vars=True).items() if id(t) in found}


def weights(model: nn.Module, instead: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Copies of weights and buffers on the host: NumPy arrays, or CPU tensors of a dtype that NumPy lacks.

    instead: tensors to be taken in the place of the model's own.
    """
    held = {**model.state_dict(), **(instead or {})}
    copies = {n: whole(v).to("cpu", copy=True) for n, v in held.items() if isinstance(v, Tensor)}
    lacking = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
    return {n: v if v.dtype in lacking else v.numpy() for n, v in copies.items()}


def weights_in(path: Path) -> dict[str, Tensor]:
    """The named tensors in a file that torch saved. Raises CheckpointError where there are none, or it would run code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file of another kind, which is told below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own text advises to read it all the same, so only the name is told
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise CheckpointError(f"{path} is no file of weights alone; save its state_dict alone") from None
        raise CheckpointError(
            f"{path} holds more than weights, and reading it would run code: {named[1]}; save its state_dict alone"
        ) from None
    inside = list(found.values()) if isinstance(found, Mapping) else []
    for tree in (found, *inside):
        if isinstance(tree, Mapping) and (tensors := {str(n): v for n, v in tree.items() if isinstance(v, Tensor)}):
            for name, tensor in tensors.items():
                if tensor.is_meta or tensor.is_quantized or tensor.is_nested or tensor.layout is not torch.strided:
                    kind = "without data" if tensor.is_meta else "quantized" if tensor.is_quantized else "not dense"
                    raise CheckpointError(f"{path}: the tensor {name!r} is {kind}, and dense ones are wanted")
            return tensors
    raise CheckpointError(f"{path} holds no named tensors, but a {type(found).__name__}")


def take(model: nn.Module, initial: Any) -> None:
    """Put into a model what it takes of the weights that a run starts from (see `mapsto.engine.initial.Initial`)."""
    own = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    with torch.no_grad():
        found = initial.fit(own, _like)
        if lost := [name for name, value in found.items() if _holds_nan(value)]:
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            raise CheckpointError(
                f"init_from: {initial.source} holds not-a-number in {', '.join(lost[:3])}{more}: take another checkpoint, or "
                "leave it out (--except)"
            )
        for name, value in found.items():
            own[name].copy_(value)


def _holds_nan(tensor: Tensor) -> bool:
    return bool((tensor.float() if tensor.is_floating_point() else tensor).isnan().any())


def _like(tensor: Tensor) -> tuple[str, list[int]]:
    """The kind of a tensor's numbers, between which nothing is converted, and its shape."""
    kind = "complex" if tensor.is_complex() else "float" if tensor.is_floating_point() else "whole"
    return kind, list(tensor.shape)


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
