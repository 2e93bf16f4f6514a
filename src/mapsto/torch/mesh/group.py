"""The process group: joined from what a launcher put into the environment, with a limit on every wait."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ...core.errors import MapstoError, SpecError

TIMEOUT = 120.0
"""Seconds that a rank waits for the others in a collective, where the mesh says nothing."""
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher such as torchrun started this process as a rank."""
    return dist.is_available() and (dist.is_initialized() or all(name in environment for name in NEEDED))


def join(timeout: float | None = None) -> None:
    """Join the process group of the launcher, on the CPU by gloo and on CUDA devices by NCCL; safe to call twice.

    timeout: seconds. Raises MapstoError where the others cannot be reached.
    """
    if dist.is_initialized():
        return
    cuda = torch.cuda.is_available()
    if cuda:
        number = int(os.environ.get("LOCAL_RANK", "0"))
        if number >= torch.cuda.device_count():
            raise SpecError(f"local rank {number} has no device: there are {torch.cuda.device_count()} CUDA devices here")
        torch.cuda.set_device(number)
    limit = timedelta(seconds=timeout or TIMEOUT)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=limit)
    except (dist.DistError, RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
        said = str(error).strip().splitlines()[0]
        raise MapstoError(f"rank {rank} of {world} could not join the others at {where}: {said}") from error


class Group:
    """The ranks as the engine sees them (`mapsto.engine.ranks.Ranks`)."""

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.leader = self.rank == 0

    def share(self, value: Any) -> Any:
        """The leader's value, on every rank."""
        held = [value]
        dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value by rank, on every rank."""
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)
