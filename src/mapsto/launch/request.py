"""What was asked for on the command line: how many ranks on how many nodes, where they meet, how often they start again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.axes import AXES
from ..core.errors import LaunchError

DEFAULT_PORT = 29500


@dataclass(frozen=True)
class Span:
    """From `low` to `high`, of ranks or of nodes."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str, option: str) -> Span:
        """`4`, or `2:4` for from 2 to 4. Raises LaunchError."""
        found = re.fullmatch(r"(\d+)(?::(\d+))?", text.strip())
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if low < 1 or high < low:
            raise LaunchError(f"{option} {text}: a number of at least 1 is wanted (4), or the least and the most (2:4)")
        return cls(low, high)

    @property
    def fixed(self) -> bool:
        """Whether the lowest and the highest number are the same."""
        return self.low == self.high

    def __str__(self) -> str:
        return f"{self.low}" if self.fixed else f"{self.low} to {self.high}"


@dataclass(frozen=True)
class Address:
    """A host and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str = "--rendezvous") -> Address:
        """`host:port`, `[v6]:port` or `host` (port 29500). Raises LaunchError."""
        found = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s\[\]]+)(?::(\d+))?", text.strip())
        port = int(found[2] or DEFAULT_PORT) if found else 0
        if found is None or not 0 < port < 65536:
            raise LaunchError(f"{option} {text}: HOST:PORT is wanted, such as node-0:29500, the port between 1 and 65535")
        return cls(found[1].strip("[]"), port)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Request:
    """ranks: a node's; nodes; node_rank: this node's place, where it is said; rendezvous: where the nodes meet; restarts: how
    often in a row without a new checkpoint; wait: seconds that nodes wait for each other."""

    ranks: Span
    nodes: Span = Span(1, 1)
    node_rank: int | None = None
    rendezvous: Address | None = None
    restarts: int = 3
    wait: float = 600.0
    check_collectives: bool = False

    def __post_init__(self) -> None:
        if self.nodes.high > 1 and self.rendezvous is None:
            raise LaunchError(
                f"--nodes {self.nodes.low}: say where they meet: --rendezvous HOST:PORT, HOST being the node with --node-rank 0"
            )
        if self.node_rank is not None and not 0 <= self.node_rank < self.nodes.high:
            raise LaunchError(f"--node-rank {self.node_rank}: of {self.nodes.high} nodes it is 0 to {self.nodes.high - 1}")
        if self.restarts < 0:
            raise LaunchError(f"--restarts {self.restarts}: the least is 0, which starts nothing again")
        if not self.wait > 0:
            raise LaunchError(f"--wait {self.wait:g}: seconds above 0 are wanted")
        if not self.nodes.fixed and not self.ranks.fixed:
            raise LaunchError("--nodes and --ranks cannot both be a range: say how many ranks each node has")

    @property
    def elastic(self) -> bool:
        """Whether it may go on with fewer than it began with."""
        return not (self.nodes.fixed and self.ranks.fixed)

    @property
    def world(self) -> Span:
        """Ranks of the whole run."""
        return Span(self.ranks.low * self.nodes.low, self.ranks.high * self.nodes.high)


@dataclass(frozen=True)
class MeshSize:
    """How many ranks a mesh wants: `ranks` exactly, or (`open`) any multiple of it, the open axis taking what is left."""

    ranks: int
    open: bool
    text: str


def mesh_size(axes: Mapping[str, Any] | None) -> MeshSize | None:
    """The ranks of `{replicate: 2, shard: -1, ...}`; None where no axis says how many."""
    said = {a: axes[a] for a in AXES if axes is not None and type(axes.get(a)) is int}
    if not said:
        return None
    product = 1
    for size in said.values():
        product *= size if size > 0 else 1
    return MeshSize(product, -1 in said.values(), " x ".join(f"{axis} {size}" for axis, size in said.items()))


def check_mesh(request: Request, mesh: MeshSize | None) -> None:
    """Raises LaunchError where the ranks that are asked for are not those that the mesh is made of."""
    if mesh is None:
        return
    world = request.world
    if mesh.open:
        if world.low % mesh.ranks or world.high % mesh.ranks:
            raise LaunchError(
                f"mesh: {mesh.text}: its other axes take {mesh.ranks} ranks, so it divides into multiples of {mesh.ranks}, "
                f"and {world} are asked for"
            )
    elif not world.fixed:
        raise LaunchError(
            f"mesh: {mesh.text} is {mesh.ranks} ranks, no more and no fewer, so it cannot go on with {world}; "
            "make one axis -1 (whatever is left), or ask for one number of ranks"
        )
    elif world.low != mesh.ranks:
        raise LaunchError(
            f"mesh: {mesh.text} is {mesh.ranks} ranks, and {world.low} are asked for; "
            f"--ranks {mesh.ranks} (in all), another mesh, or one axis of it -1 (whatever is left)"
        )


def check_devices(request: Request, device: str, devices: int) -> None:
    """Raises LaunchError where a node has fewer accelerators than the ranks it is to have."""
    if devices and request.ranks.low > devices:
        kind = "cuda" if device == "auto" else device
        raise LaunchError(
            f"--ranks {request.ranks.low}: this node has {devices} {kind} device{'s' if devices > 1 else ''}, one a rank; "
            f"ask for at most {devices}, or train on the CPU (device=cpu)"
        )
