"""Ranks on this machine: forks of one server, their words in files, and the leader's on the terminal too."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..core.listening import INTERFACE, interfaces, is_loopback
from ..processes.forks import ForkServer
from ..processes.system import send, stack_of, state_of
from .failure import End
from .logs import Logs
from .network import free_port, interface_of
from .record import ATTEMPT, LOG, LOGS
from .team import News, Team, alone

PATIENCE = 2.0
"""Seconds that a rank has to write where it is."""


class Alone:
    """The membership of one machine: whoever is there takes part."""

    def join(self, slots: tuple[int, ...], attempt: int) -> Team:
        return alone(slots, free_port("127.0.0.1"), attempt)

    def news(self) -> News:
        return News()

    def exchange_ends(self, ends: list[End]) -> list[End]:
        return ends

    def close(self) -> None:
        return


@dataclass
class _Rank:
    pid: int
    log: int
    code: int | None = None
    time: float = 0.0


class LocalWorkers:
    """The ranks of a team that are this machine's (`mapsto.launch.team.Workers`).

    call: `module:function` that is given the words of the command line and returns an exit code.
    """

    def __init__(self, server: ForkServer, call: str) -> None:
        self.server, self.call = server, call
        self.logs = Logs(Path())
        self._ranks: dict[int, _Rank] = {}
        self._pipes: dict[int, tuple[int, int]] = {}
        self._host = socket.gethostname()

    def start(self, team: Team, words: list[str], logs: Logs) -> None:
        """Start the team's ranks of this node. Raises LaunchError."""
        self.server.revive()
        self._close()
        self.logs = logs
        self.logs.begin(team.ranks)
        for rank, variables in team.environments():
            own = {
                **variables,
                **self._network(team),
                **self._device(team),
                LOGS: str(self.logs.path.resolve()),
                LOG: str(self.logs.log(rank).resolve()),
                ATTEMPT: str(team.attempt),
                "TORCHELASTIC_RESTART_COUNT": str(team.attempt - 1),
            }
            log = self.logs.open(rank, team.attempt)
            theirs = [log, log] if rank else [self._tee(1, log), self._tee(2, log)]
            try:
                self._ranks[rank] = _Rank(self.server.fork(self.call, [words], environment=own, pass_=theirs), log)
            finally:
                for descriptor in {*theirs} - {log, 1}:
                    os.close(descriptor)

    def _network(self, team: Team) -> dict[str, str]:
        """The interface that ranks are to use, where nobody said one: what a host's name stands for is often another."""
        if not sys.platform.startswith(("linux", "darwin")):
            return {}
        return interfaces(INTERFACE if is_loopback(team.own) else interface_of(team.own))

    @staticmethod
    def _device(team: Team) -> dict[str, str]:
        """Where a device is left out, the others keep their ranks."""
        if team.slots == tuple(range(team.local)):
            return {}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        named = visible.split(",") if visible else [str(n) for n in range(max(team.slots) + 1)]
        return {"CUDA_VISIBLE_DEVICES": ",".join(named[s] for s in team.slots if s < len(named))}

    def _tee(self, target: int, log: int) -> int:
        """A descriptor for the leader's output or error: what is written there goes to ours, and into the log.

        A terminal is handed over as it is, for what is redrawn there belongs into no file.
        """
        if target == 1 and os.isatty(1):
            return 1
        heard, told = os.pipe()
        os.set_blocking(heard, False)
        self._pipes[heard] = (target, log)
        return told

    # -- while they run ----------------------------------------------------------------------------------------------
    def poll(self, seconds: float) -> None:
        """Wait at most that long for an end or for words; pass words on. Raises LaunchError where the server stands still."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.server, selectors.EVENT_READ)
            for pipe in self._pipes:
                selector.register(pipe, selectors.EVENT_READ)
            for key, _ in selector.select(seconds):
                if key.fd in self._pipes:
                    self._pass_on(key.fd)
        alive = self.server.receive()
        self.server.take()
        if alive and any(each.code is None for each in self._ranks.values()):
            self.server.look()
        for rank in self._ranks.values():
            if rank.code is None and rank.pid in self.server.ended:
                rank.code, rank.time = self.server.ended.pop(rank.pid)
            elif rank.code is None and not alive:  # its ranks die with it
                rank.code, rank.time = -signal.SIGKILL, time.time()

    def _pass_on(self, pipe: int) -> None:
        target, log = self._pipes[pipe]
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                os.close(pipe)
                del self._pipes[pipe]
                return
            os.write(log, chunk)
            if target >= 0:
                try:
                    _write(target, chunk)
                except OSError:  # whoever read it went away; the run goes on
                    self._pipes[pipe] = (-1, log)

    def codes(self) -> Mapping[int, int | None]:
        return {rank: each.code for rank, each in self._ranks.items()}

    def signal(self, number: int) -> None:
        for each in self._ranks.values():
            if each.code is None:
                send(each.pid, number)

    def end(self) -> None:
        """Kill those that run, with all that they started, and wait until they are gone."""
        for each in self._ranks.values():
            if each.code is None:
                send(each.pid, signal.SIGKILL, group=True)
        until = time.monotonic() + 10.0
        while None in self.codes().values() and time.monotonic() < until:
            self.poll(0.1)
        for _ in range(2 * len(self._pipes)):
            for pipe in list(self._pipes):  # last words
                self._pass_on(pipe)

    def ends(self, look: bool) -> list[End]:
        """How they ended; look: ask those that still run where they are."""
        asked = [rank for rank, each in self._ranks.items() if each.code is None and look]
        with ThreadPoolExecutor(max(1, len(asked))) as pool:
            stacks = dict(zip(asked, pool.map(self._look, asked), strict=True))
        return [
            End(
                rank=rank,
                host=self._host,
                code=each.code,
                time=each.time or time.time(),
                log=str(self.logs.log(rank)),
                record=self.logs.read("errors", rank),
                flight=self.logs.read("flight", rank) or (),
                state=stacks[rank][0] if rank in stacks else "",
                stack=stacks[rank][1] if rank in stacks else "",
            )
            for rank, each in sorted(self._ranks.items())
        ]

    def _look(self, rank: int) -> tuple[str, str]:
        pid = self._ranks[rank].pid
        state = state_of(pid)
        stack = "" if state.startswith("stopped") else stack_of(pid, self.logs.stack(rank), PATIENCE)
        return state, stack

    def _close(self) -> None:
        for pipe in self._pipes:
            os.close(pipe)
        for each in self._ranks.values():
            os.close(each.log)
        self._pipes, self._ranks = {}, {}

    def close(self) -> None:
        """Kill what runs and let go of files."""
        self.end()
        self._close()


def _write(target: int, chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(target, chunk) :]
