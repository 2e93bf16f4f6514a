"""Partial sums of several ranks as their sum in the order of the tree, on all of them.

Each rank adds up a part of the columns: all-to-all, the tree, all-gather. On the wire that is as much as a ring all-reduce
where each rank holds one node (a power of two of ranks that divides the leaves), else as often as it holds nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..group import all_gather
from .tree import block, cover, root

Parts = list[Tensor | None]
"""A gradient by parameter; None where a parameter took no part."""


def nothing(dtype: torch.dtype) -> float | complex:
    """What changes no bit of what it is added to: x + (-0.0) is x, also where x is 0.0 or -0.0."""
    return complex(-0.0, -0.0) if dtype.is_complex else -0.0


def plus(left: Tensor, right: Tensor) -> Tensor:
    """Add the right tensor to the left one in place, and return the left one."""
    real(left).add_(real(right))
    return left


def real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs: their own addition multiplies by one, in which zeros lose their sign."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def plus_parts(left: Parts, right: Parts) -> Parts:
    """In place on the left one; what is missing on one side is the other's."""
    pairs = [(real(a), real(b)) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    if pairs:
        torch._foreach_add_([a for a, _ in pairs], [b for _, b in pairs])
    return [a if a is not None else b for a, b in zip(left, right, strict=True)]


class Exchange:
    """Nodes of the ranks of a group, each of which had its block of the leaves -> the root, on all of them."""

    def __init__(self, group: dist.ProcessGroup, leaves: int) -> None:
        self.group, self.leaves = group, leaves
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        spans = [block(leaves, r, self.size) for r in range(self.size)]
        self.covers = [cover(leaves, s.start, s.stop) for s in spans]
        self.nodes = [node for found in self.covers for node in found]
        self.own = len(self.covers[self.rank])

    def padded(self, count: int) -> int:
        """The least multiple of the ranks that holds so many columns."""
        return -(-count // self.size) * self.size

    def __call__(self, sent: Tensor, room: Callable[[str, int], Tensor]) -> Tensor:
        """sent: [own nodes, columns], the columns a multiple of the ranks -> [columns], the same on all.

        room(name, n): memory for n elements.
        """
        columns = sent.shape[1] // self.size
        if self.own > 1:  # by receiver first
            sent = sent.view(self.own, self.size, columns).transpose(0, 1).contiguous()
        counts = [len(found) * columns for found in self.covers]
        received = room("received", sum(counts))
        dist.all_to_all_single(received, sent.view(-1), counts, [self.own * columns] * self.size, group=self.group)
        total = root(self.leaves, zip(self.nodes, received.view(-1, columns), strict=True), plus)
        return all_gather(total, self.group, room("whole", self.size * columns)).view(-1)


class Buckets:
    """Gradients by parameter, of the ranks' nodes, through an `Exchange`, so many bytes at a time."""

    def __init__(self, parameters: Sequence[nn.Parameter], exchange: Exchange, size_mb: float) -> None:
        self.parameters, self.exchange = parameters, exchange
        self.pieces = self._cut(size_mb)
        self._room: dict[tuple[str, torch.dtype], Tensor] = {}

    def _cut(self, size_mb: float) -> list[list[tuple[int, int, int]]]:
        """(parameter, start, stop) of elements, in buckets of one dtype."""
        found: list[list[tuple[int, int, int]]] = []
        dtypes = list(dict.fromkeys((p.dtype, p.device) for p in self.parameters))
        for dtype, device in dtypes:
            most = left = max(int(size_mb * 2**20) // dtype.itemsize, 1)
            found.append([])
            for i, parameter in enumerate(self.parameters):
                if (parameter.dtype, parameter.device) != (dtype, device):
                    continue
                start = 0
                while start < parameter.numel():
                    if not left:
                        found.append([])
                        left = most
                    stop = min(start + left, parameter.numel())
                    found[-1].append((i, start, stop))
                    start, left = stop, left - (stop - start)
        return [bucket for bucket in found if bucket]

    def __call__(self, nodes: Sequence[Parts]) -> list[Tensor]:
        """The sum of all ranks' nodes by parameter; where nobody had one it is -0.0. Overwrites what it is given."""
        held = [next((n[i] for n in nodes if n[i] is not None), None) for i in range(len(self.parameters))]
        found = [h if h is not None else torch.empty_like(p) for h, p in zip(held, self.parameters, strict=True)]
        flat = [linear(f) for f in found]
        for bucket in self.pieces:
            self._exchange(bucket, nodes, flat)
        return found

    def _exchange(self, bucket: list[tuple[int, int, int]], nodes: Sequence[Parts], found: list[Tensor]) -> None:
        like = found[bucket[0][0]]
        sizes = [stop - start for _, start, stop in bucket]
        columns = self.exchange.padded(sum(sizes))
        sent = self._space("sent", like, len(nodes) * columns).view(len(nodes), columns)
        for row, node in zip(sent, nodes, strict=True):
            row[sum(sizes) :].zero_()
            filled: list[tuple[Tensor, Tensor]] = []
            for into, (i, start, stop) in zip(torch.split(row[: sum(sizes)], sizes), bucket, strict=True):
                if (gradient := node[i]) is None:
                    into.fill_(nothing(into.dtype))
                else:
                    filled.append((into, linear(gradient)[start:stop]))
            if filled:
                torch._foreach_copy_([into for into, _ in filled], [value for _, value in filled])
        whole = self.exchange(sent, lambda name, count: self._space(name, like, count))
        torch._foreach_copy_([found[i][a:b] for i, a, b in bucket], list(torch.split(whole[: sum(sizes)], sizes)))

    def _space(self, name: str, like: Tensor, count: int) -> Tensor:
        """Room that is kept: memory that is asked for anew at every step costs more than what is copied into it."""
        room = self._room.get((name, like.dtype))
        if room is None or room.numel() < count or room.device != like.device:
            room = self._room[name, like.dtype] = like.new_empty(count)
        return room[:count]


def linear(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor in the order of memory, as a view."""
    return tensor.view(-1) if tensor.is_contiguous() else tensor.as_strided((tensor.numel(),), (1,))
