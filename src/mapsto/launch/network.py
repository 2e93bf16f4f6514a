"""Hosts, ports and interfaces: where ranks can meet."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable

from ..core.errors import LaunchError
from .request import Address

PATIENCE = 5.0
"""Seconds after which a wait is told."""


def free_port(host: str = "") -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as found:
        found.bind((host, 0))
        return int(found.getsockname()[1])


def resolve(host: str) -> str:
    """The numeric address of a host. Raises LaunchError where it has none."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise LaunchError(f"--rendezvous: there is no host {host!r} to be found from {socket.gethostname()}: {error}") from None


def is_here(host: str) -> bool:
    """Whether an address is one of this machine's: only those can be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        try:
            tried.bind((host, 0))
        except OSError:
            return False
    return True


def is_taken(address: Address) -> bool:
    """Whether something of this machine listens on the port already."""
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((address.host, address.port))
            tried.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            if error.errno == errno.EACCES:
                raise LaunchError(f"port {address.port} may not be listened on by this user: choose one above 1023") from None
            raise
    return False


def await_listener(address: Address, wait: float, say: Callable[[str], None], going: Callable[[], bool]) -> None:
    """Wait until something listens there. Raises LaunchError after `wait` seconds, or where `going` says no."""
    began, told = time.monotonic(), False
    while True:
        with contextlib.suppress(OSError), socket.create_connection((address.host, address.port), timeout=2.0):
            return
        waited = time.monotonic() - began
        if waited > wait:
            raise LaunchError(
                f"nothing answers at {address}, waited {wait:.0f} s: is the node with --node-rank 0 started, is that its "
                "address, and does no firewall stand between? --wait SECONDS waits longer"
            )
        if waited > PATIENCE and not told:
            say(f"waiting for the rendezvous at {address}, at most {wait:g} s")
            told = True
        if not going():
            raise LaunchError("interrupted while waiting for the other nodes")
        time.sleep(0.2)


def address_towards(host: str) -> str:
    """This machine's address on the way to a host; nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as found:
        try:
            found.connect((host, 9))
        except OSError as error:
            raise LaunchError(f"--rendezvous: {host} cannot be reached from {socket.gethostname()}: {error.strerror}") from None
        return str(found.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The name of the network interface that has this IPv4 address (Linux), or None."""
    try:
        import fcntl
    except ImportError:
        return None
    for _, name in socket.if_nameindex():
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            packed = fcntl.ioctl(asked.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
            if socket.inet_ntoa(packed[20:24]) == address:
                return name
    return None
