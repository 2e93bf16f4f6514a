"""What a spec says of the processes, what lies where, and what a wing gives for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .partition import Rows


class Options(Protocol):
    """What a spec says of the processes (the mesh `servers` says what each means)."""

    servers: int
    workers: int
    staleness: int
    address: str | None
    cpus: float
    gpus: float
    save_every: int | None
    folder: str | None
    restarts: int
    timeout: float


@dataclass(frozen=True)
class Layout:
    """Shapes of the trained parameters by name, the rows of them that each server holds, and the blocks of micro-shards,
    one a worker."""

    shapes: Mapping[str, tuple[int, ...]]
    shards: Sequence[Rows]
    blocks: list[range]


@dataclass(frozen=True)
class Actors:
    """What a wing gives: classes whose instances are Ray's actors, and how a program's state tree lies on them.

    server: has `build(shipment, rank, shards, timeout)`, `connect(peers, generation)`, `alive()`, `apply(step, names, metrics,
    *gradients)` -> `{"metrics": ..., "rates": ...}`, `observe(metrics)`, `tree()`, `load(part)`, `save(folder, keep)`,
    `restore(folder, step)`, and `receive` in Ray's concurrency group `exchange`; worker: has `build(shipment, number, shards,
    timeout)`, `connect(servers)`, `work(step, block)` -> what it tells, then gradients for each server, and `close()`;
    cut: (tree, server) -> what `load` of that server takes; join: what their `tree` gave -> the tree of one program.
    """

    server: type
    worker: type
    cut: Callable[[Mapping[str, Any], int], Any]
    join: Callable[[Sequence[Any]], dict[str, Any]]
