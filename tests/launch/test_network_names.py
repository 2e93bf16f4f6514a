"""Hosts, ports and interfaces."""

from __future__ import annotations

import socket
import sys
import time

import pytest

from mapsto.core.errors import LaunchError
from mapsto.launch import network
from mapsto.launch.request import Address


def test_a_port_that_is_taken():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(1)
        port = held.getsockname()[1]
        assert network.is_taken(Address("", port))
    assert not network.is_taken(Address("", network.free_port()))


def test_hosts_that_are_not_there():
    with pytest.raises(LaunchError, match=r"there is no host 'no-such-host\.invalid'"):
        network.resolve("no-such-host.invalid")
    assert network.resolve("127.0.0.1") == "127.0.0.1"
    assert network.is_here("127.0.0.1")
    assert not network.is_here("192.0.2.1")


def test_where_nobody_listens_a_wait_ends_and_says_so():
    said, began = [], time.monotonic()
    address = Address("127.0.0.1", network.free_port())
    with pytest.raises(LaunchError, match="nothing answers at 127.0.0.1"):
        network.await_listener(address, 0.5, said.append, lambda: True)
    assert time.monotonic() - began < 10
    with pytest.raises(LaunchError, match="interrupted"):
        network.await_listener(address, 60, said.append, lambda: False)


def test_the_way_to_a_host():
    assert network.address_towards("127.0.0.1") == "127.0.0.1"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the system as Linux is asked")
def test_the_interface_of_an_address():
    assert network.interface_of("127.0.0.1") == "lo"
    assert network.interface_of("192.0.2.1") is None
