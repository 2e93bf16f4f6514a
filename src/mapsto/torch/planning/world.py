"""A world that is not there: fake tensors, which have shapes and no data, and a process group that moves nothing."""

from __future__ import annotations

import functools
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.parallel.distributed as data_parallel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed import device_mesh
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp._fully_shard import _fsdp_param
from torch.distributed.tensor import _redistribute
from torch.distributed.tensor import debug as tensor_debug
from torch.distributed.tensor._dtensor_spec import DTensorSpec
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.testing._internal.distributed.fake_pg import FakeStore

from ...core.errors import PlanError
from . import shardings
from .memo import Memo
from .meter import Meter, namespace_of
from .stages import Mail

_dist: Any = dist
_C: Any = torch._C
_c10d: Any = _C._distributed_c10d


@contextmanager
def fake_world(rank: int, ranks: int, mail: Mail | None = None) -> Iterator[FakeTensorMode]:
    """Within it this process is one rank of a world of `ranks`, and every tensor that is made is fake.

    mail: what other stages of a pipeline said, where they were stepped before.
    Raises PlanError in a process that is a rank of a real world.
    """
    if dist.is_initialized():
        raise PlanError("a plan is made in a process of its own: this one is a rank of a group that has begun")
    _forget()
    dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    try:
        with ExitStack() as stack:
            for patch in (
                *_data_parallel(),
                *_device_meshes(),
                *_sharding(),
                *shardings.patches(),
                *_modules(),
                *_objects(),
                *(mail or Mail()).patches(),
            ):
                stack.enter_context(patch)
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # the run itself will give them
            yield stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
    finally:
        dist.destroy_process_group()
        _forget()


def _forget() -> None:
    """What DTensor keeps of meshes: those of another world are equal to this one's and have groups that are no more."""
    tensor_debug._clear_sharding_prop_cache()  # type: ignore[no-untyped-call]
    _redistribute._gen_transform_infos.cache_clear()


