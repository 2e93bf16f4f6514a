"""Stages that are alike: what one of them needs, a later one does not exceed, so it is not rehearsed again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor, fx, nn

from ..mesh.pipeline.sections import Section

PLAIN = (int, float, str, bool, tuple, type(None))


def kinds(model: nn.Module, cut: Sequence[Section]) -> list[Hashable]:
    """What each section computes and holds, without names: two that are equal do the same to inputs of the same shapes.

    Whatever is not seen through (a function as a piece, a hook, a forward of an instance's own, an attribute that is an object,
    a parameter that several sections have) is equal to itself alone.
    """
    held = [{id(p) for name in section.uses for p in _parameters(model, name)} for section in cut]
    holders = Counter(key for each in held for key in each)
    alone = [all(holders[key] == 1 for key in each) for each in held]
    return [_kind(model, section) if own else id(section) for section, own in zip(cut, alone, strict=True)]


def _kind(model: nn.Module, section: Section) -> Hashable:
    if not section.steps:
        return id(section)
    numbers: dict[fx.Node, int] = {}
    found: list[Hashable] = []
    for number, step in enumerate(section.steps):
        if isinstance(step, nn.Module):
            found.append(_module(step))
        elif isinstance(step, fx.Node):
            numbers[step] = number
            args = fx.map_arg((step.args, dict(step.kwargs)), lambda node: f"%{numbers[node]}")
            target = step.target
            if step.op == "call_module":
                target = _module(model.get_submodule(str(target)))  # type: ignore[assignment]
            found.append((step.op, target, repr(args)))
        else:
            found.append(id(step))
    return tuple(found)


def _module(module: nn.Module) -> Hashable:
    found: list[Hashable] = []
    for name, one in module.named_modules():
        own = {key: value for key, value in vars(one).items() if key not in _USUAL}
        attributes = tuple((key, _value(value)) for key, value in sorted(own.items()))
        hooks = tuple(id(one) for key in _USUAL if key.endswith("hooks") and vars(one).get(key))
        tensors = tuple(
            (key, None if t is None else (t.shape, t.dtype, t.requires_grad))
            for key, t in (*one._parameters.items(), *one._buffers.items())
        )
        found.append((name, type(one), attributes, hooks, tensors))
    return tuple(found)


_USUAL = frozenset(vars(nn.Module()))
"""What every module has."""


def _value(value: Any) -> Hashable:
    return (type(value), repr(value)) if isinstance(value, PLAIN) else id(value)


def _parameters(model: nn.Module, name: str) -> list[Tensor]:
    """Those of a module, or the parameter or buffer of that name."""
    try:
        return list(model.get_submodule(name).parameters())
    except AttributeError:
        owner, _, own = name.rpartition(".")
        found = getattr(model.get_submodule(owner), own, None)
        return [found] if isinstance(found, Tensor) else []
