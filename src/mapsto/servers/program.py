"""The program that the engine drives: one process's program, whose steps are taken by servers and workers."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..core.errors import ClusterError
from .driver import Driver, Metrics
from .layout import Layout, Options

log = logging.getLogger("mapsto")


class Plain(Protocol):
    """A wing's program of one process: of the engine's protocol what is asked here."""

    state: Any
    task: Any
    seed: int

    @property
    def model(self) -> Any: ...
    @property
    def position(self) -> int: ...
    @property
    def awaits(self) -> tuple[str, ...]: ...
    def fetch(self, window: Sequence[Metrics], /) -> dict[str, float]: ...
    def rates(self) -> dict[str, float]: ...
    def observe(self, metrics: Mapping[str, float], /) -> None: ...
    def evaluate(self, batches: Iterable[Any], /) -> dict[str, float]: ...
    def predict(self, batches: Iterable[Any], /) -> Iterator[dict[str, Any]]: ...
    def panels(self, batches: Iterable[Any], /) -> list[dict[str, Any]]: ...
    def weights(self) -> dict[str, Any]: ...
    def state_tree(self) -> dict[str, Any]: ...
    def restore(self, tree: Mapping[str, Any], /, *, reschedule: bool = False) -> None: ...
    def summary(self) -> dict[str, Any]: ...


class ServedProgram:
    """program of one process -> the same program, whose parameters lie on servers while it trains.

    The processes start with the first step and end with `close`, after which it holds what they had come to. Evaluation,
    prediction and checkpoints are those of one process (`plain`), on parameters gathered from the servers. complete: what the
    servers hold together -> the whole state tree of `plain`.
    """

    def __init__(
        self,
        plain: Plain,
        options: Options,
        layout: Layout,
        make: Callable[[], Driver],
        complete: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        self.plain, self.options, self.layout, self._make, self._complete = plain, options, layout, make, complete
        self.state, self.task, self.seed = plain.state, plain.task, plain.seed
        self.driver: Driver | None = None
        self.failed = self._attention = False
        self._gathered = -1

    # -- what the engine asks ----------------------------------------------------------------------------------------
    @property
    def reader_args(self) -> dict[str, Any]:
        """This process reads nothing of a training batch: the workers read their own."""
        return {"shard": (), "shards": 1}

    @property
    def evaluation_reader_args(self) -> dict[str, Any]:
        """Arguments for a reader's `stream` where this process evaluates: it reads whole batches."""
        return {}

    @property
    def attention_requested(self) -> bool:
        return self._attention

    def request_attention(self, wanted: bool = True) -> None:
        """Request the run's attention, such as to stop (or no more)."""
        self._attention = wanted

    @property
    def model(self) -> Any:
        """One process's model, with the parameters of the servers as they are now."""
        return self._whole().model

    @property
    def position(self) -> int:
        """Steps taken, which is the position of the next global batch."""
        return self.plain.position if self.driver is None else self.driver.version

    # -- training ----------------------------------------------------------------------------------------------------
    def step(self, batch: Any = None) -> Metrics:
        """One step of the servers on the next global batch, which the workers read. Raises ClusterError.

        Raises ClusterError too where it is given records: they would not be those that the workers read.
        """
        if batch:
            raise ClusterError("a program on servers reads its own batches: call step() without one")
        if self.failed:
            raise ClusterError("the servers and workers of this program ended with an error: restore a checkpoint first")
        try:
            return self._started().step()
        except BaseException:
            self.failed = True
            raise

    def _started(self) -> Driver:
        if self.driver is None:
            driver = self._make()
            self._end = weakref.finalize(self, driver.stop)  # where nobody closes it, at the latest with the process
            driver.start(self.plain.state_tree())
            self.driver = driver
            self._gathered = driver.version
        return self.driver

    def fetch(self, window: Sequence[Metrics]) -> dict[str, float]:
        """As of one process; of what is named `.../max` the maximum."""
        found = self.plain.fetch(window)
        largest = {name: max(float(m[name]) for m in window if name in m) for name in found if name.endswith("/max")}
        return {**found, **largest}

    def rates(self) -> dict[str, float]:
        """The learning rate of each parameter group."""
        found = self.driver.rates if self.driver is not None else {}
        return dict(found) or self.plain.rates()

    @property
    def awaits(self) -> tuple[str, ...]:
        """The evaluation metric that the schedule is stepped by, where it is; else nothing."""
        return self.plain.awaits

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Hand evaluation metrics to a schedule that waits for one."""
        if self.driver is None:
            self.plain.observe(metrics)
        else:
            self.driver.observe(metrics)
            self._gathered = -1

    # -- evaluating --------------------------------------------------------------------------------------------------
    def evaluate(self, batches: Iterable[Any]) -> dict[str, float]:
        """The loss and the task's metrics over the batches, each record weighed once."""
        return self._whole().evaluate(batches)

    def predict(self, batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """The task's predictions, a dict of NumPy arrays a batch."""
        return self._whole().predict(batches)

    def panels(self, batches: Iterable[Any]) -> list[dict[str, Any]]:
        """What the task shows in a report, as plain data."""
        return self._whole().panels(batches)

    # -- state -------------------------------------------------------------------------------------------------------
    def weights(self) -> dict[str, Any]:
        """Copies of the canonical weights and buffers as NumPy arrays."""
        return self._whole().weights()

    def state_tree(self) -> dict[str, Any]:
        """The whole state as one process has it. The servers write their shards too: to this they go back."""
        if self.driver is not None:
            self.driver.save()
        return self._whole().state_tree()

    def restore(self, tree: Mapping[str, Any], *, reschedule: bool = False) -> None:
        """Put such a tree back, whoever saved it. Raises CheckpointError naming what does not fit."""
        if self.failed:
            self._stop()
        self.plain.restore(tree, reschedule=reschedule)
        if self.driver is not None:
            self.driver.load(self.plain.state_tree())
            self._gathered = self.driver.version

    def summary(self) -> dict[str, Any]:
        """For people: sizes, device, plan, and what lies where."""
        options, layout = self.options, self.layout
        held = [sum(len(rows[n]) * math.prod(shape[1:]) for n, shape in layout.shapes.items()) for rows in layout.shards]
        ahead = f"up to {options.staleness} steps ahead" if options.staleness else "in step"
        servers = [f"server {k} holds {size:,} of {sum(held):,} parameters" for k, size in enumerate(held)]
        return {**self.plain.summary(), "mesh": [f"{options.workers} workers, {ahead}", *servers]}

    def close(self) -> None:
        """Gather what the servers have come to, end all processes; the program stays, as one of one process."""
        if self.driver is not None and not self.failed:
            try:
                self._whole()
            except Exception as error:  # noqa: BLE001  # the run is over: its checkpoints hold what is needed
                log.warning("mesh: the parameters could not be gathered at the end: %s", error)
        self._stop()

    def _stop(self) -> None:
        if self.driver is not None:
            self._end()
        self.driver, self.failed = None, False

    def _whole(self) -> Plain:
        """One process's program with the state of the servers."""
        driver = self.driver
        if driver is not None and self._gathered != driver.version:
            self.plain.restore(self._complete(driver.tree()))
            self._gathered = driver.version
        return self.plain
