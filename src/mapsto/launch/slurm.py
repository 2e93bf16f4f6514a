"""Slurm: a task of `srun` is a rank, told by the variables that torchrun would have set."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping

from ..core.errors import LaunchError

SCONTROL_LIMIT = 10.0
"""Seconds that scontrol has to expand a list of nodes."""


def is_step(environment: Mapping[str, str]) -> bool:
    """Whether this process is a task of `srun` with several of them (a batch script is none)."""
    return "SLURM_PROCID" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The torchrun variables of a task of `srun`. Raises LaunchError naming the variable that is missing."""
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
        if name not in environment:
            raise LaunchError(f"under srun the variable {name} is expected, and it is not set; start with --ranks instead")
    rank, local = environment["SLURM_PROCID"], environment["SLURM_LOCALID"]
    world = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "")
    if not world.isdigit():
        raise LaunchError("under srun the variable SLURM_NTASKS is expected, and it is not set; say --ntasks")
    host, port = meeting(environment)
    node = int(environment["SLURM_NODEID"])
    return {
        "RANK": rank,
        "LOCAL_RANK": local,
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": str(tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", world))[node]),
        "GROUP_RANK": str(node),
        "MASTER_ADDR": environment.get("MASTER_ADDR", host),
        "MASTER_PORT": environment.get("MASTER_PORT", str(port)),
    }


def meeting(environment: Mapping[str, str]) -> tuple[str, int]:
    """Where the tasks of a step meet: its first node, at a port made of the job's and the step's number."""
    listed = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    if not listed:
        raise LaunchError(
            "under srun the variable SLURM_STEP_NODELIST is expected, and it is not set; say --rendezvous HOST:PORT"
        )
    job, step = (int(re.sub(r"\D", "", environment.get(name, "")) or 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return hosts(listed)[0], 15000 + (job * 17 + step) % 15000


def hosts(listed: str) -> list[str]:
    """The nodes of a list such as `a,node[01-03,07]`, by `scontrol` where that is there."""
    if "[" in listed and shutil.which("scontrol"):
        try:
            done = subprocess.run(  # noqa: S603  # Slurm's own command
                ["scontrol", "show", "hostnames", listed],  # noqa: S607
                capture_output=True, text=True, timeout=SCONTROL_LIMIT, check=True,
            )  # fmt: skip
            return done.stdout.split()
        except (OSError, subprocess.SubprocessError):
            pass  # as where there is none
    return expand(listed)


def expand(listed: str) -> list[str]:
    """`a,node[01-03,07]-x` -> a, node01-x, node02-x, node03-x, node07-x. Raises LaunchError for what is no such list."""
    found = [name for item in _split(listed) for name in _expand_one(item)]
    if not found or any(not re.fullmatch(r"[\w.-]+", name) for name in found):
        raise LaunchError(f"{listed!r} is no list of nodes, such as node[01-03,07]")
    return found


def _split(listed: str) -> list[str]:
    """Items between the commas that stand in no brackets."""
    return [item.strip() for item in re.split(r",(?![^\[]*\])", listed) if item.strip()]


def _expand_one(item: str) -> list[str]:
    found = re.fullmatch(r"([^\[\]]*)\[([^\[\]]*)\](.*)", item)
    if found is None:
        return [item]
    numbers: list[str] = []
    for part in found[2].split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if ends is None:
            raise LaunchError(f"{item!r}: {part!r} is no number or range of numbers")
        width, last = len(ends[1]), int(ends[2] or ends[1])
        numbers += [f"{n:0{width}d}" for n in range(int(ends[1]), last + 1)]
    return [found[1] + number + rest for number in numbers for rest in _expand_one(found[3])]


def tasks_per_node(text: str) -> list[int]:
    """`2(x3),1` -> 2, 2, 2, 1."""
    found: list[int] = []
    for item in text.split(","):
        ends = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item.strip())
        if ends is None:
            raise LaunchError(f"SLURM_STEP_TASKS_PER_NODE is {text!r}, and a list such as 2(x3),1 is expected")
        found += [int(ends[1])] * int(ends[2] or 1)
    return found
