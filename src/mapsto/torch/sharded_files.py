"""Tensors of which ranks hold parts, to files and back: through torch.distributed.checkpoint, in safetensors files.

Each rank writes one file, whose header says where its parts lie in the whole (the layout of torch's own
`HuggingFaceStorageWriter(save_distributed=True)`, so `HuggingFaceStorageReader` reads it); what several ranks hold alike is
written by one of them. A reader takes of each tensor only what its rank needs, from any number of files.

State that a middleware makes in its first step is not there in a fresh program, and need not be named after parameters: the
files say how it was cut and which parameter lies alike, so that it can be cut again (see `Likes`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.distributed.tensor import Replicate, Shard, empty
from torch.futures import Future

from ..core.errors import CheckpointError
from . import tensor_file
from .mesh.one import is_shard

if TYPE_CHECKING:
    from .program import Program

FLAT = {"flatten_state_dict": False, "flatten_sharded_tensors": False}
"""What is handed over is one mapping of names to tensors already."""
SHARDING, CUT = "DCP_SHARDING_INFO", "MAPSTO_CUT"
"""Entries of a file's header: torch's, where the parts of this file lie; ours, how whole tensors were cut."""
MODEL, MIDDLEWARE = "program.model.", "program.middleware."


@contextmanager
def _first_cause() -> Iterator[None]:
    """Within it, of the errors that ranks told each other the first is raised, and not a report of them all."""
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error


# -- writing -----------------------------------------------------------------------------------------------------------
def save_shards(tensors: Mapping[str, Tensor], folder: Path, ranks: Any) -> list[str]:
    """Write what this rank holds of named tensors; the names of its files (none or one)."""
    writer = _PartsWriter(folder, cuts(tensors))
    with _first_cause():
        state_dict_saver.save(
            dict(tensors), storage_writer=writer, planner=DefaultSavePlanner(**FLAT), process_group=ranks.group
        )
    if writer.error is not None:
        raise writer.error
    return writer.written


def cuts(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """How tensors are cut whose names do not tell it: by axis of the mesh the dimension, and a parameter that lies alike."""
    parts: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if is_shard(tensor)}
    parameters = {name.removeprefix(MODEL): tensor for name, tensor in parts.items() if name.startswith(MODEL)}
    found: dict[str, Any] = {}
    for name, tensor in parts.items():
        named = named_in(name, parameters)
        if named is not None and named.shape == tensor.shape:
            continue
        alike = (p for p, own in parameters.items() if own.shape == tensor.shape and own.placements == tensor.placements)
        axes = zip(tensor.device_mesh.mesh_dim_names or (), tensor.placements, strict=False)
        found[name] = {
            "axes": {axis: placement.dim for axis, placement in axes if hasattr(placement, "dim")},
            "like": next(alike, None),
        }
    return found


class _PartsWriter(StorageWriter):
    """A file a rank, written straight from memory: torch's own writer copies it into one string, while which nothing else
    runs in Python. An error is kept: the engine tells it to all ranks."""

    def __init__(self, folder: Path, cut: Mapping[str, Any]) -> None:
        self.folder, self.cut = folder, json.dumps(cut)
        self.error: Exception | None = None
        self.written: list[str] = []

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: Any) -> Any:
        return plan

    def prepare_global_plan(self, plans: list[Any]) -> list[Any]:
        names = [f"part-{number:05d}-of-{len(plans):05d}.safetensors" for number in range(1, len(plans) + 1)]
        return [replace(plan, storage_data=name) for plan, name in zip(plans, names, strict=True)]

    def write_data(self, plan: Any, planner: Any) -> Future[list[WriteResult]]:
        done: Future[list[WriteResult]] = Future()
        try:
            if plan.items:
                self._write(plan, planner)
        except Exception as error:  # noqa: BLE001  # told by `save_shards`, when all ranks are through
            self.error = error
        done.set_result([])
        return done

    def _write(self, plan: Any, planner: Any) -> None:
        parts = {item.index.fqn: planner.resolve_data(item).detach().contiguous() for item in plan.items}
        offsets = {item.index.fqn: {"saved_offsets": list(item.tensor_data.chunk.offsets)} for item in plan.items}
        file = self.folder / plan.storage_data
        self.written.append(file.name)
        tensor_file.write(parts, file, {"format": "pt", "DCP_VERSION": "1.0", SHARDING: json.dumps(offsets), CUT: self.cut})

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        pass

    def storage_meta(self) -> None:
        return None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:  # noqa: ARG003
        return True


# -- reading -----------------------------------------------------------------------------------------------------------
def load_shards(folder: Path, names: Sequence[str], program: Program | None, ranks: Any) -> dict[str, Tensor]:
    """Named tensors from all safetensors files of a folder: of each the part that a program holds of it, or all, on the CPU.

    Raises CheckpointError naming a tensor that is in none of them.
    """
    reader = HuggingFaceStorageReader(str(folder))
    there = reader.read_metadata().state_dict_metadata
    if lost := [name for name in names if name not in there]:
        raise CheckpointError(f"{folder}: the tensor files have no tensor {', '.join(lost[:4])}, which the state refers to")
    likes = Likes(program, _cuts_in(folder)) if program is not None else None
    found: dict[str, Any] = {}
    for name in names:
        told: Any = there[name]
        like = likes(name, told.size) if likes is not None else None
        dtype = told.properties.dtype
        found[name] = torch.empty(told.size, dtype=dtype) if like is None else torch.empty_like(like, dtype=dtype)
    group = getattr(ranks, "group", None)
    with warnings.catch_warnings(), _first_cause():
        warnings.simplefilter("ignore")  # of one process it is told that there are no ranks
        state_dict_loader.load(
            found, storage_reader=reader, planner=DefaultLoadPlanner(**FLAT), process_group=group, no_dist=ranks.world == 1
        )
    return found


def _cuts_in(folder: Path) -> dict[str, Any] | None:
    """What the files of ranks say of how tensors were cut; None where no rank held a part of any."""
    found: dict[str, Any] | None = None
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            told = opened.metadata() or {}
        if SHARDING in told:
            found = {**(found or {}), **json.loads(told.get(CUT, "{}"))}
    return found


class Likes:
    """path of a tensor in the state -> a tensor that lies on the ranks as it is to lie, or None where each has all of it.

    The first of these that there is, and has its shape: the part at this path in the program's own state; the parameter
    that the path names (optimizer state is made by the first step, so a fresh program has none); where the program's own
    state has nothing there, the parameter that lay as the tensor did when it was saved; a new part, cut along the same axes.
    Where none was cut when it was saved (`cut` is None), state of a middleware lies as a parameter of its shape.
    """

    def __init__(self, program: Program, cut: Mapping[str, Any] | None) -> None:
        state = program.state
        self.cut = cut
        leaves = dict(_tensors(program.state_tree(), "program"))
        self.own = {path: tensor for path, tensor in leaves.items() if is_shard(tensor)}
        self.whole = leaves.keys() - self.own.keys()
        self.every: dict[str, Any] = dict(state.model.named_parameters())
        self.every |= zip(state.names, state.parameters, strict=True)
        self.parameters = {n: p for n, p in self.every.items() if is_shard(p)}

    def __call__(self, path: str, shape: Sequence[int]) -> Tensor | None:
        likes = (self.own.get(path), named_in(path, self.parameters), None if path in self.whole else self._made(path, shape))
        return next((like for like in likes if like is not None and tuple(like.shape) == tuple(shape)), None)

    def _made(self, path: str, shape: Sequence[int]) -> Tensor | None:
        """For what a fresh program does not have yet."""
        if not self.parameters or not path.startswith(MIDDLEWARE):
            return None
        if self.cut is None:
            return next((p for p in self.parameters.values() if tuple(p.shape) == tuple(shape)), None)
        if path not in self.cut:
            return None
        like = self.every.get(self.cut[path]["like"])
        if like is not None:
            return like if is_shard(like) else None
        mesh = max((p.device_mesh for p in self.parameters.values()), key=lambda m: m.ndim)
        axes = self.cut[path]["axes"]
        placements = [Shard(axes[axis]) if axis in axes else Replicate() for axis in mesh.mesh_dim_names or ()]
        return empty(*shape, device_mesh=mesh, placements=placements)


def _tensors(tree: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state by path, as the engine writes it."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _tensors(value, f"{path}.{key if isinstance(key, str) else repr(key)}")
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from _tensors(value, f"{path}.{index}")
    elif isinstance(tree, Tensor):
        yield path, tree


def named_in(path: str, parameters: Mapping[str, Tensor]) -> Tensor | None:
    """The parameter whose name stands in a dotted path; of several the longest."""
    steps = path.split(".")
    for length in range(len(steps), 0, -1):
        for start in range(len(steps) - length + 1):
            found = parameters.get(".".join(steps[start : start + length]))
            if found is not None:
                return found
    return None
