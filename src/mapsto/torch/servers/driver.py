"""The driver: deals the blocks of each step to workers, has the servers apply it, and deals with what is lost on the way."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from ...core.errors import ClusterError
from ..mappings import Metrics
from . import partition, wire
from .blueprint import Shipment
from .cluster import START, Cluster, Lost, told
from .dealing import Deal, Task
from .exchange import ServerLost

log = logging.getLogger("mapsto")
T = TypeVar("T")


class Options(Protocol):
    """What a spec says of the processes (see `Servers`)."""

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
    """What lies where: shapes of the trained parameters by name, the rows of them that each server holds, and the blocks
    of micro-shards, one a worker."""

    shapes: Mapping[str, torch.Size]
    shards: Sequence[partition.Rows]
    blocks: list[range]


class Driver:
    """Servers and workers at one step, which only this process moves on: version t of the parameters becomes t + 1.

    A worker may be given steps up to `staleness` ahead of the version, and pulls the newest when it comes to them, so the
    gradients of step t are computed with parameters of version t - staleness or newer (Ho et al. 2013); all gradients of
    one global batch are summed and applied once. With a staleness of 0 that is one process's step.
    """

    def __init__(self, options: Options, shipment: Shipment, layout: Layout, total: int | None) -> None:
        self.options, self.shipment = options, shipment
        self.shapes, self.shards = layout.shapes, layout.shards
        self.total = total
        self.deal = Deal(layout.blocks)
        self.version = self.saved = self.sent = 0
        self.tasks: dict[tuple[int, int], Task] = {}
        self.rates: dict[str, float] = {}
        self.lags: Counter[int] = Counter()
        self.lost = 0
        self._generation = 0
        self._coming: dict[int, tuple[Any, Any]] = {}
        self._observed: list[tuple[int, Mapping[str, float]]] = []
        self._again: list[tuple[int, Mapping[str, float]]] = []
        self.folder = options.folder or ""
        self._cluster: Cluster | None = None
        self.servers: list[Any] = []
        self.workers: dict[int, Any] = {}

    @property
    def cluster(self) -> Cluster:
        assert self._cluster is not None  # started
        return self._cluster

    # -- starting and ending -----------------------------------------------------------------------------------------
    def start(self, tree: Mapping[str, Any]) -> None:
        """Start the processes, and give the servers the state of a program. Raises ClusterError."""
        options = self.options
        self.folder = options.folder or tempfile.mkdtemp(prefix="mapsto-servers-")
        self._cluster = Cluster(options.address, options.servers + options.workers, cpus=options.cpus, gpus=options.gpus)
        try:
            self.servers = [self.cluster.server() for _ in range(options.servers)]
            self.workers = {w: self.cluster.worker() for w in range(options.workers)}
            building = [self._build_worker(w, worker) for w, worker in self.workers.items()]
            self.cluster.each([self._build(k) for k in range(options.servers)], "server", START)
            self.cluster.each(building, "worker", START)
            self._connect()
            self._load(tree)
            for w in self.workers:
                self.deal.arrived(w)
            self.save()
        except Lost as lost:
            self.stop()
            raise ClusterError(f"mesh: the servers and workers could not be started within {START:g} s: {lost}") from lost
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes and remove what they kept on disk; safe to call twice."""
        if self._cluster is not None and self._cluster.ray.is_initialized():  # else a call would start a cluster
            with contextlib.suppress(Exception):
                closing = [w.close.remote() for w in self.workers.values()]
                self.cluster.ray.wait(closing, num_returns=len(closing), timeout=5)
            self.cluster.stop()
        if self.options.folder is None and self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _build(self, k: int) -> Any:
        return self.servers[k].build.remote(self.shipment, k, self.shards, self.options.timeout / 2)

    def _build_worker(self, w: int, worker: Any) -> Any:
        return worker.build.remote(self.shipment, w, self.shards, self.options.timeout / 2)

    def _connect(self) -> None:
        """Tell every process of the servers that there are now."""
        self._generation += 1
        peers = [[s for j, s in enumerate(self.servers) if j != k] for k in range(len(self.servers))]
        self._ask("connect", [(peers[k], self._generation) for k in range(len(self.servers))])
        for worker in self.workers.values():
            worker.connect.remote(self.servers)

    def _ask(self, method: str, arguments: Sequence[tuple[Any, ...]] | None = None, timeout: float | None = None) -> list[Any]:
        """Every server's answer. Raises Lost."""
        given = arguments if arguments is not None else [()] * len(self.servers)
        calls = [getattr(server, method).remote(*args) for server, args in zip(self.servers, given, strict=True)]
        return self.cluster.each(calls, "server", timeout or self.options.timeout)

    # -- a step ------------------------------------------------------------------------------------------------------
    def step(self) -> Metrics:
        """Move on by one step; its metrics as numbers of the host."""
        return self._reach(self.version + 1)

    def _reach(self, target: int) -> Metrics:
        """Steps until the version is `target`: more than one where the servers had to go back."""
        metrics: Metrics = {}
        while self.version < target:
            try:
                metrics = self._one()
                every = self.options.save_every
                if every and self.version % every == 0:
                    self._save()
            except Lost as lost:
                self._recover(lost)
        return metrics

    def _one(self) -> Metrics:
        step = self.version
        for metrics in [m for v, m in self._again if v == step]:
            self._ask("observe", [(metrics,)] * len(self.servers))
        self._again = [(v, m) for v, m in self._again if v > step]
        self._dispatch(step)
        answers = self._await(step)
        began = time.perf_counter()
        found, applied = self._apply(step, answers)
        self.version = step + 1
        lags = [step - answer["version"] for answer in answers]
        self.lags.update(lags)
        return {
            **found,
            "staleness/max": max(lags),
            "staleness/mean": sum(lags) / len(lags),
            "bytes/pushed": sum(answer["pushed"] for answer in answers),
            "bytes/pulled": sum(answer["pulled"] for answer in answers),
            **{f"time/{name}": max(answer[name] for answer in answers) for name in ("read", "pull", "compute")},
            "time/apply": applied - began,
        }

    def _apply(self, step: int, answers: Sequence[Mapping[str, Any]]) -> tuple[Metrics, float]:
        """Have the servers take a step on the gradients of all blocks, in the order of the blocks."""
        tasks = [self.tasks.pop((step, b)) for b in range(len(self.deal.blocks))]
        names = sorted({name for answer in answers for name in answer["names"]})
        metrics = merged([metrics for answer in answers for metrics in answer["window"]])
        replies = self._ask("apply", [(step, names, metrics, *(t.shards[k] for t in tasks)) for k in range(len(self.servers))])
        self.rates = replies[0]["rates"]
        return replies[0]["metrics"], time.perf_counter()

    # -- dealing -----------------------------------------------------------------------------------------------------
    def _dispatch(self, step: int) -> None:
        """Give workers their blocks, up to as many steps ahead as gradients may be stale."""
        self._arrivals()
        last = step + self.options.staleness
        if self.total is not None:
            last = min(last, max(self.total - 1, step))
        while self.sent <= last:
            for b in range(len(self.deal.blocks)):
                self._give(self.sent, b)
            self.sent += 1

    def _give(self, step: int, block: int) -> None:
        w = self.deal.holder[block]
        call = self.workers[w].work.options(num_returns=1 + len(self.servers))
        answer, *shards = call.remote(step, self.deal.blocks[block])
        self.tasks[step, block] = Task(step, block, w, self.workers[w], answer, shards)

    def _await(self, step: int) -> list[Mapping[str, Any]]:
        """What the workers tell of a step, by block. Workers that are dead or silent lose their blocks to others."""
        answers: dict[int, Mapping[str, Any]] = {}
        while True:
            waiting = [t for (s, b), t in self.tasks.items() if s == step and b not in answers]
            if not waiting:
                return [answers[b] for b in range(len(self.deal.blocks))]
            calls = [t.told for t in waiting]
            ready, _ = self.cluster.ray.wait(calls, num_returns=len(calls), timeout=self.options.timeout)
            for task in waiting:
                if task.told in ready:
                    answer = self._answer(task)
                    if answer is not None:
                        answers[task.block] = answer
                elif self._is_here(task):
                    self._lose(task.worker, f"it did not answer for {self.options.timeout:g} s at step {step}")

    def _answer(self, task: Task) -> Mapping[str, Any] | None:
        """What a worker told; None where it is gone, and its blocks are with others now."""
        try:
            found: Mapping[str, Any] = self.cluster.ray.get(task.told)
            return found
        except ServerLost as error:
            raise Lost([], str(getattr(error, "cause", error))) from error
        except Exception as error:  # noqa: BLE001  # whatever it raised
            if not self.cluster.is_loss(error):
                told(error, f"worker {task.worker}, step {task.step}")
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
        self._count(f"worker {w} was lost ({why})")
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
        self._coming[w] = (actor, self._build_worker(w, actor))

    def _finished(self, task: Task) -> bool:
        ready, _ = self.cluster.ray.wait([task.told], timeout=0)
        if not ready:
            return False
        try:
            self.cluster.ray.get(task.told)
        except Exception as error:  # noqa: BLE001  # whatever it raised
            return not self.cluster.is_loss(error)
        return True

    def _arrivals(self, timeout: float = 0) -> None:
        """Take in the workers that were asked for and are ready; each takes its own block again."""
        for w, (actor, built) in list(self._coming.items()):
            ready, _ = self.cluster.ray.wait([built], timeout=timeout)
            if not ready:
                continue
            del self._coming[w]
            try:
                self.cluster.ray.get(built)
            except Exception as error:  # noqa: BLE001  # whatever it raised
                if not self.cluster.is_loss(error):
                    told(error, f"worker {w}")
                self._count(f"the new worker {w} was lost too ({type(error).__name__})")
                self._replace(w)
                continue
            self.workers[w] = actor
            actor.connect.remote(self.servers)
            self.deal.arrived(w)

    def _count(self, what: str) -> None:
        self.lost += 1
        if self.lost > self.options.restarts:
            raise ClusterError(
                f"mesh: {what}; {self.lost} processes were lost in this run, and mesh.restarts allows {self.options.restarts}"
            )
        log.warning("mesh: %s", what)

    # -- servers that are lost ---------------------------------------------------------------------------------------
    def _recover(self, lost: Lost) -> None:
        """Start the servers that are gone anew, and go back with all of them to the last step that all have saved."""
        while True:
            try:
                dead = self._dead(lost)
                self._count(f"{lost.why}; all servers go back from step {self.version} to step {self.saved}")
                for k in dead:
                    self.cluster.kill(self.servers[k])
                    self.servers[k] = self.cluster.server()
                self._built(dead)
                self._connect()
                self._ask("restore", [(self.folder, self.saved)] * len(self.servers))
                break
            except Lost as again:
                lost = again
        self.tasks.clear()
        self.version = self.sent = self.saved
        self._again = list(self._observed)

    def _built(self, dead: Sequence[int]) -> None:
        try:
            self.cluster.each([self._build(k) for k in dead], "new server", START)
        except Lost as lost:
            raise Lost([dead[i] for i in lost.servers], lost.why) from lost

    def _dead(self, lost: Lost) -> list[int]:
        try:
            self._ask("alive", timeout=self.options.timeout / 2)
        except Lost as found:
            return found.servers or lost.servers
        return lost.servers

    def _steady(self, action: Callable[[], T]) -> T:
        """Do what needs all servers at the step they are at, though some may be lost meanwhile."""
        while True:
            try:
                return action()
            except Lost as lost:
                target = self.version
                self._recover(lost)
                self._reach(target)

    # -- state -------------------------------------------------------------------------------------------------------
    def observe(self, metrics: Mapping[str, float]) -> None:
        """Hand evaluation metrics to the servers' schedules."""
        self._steady(lambda: self._ask("observe", [(dict(metrics),)] * len(self.servers)))
        self._observed.append((self.version, dict(metrics)))

    def tree(self) -> dict[str, Any]:
        """The state of all servers put together, in form that of one program without its buffers."""
        trees = self._steady(lambda: self._ask("tree"))
        found: dict[str, Any] = partition.join([wire.unpack_tree(t) for t in trees], self.shapes, self.shards)
        return found

    def load(self, tree: Mapping[str, Any]) -> None:
        """Put a program's state on the servers."""
        try:
            self._load(tree)
        except Lost as lost:
            self._recover(lost)
            self._load(tree)
        self.save()

    def _load(self, tree: Mapping[str, Any]) -> None:
        parts = [partition.cut(tree, self.shapes, self.shards, k) for k in range(len(self.servers))]
        self._ask("load", [(wire.pack_tree(part),) for part in parts])
        self.version = self.sent = int(tree["step"])
        self.tasks.clear()
        self._observed, self._again = [], []

    def save(self) -> None:
        """Have every server write its shard: what all go back to where one is lost."""
        self._steady(self._save)

    def _save(self) -> None:
        self._ask("save", [(self.folder, self.saved)] * len(self.servers))
        self.saved = self.version
        self._observed = []


def merged(window: Sequence[Metrics]) -> Metrics:
    """Metrics of micro-shards as those of one batch: (sum, weight) pairs summed, scalars averaged."""
    columns: dict[str, list[Any]] = {}
    for metrics in window:
        for name, value in metrics.items():
            columns.setdefault(name, []).append(value)
    return {
        name: tuple(map(math.fsum, zip(*values, strict=True)))
        if isinstance(values[0], tuple)
        else math.fsum(values) / len(values)
        for name, values in columns.items()
    }
