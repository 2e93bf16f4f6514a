"""The Ray cluster under a parameter server: begun where there is none, actors on it, and the errors that come from it."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ..core.errors import ClusterError, MapstoError, require
from ..core.listening import ray_on_loopback
from .exchange import ServerLost

START = 300.0
"""Seconds that the processes of a parameter server may take to start."""


@contextlib.contextmanager
def _preserve_rng() -> Iterator[None]:
    """Ray draws names and ports from Python's global generator, which belongs to the run: nothing of it shows afterwards."""
    before = random.getstate()
    try:
        yield
    finally:
        random.setstate(before)


class Lost(Exception):  # an event that is dealt with, not an error that is told
    """Servers that are gone, by number (none: what they held is no longer of one step)."""

    def __init__(self, servers: Sequence[int], why: str) -> None:
        super().__init__(why)
        self.servers, self.why = list(servers), why


class Cluster:
    """Ray as this process sees it: a cluster of its own, one by its address, or that to which the process is joined already.

    Only a cluster of its own, or a connection of its own, is ended by `stop`. actors: the classes of a server and a worker.
    """

    def __init__(self, address: str | None, processes: int, *, cpus: float, gpus: float, actors: tuple[type, type]) -> None:
        self.cpus, self.gpus, self._classes = cpus, gpus, actors
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.ray: Any = require("ray", "ray", "a mesh of servers")
        self._surroundings = contextlib.ExitStack()
        self.owned = not self.ray.is_initialized()
        self._actors: list[Any] = []
        if self.owned:
            os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of calls to who is lost, which nobody asks about again
            self._join(address, processes)
        self._fits(processes)

    @_preserve_rng()
    def _join(self, address: str | None, processes: int) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        own = {"num_cpus": max(1, math.ceil(processes * self.cpus)), "include_dashboard": False} if address is None else {}
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM)
        if address is None:
            self._surroundings.enter_context(ray_on_loopback())
        try:
            self.ray.init(address=address or "local", **quiet, **own)
            if main:  # Ray exits at SIGTERM; a run saves first
                signal.signal(signal.SIGTERM, before)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            self._surroundings.close()
            where = "a Ray cluster could not be started here" if address is None else f"no Ray cluster answers at {address!r}"
            raise ClusterError(f"mesh: {where}: {_first_line(error)}") from error

    def _fits(self, processes: int) -> None:
        """Raises ClusterError where the actors would wait for processors for ever."""
        there = float(self.ray.cluster_resources().get("CPU", 0))
        if processes * self.cpus > there:
            self.stop()
            raise ClusterError(
                f"mesh: {processes} servers and workers with {self.cpus:g} processors each are more than the {there:g} "
                "processors of the Ray cluster; say fewer, or less in mesh.cpus"
            )

    # -- actors ------------------------------------------------------------------------------------------------------
    @_preserve_rng()
    def server(self) -> Any:
        """A new server, not built yet."""
        made = self.ray.remote(concurrency_groups={"exchange": 1})(self._classes[0])
        return self._kept(made.options(num_cpus=self.cpus, scheduling_strategy="SPREAD").remote())

    @_preserve_rng()
    def worker(self) -> Any:
        """A new worker, not built yet."""
        made = self.ray.remote(self._classes[1])
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "scheduling_strategy": "SPREAD"}
        return self._kept(made.options(**options).remote())

    def _kept(self, actor: Any) -> Any:
        self._actors.append(actor)
        return actor

    def kill(self, actor: Any) -> None:
        """End an actor's process at once; one that is dead already stays dead."""
        with contextlib.suppress(Exception):
            self.ray.kill(actor)

    @_preserve_rng()
    def stop(self) -> None:
        """End every actor, and the cluster where it is this process's own; safe to call twice."""
        actors, self._actors = self._actors, []
        if self.ray.is_initialized():
            for actor in actors:
                self.kill(actor)
            if self.owned:
                self.ray.shutdown()
        self._surroundings.close()

    # -- waiting -----------------------------------------------------------------------------------------------------
    def each(self, calls: Sequence[Any], who: str, timeout: float) -> list[Any]:
        """The answers of actors `who` 0, 1, ...; none is left waiting for longer than `timeout` seconds.

        Raises Lost naming the actors that are dead or silent, and what an actor raised, with its traceback.
        """
        _, silent = self.ray.wait(list(calls), num_returns=len(calls), timeout=timeout)
        gone: dict[int, str] = {}
        waited: list[str] = []
        answers: list[Any] = [None] * len(calls)
        for k, call in enumerate(calls):
            if call in silent:
                gone[k] = f"{who} {k} did not answer for {timeout:g} s"
                continue
            try:
                answers[k] = self.ray.get(call)
            except Exception as error:  # noqa: BLE001  # whatever the actor raised
                if isinstance(error, ServerLost):  # it waited for another, which is found out by asking all
                    waited.append(str(getattr(error, "cause", error)))
                elif not self.is_loss(error):
                    reraise(error, f"{who} {k}")
                else:
                    gone[k] = f"{who} {k} was lost ({type(error).__name__})"
        if gone or waited:
            raise Lost(list(gone), "; ".join([*gone.values(), *waited]))
        return answers

    def is_loss(self, error: BaseException) -> bool:
        """Whether an error says that a process or what it held is gone, rather than that the code in it failed."""
        known = self.ray.exceptions
        kinds = (known.RayActorError, known.ObjectLostError, known.NodeDiedError, known.WorkerCrashedError)
        return isinstance(error, kinds) or isinstance(getattr(error, "cause", None), kinds)


def reraise(error: BaseException, who: str) -> NoReturn:
    """Raise what an actor raised as an error of this process, with the actor's own traceback as its cause.

    The user's errors keep their kind; any other is a ClusterError that shows the traceback.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, MapstoError):
        try:
            again = type(cause)(f"{who}: {cause}")
        except TypeError:  # an error with arguments of its own
            again = ClusterError(f"{who}: {cause}")
        raise again from error
    trace = getattr(error, "traceback_str", "") or str(error)
    raise ClusterError(f"{who} failed: {_first_line(cause or error)}\n{trace.rstrip()}") from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
