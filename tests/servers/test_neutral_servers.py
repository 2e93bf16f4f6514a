"""The room of parameter servers drives actors of NumPy arrays, in this process: what a wing gives is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mapsto.servers import driver as room
from mapsto.servers.cluster import Cluster
from mapsto.servers.dealing import blocks
from mapsto.servers.layout import Actors, Layout
from mapsto.servers.partition import partition

SHARDS, RATE = 5, 0.1
START = {"table": np.arange(12.0).reshape(6, 2), "bias": np.ones(3)}


def gradient(weights: Mapping[str, Any], step: int, shard: int) -> dict[str, Any]:
    """Of a micro-shard's loss, half the squared distance from what the shard has drawn."""
    rng = np.random.default_rng([step, shard])
    return {name: w - rng.normal(size=w.shape) for name, w in weights.items()}


def alone(steps: int) -> dict[str, Any]:
    """What one process comes to."""
    weights = {name: w.copy() for name, w in START.items()}
    for step in range(steps):
        found = [gradient(weights, step, shard) for shard in range(SHARDS)]
        weights = {name: w - RATE * sum(g[name] for g in found) for name, w in weights.items()}
    return weights


class Server:
    def build(self, shipment: Any, rank: int, shards: Sequence[Mapping[str, range]], timeout: float) -> None:
        self.rank, self.rows, self.rate = rank, shards[rank], shipment

    def connect(self, peers: Sequence[Any], generation: int) -> None: ...

    def alive(self) -> int:
        return self.step

    def load(self, part: Any) -> None:
        self.step, self.held = part

    def tree(self) -> Any:
        return self.step, self.held

    def apply(self, step: int, names: Sequence[str], metrics: Mapping[str, Any], *shards: Any) -> dict[str, Any]:
        assert step == self.step
        self.held = {name: w - self.rate * sum(s[name] for s in shards) for name, w in self.held.items()}
        self.step += 1
        return {"metrics": dict(metrics), "rates": {"lr": self.rate}}

    def save(self, folder: str, keep: int) -> None:
        np.savez(self._file(folder, self.step), **self.held)

    def restore(self, folder: str, step: int) -> None:
        with np.load(self._file(folder, step)) as held:
            self.step, self.held = step, dict(held)

    def _file(self, folder: str, step: int) -> Path:
        return Path(folder) / f"{step}-{self.rank}.npz"


class Worker:
    def build(self, shipment: Any, number: int, shards: Sequence[Mapping[str, range]], timeout: float) -> None:
        self.shards = shards

    def connect(self, servers: Sequence[Any]) -> None:
        self.servers = servers

    def work(self, step: int, block: range) -> tuple[Any, ...]:
        version, weights = joined([server.actor.tree() for server in self.servers]).values()
        found = [gradient(weights, step, shard) for shard in block]
        total = {name: sum(g[name] for g in found) for name in weights}
        window = [{"loss": (1.0, 1.0)} for _ in block]
        told = {"window": window, "names": sorted(total), "version": version, "pushed": 0, "pulled": 0}
        own = [{name: total[name][rows.start : rows.stop] for name, rows in shard.items()} for shard in self.shards]
        return ({**told, "read": 0.0, "pull": 0.0, "compute": 0.0}, *own)

    def close(self) -> None: ...


SHARDS_OF = partition(START, 2)


def cut(tree: Mapping[str, Any], server: int) -> Any:
    return tree["step"], {n: w[SHARDS_OF[server][n].start : SHARDS_OF[server][n].stop] for n, w in tree["weights"].items()}


def joined(parts: Sequence[Any]) -> dict[str, Any]:
    return {"step": parts[0][0], "weights": {n: np.concatenate([held[n] for _, held in parts]) for n in START}}


# -- actors without processes ------------------------------------------------------------------------------------------
class Gone(Exception):
    """An actor that was killed was called."""


class Call:
    def __init__(self, act: Callable[[], Any]) -> None:
        try:
            self.value, self.error = act(), None
        except Exception as error:  # told to whoever asks
            self.value, self.error = None, error

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Handle:
    """An actor; `handle.method.remote(...)` calls it at once."""

    def __init__(self, actor: Any) -> None:
        self.actor, self.dead = actor, False

    def __getattr__(self, name: str) -> Any:
        return Method(self, name)


class Method:
    def __init__(self, handle: Handle, name: str, returns: int = 1) -> None:
        self.handle, self.name, self.returns = handle, name, returns

    def options(self, *, num_returns: int) -> Method:
        return Method(self.handle, self.name, num_returns)

    def remote(self, *given: Any) -> Any:
        made = Call(lambda: self._called([g.get() if isinstance(g, Call) else g for g in given]))
        return made if self.returns == 1 else [Call(lambda i=i: made.get()[i]) for i in range(self.returns)]

    def _called(self, given: Sequence[Any]) -> Any:
        if self.handle.dead:
            raise Gone
        return getattr(self.handle.actor, self.name)(*given)


class Ray:
    """What is asked of Ray."""

    class exceptions:  # Ray's word
        RayActorError = ObjectLostError = NodeDiedError = WorkerCrashedError = Gone

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def put(value: Any) -> Any:
        return value

    @staticmethod
    def wait(calls: Sequence[Call], num_returns: int = 1, timeout: float = 0) -> tuple[list[Call], list[Call]]:
        return list(calls), []

    @staticmethod
    def get(call: Call) -> Any:
        return call.get()


class Here(Cluster):
    def __init__(self, address: str | None, processes: int, *, cpus: float, gpus: float, actors: tuple[type, type]) -> None:
        self.ray, self._classes = Ray(), actors

    def server(self) -> Any:
        return Handle(self._classes[0]())

    def worker(self) -> Any:
        return Handle(self._classes[1]())

    def kill(self, actor: Any) -> None:
        actor.dead = True

    def stop(self) -> None: ...


class Options:
    servers = workers = 2
    staleness = 0
    address: str | None = None
    cpus, gpus = 1.0, 0.0
    save_every: int | None = None
    restarts, timeout = 1, 1.0

    def __init__(self, folder: Path) -> None:
        self.folder: str | None = str(folder)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[room.Driver]:
    monkeypatch.setattr(room, "Cluster", Here)
    layout = Layout({n: w.shape for n, w in START.items()}, SHARDS_OF, blocks(SHARDS, 2))
    made = room.Driver(Options(tmp_path), RATE, layout, Actors(Server, Worker, cut, joined), total=9)
    made.start({"step": 0, "weights": START})
    yield made
    made.stop()


def weights(driver: room.Driver) -> dict[str, Any]:
    found: dict[str, Any] = driver.tree()["weights"]
    return found


def test_the_weights_are_those_of_one_process(driver: room.Driver) -> None:
    for step in range(3):
        metrics = driver.step()
        assert metrics["loss"] == (SHARDS, SHARDS)
        assert driver.version == step + 1
        for name, wanted in alone(step + 1).items():
            np.testing.assert_allclose(weights(driver)[name], wanted, rtol=1e-12)
    assert driver.rates == {"lr": RATE}


@pytest.mark.parametrize("kind", ["server", "worker"])
def test_what_is_lost_is_replaced_and_no_bit_changes(driver: room.Driver, kind: str) -> None:
    driver.step()
    driver.step()
    lost = driver.servers[1] if kind == "server" else driver.pool.workers[1]
    driver.cluster.kill(lost)
    driver.step()
    assert driver.lost == 1
    assert driver.version == 3
    for name, wanted in alone(3).items():
        np.testing.assert_allclose(weights(driver)[name], wanted, rtol=1e-12)
