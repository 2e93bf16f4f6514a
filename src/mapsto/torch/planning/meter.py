"""The meter: every tensor that is made while it is on, how long it lives, and every collective that is issued."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...planning.timeline import LABELS, Timeline, settled
from ...planning.traffic import Traffic
from .traffic import NAMESPACES, collectives

_Mode: Any = TorchDispatchMode
COPIES = ("all_gather_copy_in", "split_with_sizes_copy", "chunk_cat")
"""Operators of FSDP2 that copy between parameters or gradients and what is communicated."""


class Meter(_Mode):
    """tensors made and collectives issued -> bytes alive at each moment, by what they are for, and bytes communicated.

    It counts storages, so views and aliases count once, and those that FSDP empties and fills again count by their size
    at the moment. It works the same on fake and on real tensors. Sizes are what was asked for: an allocator's rounding
    and fragmentation are not in them.
    mode: the fake tensors that count; None: real tensors do. (DTensor works out shapes with fake tensors of its own.)
    """

    def __init__(self, mode: FakeTensorMode | None = None) -> None:
        super().__init__()
        self.mode = mode
        self.traffic: list[Traffic] = []
        self._events: list[tuple[int, int]] = []
        """(storage number, change of its bytes) in order."""
        self._alive: dict[int, tuple[int, weakref.ref[Any]]] = {}
        """Identity of a storage -> its number and a reference that tells of its end."""
        self._sizes: dict[int, int] = {}
        self._labels: dict[int, str] = {}
        self._like: dict[int, int] = {}
        """Of storages that are not there, the one that each repeats."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # a guard around each operator, which takes longer than the operator

    # -- watching ----------------------------------------------------------------------------------------------------
    def __enter__(self) -> Meter:
        resize = self._resize = torch.UntypedStorage.resize_  # it passes by no dispatcher

        @functools.wraps(resize)
        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            self._measure(storage)
            return result

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign,assignment]
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*raised)

    def __torch_dispatch__(
        self, operator: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if _wrapped(tuple(types)):
            return NotImplemented  # it becomes operators on local tensors and collectives, which are what is counted
        kwargs = kwargs or {}
        result = self.carry_out(operator, args, kwargs)
        namespace = namespace_of(operator)
        if namespace in NAMESPACES:
            self.traffic.extend(collectives(operator, args, kwargs, result))
            communicated: Any = (args, result)
        elif namespace == "fsdp" and operator.__name__.partition(".")[0] in COPIES:
            communicated = (args, kwargs, result)
        else:
            if namespace != "prim":  # a question
                for tensor in self._tensors(result):
                    self._measure(tensor.untyped_storage())
            return result
        for tensor in self._tensors(communicated):
            self._labels.setdefault(self._measure(tensor.untyped_storage()), "communication")
        return result

    def carry_out(self, operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call the operator."""
        return operator(*args, **kwargs)

    def _tensors(self, tree: Any) -> Iterator[Tensor]:
        """The tensors in a tree that have memory of their own and count."""
        for leaf in (tree,) if isinstance(tree, Tensor) else tree_leaves(tree):
            if isinstance(leaf, Tensor) and getattr(leaf, "fake_mode", None) is self.mode and not _is_wrapper(type(leaf)):
                yield from (leaf,) if leaf.layout is torch.strided else _parts(leaf)

    def _measure(self, storage: torch.UntypedStorage) -> int:
        """Note how large a storage is now; its number."""
        key, size = id(storage), storage.nbytes()
        known = self._alive.get(key)
        if known is None:
            number = len(self._sizes)
            self._alive[key] = (number, weakref.ref(storage, functools.partial(self._end, key)))
            self._sizes[number] = 0
        else:
            number = known[0]
        if change := size - self._sizes[number]:
            self._events.append((number, change))
            self._sizes[number] = size
        return number

    def _end(self, key: int, _: Any) -> None:
        number, _ = self._alive.pop(key)
        if self._sizes[number]:
            self._events.append((number, -self._sizes[number]))
            self._sizes[number] = 0

    # -- repeating -----------------------------------------------------------------------------------------------------
    @property
    def made(self) -> int:
        """Storages that were seen until now: the number of the next one."""
        return len(self._sizes)

    def events(self, since: int) -> list[tuple[int, int]]:
        """(storage number, change of its bytes) from a moment on."""
        return self._events[since:]

    def number_of(self, tensor: Tensor) -> int | None:
        """The number of a tensor's storage, where it is known and alive."""
        return self._alive.get(id(tensor.untyped_storage()), (None,))[0]

    def alive_now(self, number: int) -> bool:
        """Whether a storage has not come to its end."""
        return self._sizes[number] > 0

    def label_of(self, number: int) -> str:
        """What a storage was for."""
        return self._labels.get(self._like.get(number, number), "activations")

    def repeat(self, number: int | None, change: int, like: int) -> int:
        """Note a change of a storage that is not there (None: a new one), for what the storage `like` was for; its number."""
        if number is None:
            number = len(self._sizes)
            self._sizes[number], self._like[number] = 0, like
        self._events.append((number, change))
        self._sizes[number] += change
        return number

    def end(self, tensor: Tensor) -> None:
        """Note the end of a tensor's storage before it comes."""
        number, _ = self._alive.pop(id(tensor.untyped_storage()))
        self._events.append((number, -self._sizes[number]))
        self._sizes[number] = 0

    # -- asking ------------------------------------------------------------------------------------------------------
    def label(self, tensors: Iterable[Any], label: str) -> int:
        """Say what these tensors are for; the bytes of their storages on this rank."""
        found = {id(s): s for t in tensors for s in _storages(t)}
        for storage in found.values():
            self._labels[self._measure(storage)] = label
        return sum(s.nbytes() for s in found.values())

    def label_the_rest(self, label: str) -> None:
        """Say what everything that is alive and has no label yet is for."""
        for number, _ in self._alive.values():
            self._labels.setdefault(number, label)

    def alive(self, label: str) -> int:
        """Bytes alive now with this label."""
        return sum(self._sizes[number] for number, _ in self._alive.values() if self._labels.get(number) == label)

    @property
    def now(self) -> int:
        """A moment, to be handed to `peak`."""
        return len(self._events)

    def timeline(self, since: int = 0) -> Timeline:
        """What changed from a moment on, by what it was for.

        Optimizer state that a first step made is counted as if it had been there from the beginning, which is how it is
        in every other step.
        """
        places = {label: place for place, label in enumerate(LABELS)}
        optimizer = places["optimizer"]
        kinds = [places[self.label_of(n)] for n in range(len(self._sizes))]
        whole = np.array([(kinds[n], change) for n, change in self._events], np.int64).reshape(-1, 2)
        state = sum(size for n, size in self._sizes.items() if kinds[n] == optimizer)
        before, after = (part[part[:, 0] != optimizer] for part in (whole[:since], whole[since:]))
        held = np.array([before[before[:, 0] == place, 1].sum() for place in places.values()], np.int64)
        held[optimizer] = state
        return Timeline(held, settled(after))

    def peak(self, since: int = 0) -> tuple[int, dict[str, int]]:
        """The most bytes alive at once from a moment on, and by label what they were."""
        return self.timeline(since).peak()


@functools.cache
def namespace_of(operator: Any) -> str:
    """Where an operator comes from, such as `aten`."""
    return str(operator.namespace)


@functools.cache
def _wrapped(kinds: tuple[type, ...]) -> bool:
    return any(kind is not Tensor and _is_wrapper(kind) for kind in kinds)


@functools.cache
def _is_wrapper(kind: type) -> bool:
    """Whether tensors of a class hold other tensors (DTensor, AsyncCollectiveTensor)."""
    return hasattr(kind, "__tensor_flatten__") or kind.__name__ == "AsyncCollectiveTensor"


def _storages(value: Any) -> Iterator[torch.UntypedStorage]:
    """The storages of a tensor on this rank: of a wrapper those of what it holds; of anything else none."""
    if not isinstance(value, Tensor):
        return
    tensor: Any = value
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _storages(getattr(tensor, name))
    elif type(tensor).__name__ == "AsyncCollectiveTensor":
        yield from _storages(tensor.elem)
    else:
        yield from (p.untyped_storage() for p in ((tensor,) if tensor.layout is torch.strided else _parts(tensor)))


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """The dense parts of a sparse tensor."""
    accessors: dict[Any, tuple[Callable[[Tensor], Tensor], ...]] = {
        torch.sparse_coo: (Tensor._indices, Tensor._values),
        torch.sparse_csr: (Tensor.crow_indices, Tensor.col_indices, Tensor.values),
    }
    for access in accessors.get(tensor.layout, ()):
        yield access(tensor)
