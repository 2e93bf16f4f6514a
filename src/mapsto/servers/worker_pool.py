"""The pool of workers, the blocks of micro-shards that they were given, and who takes over when one is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core.errors import ClusterError
from .cluster import START, Cluster, Lost, reraise
from .dealing import Deal, Task
from .exchange import ServerLost
from .layout import Layout, Options


class WorkerPool:
    """Workers that compute blocks of steps; `count(what)` is told of each that is lost, and may end it all."""

    def __init__(self, cluster: Cluster, options: Options, layout: Layout, shipment: Any, count: Callable[[str], None]) -> None:
        self.cluster, self.options, self.layout, self.shipment, self.count = cluster, options, layout, shipment, count
        self.deal = Deal(layout.blocks)
        self.tasks: dict[tuple[int, int], Task] = {}
        self.servers: Sequence[Any] = ()
        self.workers: dict[int, Any] = {w: cluster.worker() for w in range(options.workers)}
        self._coming: dict[int, tuple[Any, Any]] = {}
        self._building = [self._build(w, actor) for w, actor in self.workers.items()]

    def ready(self) -> None:
        """Wait until all are built. Raises Lost."""
        self.cluster.each(self._building, "worker", START)
        for w in self.workers:
            self.deal.arrived(w)

    def connect(self, servers: Sequence[Any]) -> None:
        """Tell all workers of the servers there are; what they were given before is void."""
        self.servers = servers
        self.tasks.clear()
        for actor in self.workers.values():
            actor.connect.remote(servers)

    def close(self) -> None:
        """End what the workers' readers started; waits for seconds at most."""
        with contextlib.suppress(Exception):
            closing = [actor.close.remote() for actor in self.workers.values()]
            self.cluster.ray.wait(closing, num_returns=len(closing), timeout=5)

    def _build(self, w: int, actor: Any) -> Any:
        return actor.build.remote(self.shipment, w, self.layout.shards, self.options.timeout / 2)

    # -- dealing -----------------------------------------------------------------------------------------------------
    def give(self, step: int) -> None:
        """Give every block of a step to whoever holds it."""
        self._arrivals()
        for block in range(len(self.deal.blocks)):
            self._give(step, block)

    def _give(self, step: int, block: int) -> None:
        w = self.deal.holder[block]
        call = self.workers[w].work.options(num_returns=1 + len(self.servers))
        answer, *shards = call.remote(step, self.deal.blocks[block])
        self.tasks[step, block] = Task(step, block, w, self.workers[w], answer, shards)

    def gather(self, step: int) -> list[tuple[Mapping[str, Any], list[Any]]]:
        """What came of a step, by block: what the worker told, and the gradients for each server.

        Workers that are dead or silent lose their blocks to others. Raises Lost where a server is gone, ClusterError or the
        user's own error where a worker failed.
        """
        answers: dict[int, Mapping[str, Any]] = {}
        while waiting := [t for (s, b), t in self.tasks.items() if s == step and b not in answers]:
            calls = [t.answer for t in waiting]
            arrived, _ = self.cluster.ray.wait(calls, num_returns=len(calls), timeout=self.options.timeout)
            for task in waiting:
                if task.answer in arrived:
                    if (answer := self._answer(task)) is not None:
                        answers[task.block] = answer
                elif self._is_here(task):
                    self._lose(task.worker, f"it did not answer for {self.options.timeout:g} s at step {step}")
        return [(answers[b], self.tasks.pop((step, b)).shards) for b in range(len(self.deal.blocks))]

    def _answer(self, task: Task) -> Mapping[str, Any] | None:
        """What a worker told; None where it is gone, and its blocks are with others now."""
        try:
            found: Mapping[str, Any] = self.cluster.ray.get(task.answer)
            return found
        except ServerLost as error:
            raise Lost([], str(getattr(error, "cause", error))) from error
        except Exception as error:  # noqa: BLE001  # whatever it raised
            if not self.cluster.is_loss(error):
                reraise(error, f"worker {task.worker}, step {task.step}")
            if self._is_here(task):
                self._lose(task.worker, type(error).__name__)
            elif self.tasks.get((task.step, task.block)) is task:  # what it had computed was lost with its machine
                self._give(task.step, task.block)
            return None

    def _is_here(self, task: Task) -> bool:
        """Whether the very process that was given a task is still counted upon."""
        return task.worker in self.deal.here and self.workers[task.worker] is task.actor

    # -- workers that are lost ---------------------------------------------------------------------------------------
    def _lose(self, w: int, why: str) -> None:
        """Take a worker out, deal its blocks to the others, and ask for another in its place."""
        self.count(f"worker {w} was lost ({why})")
        gone = self.workers[w]
        self.cluster.kill(gone)
        self.deal.gone(w)
        self._replace(w)
        if not self.deal.here:
            self._arrivals(START)
        if not self.deal.here:
            raise ClusterError(f"mesh: all workers were lost, and no new one was ready within {START:g} s")
        for task in [t for t in self.tasks.values() if t.actor is gone]:
            if not self._finished(task):
                self._give(task.step, task.block)

    def _replace(self, w: int) -> None:
        """Ask for a new process in a worker's place; it comes when there is room for it."""
        actor = self.cluster.worker()
        self._coming[w] = (actor, self._build(w, actor))

    def _finished(self, task: Task) -> bool:
        """Whether a task was done (or failed by itself) before its worker was lost."""
        arrived, _ = self.cluster.ray.wait([task.answer], timeout=0)
        if not arrived:
            return False
        try:
            self.cluster.ray.get(task.answer)
        except Exception as error:  # noqa: BLE001  # whatever it raised
            return not self.cluster.is_loss(error)
        return True

    def _arrivals(self, timeout: float = 0) -> None:
        """Take in the workers that were asked for and are ready; each takes its own block again."""
        for w, (actor, built) in list(self._coming.items()):
            arrived, _ = self.cluster.ray.wait([built], timeout=timeout)
            if not arrived:
                continue
            del self._coming[w]
            try:
                self.cluster.ray.get(built)
            except Exception as error:  # noqa: BLE001  # whatever it raised
                if not self.cluster.is_loss(error):
                    reraise(error, f"worker {w}")
                self.count(f"the new worker {w} was lost too ({type(error).__name__})")
                self._replace(w)
                continue
            self.workers[w] = actor
            actor.connect.remote(self.servers)
            self.deal.arrived(w)
