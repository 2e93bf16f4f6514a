"""A server: some rows of the parameters, and the framework's own optimizer over them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.compose import Declared
from ...core.errors import CheckpointError
from ...core.plan import MESH
from ...servers.blueprint import Shipment
from ...servers.partition import Rows
from ..mappings import Grad, Metrics
from ..middleware.gradients import dense, scale
from ..state import Builder, State
from . import trees, wire
from .blueprint import Blueprint
from .exchange import Exchange

DECLARED = Declared(wraps=("grad",), provides=(MESH,))
Shard = Mapping[str, Any]
"""What a worker sends one server: parameter name -> Packed rows of the summed gradient, or (row ids, Packed rows)."""


class ServerMesh(Exchange):
    """program of one process -> the part of it that acts on whole gradients, over one server's rows.

    What the mesh wraps (the forward and backward passes) is the workers' part: here `grad` sums what they sent, in the
    order of the micro-shards, and divides once.
    """

    __mapsto__ = DECLARED
    micro_shards = 1

    def __init__(self, rows: Rows, rank: int, servers: int, timeout: float) -> None:
        super().__init__(rank, servers, timeout)
        self.rows = rows

    def join(self, *_: Any) -> None:
        """Join nothing: a server is in no process group."""

    def setup(self, builder: Builder) -> None:
        self.shapes = {name: p.shape for name, p in builder.model.named_parameters() if p.requires_grad}
        builder.model = held_rows(builder.model, self.rows)

    def begin(self, state: State) -> None:
        state.mesh = self

    def grad(self, inner: Grad) -> Grad:  # noqa: ARG002
        def collected(state: State, batch: Any) -> Metrics:
            names, metrics, shards = batch
            self._sum(state, names, shards)
            total, weight = (torch.as_tensor(value, dtype=torch.float64) for value in metrics["loss"])
            scale(dense(state.parameters), torch.where(weight == 0, 0.0, 1.0 / weight))
            return {**metrics, "loss": (total, weight)}

        return collected

    def _sum(self, state: State, names: Sequence[str], shards: Sequence[Shard]) -> None:
        """Leave in `.grad` the sum of what was sent for the parameters of which some worker sent something."""
        wanted = set(names)
        for name, parameter in zip(state.names, state.parameters, strict=True):
            if name in wanted and self.rows[name]:
                sent = [shard[name] for shard in shards if name in shard]
                parameter.grad = _total(sent, parameter)
        if wanted and not state.gradients():  # so that middleware here asks the other servers what they ask this one
            elsewhere = next(p for n, p in zip(state.names, state.parameters, strict=True) if not self.rows[n])
            elsewhere.grad = torch.zeros_like(elsewhere)


def _total(sent: Sequence[Any], parameter: nn.Parameter) -> Tensor:
    """The sum of gradients in the order they stand in; of rows of a sparse table a sparse tensor, each row once."""
    if any(isinstance(part, tuple) for part in sent):
        ids = torch.cat([wire.unpack(part[0]) for part in sent])
        values = torch.cat([wire.unpack(part[1]) for part in sent])
        return torch.sparse_coo_tensor(ids[None], values, parameter.shape, check_invariants=False).coalesce()
    if not sent:  # a row range that no batch touched
        empty = torch.zeros(0, *parameter.shape[1:], dtype=parameter.dtype)
        return torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.int64), empty, parameter.shape, check_invariants=False)
    total = wire.unpack(sent[0])
    for part in sent[1:]:
        total += wire.unpack(part)
    return total


def held_rows(model: nn.Module, rows: Rows) -> nn.Module:
    """A module without a forward pass: those rows of the trained parameters, the others and the buffers, by their names."""
    root = nn.Module()
    for name, parameter in model.named_parameters():
        if name in rows:
            parameter = nn.Parameter(trees.rows_from(parameter.detach(), rows[name]).clone())
        _parent(root, name).register_parameter(name.rpartition(".")[2], parameter)
    for name, buffer in model.named_buffers():
        _parent(root, name).register_buffer(name.rpartition(".")[2], buffer)
    return root


def _parent(root: nn.Module, name: str) -> nn.Module:
    for step in name.split(".")[:-1]:
        if step not in root._modules:
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    return root


class Server:
    """The actor: holds its rows, answers pulls, applies steps, and writes its shard down.

    One thread changes the state; another takes what other servers send while the first waits for it.
    """

    def build(self, shipment: Shipment, rank: int, shards: Sequence[Rows], timeout: float) -> str:
        """Make the optimizer and the middleware over the rows of server `rank`; where this runs."""
        blueprint: Blueprint = shipment.open()
        self.rank, self.rows = rank, shards[rank]
        self.mesh = ServerMesh(self.rows, rank, len(shards), timeout)
        self.program = blueprint.program(self.mesh, device="cpu")
        self.state = self.program.state
        return f"{os.uname().nodename} (process {os.getpid()})"

    def connect(self, peers: Sequence[Any], generation: int) -> None:
        """Take the handles of the other servers, which it exchanges norms with."""
        self.mesh.connect([_sender(peer) for peer in peers], generation)

    def receive(self, tag: tuple[int, int], rank: int, value: float) -> None:
        self.mesh.receive(tag, rank, value)

    def alive(self) -> int:
        """The step that these rows are at."""
        return self.state.step

    # -- what workers ask --------------------------------------------------------------------------------------------
    def pull(self, have: int, leave: Sequence[str]) -> tuple[int, dict[str, wire.Packed]]:
        """(version, rows held of every parameter but those in `leave`); nothing where the worker has that version."""
        version = self.state.step
        if have == version:
            return version, {}
        named = zip(self.state.names, self.state.parameters, strict=True)
        return version, {n: wire.pack(p) for n, p in named if self.rows[n] and n not in leave}

    def pull_rows(self, name: str, ids: wire.Packed) -> tuple[int, wire.Packed]:
        """(version, the rows of a sparse table with those ids)."""
        table = self.state.model.get_parameter(name).detach()
        return self.state.step, wire.pack(table[wire.unpack(ids) - self.rows[name].start])

    # -- what the driver asks ----------------------------------------------------------------------------------------
    def apply(self, step: int, names: Sequence[str], metrics: Metrics, *shards: Shard) -> dict[str, Any]:
        """Take one step on the sum of the workers' gradients; the metrics and the learning rates after it."""
        if step != self.state.step:
            raise CheckpointError(f"server {self.rank} is at step {self.state.step} and was sent gradients of step {step}")
        sent: Any = (names, metrics, shards)  # what stands in the place of a batch
        found = self.program.step_(self.state, sent)
        return {"metrics": {n: _plain(v) for n, v in found.items()}, "rates": self.program.rates()}

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Evaluation metrics, for a schedule that waits for them."""
        self.program.observe(metrics)

    def tree(self) -> Any:
        """The state of these rows, in form that of the whole program."""
        return wire.pack_tree(self._tree())

    def load(self, tree: Any) -> None:
        """Put a state back that was cut for this server."""
        self.program.restore(wire.unpack_tree(tree))

    def _tree(self) -> dict[str, Any]:
        found = self.program.state_tree()
        held = {n: s for n, s in found["optimizer"]["state"].items() if self.rows.get(n, True)}
        return {**found, "optimizer": {**found["optimizer"], "state": held}}

    # -- the shard on disk -------------------------------------------------------------------------------------------
    def save(self, folder: str, keep: int) -> int:
        """Write the shard: a file that exists whole or not at all, forced to the device; the bytes of it.

        Shards of before step `keep`, the last that all servers have written, are removed.
        """
        path = shard_file(folder, self.state.step, self.rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                torch.save(self._tree(), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        for old in Path(folder).glob(f"step-*/shard-{self.rank}.pt"):
            if int(old.parent.name.removeprefix("step-")) < keep:
                old.unlink()
        return path.stat().st_size

    def restore(self, folder: str, step: int) -> None:
        """Go back to the shard of a step. Raises CheckpointError where it is not there."""
        path = shard_file(folder, step, self.rank)
        if not path.is_file():
            raise CheckpointError(
                f"server {self.rank} on {os.uname().nodename} finds no shard {path}; on several machines mesh.folder must be "
                "a folder that all of them share"
            )
        self.program.restore(torch.load(path, weights_only=True))


def shard_file(folder: str, step: int, rank: int) -> Path:
    return Path(folder) / f"step-{step:08d}" / f"shard-{rank}.pt"


def _sender(peer: Any) -> Callable[[tuple[int, int], int, float], object]:
    receive = peer.receive.options(concurrency_group="exchange")
    return lambda tag, rank, value: receive.remote(tag, rank, value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return float(value)
