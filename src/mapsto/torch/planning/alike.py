"""Stages that are alike: what one of them needs, a later one does not exceed, so it is not stepped again."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, fx, nn
from torch.distributed.tensor.placement_types import Placement

from ..mesh.pipeline.sections import Section

PLAIN = (int, float, str, bool, tuple, type(None), Placement)


def kinds(model: nn.Module, cut: Sequence[Section]) -> list[Hashable]:
    """What each section computes and holds, without names: two that are equal do the same to inputs of the same shapes.

    Whatever is not seen through (a function as a piece, an attribute or a value in a hook that is an object, a parameter that
    several sections have) is equal to itself alone.
    """
    held = [{id(p) for name in section.uses for p in _parameters(model, name)} for section in cut]
    holders = Counter(key for each in held for key in each)
    own = [all(holders[key] == 1 for key in each) for each in held]
    return [_kind(model, section) if one else id(section) for section, one in zip(cut, own, strict=True)]


def own_parameters(model: nn.Module, block: nn.Module) -> bool:
    """Whether no other module has a parameter or buffer of this one."""
    inside = {id(module) for module in block.modules()}
    held = {id(t) for module in block.modules() for t in _tensors(module)}
    return not any(id(t) in held for module in model.modules() if id(module) not in inside for t in _tensors(module))


def _tensors(module: nn.Module) -> list[Tensor]:
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]


def _kind(model: nn.Module, section: Section) -> Hashable:
    if not section.steps:
        return id(section)
    numbers: dict[fx.Node, int] = {}
    found: list[Hashable] = []
    for number, step in enumerate(section.steps):
        if isinstance(step, nn.Module):
            found.append(kind_of(step))
        elif isinstance(step, fx.Node):
            numbers[step] = number
            args = fx.map_arg((step.args, dict(step.kwargs)), lambda node: f"%{numbers[node]}")
            target = step.target
            if step.op == "call_module":
                target = kind_of(model.get_submodule(str(target)))  # type: ignore[assignment]
            found.append((step.op, target, repr(args)))
        else:
            found.append(id(step))
    return tuple(found)


def kind_of(module: nn.Module) -> Hashable:
    """What a module and those in it are and hold, without values of tensors; equal where they do the same."""
    names = {id(one): name for name, one in module.named_modules()}
    found: list[Hashable] = []
    for name, one in module.named_modules():
        own = {key: value for key, value in vars(one).items() if key not in _USUAL}
        attributes = tuple((key, _value(value, names)) for key, value in sorted(own.items()))
        hooks = tuple((key, tuple(_value(h, names) for h in vars(one)[key].values())) for key in _HOOKS if vars(one).get(key))
        tensors = tuple((key, None if t is None else _held(t)) for key, t in (*one._parameters.items(), *one._buffers.items()))
        found.append((name, type(one), attributes, hooks, tensors))
    return tuple(found)


_USUAL = frozenset(vars(nn.Module()))
"""What every module has."""
_HOOKS = tuple(sorted(key for key in _USUAL if "hooks" in key))


def _held(tensor: Tensor) -> Hashable:
    """A parameter or buffer without its values; of a DTensor also how it lies on ranks."""
    return type(tensor), tensor.shape, tensor.dtype, tensor.requires_grad, repr(getattr(tensor, "placements", None))


def _value(value: Any, names: Mapping[int, str]) -> Hashable:
    """What an attribute or a hook is; functions are equal that have the same code and hold the same.

    names: of the modules that are seen, by identity: where a function holds one of them, its place counts.
    """
    if id(value) in names:
        return "module", names[id(value)]
    if type(value) is tuple:
        return tuple(_value(one, names) for one in value)
    held: tuple[Any, ...] | None = None
    if isinstance(value, functools.partial):
        held = value.func, value.args, tuple(sorted(value.keywords.items()))
    elif isinstance(value, MethodType):
        held = value.__func__, value.__self__
    elif isinstance(value, FunctionType):
        defaults = tuple(sorted((value.__kwdefaults__ or {}).items()))
        held = tuple(map(_content, value.__closure__ or ())), value.__defaults__, defaults
    if held is not None:
        inner = {**names, id(value): "itself"}
        what = (value.__code__, id(value.__globals__)) if isinstance(value, FunctionType) else ()
        return type(value), *what, *(_value(one, inner) for one in held)
    return (type(value), repr(value)) if isinstance(value, PLAIN) else id(value)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing yet
        return cell


def _parameters(model: nn.Module, name: str) -> list[Tensor]:
    """Those of a module, or the parameter or buffer of that name."""
    try:
        return list(model.get_submodule(name).parameters())
    except AttributeError:
        owner, _, own = name.rpartition(".")
        found = getattr(model.get_submodule(owner), own, None)
        return [found] if isinstance(found, Tensor) else []