# -- what torch does with data where there is none ---------------------------------------------------------------------
def _modules() -> Iterator[Any]:
    """`module.to(...)` and its like change parameters in place, which those without data are not: they are replaced.

    Parameters that are tied stay tied.
    """
    known: weakref.WeakKeyDictionary[Any, dict[int, tuple[Tensor, Tensor]]] = weakref.WeakKeyDictionary()

    def apply(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        for child in module.children() if recurse else ():
            child._apply(function)  # type: ignore[no-untyped-call]
        made = known.setdefault(function, {})
        for own, kind in ((module._parameters, nn.Parameter), (module._buffers, None)):
            for name, tensor in own.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    with torch.no_grad():
                        new = function(tensor)
                    if kind is not None and new is not tensor:
                        new = nn.Parameter(new, tensor.requires_grad)
                    made[id(tensor)] = (tensor, new)
                own[name] = made[id(tensor)][1]  # type: ignore[assignment]
        return module

    yield mock.patch.object(nn.Module, "_apply", apply)


def _data_parallel() -> Iterator[Any]:
    """DDP compares and broadcasts parameters when it is made, and reads data when it makes its buckets anew."""
    yield mock.patch.object(data_parallel, "_verify_param_shape_across_processes")
    yield mock.patch.object(data_parallel, "_sync_module_states")
    yield mock.patch.object(dist.distributed_c10d, "_set_pg_timeout")  # there is nothing to wait for
    yield mock.patch.object(dist, "Reducer", _Reducer)
    yield mock.patch.object(dist, "_compute_bucket_assignment_by_size", _buckets(_dist._compute_bucket_assignment_by_size))


class _Reducer(_dist.Reducer):
    """DDP's own reducer, which stays with the buckets that it has."""

    def _rebuild_buckets(self) -> bool:
        return False


def _buckets(assign: Callable[..., Any]) -> Callable[..., Any]:
    """The assignment of parameters to buckets of the size they have after the first step, when DDP knows its order."""

    @functools.wraps(assign)
    def assigned(tensors: Sequence[Tensor], limits: Sequence[int], *more: Any) -> Any:
        if list(limits) == [sys.maxsize]:
            limits = [_dist._DEFAULT_FIRST_BUCKET_BYTES, 25 * 1024 * 1024]
        return assign(tensors, limits, *more)

    return assigned


def _objects() -> Iterator[Any]:
    """Objects that ranks tell each other are bytes of data: every rank says what this one does."""

    def gather(found: list[Any], value: Any, *_: Any, **__: Any) -> None:
        found[:] = [value] * len(found)

    yield mock.patch.object(dist, "all_gather_object", gather)
    yield mock.patch.object(dist, "broadcast_object_list")


def _sharding() -> Iterator[Any]:
    """FSDP2 cuts every parameter into a piece a rank and takes one of them: of thousands only that one is made."""
    yield mock.patch.object(_fsdp_param, "_chunk_with_empty", _Chunks)


class _Chunks:
    """`torch.chunk` whose pieces are made when they are asked for; those that it lacks are empty."""

    def __init__(self, tensor: Tensor, count: int, dim: int) -> None:
        self.tensor, self.dim, self.size = tensor, dim, -(-tensor.shape[dim] // count)

    def __getitem__(self, index: int) -> Tensor:
        start, length = index * self.size, self.tensor.shape[self.dim]
        if start >= length:
            return self.tensor.new_empty(0)
        return self.tensor.narrow(self.dim, start, min(self.size, length - start))


def _device_meshes() -> Iterator[Any]:
    """A device mesh computes with real tensors of ranks, and DTensor finds shapes by fake tensors of the whole, not its own."""
    for name in ("__init__", "_concatenate"):
        if hasattr(DeviceMesh, name):
            yield mock.patch.object(DeviceMesh, name, _really(vars(DeviceMesh)[name]))
    if isinstance(own := vars(DeviceMesh).get("mesh"), property) and own.fget is not None:
        yield mock.patch.object(DeviceMesh, "mesh", property(_really(own.fget)))
    make = getattr(device_mesh, "new_group", None)
    if make is not None:  # of the groups of thousands of ranks only those that this one is in are made

        def made(ranks: Any = None, *more: Any, **options: Any) -> Any:
            inside = ranks is None or dist.get_rank() in ranks
            return make(ranks, *more, **options) if inside else dist.GroupMember.NON_GROUP_MEMBER

        yield mock.patch.object(device_mesh, "new_group", made)
    name = "_propagate_tensor_meta_non_cached"
    yield mock.patch.object(ShardingPropagator, name, _known(_really(vars(ShardingPropagator)[name])))


def _really(function: Any) -> Any:
    inner = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function

    @functools.wraps(inner)
    def real(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return inner(*map(_ranks, args), **{name: _ranks(value) for name, value in kwargs.items()})

    return type(function)(real) if inner is not function else real


_SHAPES: dict[Any, Any] = {}


def _known(shapes: Callable[[Any, Any], Any]) -> Any:
    """DTensor's shapes of what an operator makes, found once for all worlds: they follow from those of its arguments."""

    @functools.wraps(shapes)
    def known(propagator: Any, schema: Any) -> Any:
        key = (schema.op, torch.get_default_dtype(), _without_mesh((schema.args_schema, *schema.kwargs_schema.items())))
        try:
            found = _SHAPES[key]
        except KeyError:
            found = _SHAPES[key] = shapes(propagator, schema)
        except TypeError:  # of an argument that is not compared
            found = shapes(propagator, schema)
        return list(found) if type(found) is list else found

    return known


def _without_mesh(value: Any) -> Any:
    """An argument by its value; of a DTensor what it is as a whole."""
    if isinstance(value, DTensorSpec):
        return value.tensor_meta, value.device_mesh.device_type
    return tuple(map(_without_mesh, value)) if isinstance(value, (list, tuple)) else (type(value), value)


def _ranks(value: Any) -> Any:
    """A fake tensor of ranks is that of the whole world, in order, which is what `init_device_mesh` makes."""
    return torch.arange(value.numel(), dtype=value.dtype).view(value.shape) if isinstance(value, FakeTensor) else value


MEMO = Memo()
"""One for all worlds: the layers of a model and the meshes of a plan do the same to the same shapes."""
FAKE = _C._TorchDispatchModeKey.FAKE
MEMORABLE = frozenset({"aten", "_c10d_functional"})
"""Operators whose results follow from their arguments alone; of a collective too, which names its group and says its size."""
DEVICE: Any = torch.ops.prim.device.default
"""A fake tensor is asked for its device many times for each operator."""


IN_PLACE: Any = (torch.ops.c10d.allreduce_.default, torch.ops.c10d.send.default, torch.ops.c10d.recv_.default)
"""Collectives that make nothing: (tensors, ...) -> (tensors, work) of the first, work of the others."""


def _ended(tensors: Any) -> Any:
    """The work of a collective that has ended with these tensors."""
    future: Any = torch.futures.Future()
    future.set_result(tensors)
    return _c10d._create_work_from_future(future).boxed()


class FakeMeter(Meter):
    """A meter in a fake world: collectives end with what they were given, and a read of a value is answered or refused.

    What mapsto's own middleware reads are flags, which are 0 in an ordinary step; what an optimizer reads is its count of
    steps, which is 1. Anything else that decides by a value of the data cannot be planned.
    """

    def __torch_dispatch__(
        self, operator: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if operator is DEVICE and type(args[0]) is FakeTensor and not args[0].fake_mode.in_kernel_invocation:
            return args[0].fake_device
        return super().__torch_dispatch__(operator, types, args, kwargs)

    def carry_out(self, operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if operator is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            value = _answer(sys._getframe())
            if value is not None:
                return value if args[0].dtype is not torch.bool else bool(value)
        namespace = namespace_of(operator)
        if namespace in MEMORABLE and self.mode is not None and _C._get_dispatch_mode(FAKE) is self.mode:
            return MEMO.carry_out(self.mode, operator, args, kwargs)
        if operator in IN_PLACE:
            return (args[0], _ended(args[0])) if operator is IN_PLACE[0] else _ended([])
        result = operator(*args, **kwargs)
        if namespace == "c10d" and type(result) is tuple:  # (tensors, work), whose work would give nothing
            return result[0], _ended(result[0] if isinstance(result[0], list) else [result[0]])
        return result


def _answer(frame: Any) -> int | None:
    """What a read of a value is answered, by who asks; None for a stranger."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("mapsto.") and not name.startswith("mapsto.torch.planning"):
            return 0
        if name.startswith("torch.optim"):
            return 1
        if not name.startswith(("torch.", "mapsto.torch.planning", "contextlib", "unittest")) and name != "torch":
            return None
        frame = frame.f_back
    return None
