"""What listens on a machine that trains by itself can be reached from this machine alone."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from tests.launch.launches import await_, command
from tests.launch.listeners import listeners, table

from mapsto.core.listening import bound_for_others, interfaces, is_alone
from mapsto.engine.folder import RunFolder

RECIPE = Path(__file__).with_name("troubled.py")


def logged(run):
    return list(RunFolder(run).records("log"))


def test_two_ranks_listen_on_loopback_alone_and_their_files_have_one_mode(tmp_path):
    run = tmp_path / "run"
    with command(
        "train", RECIPE, "--ranks", 2, "--run", run, "model.pause=0.05", "mesh.timeout=60", folder=tmp_path
    ) as process:
        await_(lambda: list(RunFolder(run).records("checkpoint")) or process.poll() is not None, 120)
        assert process.poll() is None, process.communicate()[0]
        found = listeners(process.pid)
        modes = {file.stat().st_mode & 0o777 for file in run.rglob("*") if file.is_file()}
    assert len(found) >= 2  # the store of the ranks, and gloo on each
    assert {address for address, _ in found} == {"127.0.0.1"}
    mask = os.umask(0)
    os.umask(mask)
    assert modes == {0o666 & ~mask}


@pytest.mark.slow
def test_a_parameter_server_listens_on_loopback_alone(tmp_path):
    pytest.importorskip("ray")
    run = tmp_path / "run"
    words = ["train", RECIPE, "--run", run, "mesh={servers: 1, workers: 1}", "epochs=200", "model.pause=0.05"]
    with command(*words, folder=tmp_path) as process:
        await_(lambda: logged(run) or process.poll() is not None, 180)
        assert process.poll() is None, process.communicate()[0]
        found = listeners(process.pid)
    assert len(found) >= 4
    assert {address for address, _ in found} <= {"127.0.0.1", "::1"}


def test_every_interface_and_mapped_addresses_are_told_apart():
    head = "sl local rem st tx tr retr uid timeout inode\n"
    rows = [
        "0: 0100007F:1F90 00000000:0000 0A 0 0 0 0 0 11",
        "1: 00000000:0050 00000000:0000 0A 0 0 0 0 0 12",
        "2: 0000000000000000FFFF00000100007F:0051 0:0 0A 0 0 0 0 0 13",
        "3: 00000000000000000000000000000000:0052 0:0 0A 0 0 0 0 0 14",
        "4: 0100007F:1F91 00000000:0000 01 0 0 0 0 0 15",
    ]
    found = table(head + "\n".join(rows).replace(" 0 0 0 0 0 ", " 0:0 0:0 0 0 0 "))
    assert list(found.values()) == [("127.0.0.1", 8080), ("0.0.0.0", 80), ("127.0.0.1", 81), ("::", 82)]
    with socket.create_server(("0.0.0.0", 0)) as planted:
        assert ("0.0.0.0", planted.getsockname()[1]) in listeners(os.getpid())


@pytest.mark.parametrize(
    ("host", "alone", "address"),
    [
        ("127.0.0.1", True, "127.0.0.1"),
        ("127.0.0.1", False, "127.0.0.1"),
        ("localhost", False, "127.0.0.1"),
        ("192.0.2.77", False, "0.0.0.0"),  # a service's address, which no machine has itself
    ],
)
def test_rank_zero_waits_where_it_was_said(host, alone, address):
    with bound_for_others(host, 0, alone=alone) as made:
        assert made.getsockname()[0] == address


def test_a_hosts_own_name_that_leads_to_loopback_is_open_to_other_machines_alone(monkeypatch):
    monkeypatch.setattr("mapsto.core.listening.resolved", lambda host: "127.0.1.1")
    for alone, address in ((True, "127.0.1.1"), (False, "0.0.0.0")):
        with bound_for_others("node-0", 0, alone=alone) as made:
            assert made.getsockname()[0] == address


def test_who_is_alone_stays_on_the_loopback_interface(monkeypatch):
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    assert is_alone({"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"})
    assert is_alone({"MASTER_ADDR": "node-0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    assert not is_alone({"MASTER_ADDR": "node-0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})
    assert interfaces("lo") == {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}
    assert interfaces("eth0") == {"GLOO_SOCKET_IFNAME": "eth0"}
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth1")
    assert interfaces("eth0") == {}
