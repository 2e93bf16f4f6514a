"""Ranks on a Ray cluster: Ray finds a place for each, and an actor there starts the rank as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import LaunchError, first_line, require
from ..core.listening import ray_on_loopback
from ..processes.system import send, stack_of, state_of
from . import network
from .failure import End
from .logs import Logs
from .record import ATTEMPT, LOG, LOGS
from .request import Address, Request
from .team import News, Team

REACH = 10.0
"""Seconds in which a cluster's address must answer."""
ANSWER = 30.0
"""Seconds in which an actor must answer; after that its node is lost."""
PLACE = 10.0
"""Seconds that Ray has for the most ranks, where fewer will do."""
PATIENCE = 2.0
LOCAL = "local"
"""The address that means: start a cluster on this machine, for this run."""


class RankActor:
    """On the node that Ray chose: starts one rank, and answers for it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.logs, self.rank, self.read = Logs(Path()), 0, 0

    def where(self) -> dict[str, Any]:
        """This node's address, and a port that is free there."""
        ray: Any = require("ray", "ray", "--ray")
        return {"address": ray.util.get_node_ip_address(), "port": network.free_port(), "host": socket.gethostname()}

    def start(self, rank: int, words: list[str], environment: dict[str, str], folder: str, cwd: str, attempt: int) -> None:
        """Start the rank; its words go into its log."""
        self.logs, self.rank = Logs(Path(folder)), rank
        self.logs.begin(range(rank, rank + 1))
        log = self.logs.open(rank, attempt)
        self.read = self.logs.log(rank).stat().st_size
        # the driver shows what the leader says; of its errors only the first of all ranks
        own = {LOGS: str(self.logs.path.resolve()), LOG: str(self.logs.log(rank).resolve()) if rank else os.devnull}
        try:
            self.process = subprocess.Popen(  # noqa: S603  # the command that was typed
                [sys.executable, "-m", "mapsto", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
                env={**os.environ, **environment, **own, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(log)

    def poll(self, wants_words: bool) -> tuple[int | None, bytes]:
        """Its exit code, and what it said since."""
        code = None if self.process is None else self.process.poll()
        if not wants_words:
            return code, b""
        with open(self.logs.log(self.rank), "rb") as log:
            log.seek(self.read)
            said = log.read()
        self.read += len(said)
        return code, said

    def signal(self, number: int) -> None:
        """Send a signal to the process of the rank."""
        if self.process is not None and self.process.poll() is None:
            send(self.process.pid, number, group=number == signal.SIGKILL)

    def end(self, look: bool) -> dict[str, Any]:
        """How it ended, or where it is."""
        found: dict[str, Any] = {"state": "", "stack": ""}
        if look and self.process is not None and self.process.poll() is None:
            found["state"] = state_of(self.process.pid)
            if not found["state"].startswith("stopped"):
                found["stack"] = stack_of(self.process.pid, self.logs.stack(self.rank), PATIENCE)
        record, flight = self.logs.read("errors", self.rank), self.logs.read("flight", self.rank) or ()
        return {**found, "record": record, "flight": flight, "log": str(self.logs.log(self.rank))}


class Cluster:
    """Ranks of a Ray cluster: their membership and the workers at once (`mapsto.launch.team`).

    address: of the cluster, `auto` for the one that runs here, `local` for a new one; device: `cuda` takes a GPU a rank.
    Raises MissingExtra without Ray, LaunchError where the cluster does not answer or has no room.
    """

    def __init__(self, address: str, request: Request, device: str, environment: Mapping[str, str]) -> None:
        self.ray: Any = require("ray", "ray", "--ray")
        self.request, self.environment = request, dict(environment)
        self._actors: dict[int, Any] = {}
        self._codes: dict[int, int | None] = {}
        self._where: list[dict[str, Any]] = []
        self._group: Any = None
        self._surroundings = contextlib.ExitStack()
        self.logs = Logs(Path())
        self._connect(address)
        self.bundle = {"CPU": 1.0}
        if device in ("cuda", "auto") and self.ray.cluster_resources().get("GPU", 0) >= 1:
            self.bundle["GPU"] = 1.0

    def _connect(self, address: str) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address not in ("auto", LOCAL):
            place = Address.parse(address.removeprefix("ray://"), "--ray")
            try:
                socket.create_connection((place.host, place.port), timeout=REACH).close()
            except OSError as error:
                raise LaunchError(f"--ray {address}: no cluster answers there within {REACH:g} s ({error})") from None
        given = {"address": address} if address != LOCAL else {"address": "local", "include_dashboard": False}
        if address == LOCAL:
            self._surroundings.enter_context(ray_on_loopback())
        try:
            self.ray.init(**given, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            self._surroundings.close()
            raise LaunchError(
                f"--ray {address}: there is no Ray cluster to connect to ({first_line(error)}); start one (ray start --head), "
                "or say --ray local for one of this machine"
            ) from None

    # -- membership --------------------------------------------------------------------------------------------------
    def join(self, slots: tuple[int, ...], attempt: int) -> Team:  # noqa: ARG002  # Ray knows its devices
        """Places for the ranks. Raises LaunchError where the cluster has too few within the stated wait."""
        self._leave()
        fewest = self.request.ranks.low * self.request.nodes.low
        for number in range(self.request.ranks.high * self.request.nodes.high, fewest - 1, -1):
            limit = self.request.wait if number == fewest else PLACE
            if self._place(number, limit):
                break
        else:
            have = {name: count for name, count in self.ray.cluster_resources().items() if name in ("CPU", "GPU")}
            raise LaunchError(
                f"the Ray cluster found no room for {fewest} ranks of {self.bundle} within {self.request.wait:g} s; "
                f"it has {have}"
            )
        self._where = self._get([actor.where.remote() for actor in self._actors.values()])
        first = self._where[0]
        return Team(0, 1, 0, number, number, first["address"], first["port"], tuple(range(number)), attempt=attempt)

    def _place(self, number: int, limit: float) -> bool:
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._group = placement_group([self.bundle] * number, strategy="PACK")
        if not self._group.wait(limit):
            self._leave()
            return False
        made = self.ray.remote(RankActor)
        for rank in range(number):
            where = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank)
            given = {"num_cpus": 1, "num_gpus": self.bundle.get("GPU", 0), "scheduling_strategy": where, "max_concurrency": 4}
            self._actors[rank] = made.options(**given).remote()
        return True

    def news(self) -> News:
        return News()

    def exchange_ends(self, ends: list[End]) -> list[End]:
        return ends

    # -- workers -----------------------------------------------------------------------------------------------------
    def start(self, team: Team, words: list[str], logs: Logs) -> None:
        """Start the ranks where Ray put them."""
        self.logs, folder = logs, str(logs.path.parent.resolve())
        shared = {**self.environment, ATTEMPT: str(team.attempt), "TORCHELASTIC_RESTART_COUNT": str(team.attempt - 1)}
        started = []
        for rank, variables in team.environments():
            # Ray shows each rank its own device alone
            own = {**shared, **variables, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
            started.append(self._actors[rank].start.remote(rank, words, own, folder, os.getcwd(), team.attempt))
        self._codes = dict.fromkeys(team.ranks)
        self._get(started)

    def poll(self, seconds: float) -> None:
        """Ask each actor; one that does not answer is lost, with its node."""
        time.sleep(seconds)
        asked = {rank: self._actors[rank].poll.remote(rank == 0) for rank, code in self._codes.items() if code is None}
        for rank, answer in asked.items():
            try:
                code, said = self.ray.get(answer, timeout=ANSWER)
            except self._lost():
                code, said = -int(signal.SIGKILL), b""
            self._codes[rank] = code
            with contextlib.suppress(OSError):  # whoever read it went away; the run goes on
                sys.stdout.buffer.write(said)
                sys.stdout.flush()

    def codes(self) -> Mapping[int, int | None]:
        return dict(self._codes)

    def signal(self, number: int) -> None:
        living = [self._actors[rank] for rank, code in self._codes.items() if code is None]
        with contextlib.suppress(*self._lost()):
            self._get([actor.signal.remote(number) for actor in living])

    def end(self) -> None:
        """Kill those ranks that still run."""
        self.signal(signal.SIGKILL)
        until = time.monotonic() + ANSWER
        while None in self._codes.values() and time.monotonic() < until:
            self.poll(0.1)

    def ends(self, look: bool) -> list[End]:
        """How they ended; look: ask those that still run where they are."""
        found: list[End] = []
        for rank, code in sorted(self._codes.items()):
            told: dict[str, Any] = {"log": str(self.logs.log(rank))}
            with contextlib.suppress(*self._lost()):
                told = self.ray.get(self._actors[rank].end.remote(look), timeout=ANSWER)
            found.append(End(rank=rank, host=self._where[rank]["host"], code=code, time=time.time(), **told))
        return found

    def close(self) -> None:
        """Kill the ranks that still run, and disconnect from the Ray cluster."""
        if self.ray.is_initialized():
            with contextlib.suppress(Exception):
                self.end()
                self._leave()
            self.ray.shutdown()
        self._surroundings.close()

    def _leave(self) -> None:
        for actor in self._actors.values():
            with contextlib.suppress(Exception):
                self.ray.kill(actor)
        self._actors = {}
        if self._group is not None:
            self.ray.util.remove_placement_group(self._group)
        self._group = None

    def _get(self, answers: list[Any]) -> Any:
        try:
            return self.ray.get(answers, timeout=ANSWER)
        except self._lost() as error:
            raise LaunchError(f"a node of the Ray cluster does not answer: {first_line(error)}") from None

    def _lost(self) -> tuple[type[Exception], ...]:
        return (self.ray.exceptions.RayActorError, self.ray.exceptions.GetTimeoutError)
