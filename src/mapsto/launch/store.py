"""The store through which nodes meet: a process of its own, so that no node's end is the end of the meeting.

`python -m mapsto.launch.store HOST:PORT` keeps one until it is ended; where none is there, the node that has HOST starts one,
which ends with it. It listens at HOST only, where that is an address that others reach. It knows nothing of what is kept in it:
the nodes sign what they leave there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from ..core.errors import LaunchError, first_line
from ..core.listening import EVERYWHERE, bound_for_others, resolved


def keep(host: str, port: int, told: int) -> int:
    """In a fork: a store at that address, until this process is killed; `told` hears a byte when it is there."""
    store = _open(host, port)
    os.write(told, b"1" if store is not None else b"0")
    os.close(told)
    if store is None:
        return 1
    threading.Event().wait()
    return 0


def _open(host: str, port: int) -> Any:
    import torch.distributed

    dist: Any = torch.distributed

    try:
        with bound_for_others(host, port, alone=False) as made:
            address, descriptor = made.getsockname()[0], os.dup(made.fileno())  # torch closes it
        if address == EVERYWHERE:
            if host != EVERYWHERE:
                print(
                    f"{host} is {resolved(host)} here, which others do not reach: listening on every interface", file=sys.stderr
                )
            address = "127.0.0.1"  # where this process speaks with it
        return dist.TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor)
    except (dist.DistNetworkError, RuntimeError) as error:
        print(first_line(error), file=sys.stderr)
    except OSError as error:
        print(f"error: {host}:{port} cannot be listened on: {error.strerror}", file=sys.stderr)
    return None


def main(argument: str) -> int:
    """Keep a store at HOST:PORT until SIGINT or SIGTERM; the exit code."""
    from .request import Address

    try:
        address = Address.parse(argument)
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    store = _open(address.host, address.port)
    if store is None:
        return 1
    print(f"a rendezvous at {address}; Ctrl-C ends it", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m mapsto.launch.store HOST:PORT", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1]))
