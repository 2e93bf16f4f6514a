"""Several nodes: they meet by torch's rendezvous, with ranks that need no framework; each node has its own server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.launch.launches import LIMIT, Told, await_

from mapsto.core.errors import LaunchError
from mapsto.launch.agent import ALIVE, ENDS_LIMIT, LAST_CALL, MISSES
from mapsto.launch.local import LocalWorkers
from mapsto.launch.network import free_port
from mapsto.launch.rendezvous import Rendezvous
from mapsto.launch.request import Address, Request, Span
from mapsto.launch.supervisor import Supervisor
from mapsto.processes.forks import ForkServer

RENDEZVOUS = ("torch.distributed.elastic.rendezvous.dynamic_rendezvous", "tests.launch.fake_ranks")
SECRET = b"a secret of these tests"
SLACK = 25.0
"""Seconds for a busy machine, on top of what is promised."""


class Node:
    """A node's supervisor in a thread of this process."""

    def __init__(self, server: ForkServer, folder: Path, deeds: list[str], *, ranks: int = 1, **request: object) -> None:
        self.server, self.told, self.signals = server, Told(folder), []  # type: ignore[var-annotated]
        made = Request(Span(ranks, ranks), **request)  # type: ignore[arg-type]
        self.meeting = Rendezvous(server, made, folder, SECRET, self.told.said.append, lambda: not self.signals)
        self.supervisor = Supervisor(
            request=made,
            workers=LocalWorkers(server, "tests.launch.fake_ranks:main"),
            membership=self.meeting,
            words=lambda folder, attempt: [str(folder), *deeds],
            folder=folder,
            say=self.told.said.append,
            signals=self.signals,
        )
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.told.code = self.supervisor.run()
        except LaunchError as error:
            self.told.error = str(error)
        finally:
            self.told.folder = self.supervisor.folder
            self.supervisor.close()

    def end(self, limit: float = LIMIT) -> Told:
        self.thread.join(limit)
        if self.thread.is_alive():
            self.signals += [2, 2]
            self.thread.join(30)
            raise AssertionError(f"not within {limit:g} s: {self.told.said}")
        return self.told

    def die(self) -> None:
        """As a machine does that is switched off: ranks, agent and all."""
        self.server._process.kill()
        self.signals += [2, 2]
        self.thread.join(30)


@pytest.fixture(scope="module")
def servers() -> Iterator[list[ForkServer]]:
    with ForkServer(RENDEZVOUS, threads=1) as one, ForkServer(RENDEZVOUS, threads=1) as two:
        yield [one, two]


@pytest.fixture
def meet() -> Address:
    return Address("127.0.0.1", free_port())


def both(servers, folders, deeds, meet, **more):
    nodes = [
        Node(servers[k], folders[k], deeds, nodes=Span(2, 2), node_rank=k, rendezvous=meet, ranks=1 + k, **more) for k in (1, 0)
    ]
    return [node.end() for node in nodes][::-1]


def test_nodes_meet_in_their_order_and_agree_on_a_folder(servers, tmp_path, meet):
    told = both(servers, [tmp_path / "zero", tmp_path / "one"], [], meet, wait=60.0)
    assert [t.code for t in told] == [0, 0]
    assert told[0].folder == told[1].folder
    seen = [told[0].seen(rank)[0] for rank in range(3)]
    assert [(s["RANK"], s["LOCAL_RANK"], s["WORLD_SIZE"]) for s in seen] == [("0", "0", "3"), ("1", "0", "3"), ("2", "1", "3")]
    assert len({s["MASTER_PORT"] for s in seen}) == 1
    assert any("started ranks 1, 2 of 3 on 2 nodes" in line for line in told[1].said)


def test_the_first_failure_is_told_on_every_node(servers, tmp_path, meet):
    deeds = ["2@1=raise:system", "0@1=echo", "1@1=echo"]
    told = both(servers, [tmp_path / "run"] * 2, deeds, meet, wait=60.0)
    assert [t.code for t in told] == [0, 0], [t.text() for t in told]
    for each in told:
        assert "rank 2 failed first at step 7: RuntimeError: planted" in each.text()
        assert "Connection reset" not in each.text()
    assert [s["attempt"] for s in told[0].seen(0)] == [1, 2]


