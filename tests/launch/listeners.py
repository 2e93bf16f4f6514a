"""Who listens where: the sockets of a process and all below it, by what the system tells."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
from pathlib import Path

from mapsto.processes.system import descendants

LISTENS = "0A"


def table(text: str) -> dict[str, tuple[str, int]]:
    """Of /proc/net/tcp or tcp6: inode -> (address, port) of what listens; a v4 address within v6 is told as v4."""
    found: dict[str, tuple[str, int]] = {}
    for words in (line.split() for line in text.splitlines()[1:]):
        host, port = words[1].split(":")
        if words[3] == LISTENS:
            packed = b"".join(
                int.from_bytes(bytes.fromhex(host[i : i + 8]), sys.byteorder).to_bytes(4, "big") for i in range(0, len(host), 8)
            )
            address = ipaddress.ip_address(packed)
            within = getattr(address, "ipv4_mapped", None)
            found[words[9]] = (str(within or address), int(port, 16))
    return found


def listeners(pid: int) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket that a process or one below it listens on."""
    known: dict[str, tuple[str, int]] = {}
    for name in ("tcp", "tcp6"):
        known |= table(Path(f"/proc/net/{name}").read_text())
    found = set()
    for each in (pid, *descendants(pid)):
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{each}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inode = os.readlink(descriptor).removeprefix("socket:[").removesuffix("]")
                    if inode in known:
                        found.add(known[inode])
    return found


def answers(address: str, port: int) -> bool:
    """Whether something can be connected to there."""
    try:
        socket.create_connection((address, port), timeout=2.0).close()
    except OSError:
        return False
    return True
