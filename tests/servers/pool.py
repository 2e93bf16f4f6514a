"""Servers and workers that several programs of a test use one after another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def pool() -> Iterator[None]:
    """One Ray cluster, whose servers and workers are built anew for each program instead of started anew.

    To start a process costs seconds (each imports the framework); to build another program in it, milliseconds.
    """
    ray = pytest.importorskip("ray")
    from mapsto.core.listening import ray_on_loopback
    from mapsto.servers.cluster import Cluster

    spare: dict[str, list[object]] = {"server": [], "worker": []}
    made = {kind: getattr(Cluster, kind) for kind in spare}
    kill = Cluster.kill

    def taken(kind: str):
        def take(self: Cluster) -> object:
            actor = spare[kind].pop(0) if spare[kind] else made[kind](self)
            if actor not in self._actors:
                self._actors.append(actor)
            self.__dict__.setdefault("kinds", {})[actor] = kind
            return actor

        return take

    def stop(self: Cluster) -> None:
        actors, self._actors = self._actors, []
        for actor in actors:
            if actor not in self.__dict__.get("dead", ()):
                spare[self.__dict__["kinds"][actor]].append(actor)

    def killed(self: Cluster, actor: object) -> None:
        self.__dict__.setdefault("dead", []).append(actor)
        kill(self, actor)

    with ray_on_loopback(), pytest.MonkeyPatch.context() as patch:  # one token a process: Ray reads it once
        ray.init(address="local", num_cpus=12, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        for kind in spare:
            patch.setattr(Cluster, kind, taken(kind))
        patch.setattr(Cluster, "stop", stop)
        patch.setattr(Cluster, "kill", killed)
        try:
            yield
        finally:
            ray.shutdown()
