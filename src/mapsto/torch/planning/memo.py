"""The memo: what an operator made of arguments once, it makes of arguments like them again, without being worked out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

_C: Any = torch._C
_Made = Callable[[FakeTensorMode, Sequence[FakeTensor]], Any]
PLAIN = frozenset({int, float, bool, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None)})
"""Arguments that are compared by their values; 1, 1.0 and True are not the same."""


class Memo:
    """(operator, what its arguments are like) -> what it makes: new tensors, views of an argument, the arguments themselves.

    Fake tensors are alike where shape, strides, offset, type and device are equal. What depends on more (a value, a tensor
    that is real, sparse or of another class, several arguments of which a result may be a view) is worked out each time.
    Nothing of a mode or of a mesh is kept, so one memo serves every world.
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, tuple[_Made, ...]] | None] = {}

    def carry_out(self, mode: FakeTensorMode, operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the operator makes in this mode, worked out where it is not known."""
        tensors: list[FakeTensor] = []
        key = _key(mode, operator, args, kwargs, tensors)
        if key is None:
            return operator(*args, **kwargs)
        if key not in self._known:
            result = operator(*args, **kwargs)
            unchanged = _key(mode, operator, args, kwargs, []) == key
            self._known[key] = _described(result, tensors) if unchanged else None
            return result
        known = self._known[key]
        if known is None:
            return operator(*args, **kwargs)
        kind, made = known
        results = [make(mode, tensors) for make in made]
        return results[0] if kind is None else kind(results)


def _key(
    mode: FakeTensorMode, operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], tensors: list[FakeTensor]
) -> Any:
    """What a result depends on, None where not all of it is seen; the tensors are collected."""
    found: list[Any] = [operator, torch.get_default_dtype(), torch.is_inference_mode_enabled(), *kwargs]
    seen = _likened(args, mode, found, tensors) and (not kwargs or _likened(kwargs.values(), mode, found, tensors))
    return tuple(found) if seen else None


def _likened(values: Collection[Any], mode: FakeTensorMode, found: list[Any], tensors: list[FakeTensor]) -> bool:
    for value in values:
        kind = type(value)
        if kind in PLAIN:
            found += (kind, value)
        elif kind is FakeTensor:
            if value.fake_mode is not mode or not _plain(value):
                return False
            found += (value.shape, value.stride(), value.storage_offset(), value.dtype, value.fake_device)
            tensors.append(value)
        elif issubclass(kind, (list, tuple)):
            found += (kind, len(value))
            if not _likened(value, mode, found, tensors):
                return False
        else:
            return False
    return True


def _plain(tensor: FakeTensor) -> bool:
    """Whether shape, strides, offset, type and device say all of a tensor."""
    return tensor.layout is torch.strided and tensor.constant is None and not tensor.dtype.is_complex and not tensor.is_neg()


def _described(result: Any, tensors: Sequence[FakeTensor]) -> tuple[Any, tuple[_Made, ...]] | None:
    """How to make a result again from tensors like these, None where it cannot be told."""
    several = type(result) in (tuple, list)
    own = {id(tensor): number for number, tensor in enumerate(tensors)}
    storages = {id(tensor.untyped_storage()) for tensor in tensors}
    made: list[_Made] = []
    for one in result if several else (result,):
        if one is None:
            made.append(_nothing)
        elif id(one) in own:
            made.append(_argument(own[id(one)]))
        elif type(one) is not FakeTensor or not _plain(one) or one.requires_grad:
            return None
        elif (storage := id(one.untyped_storage())) not in storages:
            if one.untyped_storage().nbytes() != _least(one):
                return None
            made.append(_new(one))
            storages.add(storage)  # a second result within it is a view of no argument
        elif len(tensors) == 1 and storage == id(tensors[0].untyped_storage()):
            made.append(_view(one))
        else:
            return None
    return (type(result) if several else None), tuple(made)


def _least(tensor: Tensor) -> int:
    """Bytes of a storage that begins and ends with this tensor."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size() if tensor.numel() and not tensor.storage_offset() else 0


def _nothing(mode: FakeTensorMode, tensors: Sequence[FakeTensor]) -> None:  # noqa: ARG001
    return None


def _argument(number: int) -> _Made:
    return lambda _, tensors: tensors[number]


def _new(like: FakeTensor) -> _Made:
    shape, strides, dtype, fake = tuple(like.shape), like.stride(), like.dtype, _faked(like)

    def make(mode: FakeTensorMode, _: Sequence[FakeTensor]) -> FakeTensor:
        with _C._DisableTorchDispatch():
            made = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
        return fake(made, mode)

    return make


def _view(like: FakeTensor) -> _Made:
    shape, strides, dtype, offset, fake = tuple(like.shape), like.stride(), like.dtype, like.storage_offset(), _faked(like)

    def make(mode: FakeTensorMode, tensors: Sequence[FakeTensor]) -> FakeTensor:
        with in_kernel_invocation_manager(mode):
            made = torch.empty_strided((0,), (1,), dtype=dtype, device="meta")
            made.set_(tensors[0].untyped_storage(), offset, shape, strides)
        return fake(made, mode)

    return make


def _faked(like: FakeTensor) -> Callable[[Tensor, FakeTensorMode], FakeTensor]:
    """(meta tensor, mode) -> a fake tensor; as torch's own, of which all that is the same each time is copied from `like`."""
    own = {name: value for name, value in vars(like).items() if name != "fake_mode"}
    device = like.fake_device
    subclass: Any = Tensor._make_subclass

    def fake(meta: Tensor, mode: FakeTensorMode) -> FakeTensor:
        made: FakeTensor = subclass(FakeTensor, meta, False, dispatch_device=True, device_for_backend_keys=device)
        _C._set_throw_on_mutable_data_ptr(made)
        vars(made).update(own, fake_mode=mode)
        return made

    return fake
