"""The membership of several nodes: they meet at a store, agree on each attempt's team, and miss those that do not come."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import LaunchError
from ..processes.forks import ForkServer
from ..processes.system import send
from . import network
from .agent import ENDS_LIMIT, EXCHANGE
from .failure import End
from .request import Address, Request
from .team import News, Team

PATIENCE = 5.0
"""Seconds after which a wait is told, and that an agent has beyond its own limits before it is killed."""
LINGER = 1.5
"""Seconds that a store is kept for the other nodes' last questions."""


class _Lost(Exception):
    """The agent or its store did not answer."""


class _Refused(_Lost):
    """The store holds what no node of this run wrote."""


class Rendezvous:
    """The membership of this node among others (`mapsto.launch.team.Membership`).

    folder: where this node would keep the run; `folder` after `join` is the one that all agreed on. secret: by which the nodes
    of the run know each other. going: whether nobody asked to stop meanwhile. Raises LaunchError where the store cannot be
    reached or kept, or holds what no node of this run wrote.
    """

    def __init__(
        self,
        server: ForkServer,
        request: Request,
        folder: Path,
        secret: bytes,
        say: Callable[[str], None],
        going: Callable[[], bool],
    ) -> None:
        assert request.rendezvous is not None
        self._secret = secret
        self.server, self.request, self.folder, self.say, self.going = server, request, folder, say, going
        self.address = Address(network.resolve(request.rendezvous.host), request.rendezvous.port)
        self.own = network.address_towards(self.address.host)
        self._agent: tuple[int, socket.socket] | None = None
        self._store: int | None = None
        self._buffer = b""
        self._news = News()
        self._nodes: list[dict[str, Any]] = []
        self._place = 0

    # -- meeting -----------------------------------------------------------------------------------------------------
    def join(self, slots: tuple[int, ...], attempt: int) -> Team:
        """The team of the next attempt. Raises LaunchError where too few nodes come within the stated wait."""
        until, told, why = time.monotonic() + self.request.wait, False, "nothing answers there"
        while (left := until - time.monotonic()) > 0 and self.going():
            try:
                self._open(left)
                found = self._ask(left + PATIENCE, do="join", ranks=len(slots), folder=str(self.folder), attempt=attempt)
                return self._team(found, slots)
            except _Refused as refused:
                raise LaunchError(str(refused)) from None
            except _Lost as lost:
                self._drop()
                why = str(lost)
                if "RendezvousTimeout" in why or "RendezvousClosed" in why:
                    break
                if not told:
                    told = True
                    self.say(
                        f"the rendezvous at {self.request.rendezvous} was lost ({why}); looking for it, at most {left:.0f} s"
                    )
                time.sleep(1.0)
        if not self.going():
            raise LaunchError("interrupted while waiting for the other nodes")
        if "RendezvousTimeout" in why:
            raise LaunchError(
                f"fewer than {self.request.nodes.low} nodes came to {self.request.rendezvous} within {self.request.wait:g} s; "
                "start the others (the same command, each with its own --node-rank), or wait longer (--wait SECONDS)"
            )
        raise LaunchError(
            f"the rendezvous at {self.request.rendezvous} could not be met within {self.request.wait:g} s: {why}. "
            "Its node has ended, or is cut off"
        )

    def _team(self, found: dict[str, Any], slots: tuple[int, ...]) -> Team:
        self._nodes, self._place, self.folder = found["nodes"], found["place"], Path(found["folder"])
        self._news = News()
        places = [node["node_rank"] for node in self._nodes if node["node_rank"] is not None]
        if twice := sorted({place for place in places if places.count(place) > 1}):
            hosts = " and ".join(node["host"] for node in self._nodes if node["node_rank"] == twice[0])
            raise LaunchError(f"--node-rank {twice[0]} was said by {hosts}: each node has one of its own")
        first, firsts = 0, {}
        for node in self._nodes:
            firsts[node["place"]] = first
            first += node["ranks"]
        leader = self._nodes[0]
        number = next(i for i, node in enumerate(self._nodes) if node["place"] == self._place)
        return Team(
            node=number,
            nodes=len(self._nodes),
            first=firsts[self._place],
            local=len(slots),
            world=first,
            address=leader["address"],
            port=leader["port"],
            slots=slots,
            own=self.own,
            attempt=max(node["attempt"] for node in self._nodes),
            secret=found["secret"],
        )

    # -- while ranks run ---------------------------------------------------------------------------------------------
    def news(self) -> News:
        """What the agent heard since; where it is lost, ranks go on as long as they can."""
        if self._agent is not None:
            try:
                self._receive(0.0)
            except _Refused as refused:
                self.say(f"{refused}. The ranks go on")
                self._drop()
            except _Lost:
                pass
        return self._news

    def exchange_ends(self, ends: list[End]) -> list[End]:
        """Exchange how ranks ended. Those of a node that says nothing did not come."""
        try:
            told = self._ask(ENDS_LIMIT + PATIENCE, do="exchange_ends", ends=[end.data() for end in ends])
        except _Lost:
            self._drop()
            return ends
        return [*ends, *(end for each in told for end in self._of(each))]

    def _of(self, told: dict[str, Any]) -> list[End]:
        if told["ends"] is not None:
            return [End(**end) for end in told["ends"]]
        first = 0
        for node in self._nodes:
            if node["place"] == told["place"]:
                state = "on a node that does not answer any more: it has ended, or is cut off"
                ranks = range(first, first + node["ranks"])
                return [End(rank, node["host"], None, time.time(), "", state=state) for rank in ranks]
            first += node["ranks"]
        return []

    def close(self) -> None:
        """Leave; a store of ours is kept a moment for what others still ask."""
        self._drop()
        if self._store is not None:
            time.sleep(LINGER)
            send(self._store, 9)

    # -- the agent ---------------------------------------------------------------------------------------------------
    def _open(self, wait: float) -> None:
        """An agent that is connected to the store; the store itself, where it is ours to keep and is not there."""
        if self._agent is not None:
            return
        self.server.revive()
        if self._is_host() and not network.is_taken(self.address):
            self._keep_store()
        network.await_listener(self.address, wait, self.say, self.going)
        ours, theirs = socket.socketpair()
        settings = {
            "host": self.address.host,
            "port": self.address.port,
            "least": self.request.nodes.low,
            "most": self.request.nodes.high,
            "wait": wait,
            "address": self.own,
            "node_rank": self.request.node_rank,
            "secret": self._secret.hex(),
        }
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            pid = self.server.fork("mapsto.launch.agent:main", [settings], pass_=(nothing, nothing, theirs.fileno()))
        finally:
            theirs.close()
            os.close(nothing)
        self._agent, self._buffer = (pid, ours), b""
        self._await("ready", EXCHANGE + PATIENCE, f"something else than a rendezvous listens at {self.request.rendezvous}")

    def _is_host(self) -> bool:
        """Whether the store is this node's to keep: it has the address, and is node 0 or no node is said to be."""
        return network.is_here(self.address.host) and self.request.node_rank in (None, 0)

    def _keep_store(self) -> None:
        heard, told = os.pipe()
        try:
            pid = self.server.fork("mapsto.launch.store:keep", [self.address.host, self.address.port], pass_=(2, 2, told))
        finally:
            os.close(told)
        with open(heard, "rb") as file:
            if file.read(1) == b"1":
                self._store = pid  # else another node of this machine was faster

    def _ask(self, limit: float, **request: Any) -> Any:
        if self._agent is None:
            raise _Lost("there is no connection to it")
        try:
            self._agent[1].sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            raise _Lost("the connection to it has ended") from None
        return self._await("answer", limit, "")

    def _await(self, what: str, limit: float, otherwise: str) -> Any:
        until, told = time.monotonic() + limit, time.monotonic() + PATIENCE
        while (left := until - time.monotonic()) > 0:
            for said in self._receive(min(left, 0.5)):
                if what in said:
                    return said[what]
            if not self.going() and what == "answer" and limit > ENDS_LIMIT + PATIENCE:
                break
            if time.monotonic() > told and limit > 2 * (ENDS_LIMIT + PATIENCE):
                self.say(
                    f"waiting for {self.request.nodes} nodes at {self.request.rendezvous}, at most {self.request.wait:g} s"
                )
                told = float("inf")
        raise _Lost(otherwise or f"it did not answer within {limit:.0f} s")

    def _receive(self, seconds: float) -> list[dict[str, Any]]:
        assert self._agent is not None
        control = self._agent[1]
        with selectors.DefaultSelector() as selector:
            selector.register(control, selectors.EVENT_READ)
            if not selector.select(seconds):
                return []
        chunk = b""
        with contextlib.suppress(OSError):
            chunk = control.recv(1 << 20)
        if not chunk:
            raise _Lost("the process that speaks with it has ended")
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        found: list[dict[str, Any]] = []
        for line in lines:
            said = json.loads(line)
            if "error" in said:
                raise (_Refused if said["refused"] else _Lost)(said["error"])
            if "news" in said:
                self._news = News(**said["news"])
            else:
                found.append(said)
        return found

    def _drop(self) -> None:
        """End the agent, whatever it waits for."""
        if self._agent is not None:
            pid, control = self._agent
            send(pid, 9)
            control.close()
        self._agent = None
