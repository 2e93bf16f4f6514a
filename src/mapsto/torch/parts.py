"""Tensors of which ranks hold parts, to files and back: through torch.distributed.checkpoint, in safetensors files.

Each rank writes one file, whose header says where its parts lie in the whole (the layout of torch's own
`HuggingFaceStorageWriter(save_distributed=True)`, so `HuggingFaceStorageReader` reads it); what several ranks hold alike is
written by one of them. A reader takes of each tensor only what its rank needs, from any number of files.
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
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from ..core.errors import CheckpointError
from . import tensor_file
from .mesh.one import is_part

if TYPE_CHECKING:
    from .program import Program

FLAT = {"flatten_state_dict": False, "flatten_sharded_tensors": False}
"""What is handed over is one mapping of names to tensors already."""


@contextmanager
def _first_cause() -> Iterator[None]:
    """Within it, of the errors that ranks told each other the first is raised, and not a report of them all."""
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error


# -- writing -----------------------------------------------------------------------------------------------------------
def save_parts(tensors: Mapping[str, Tensor], folder: Path, ranks: Any) -> list[str]:
    """Write what this rank holds of named tensors; the names of its files (none or one)."""
    writer = _PartsWriter(folder)
    with _first_cause():
        state_dict_saver.save(
            dict(tensors), storage_writer=writer, planner=DefaultSavePlanner(**FLAT), process_group=ranks.group
        )
    if writer.error is not None:
        raise writer.error
    return writer.written


class _PartsWriter(StorageWriter):
    """A file a rank, written straight from memory: torch's own writer copies it into one string, while which nothing else
    runs in Python. An error is kept: the engine tells it to all ranks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        except Exception as error:  # noqa: BLE001  # told by `save_parts`, when all ranks are through
            self.error = error
        done.set_result([])
        return done

    def _write(self, plan: Any, planner: Any) -> None:
        parts = {item.index.fqn: planner.resolve_data(item).detach().contiguous() for item in plan.items}
        offsets = {item.index.fqn: {"saved_offsets": list(item.tensor_data.chunk.offsets)} for item in plan.items}
        file = self.folder / plan.storage_data
        self.written.append(file.name)
        tensor_file.write(parts, file, {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(offsets)})

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        pass

    def storage_meta(self) -> None:
        return None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:  # noqa: ARG003
        return True


# -- reading -----------------------------------------------------------------------------------------------------------
def load_parts(folder: Path, names: Sequence[str], program: Program | None, ranks: Any) -> dict[str, Tensor]:
    """Named tensors from all safetensors files of a folder: of each the part that a program holds of it, or all, on the CPU.

    Raises CheckpointError naming a tensor that is in none of them.
    """
    reader = HuggingFaceStorageReader(str(folder))
    there = reader.read_metadata().state_dict_metadata
    if lost := [name for name in names if name not in there]:
        raise CheckpointError(f"the tensor files have no tensor {', '.join(lost[:4])}, which the state refers to")
    likes = Likes(program) if program is not None else None
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


class Likes:
    """path of a tensor in the state -> a tensor that lies on the ranks as it is to lie, or None where each has all of it.

    That of the program's own state at this path; else, of the shape of a parameter that the path names, this parameter
    (optimizer state is made by the first step, so a fresh program has none).
    """

    def __init__(self, program: Program) -> None:
        state = program.state
        self.own = dict(_parts(program.state_tree(), "program"))
        self.parameters = {n: p for n, p in state.model.named_parameters() if is_part(p)}
        self.parameters |= {n: p for n, p in zip(state.names, state.parameters, strict=True) if is_part(p)}

    def __call__(self, path: str, shape: Sequence[int]) -> Tensor | None:
        own = self.own.get(path)
        if own is None:
            own = named_in(path, self.parameters)
        return own if own is not None and tuple(own.shape) == tuple(shape) else None


def _parts(tree: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """The leaves of which ranks hold parts, by path as the engine writes it."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _parts(value, f"{path}.{key if isinstance(key, str) else repr(key)}")
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from _parts(value, f"{path}.{index}")
    elif is_part(tree):
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
