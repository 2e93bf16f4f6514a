"""Scalars that all servers come to know: each tells the others its own, and all have them in one order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ..core.errors import ClusterError

Tag = tuple[int, int]
Send = Callable[[Tag, int, float], object]


class ServerLost(ClusterError):
    """A server did not answer another process in time, or is gone."""


class Exchange:
    """One server among all: each tells the others its value.

    All servers ask the same in the same order, since they compose the same middlewares on gradients of the same names.
    """

    def __init__(self, rank: int, servers: int, timeout: float) -> None:
        self.rank, self.world, self.timeout = rank, servers, timeout
        self._peers: Sequence[Send] = ()
        self._generation, self._asked = 0, 0
        self._inbox: dict[Tag, dict[int, float]] = {}
        self._arrived = threading.Condition()

    def connect(self, peers: Sequence[Send], generation: int) -> None:
        """Who else there is, by how each is sent to; what an earlier generation sent is forgotten."""
        with self._arrived:
            self._peers, self._generation, self._asked = peers, generation, 0
            self._inbox = {tag: values for tag, values in self._inbox.items() if tag[0] >= generation}

    def receive(self, tag: Tag, rank: int, value: float) -> None:
        """Take what another server sent; called while `gather` waits in another thread."""
        with self._arrived:
            if tag[0] >= self._generation:
                self._inbox.setdefault(tag, {})[rank] = value
                self._arrived.notify_all()

    def gather(self, value: float) -> list[float]:
        """Every server's value, by server. Raises ServerLost naming those that sent none within the time."""
        tag = (self._generation, self._asked)
        self._asked += 1
        for send in self._peers:
            send(tag, self.rank, value)
        self.receive(tag, self.rank, value)
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self._inbox[tag]) == self.world, self.timeout):
                silent = [str(k) for k in range(self.world) if k not in self._inbox[tag]]
                raise ServerLost(f"server {self.rank} waited {self.timeout:g} s for a value of server {', '.join(silent)}")
            found = self._inbox.pop(tag)
        return [found[k] for k in range(self.world)]
