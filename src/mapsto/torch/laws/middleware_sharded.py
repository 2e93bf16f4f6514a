"""The law of a middleware whose run is saved and gone on with where ranks hold parts of every parameter."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...core.errors import ComposeError, SpecError
from ...core.laws import Laws, Trial
from ...core.per_rank import PerRank
from ...core.values import Part, use
from ...laws.middleware_inputs import item
from ..build import build_program
from ..drivers.middleware_examples import batch_of, classify, plain_model
from ..mesh.group import Group, patience
from ..mesh.one import local
from ..program import Program
from .compare import differs, same

laws = Laws("middleware")
SAVED, LAST = 2, 4
PATIENCE = 20.0
"""Seconds that a rank waits for the other."""


@laws.law(
    "M4b",
    "sharded_resume",
    priority=1,
    ranks=2,
    seconds=120,
    why="State that is made of gradients lies in parts where they do; put back whole, or cut otherwise, the run cannot go on.",
    satisfy="Keep tensors that are made of gradients or parameters in state_dict() as they are, parts of them or whole.",
    catches=(
        "state that is made in the first step, which a fresh program has none of",
        "a local part that is kept as the whole",
    ),
)
def sharded_resume(trial: Trial) -> None:
    """On {shard: 2} a fresh program goes on from the files of step 2 with the bits of the run that was not interrupted."""
    if trial.has("images") or "model" in trial.example.more or "task" in trial.example.more:
        trial.skip("it is stated for a model or records of its own; `mapsto check` of a recipe judges it there")
    with tempfile.TemporaryDirectory() as made, patience(PATIENCE), trial.case(world=2, mesh="shard", saved_at=SAVED):
        told = [made]
        dist.broadcast_object_list(told)  # one folder for both ranks
        whole = _program(trial)
        _run(trial, whole, SAVED)
        with trial.component("saving its state"):
            tree = _saved(whole.state_tree(), Path(told[0]))
        cold = _local_tensors(whole)
        _run(trial, whole, LAST)
        fresh = _program(trial)
        with trial.component("restoring its state"):
            from .. import sharded_files  # heavy, and only runs on ranks need it

            files = sharded_files.load_shards(Path(told[0]), sorted(tree.names), fresh, Group())
            fresh.restore(_mapped(tree.plain, "program", lambda path, _: files[path]))
        _run(trial, fresh, LAST)
        same(
            trial,
            "the state at the end",
            _local_tensors(fresh),
            _local_tensors(whole),
            cause="its state is not what it was, or not where it was",
        )
        trial.control("steps change the state", differs(cold, _local_tensors(whole)))
        dist.barrier()  # the folder is there until both have read it


class _Saved:
    """A state tree whose tensors are in files. names: their paths."""

    def __init__(self, plain: Any, names: set[str]) -> None:
        self.plain, self.names = plain, names


def _saved(tree: Mapping[str, Any], folder: Path) -> _Saved:
    from .. import sharded_files

    tensors: dict[str, Tensor] = {}

    def kept(path: str, tensor: Tensor) -> Tensor:
        tensors[path] = tensor
        return tensor

    _mapped(tree, "program", kept)
    copies = {path: tensor.detach().clone() for path, tensor in tensors.items()}
    plain = _mapped(tree, "program", lambda _, tensor: tensor.new_empty(0))
    sharded_files.save_shards(copies, folder, Group())
    dist.barrier()
    return _Saved(plain, set(tensors))


def _mapped(tree: Any, path: str, act: Callable[[str, Tensor], Any]) -> Any:
    """The tree with what `act` makes of each tensor, by path; state that is each rank's own stays."""
    if isinstance(tree, PerRank):
        return copy.deepcopy(tree)
    if isinstance(tree, Mapping):
        return type(tree)({k: _mapped(v, f"{path}.{k if isinstance(k, str) else repr(k)}", act) for k, v in tree.items()})  # type: ignore[call-arg]
    if type(tree) in (list, tuple):
        return type(tree)(_mapped(v, f"{path}.{i}", act) for i, v in enumerate(tree))
    return act(path, tree) if isinstance(tree, Tensor) else tree


def _program(trial: Trial) -> Program:
    """AdamW on two ranks that each hold half of every parameter. A mesh that refuses the middleware is no finding."""
    with trial.component("building a program with it on {shard: 2}"):
        try:
            return build_program(
                use(plain_model),
                classify,
                use("adamw", lr=1e-2),
                None,
                [item(trial)],
                seed=trial.seed,
                device="cpu",
                mesh=Part("ranks", {"shard": 2}),
                injected={"total_steps": LAST},
            )
        except (ComposeError, SpecError) as error:
            trial.skip(f"it does not go with mesh.shard: {error}")


def _run(trial: Trial, made: Program, steps: int) -> None:
    """Steps on this rank's records, 7 or 6 of 13."""
    cut = slice(0, 7) if trial.rank == 0 else slice(7, 13)
    with trial.component("a step on {shard: 2}"):
        for step in range(made.position, steps):
            own: Any = [{n: v[cut] for n, v in batch_of(trial, step, 13, torch.float64).items()}]
            made.step(own)


def _local_tensors(made: Program) -> dict[str, Tensor]:
    """Copies of what this rank holds of the whole state, by path."""
    found: dict[str, Tensor] = {}

    def note(path: str, tensor: Tensor) -> Tensor:
        found[path] = local(tensor.detach()).clone()
        return tensor

    _mapped(made.state_tree(), "program", note)
    return found
