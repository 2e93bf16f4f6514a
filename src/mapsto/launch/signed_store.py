"""What nodes leave for each other in the store: texts that carry a code under the run's secret, and nothing that can run.

Whoever reaches the store's port may write into it. So each value is JSON, and says by its code that a node of this run wrote
it, under this key; the members' state has a number that only grows, and a team's further words are bound to what its members
have just said to each other, so that what was true once cannot be said again.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from ..core.errors import LaunchError
from ..core.signing import SIZE, code_of, verified

LARGEST = 1 << 20
"""Bytes that a value may have."""
MEMBERS = 10_000
"""Nodes that a state may name."""
STATE = "torch.rendezvous.mapsto"
"""The key of the members' state."""


class Refused(LaunchError):
    """A value in the store that no node of this run wrote there."""


class Signature:
    """How values are signed and read. where: the rendezvous, for errors; context: what a value is bound to besides its key."""

    def __init__(self, secret: bytes, where: str) -> None:
        self.secret, self.where, self.context = secret, where, b""

    def _purpose(self, key: str) -> bytes:
        return b"rendezvous\0" + self.context + b"\0" + key.encode()

    def sign(self, key: str, value: bytes) -> str:
        """The text that stands in the store for this value."""
        return code_of(self.secret, self._purpose(key), value).hex() + value.decode()

    def read(self, key: str, found: bytes) -> bytes:
        """The value of such a text. Raises Refused, naming the key, for anything else."""
        if len(found) <= LARGEST:
            try:
                value = verified(self.secret, self._purpose(key), bytes.fromhex(found[: 2 * SIZE].decode()) + found[2 * SIZE :])
            except ValueError:
                value = None
            if value is not None:
                return value
        raise self.refused(key, f"{len(found)} bytes that no node of this run wrote ({found[:24]!r}...)")

    def refused(self, key: str, what: str) -> Refused:
        """The error that says why a value that was read from the store is not taken."""
        return Refused(
            f"the rendezvous at {self.where} holds, under the key {key!r}, {what}: refused, and nothing of it is run. Somebody "
            "else reaches that port, or this node was given another secret than the others (--secret-file, MAPSTO_SECRET, "
            "RUN/.secret)"
        )


def signed_store(store: Any, signature: Signature) -> Any:
    """A store of torch whose values are signed on their way into `store`, and checked on their way out."""
    import torch.distributed

    dist: Any = torch.distributed

    class SignedStore(dist.Store):
        def set(self, key: str, value: Any) -> None:
            store.set(key, signature.sign(key, value if isinstance(value, bytes) else value.encode()))

        def get(self, key: str) -> bytes:
            return signature.read(key, store.get(key))

        def check(self, keys: list[str]) -> bool:
            return bool(store.check(keys))

        def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
            store.wait(keys, timeout) if timeout is not None else store.wait(keys)

    return SignedStore()


class StateBackend:
    """The members' state in the store, for torch's rendezvous (its `RendezvousBackend`).

    torch hands over and takes a state in its own words, a pickle; those are read here, where they are this process's own, and
    written here. What is in the store is signed JSON. Raises Refused, also for a state that is older than one seen before.
    """

    name = "mapsto"

    def __init__(self, store: Any, signature: Signature) -> None:
        self.store, self.signature, self.number = store, signature, 0

    def get_state(self) -> tuple[bytes, bytes] | None:
        """The state there is, and the text it was read from."""
        if not self.store.check([STATE]):
            return None
        return self._read(self.store.get(STATE))

    def set_state(self, state: bytes, token: bytes | None = None) -> tuple[bytes, bytes, bool] | None:
        """Put a state in the place of the one that was read from the text `token`; what is there, and whether it is ours."""
        data = json.dumps({"number": self.number + 1, **_said(pickle.loads(state))})  # just written by this process
        text = self.signature.sign(STATE, data.encode()).encode()
        found = self.store.compare_set(STATE, (token or b"").decode(), text.decode())
        if token is not None and found == token:
            raise self.signature.refused(STATE, "nothing any more: somebody has removed it")
        return (*self._read(found), found == text)

    def _read(self, found: bytes) -> tuple[bytes, bytes]:
        data = self.signature.read(STATE, found)
        try:
            said = json.loads(data)
            number, state = _typed(said["number"], int), _state(said)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self.signature.refused(STATE, f"no state of a rendezvous ({error})") from None
        if number < self.number:
            raise self.signature.refused(STATE, f"a state of the past (number {number} after {self.number})")
        self.number = number
        return pickle.dumps(state), found


def _said(state: Any) -> dict[str, Any]:
    """torch's state of a rendezvous in words of JSON; a node is its address, process and number there."""

    def node(each: Any) -> list[Any]:
        return [each.addr, each.pid, each.local_id]

    return {
        "round": state.round,
        "complete": state.complete,
        "closed": state.closed,
        "deadline": state.deadline and state.deadline.isoformat(),
        "participants": [[*node(each), rank] for each, rank in state.participants.items()],
        "waiting": [node(each) for each in state.wait_list],
        "redundant": [node(each) for each in state.redundancy_list],
        "heartbeats": [[*node(each), when.isoformat()] for each, when in state.last_heartbeats.items()],
    }


def _state(said: Mapping[str, Any]) -> Any:
    """torch's state of a rendezvous, of what `_said` gave. Raises ValueError, TypeError or KeyError for anything else."""
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState

    def node(words: list[Any]) -> Any:
        address, pid, number = words
        return _NodeDesc(_typed(address, str), _typed(pid, int), _typed(number, int))

    if any(len(said[name]) > MEMBERS for name in ("participants", "waiting", "redundant", "heartbeats")):
        raise ValueError(f"more than {MEMBERS} nodes")
    state: Any = _RendezvousState()
    state.round, state.complete, state.closed = _typed(said["round"], int), said["complete"] is True, said["closed"] is True
    state.deadline = None if said["deadline"] is None else datetime.fromisoformat(said["deadline"])
    state.participants = {node(words): _typed(rank, int) for *words, rank in said["participants"]}
    state.wait_list, state.redundancy_list = {*map(node, said["waiting"])}, {*map(node, said["redundant"])}
    state.last_heartbeats = {node(words): datetime.fromisoformat(when) for *words, when in said["heartbeats"]}
    return state


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} where {kind.__name__} is wanted")
    return value
