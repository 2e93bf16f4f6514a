"""The process group: joined from what a launcher put into the environment, with a limit on every wait."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...core.errors import MapstoError, SpecError, first_line
from ...core.listening import INTERFACE, bound_for_others, interfaces, is_alone
from ...core.signing import VARIABLE
from .signed import sign_objects

TIMEOUT = 120.0
"""Seconds that a rank waits for the others in a collective, where the mesh says nothing."""
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


_ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""Under the name that this version of torch does not warn of."""


def all_gather(own: Tensor, group: dist.ProcessGroup, room: Tensor | None = None) -> Tensor:
    """The ranks' tensors of one dimension and equal length, one after another: [ranks, length]; written into `room`."""
    every = room if room is not None else own.new_empty(dist.get_world_size(group) * own.numel())
    _ALL_GATHER(every, own, group=group)
    return every.view(-1, own.numel())


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher such as torchrun started this process as a rank."""
    return dist.is_available() and (dist.is_initialized() or all(name in environment for name in NEEDED))


def join(timeout: float | None = None) -> None:
    """Join the process group of the launcher, on the CPU by gloo and on CUDA devices by NCCL; safe to call twice.

    timeout: seconds. Rank 0 waits for the others at the address that was said, and at no other; where all ranks are on this
    machine gloo and NCCL stay on it too. With a secret in the environment (MAPSTO_SECRET) the ranks read objects of each
    other only. Raises MapstoError where the others cannot be reached.
    """
    if dist.is_initialized():
        return
    if secret := os.environ.get(VARIABLE):
        sign_objects(secret.encode())
    cuda = torch.cuda.is_available()
    if cuda:
        number = int(os.environ.get("LOCAL_RANK", "0"))
        if number >= torch.cuda.device_count():
            raise SpecError(f"local rank {number} has no device: there are {torch.cuda.device_count()} CUDA devices here")
        torch.cuda.set_device(number)
    limit = timedelta(seconds=timeout or TIMEOUT)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=limit, **_meeting(limit))
    except (dist.DistError, OSError, RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
        raise MapstoError(f"rank {rank} of {world} could not join the others at {where}: {first_line(error)}") from error


def _meeting(limit: timedelta) -> dict[str, Any]:
    """How `init_process_group` is to find the others: on rank 0 by a store of its own, which torch lets listen everywhere."""
    env = os.environ
    if any(name not in env for name in NEEDED):
        return {}  # torch says which one is missing
    alone = is_alone(env)
    if alone and sys.platform.startswith(("linux", "darwin")):
        env.update(interfaces(INTERFACE))
    if env["RANK"] != "0" or env.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return {}
    distributed: Any = dist
    host, port = env["MASTER_ADDR"], int(env["MASTER_PORT"])
    with bound_for_others(host, port, alone=alone) as made:
        store = distributed.TCPStore(
            host, port, int(env["WORLD_SIZE"]), is_master=True, timeout=limit, master_listen_fd=os.dup(made.fileno())
        )  # fmt: skip
    return {"store": distributed.PrefixStore("default_pg", store), "rank": 0, "world_size": int(env["WORLD_SIZE"])}


def limit(group: dist.ProcessGroup | None, seconds: float) -> None:
    """State how long ranks of a group (None: of all) wait for each other; one that was made later does not inherit it."""
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Within it no rank waits longer than so many seconds for the others; then the framework's usual time."""
    limit(None, seconds)
    try:
        yield
    finally:
        limit(None, dist.constants.default_pg_timeout.total_seconds())


class Group:
    """The ranks as the engine sees them (`mapsto.engine.ranks.Ranks`). group: another process group than the default."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.leader = self.rank == 0

    def share(self, value: Any) -> Any:
        """The leader's value, on every rank."""
        held = [value]
        dist.broadcast_object_list(held, src=0, device=torch.device("cpu"), group=self.group)
        return held[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value by rank, on every rank."""
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self.group)
        return found

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    def new_group(self, seconds: float) -> Group:
        """The same ranks on a gloo group of their own: on one group the collectives of two threads would mix."""
        return Group(dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds)))
