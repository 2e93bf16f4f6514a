"""Hosts of their own on one machine: network namespaces on a bridge, with a stated bandwidth, that can be killed or cut off."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NET = "10.213.77"
"""The first three numbers of the hosts' addresses; the bridge itself is 254."""


def sh(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout


class Host:
    """A namespace with one interface to the bridge."""

    def __init__(self, number: int, bridge: str, mbit: int) -> None:
        self.name, self.address = f"{bridge}h{number}", f"{NET}.{number + 1}"
        self.outer, self.processes = f"{bridge}v{number}", []  # type: ignore[var-annotated]
        sh("ip", "netns", "add", self.name)
        sh("ip", "link", "add", self.outer, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        sh("ip", "link", "set", self.outer, "master", bridge, "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "link", "set", "lo", "up")
        for within, device in ((self.run, "eth0"), (sh, self.outer)):  # both ways
            within(
                "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{mbit}mbit", "burst", "64kb", "latency", "400ms"
            )

    def run(self, *words: object) -> str:
        return sh("ip", "netns", "exec", self.name, *words)

    def start(self, *words: object, folder: Path, said: Path) -> subprocess.Popen[bytes]:
        """`python -m mapsto ...` on this host; its words go into a file."""
        with open(said, "ab") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, sys.executable, "-m", "mapsto", *map(str, words)],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=folder, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        self.processes.append(process)
        return process

    def kill(self) -> None:
        """Everything on this host, at once."""
        for pid in sh("ip", "netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for process in self.processes:
            process.wait(20)

    def link(self, state: str) -> None:
        """`down` cuts it off, `up` connects it again."""
        sh("ip", "link", "set", self.outer, state)

    def remove(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self.kill()
        for words in (("ip", "link", "del", self.outer), ("ip", "netns", "del", self.name)):
            with contextlib.suppress(subprocess.SubprocessError):
                sh(*words)


@contextlib.contextmanager
def hosts(count: int, mbit: int = 100) -> Iterator[list[Host]]:
    """So many hosts on one bridge, of `mbit` Mbit/s each way. Raises OSError or CalledProcessError where that may not be."""
    bridge = f"mp{os.getpid() % 100000}"
    made: list[Host] = []
    try:
        sh("ip", "link", "add", bridge, "type", "bridge")
        sh("ip", "addr", "add", f"{NET}.254/24", "dev", bridge)
        sh("ip", "link", "set", bridge, "up")
        for number in range(count):
            made.append(Host(number, bridge, mbit))
        yield made
    finally:
        for host in made:
            host.remove()
        with contextlib.suppress(subprocess.SubprocessError):
            sh("ip", "link", "del", bridge)


def are_possible() -> bool:
    """Whether this user may make them here."""
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return False
    try:
        with hosts(1):
            time.sleep(0)
    except (OSError, subprocess.SubprocessError):
        return False
    return True
