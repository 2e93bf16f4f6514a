"""DTensor's choice of shardings, made once for all planned worlds whose meshes are of one shape.

A choice follows from the operator, its arguments, and of their meshes the axes, their names, and where this rank stands. The
meshes themselves belong to one world: in what is remembered they are numbered, and those of the world that asks are put in.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec
from torch.distributed.tensor._op_schema import OpSchema, OutputSharding
from torch.distributed.tensor._sharding_prop import ShardingPropagator

_CHOSEN: dict[Any, Any] = {}


def patches() -> Iterator[Any]:
    """Where DTensor asks for the sharding of what an operator makes."""
    choose = ShardingPropagator.propagate_op_sharding_non_cached

    @functools.wraps(choose)
    def chosen(propagator: Any, schema: OpSchema) -> Any:
        meshes: list[Any] = []
        arguments = _numbered((schema.args_schema, *sorted(schema.kwargs_schema.items())), meshes)
        key = (schema.op, torch.get_default_dtype(), arguments, tuple(map(_alike, meshes)))
        try:
            known = _CHOSEN.get(key)
        except TypeError:  # of an argument that is not compared
            return choose(propagator, schema)
        if known is None:
            made = choose(propagator, schema)
            if (kept := _moved(made, meshes, range(len(meshes)))) is not None:
                _CHOSEN[key] = kept
            return made
        return _moved(known, range(len(meshes)), meshes)

    propagator = DTensor._op_dispatcher.sharding_propagator
    yield mock.patch.object(ShardingPropagator, choose.__name__, chosen)
    yield mock.patch.object(propagator, "propagate_op_sharding", functools.partial(chosen, propagator))


def _alike(mesh: Any) -> Any:
    """What a choice depends on of a mesh."""
    return mesh.device_type, tuple(mesh.shape), mesh.mesh_dim_names, tuple(mesh.get_coordinate() or ())


def _numbered(value: Any, meshes: list[Any]) -> Any:
    """A value that is compared, in which a mesh is its number in the list."""
    if isinstance(value, DTensorSpec):
        number = next((n for n, mesh in enumerate(meshes) if mesh is value.mesh), None)
        if number is None:
            number = len(meshes)
            meshes.append(value.mesh)
        return number, value.placements, value.tensor_meta, value.shard_order
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_numbered(one, meshes) for one in value)
    return type(value), value


def _moved(value: Any, before: Sequence[Any], after: Sequence[Any]) -> Any:
    """A choice in which other meshes, or their numbers, stand in the place of those before; None for one not among them."""
    try:
        return _with(value, {_key(one): other for one, other in zip(before, after, strict=True)})
    except LookupError:
        return None


def _key(mesh: Any) -> int:
    return mesh if isinstance(mesh, int) else id(mesh)


def _with(value: Any, meshes: dict[int, Any]) -> Any:
    if isinstance(value, DTensorSpec):
        made = copy.copy(value)
        made.mesh = meshes[_key(value.mesh)]
        return made
    if isinstance(value, OpSchema):
        args, kwargs = _with(value.args_schema, meshes), {name: _with(one, meshes) for name, one in value.kwargs_schema.items()}
        return OpSchema(value.op, args, kwargs, schema_info=value.schema_info)
    if isinstance(value, OutputSharding):
        return dataclasses.replace(
            value,
            output_spec=_with(value.output_spec, meshes),
            redistribute_schema=_with(value.redistribute_schema, meshes),
        )
    if type(value) in (list, tuple):
        return type(value)(_with(one, meshes) for one in value)
    return value
