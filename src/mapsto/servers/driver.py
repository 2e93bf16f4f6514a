"""The driver: deals the blocks of each step to workers, has the servers apply it, and deals with what is lost on the way."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..core.errors import ClusterError
from .cluster import START, Cluster, Lost
from .layout import Actors, Layout, Options
from .worker_pool import WorkerPool

log = logging.getLogger("mapsto")
T = TypeVar("T")
Metrics = dict[str, Any]


class Driver:
    """Servers and workers at one step, which only this process moves on: version t of the parameters becomes t + 1.

    A worker may be given steps up to `staleness` ahead of the version, and pulls the newest when it comes to them, so the
    gradients of step t are computed with parameters of version t - staleness or newer (Ho et al. 2013); all gradients of
    one global batch are summed and applied once. With a staleness of 0 that is one process's step.
    """

    cluster: Cluster
    pool: WorkerPool

    def __init__(self, options: Options, shipment: Any, layout: Layout, actors: Actors, total: int | None) -> None:
        """shipment: what every process builds its part from; total: the steps of the run, where known."""
        self.options, self.shipment, self.layout, self.actors, self.total = options, shipment, layout, actors, total
        self.version = self.saved = self.sent = 0
        self.rates: dict[str, float] = {}
        self.lags: Counter[int] = Counter()
        self.lost = 0
        self.servers: list[Any] = []
        self.folder = options.folder or ""
        self._generation = 0
        self._observed: list[tuple[int, Mapping[str, float]]] = []
        self._again: list[tuple[int, Mapping[str, float]]] = []

    # -- starting and ending -----------------------------------------------------------------------------------------
    def start(self, tree: Mapping[str, Any]) -> None:
        """Start the processes, and give the servers the state of a program. Raises ClusterError."""
        options = self.options
        self.folder = options.folder or tempfile.mkdtemp(prefix="mapsto-servers-")
        processes, classes = options.servers + options.workers, (self.actors.server, self.actors.worker)
        self.cluster = Cluster(options.address, processes, cpus=options.cpus, gpus=options.gpus, actors=classes)
        try:
            self._shipped = self.cluster.ray.put(self.shipment)
            self.servers = [self.cluster.server() for _ in range(options.servers)]
            self.pool = WorkerPool(self.cluster, options, self.layout, self._shipped, self._count)
            self.cluster.each([self._build(k) for k in range(options.servers)], "server", START)
            self.pool.ready()
            self._connect()
            self._load(tree)
            self.save()
        except Lost as lost:
            self.stop()
            raise ClusterError(f"mesh: the servers and workers could not be started within {START:g} s: {lost}") from lost
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes and remove what they kept on disk; safe to call twice."""
        if hasattr(self, "cluster") and self.cluster.ray.is_initialized():  # else a call would start a cluster
            if hasattr(self, "pool"):
                self.pool.close()
            self.cluster.stop()
        if self.options.folder is None and self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _build(self, k: int) -> Any:
        return self.servers[k].build.remote(self._shipped, k, self.layout.shards, self.options.timeout / 2)

    def _connect(self) -> None:
        """Tell every process of the servers that there are now."""
        self._generation += 1
        peers = [[s for j, s in enumerate(self.servers) if j != k] for k in range(len(self.servers))]
        self._ask("connect", [(peers[k], self._generation) for k in range(len(self.servers))])
        self.pool.connect(self.servers)

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
        done = self.pool.gather(step)
        answers = [told for told, _ in done]
        began = time.perf_counter()
        replies = self._apply(step, answers, [shards for _, shards in done])
        self.version = step + 1
        self.rates = replies[0]["rates"]
        lags = [step - answer["version"] for answer in answers]
        self.lags.update(lags)
        return {
            **replies[0]["metrics"],
            "staleness/max": max(lags),
            "staleness/mean": sum(lags) / len(lags),
            "bytes/pushed": sum(answer["pushed"] for answer in answers),
            "bytes/pulled": sum(answer["pulled"] for answer in answers),
            **{f"time/{name}": max(answer[name] for answer in answers) for name in ("read", "pull", "compute")},
            "time/apply": time.perf_counter() - began,
        }

    def _dispatch(self, step: int) -> None:
        """Give workers their blocks, up to as many steps ahead as gradients may be stale."""
        last = step + self.options.staleness
        if self.total is not None:
            last = min(last, max(self.total - 1, step))
        while self.sent <= last:
            self.pool.give(self.sent)
            self.sent += 1

    def _apply(self, step: int, answers: Sequence[Mapping[str, Any]], shards: Sequence[Sequence[Any]]) -> list[Any]:
        """Have the servers take a step on the gradients of all blocks, in the order of the blocks."""
        names = sorted({name for answer in answers for name in answer["names"]})
        metrics = merged([metrics for answer in answers for metrics in answer["window"]])
        return self._ask("apply", [(step, names, metrics, *(own[k] for own in shards)) for k in range(len(self.servers))])

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
                lost = self._found(lost)
                dead = lost.servers
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
        self.version = self.sent = self.saved
        self._again = list(self._observed)

    def _built(self, dead: Sequence[int]) -> None:
        try:
            self.cluster.each([self._build(k) for k in dead], "new server", START)
        except Lost as lost:
            raise Lost([dead[i] for i in lost.servers], lost.why) from lost

    def _found(self, lost: Lost) -> Lost:
        """Which servers are gone, and why: whoever waited for them may know less than they are asked for now."""
        try:
            self._ask("alive", timeout=self.options.timeout / 2)
        except Lost as found:
            return found if found.servers else lost
        return lost

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
        return self.actors.join(self._steady(lambda: self._ask("tree")))

    def load(self, tree: Mapping[str, Any]) -> None:
        """Put a program's state on the servers."""
        try:
            self._load(tree)
        except Lost as lost:
            self._recover(lost)
            self._load(tree)
        self.save()

    def _load(self, tree: Mapping[str, Any]) -> None:
        self._ask("load", [(self.actors.cut(tree, k),) for k in range(len(self.servers))])
        self.version = self.sent = int(tree["step"])
        self.pool.tasks.clear()
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
