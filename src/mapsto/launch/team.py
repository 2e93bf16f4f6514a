"""A team: the ranks that were agreed on for one attempt, and which of them are this node's."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..core.signing import VARIABLE
from .failure import End
from .logs import Logs


@dataclass(frozen=True)
class Team:
    """first, local: this node's ranks are first .. first + local - 1 of `world`; address, port: where rank 0 waits for the
    others; slots: the devices of this node that take part, one a rank; own: this node's address; attempt: how
    often ranks were started, on whichever node: a node that joins later goes on with the others; secret: by which the ranks of
    this attempt know each other."""

    node: int
    nodes: int
    first: int
    local: int
    world: int
    address: str
    port: int
    slots: tuple[int, ...]
    own: str = "127.0.0.1"
    attempt: int = 1
    secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    @property
    def ranks(self) -> range:
        """This node's ranks."""
        return range(self.first, self.first + self.local)

    def environments(self) -> Iterator[tuple[int, dict[str, str]]]:
        """(rank, variables) of this node's ranks: those that torchrun sets."""
        shared = {
            "WORLD_SIZE": str(self.world),
            "LOCAL_WORLD_SIZE": str(self.local),
            "GROUP_RANK": str(self.node),
            "GROUP_WORLD_SIZE": str(self.nodes),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
            VARIABLE: self.secret,
            "TORCHELASTIC_USE_AGENT_STORE": "False",  # rank 0 makes the store of an attempt, so none meets an older one's keys
        }
        for local, rank in enumerate(self.ranks):
            yield rank, {**shared, "RANK": str(rank), "LOCAL_RANK": str(local)}


@dataclass(frozen=True)
class News:
    """What the other nodes do: waiting: how many wait to take part; failed: whether one of them has told of a failure."""

    waiting: int = 0
    failed: bool = False


class Membership(Protocol):
    """Who takes part: agrees on the team of each attempt with the other nodes."""

    def join(self, slots: tuple[int, ...], attempt: int) -> Team:
        """The team of the next attempt; this node brings a rank a slot, and would call it its attempt of that number.

        Raises LaunchError after the stated wait.
        """
        ...

    def news(self) -> News:
        """What was heard of the other nodes since."""
        ...

    def exchange_ends(self, ends: list[End]) -> list[End]:
        """Tell the other nodes how this node's ranks ended; how those of all nodes did, as far as they say so in time."""
        ...

    def close(self) -> None:
        """Leave the rendezvous with the other nodes, which go on without this one."""
        ...


class Workers(Protocol):
    """The ranks of this launcher, wherever they run."""

    def start(self, team: Team, words: list[str], logs: Logs) -> None:
        """Start the ranks of this node as processes, with their logs."""
        ...

    def poll(self, seconds: float) -> None:
        """Wait at most that long for something to happen, and pass on what they print."""
        ...

    def codes(self) -> Mapping[int, int | None]:
        """Rank -> exit code, below 0 for a signal; None while it runs."""
        ...

    def signal(self, number: int) -> None:
        """Send a signal to those that run."""
        ...

    def end(self) -> None:
        """Kill the ranks of this node that still run."""
        ...

    def ends(self, look: bool) -> list[End]:
        """How they ended; look: ask those that still run where they are."""
        ...

    def close(self) -> None:
        """Kill those that run, and let go of everything."""
        ...


def alone(slots: tuple[int, ...], port: int, attempt: int) -> Team:
    """The team of a launch on one node: its ranks are all there are."""
    return Team(0, 1, 0, len(slots), len(slots), "127.0.0.1", port, slots, attempt=attempt)
