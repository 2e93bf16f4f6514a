"""The outline of a model: its forward as a graph of calls of its parts, which stay closed (torch.fx)."""

from __future__ import annotations

import inspect
import operator

import torch
from torch import fx, nn

from ...core.errors import SpecError

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that are opened, since they do nothing but hold and call others."""
PLAIN = (type(None), bool, int, float, str)


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return type(m) not in CONTAINERS


def outline(model: nn.Module) -> fx.Graph:
    """The graph of `model.forward`: calls of its modules, of functions, and readings of its parameters.

    An argument with a plain default is taken not to be given. Raises SpecError where the code of `forward` looks at values,
    which no graph can follow.
    """
    if type(model) in CONTAINERS and not isinstance(model, nn.Sequential):
        raise SpecError(f"{type(model).__name__} has no forward of its own")
    given = inspect.signature(type(model).forward).parameters.values()
    defaults = {p.name: p.default for p in given if isinstance(p.default, PLAIN)}
    try:
        graph = _Tracer().trace(model, concrete_args=defaults or None)
    except Exception as error:  # whatever its code does that cannot be followed
        said = str(error).strip().splitlines()
        raise SpecError(
            f"the forward of {type(model).__name__} cannot be followed ({type(error).__name__}: {said[0] if said else ''})"
        ) from error
    return _without_checks(graph)


def _without_checks(graph: fx.Graph) -> fx.Graph:
    """Leave out the assertions that arguments have their defaults, and then the arguments themselves."""
    for node in reversed(list(graph.nodes)):
        checks = node.op == "call_function" and node.target in (torch._assert, fx._symbolic_trace._assert_is_none)
        if checks or (not node.users and (node.op == "placeholder" or node.target is operator.eq)):
            graph.erase_node(node)
    return graph


def reads(model: nn.Module, part: str) -> str | None:
    """Why the weights of a part cannot be known to be used by calling it alone; None where they can.

    Every module that holds the part, from the model down, is followed.
    """
    path = part.split(".")
    for depth in range(len(path)):
        owner = model.get_submodule(".".join(path[:depth]))
        if type(owner) in CONTAINERS and depth:
            continue
        try:
            graph = outline(owner)
        except SpecError as error:
            return str(error)
        own = ".".join(path[depth:])
        for node in graph.nodes:
            if node.op == "get_attr" and str(node.target).startswith(own + "."):
                return f"{type(owner).__name__} reads {node.target} directly"
    return None
