"""Sums in one order: that of a binary tree over numbered leaves, however many ranks hold them.

Floating-point addition does not associate, so a sum over ranks has the bits of one process only where every addition is
between the same two values. Here that is fixed by the leaves' numbers alone: a node (level, index) is the sum of the leaves
from index * 2^level to before (index + 1) * 2^level, its left half plus its right half. A half that lies behind the last leaf
or that nobody has is left out, so any number of leaves has its tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")
Node = tuple[int, int]
"""(level, index)."""


class Tree(Generic[T]):
    """A binary counter of partial sums: takes nodes from left to right, keeps O(log leaves) of them, and ends as the root.

    add(left, right) gives their sum and may work in place on the left one.
    """

    def __init__(self, leaves: int, add: Callable[[T, T], T]) -> None:
        self.leaves, self.add = leaves, add
        self.height = (leaves - 1).bit_length()
        self.pending: list[tuple[Node, T]] = []

    def push(self, node: Node, value: T) -> None:
        """The next node to the right, and every sum that it completes."""
        level, index = node
        while level < self.height:
            if index % 2:
                if not self.pending or self.pending[-1][0] != (level, index - 1):
                    break  # the left half is another rank's
                value = self.add(self.pending.pop()[1], value)
            elif (index + 1) << level < self.leaves:
                break  # the right half is to come
            level, index = level + 1, index // 2
        self.pending.append(((level, index), value))

    def take(self) -> list[T]:
        """The partial sums so far, from left to right (of all leaves: the root alone); the tree is empty again."""
        found, self.pending = [value for _, value in self.pending], []
        return found


def cover(leaves: int, start: int, stop: int) -> list[Node]:
    """The nodes that a tree holds once it was given the leaves from `start` to before `stop`."""
    tree: Tree[None] = Tree(leaves, lambda _left, _right: None)
    for leaf in range(start, stop):
        tree.push((0, leaf), None)
    return [node for node, _ in tree.pending]


def root(leaves: int, nodes: Iterable[tuple[Node, T]], add: Callable[[T, T], T]) -> T:
    """The sum of all leaves from nodes that cover them, from left to right."""
    tree: Tree[T] = Tree(leaves, add)
    for node, value in nodes:
        tree.push(node, value)
    (found,) = tree.take()
    return found


def block(leaves: int, index: int, parts: int) -> range:
    """The leaves of part `index` of `parts`: in a row, as even as can be."""
    return range(leaves * index // parts, leaves * (index + 1) // parts)


def owned(leaves: int, replicas: int, shards: int) -> list[tuple[int, ...]]:
    """The leaves of every data rank, replica by replica, as many for each: -1 fills up.

    A replica has a block; within it leaf `start + j * shards + s` is shard s's in its j-th pass, so that the shards of one
    pass hold neighbours, whose sums the tree completes at once.
    """
    blocks = [block(leaves, r, replicas) for r in range(replicas)]
    passes = max(-(-len(b) // shards) for b in blocks)
    return [
        tuple(b.start + j * shards + s if j * shards + s < len(b) else -1 for j in range(passes))
        for b in blocks
        for s in range(shards)
    ]