def test_a_stalled_rank_on_a_node_without_any_other_is_named_on_the_other(servers, tmp_path, meet):
    deeds = ["1=loop", "0=echo:0.5"]
    nodes = [
        Node(servers[k], tmp_path / "run", deeds, nodes=Span(2, 2), node_rank=k, rendezvous=meet, restarts=0) for k in (0, 1)
    ]
    for told in (node.end() for node in nodes):
        assert "rank 1 did not come: it was running; rank 0 waited" in told.text()
        assert "in act" in told.text()


def test_a_dead_node_is_missed_and_comes_back(servers, tmp_path, meet):
    deeds = ["0@1=echo:4", "0@2=wait", "0@3=wait:1", "1@1=wait", "1@3=wait:1"]
    options = {"nodes": Span(1, 2), "rendezvous": meet, "wait": 60.0}
    first = Node(servers[0], tmp_path / "run", deeds, node_rank=0, **options)
    second = Node(servers[1], tmp_path / "run", deeds, node_rank=1, **options)
    await_(lambda: (tmp_path / "run" / "ready-1").exists())
    began = time.monotonic()
    second.die()
    await_(lambda: (tmp_path / "run" / "ready-0").exists())  # it goes on alone
    assert time.monotonic() - began < 4 + ENDS_LIMIT + ALIVE * MISSES + LAST_CALL + SLACK
    assert "rank 1 did not come: it was on a node that does not answer any more" in first.told.text()
    servers[1].revive()
    again = Node(servers[1], tmp_path / "run", deeds, node_rank=1, **options)
    assert [first.end().code, again.end().code] == [0, 0], (first.told.text(), again.told.text())
    assert [e["world"] for e in first.told.events("started") if 0 in e["ranks"]] == [2, 1, 2]
    assert again.told.seen(1)[-1]["attempt"] == 3  # the one who comes later goes on with the others


def test_too_few_nodes_are_waited_for_as_long_as_is_said(servers, tmp_path, meet):
    node = Node(servers[0], tmp_path / "run", [], nodes=Span(2, 2), node_rank=0, rendezvous=meet, wait=3.0)
    told = node.end()
    assert f"fewer than 2 nodes came to {meet} within 3 s" in told.error


def test_one_place_said_twice(servers, tmp_path, meet):
    nodes = [Node(server, tmp_path, [], nodes=Span(2, 2), node_rank=0, rendezvous=meet, wait=20.0) for server in servers]
    assert all("--node-rank 0 was said by" in node.end().error for node in nodes)


def test_a_port_that_another_program_has(servers, tmp_path, monkeypatch):
    monkeypatch.setattr("mapsto.launch.rendezvous.EXCHANGE", 1.0)
    monkeypatch.setattr("mapsto.launch.rendezvous.PATIENCE", 1.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(5)
        taken = Address("127.0.0.1", other.getsockname()[1])
        node = Node(servers[0], tmp_path, [], nodes=Span(2, 2), node_rank=0, rendezvous=taken, wait=4.0)
        told = node.end()
    assert "something else than a rendezvous listens at" in told.error


def test_a_host_that_is_not_there(servers, tmp_path, meet):
    with pytest.raises(LaunchError, match="there is no host"):
        Rendezvous(
            servers[0],
            Request(Span(1, 1), Span(2, 2), rendezvous=Address("no.invalid", 1)),
            tmp_path,
            SECRET,
            print,
            lambda: True,
        )
    node = Node(servers[0], tmp_path, [], nodes=Span(2, 2), node_rank=1, rendezvous=meet, wait=2.0)
    assert f"nothing answers at {meet}" in node.end().error


def test_a_signal_ends_the_waiting(servers, tmp_path, meet):
    node = Node(servers[0], tmp_path, [], nodes=Span(2, 2), node_rank=0, rendezvous=meet, wait=60.0)
    await_(lambda: node.meeting._agent is not None)
    node.signals.append(2)
    assert node.end(20).code == 130
