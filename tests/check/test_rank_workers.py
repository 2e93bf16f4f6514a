"""The checker's workers: what starts them is named where it stands still, and ranks among them listen on this machine alone."""

from __future__ import annotations

import os
import signal

import pytest
from tests.launch.launches import is_alive
from tests.launch.listeners import listeners

from mapsto.check.process import Dead, Group, Server
from mapsto.processes import forks


def test_a_server_that_is_stopped_is_named_and_ended_with_its_workers(monkeypatch):
    monkeypatch.setattr(forks, "STOPPED", 0.5)
    with Server() as server:
        os.kill(server._process.pid, signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(Dead, match=r"the fork server, process \d+\) stands still: it has been stopped by a signal"):
                Group(server)
        assert not is_alive(server._process.pid)


def test_rank_workers_listen_on_loopback_alone():
    with Server() as server:
        group = Group(server, ranks=2)
        try:
            found = listeners(server._process.pid)
        finally:
            group.end()
    assert found
    assert {address for address, _ in found} == {"127.0.0.1"}
