"""The agent of a node: agrees with the other nodes' agents on who takes part, by the rendezvous of torch.distributed.elastic.

It is a fork of the fork server (which has the framework), and the supervisor's servant: it hears JSON lines on a socket
and answers each with one, so that whatever it waits for in vain, the supervisor can go on without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import select
import socket
import time
from datetime import timedelta
from typing import Any

from ..core.signing import code_of
from .network import free_port
from .signed_store import Refused, Signature, StateBackend, signed_store

ALIVE, MISSES = 2, 4
"""Seconds between two signs of life of a node, and how many may be missed: after 8 s it is dead. It goes by the nodes' clocks,
which must agree to within that."""
LAST_CALL = 3.0
"""Seconds that more nodes may still come in once the least number is there."""
EXCHANGE = 30.0
"""Seconds for what nodes tell each other once all are there, and for any single question to the store."""
ENDS_LIMIT = 8.0
"""Seconds in which the other nodes tell of a failure: the time that their own ranks are given, and somewhat more."""
NEWS = 0.5
"""Seconds between two looks at the others."""


def main(settings: dict[str, Any], control: int) -> int:
    """Serve until the socket closes; the exit code."""
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else a second attempt meets the addresses of the first
    with socket.socket(fileno=control) as heard:
        try:
            agent = _Agent(settings)
            _send(heard, {"ready": True})
            _serve(heard, agent)
        except Exception as error:  # noqa: BLE001  # told to the supervisor, in one line
            told = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
            _send(heard, {"error": told.strip().splitlines()[0], "refused": isinstance(error, Refused)})
            return 1
    return 0


def _serve(control: socket.socket, agent: _Agent) -> None:
    while True:
        ready, _, _ = select.select([control], [], [], NEWS)
        if not ready:
            news = agent.news()
            if news:
                _send(control, {"news": news})
            continue
        line = control.makefile("rb").readline()
        if not line:
            return
        request = json.loads(line)
        _send(control, {"answer": getattr(agent, request.pop("do"))(**request)})


class _Agent:
    """This node's part in the rendezvous of all nodes: joins rounds, watches the others, exchanges how ranks ended."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import torch.distributed

        dist: Any = torch.distributed
        from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, RendezvousTimeout

        self.settings = settings
        store = dist.TCPStore(
            settings["host"], settings["port"], is_master=False, wait_for_workers=False, timeout=timedelta(seconds=EXCHANGE)
        )
        secret, where = bytes.fromhex(settings["secret"]), f"{settings['host']}:{settings['port']}"
        self.signature = Signature(secret, where)
        backend: Any = StateBackend(store, Signature(secret, where))
        self.store: Any = signed_store(store, self.signature)
        self.handler: Any = DynamicRendezvousHandler.from_backend(
            "mapsto",
            self.store,
            backend,
            settings["least"],
            settings["most"],
            local_addr=settings["address"],
            timeout=RendezvousTimeout(
                join=timedelta(seconds=settings["wait"]),
                last_call=timedelta(seconds=LAST_CALL),
                close=timedelta(seconds=EXCHANGE),
                heartbeat=timedelta(seconds=EXCHANGE),
            ),
            keep_alive_interval=ALIVE,
            keep_alive_max_attempt=MISSES,
        )
        self.round: Any = None
        self.place = 0
        self.nodes: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}

    def join(self, ranks: int, folder: str, attempt: int) -> dict[str, Any]:
        """Take part in the next round with so many ranks; the team, the run folder that all write into, the ranks' secret.

        The folder is that of the node which has made most attempts, so that one that joins later goes on with the others.
        """
        self.round, self.signature.context = None, b""
        info = self.handler.next_rendezvous()
        store = info.store
        mine = {
            "node_rank": self.settings["node_rank"],
            "ranks": ranks,
            "attempt": attempt,
            "folder": folder,
            "address": self.settings["address"],
            "host": socket.gethostname(),
            "port": free_port(self.settings["address"]),
            "once": secrets.token_hex(16),
        }
        said = self._exchange(store, "node", info.rank, info.world_size, json.dumps(mine).encode())
        # Each node shows that it has heard what this one has just said: nothing of it was said in an earlier meeting.
        heard = hashlib.sha256(b"\0".join(said)).hexdigest().encode()
        for place, each in enumerate(self._exchange(store, "heard", info.rank, info.world_size, heard)):
            if each != heard:
                raise self.signature.refused(f"heard/{place}", "what another meeting of these nodes agreed on")
        self.signature.context = heard
        found = [{**json.loads(each), "place": place} for place, each in enumerate(said)]
        self.nodes = sorted(found, key=lambda n: (n["node_rank"] is None, n["node_rank"] or 0, n["place"]))
        self.place, self.round = info.rank, store
        self._last = {}
        agreed = max(self.nodes, key=lambda n: n["attempt"])["folder"]  # of equals the first
        secret = code_of(self.signature.secret, b"the ranks of a team", heard).hex()
        return {"nodes": self.nodes, "place": info.rank, "folder": agreed, "secret": secret}

    @staticmethod
    def _exchange(store: Any, name: str, place: int, places: int, value: bytes) -> list[bytes]:
        """What each node says under this name, by place."""
        store.set(f"{name}/{place}", value)
        keys = [f"{name}/{each}" for each in range(places)]
        store.wait(keys, timedelta(seconds=EXCHANGE))
        return [store.get(key) for key in keys]

    def news(self) -> dict[str, Any] | None:
        """What is new: nodes that wait to take part, a failure that another one told of."""
        if self.round is None:
            return None
        waiting = int(self.handler.num_nodes_waiting())
        failed = bool(self.round.check(["failed"])) and self.round.get("failed") == b"1"
        found = {"waiting": waiting, "failed": failed}
        if found == (self._last or {"waiting": 0, "failed": False}):
            return None
        self._last = found
        return found

    def exchange_ends(self, ends: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tell how this node's ranks ended; what the other nodes tell, by place, as far as they do so in time."""
        store = self.round
        store.set(f"ends/{self.place}", json.dumps(ends))
        store.set("failed", "1")
        until = time.monotonic() + ENDS_LIMIT
        others = {node["place"] for node in self.nodes} - {self.place}
        told: dict[int, Any] = {}
        while others - set(told) and time.monotonic() < until:
            for place in others - set(told):
                if store.check([f"ends/{place}"]):
                    told[place] = json.loads(store.get(f"ends/{place}"))
            time.sleep(0.1)
        return [{"place": place, "ends": told.get(place)} for place in sorted(others)]


def _send(control: socket.socket, data: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        control.sendall(json.dumps(data).encode() + b"\n")
