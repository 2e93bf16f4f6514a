"""Where a process may be reached: it listens on the address that was said, and on no other."""

from __future__ import annotations

import contextlib
import errno
import importlib
import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
"""The network interface that other machines do not reach."""
EVERYWHERE = "0.0.0.0"  # noqa: S104  # listened on where the address that was said is none of this machine
"""The address of every interface."""
SWITCH, TOKEN = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""What Ray reads: whether it makes clusters of several machines, and how it knows who may speak with it."""
_RAY_TOKEN = secrets.token_hex(32)


def resolved(host: str) -> str:
    """The numeric address of a host. Raises OSError where it has none."""
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def is_loopback(host: str) -> bool:
    """Whether a host, by its address or as `localhost`, is said to be this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(address: str, port: int) -> socket.socket:
    """A TCP socket at this numeric address and no other; nothing listens yet. Raises OSError."""
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
    except BaseException:
        made.close()
        raise
    return made


def bound_for_others(host: str, port: int, *, alone: bool) -> socket.socket:
    """A socket at which other ranks or nodes are waited for, who know this machine as `host`; alone: all are on this machine.

    A name that leads to this machine alone, or to an address that it does not have (a service, a forwarded port), tells
    nothing of where those of other machines will come in: then, and only then, every interface is listened on. Raises OSError.
    """
    address = resolved(host)
    if not alone and is_loopback(address) and not is_loopback(host):
        return bound(EVERYWHERE, port)  # a host's own name, which the other machines resolve otherwise
    try:
        return bound(address, port)
    except OSError as error:
        if alone or error.errno != errno.EADDRNOTAVAIL:
            raise
        return bound(EVERYWHERE, port)


def is_alone(environment: Mapping[str, str]) -> bool:
    """Whether all ranks are on this machine, by a launcher's variables: as many here as in all, or they meet on loopback."""
    local = environment.get("LOCAL_WORLD_SIZE")
    return is_loopback(environment["MASTER_ADDR"]) or (local is not None and local == environment["WORLD_SIZE"])


def interfaces(name: str | None) -> dict[str, str]:
    """The variables that keep gloo on an interface, and NCCL where it is this machine's own, as far as nobody said another."""
    wanted = {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}" if name == INTERFACE else None}
    return {variable: said for variable, said in wanted.items() if said and variable not in os.environ}


@contextlib.contextmanager
def ray_on_loopback() -> Iterator[None]:
    """Within it a Ray cluster that this process starts listens on 127.0.0.1 only, and its token is of this process alone.

    Ray has a switch for this, made for desktops: without clusters of several machines it stays on loopback. Who has set the
    switch, a mode or a token, is obeyed. Enter it before Ray is started, leave it after Ray has ended.
    """
    wanted = {SWITCH: "0"}
    if not any(name in os.environ for name in TOKEN):
        wanted["RAY_AUTH_TOKEN"] = _RAY_TOKEN  # else Ray keeps one in the home folder, which everybody may read
    before = {name: os.environ.get(name) for name in (SWITCH, *TOKEN)}
    constants: Any = None
    with contextlib.suppress(ImportError):
        constants = importlib.import_module("ray._private.ray_constants")
    switch = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    os.environ.update({name: value for name, value in wanted.items() if before[name] is None})
    if switch and before[SWITCH] is None:  # it was read when Ray was imported
        constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        for name, value in before.items():  # Ray itself sets the mode
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if switch:
            constants.ENABLE_RAY_CLUSTER = switch
