"""Specs whose checkpoints of several ranks have a planted bug, and their correct twins."""

from __future__ import annotations

import torch

import mapsto
from mapsto import use
from mapsto.engine.checkpoints.checkpoint import Checkpoints
from mapsto.engine.laws.runs import usual
from mapsto.torch.mesh.one import is_shard, local

from . import Mutant
from .program_mesh import Scores, sums

SOURCE = {"source": {"use": "mapsto.engine.laws.runs:Blobs"}, "batch_size": 8}


def _spec():
    train = {**SOURCE, "shuffle": True}
    changes = {"model": use(Scores), "task": sums, "schedule": None, "middleware": [use("ema", decay=0.8)]}
    return usual(data={"train": train, "valid": SOURCE}, **changes)


def sharded():
    return _spec()


def _mapped(tree, change):
    if isinstance(tree, dict):
        return {key: _mapped(value, change) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_mapped(value, change) for value in tree)
    return change(tree)


class OwnPartAsTheWhole(Checkpoints):
    """Each rank writes the part that it holds as if it were all."""

    def begin(self, step, tree, about, **options):
        return super().begin(step, _mapped(tree, lambda v: local(v) if is_shard(v) else v), about, **options)


class Halves(Checkpoints):
    """Optimizer state is kept in bfloat16."""

    def begin(self, step, tree, about, **options):
        def halved(value):
            return value.bfloat16().float() if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value

        program = dict(tree["program"])
        if any(is_shard(v) for v in program["model"].values()):
            program["optimizer"] = _mapped(program["optimizer"], halved)
        return super().begin(step, {**tree, "program": program}, about, **options)


class NamedFirst(Checkpoints):
    """The directory has its name before the ranks write into it."""

    def begin(self, step, tree, about, **options):
        made = super().begin(step, tree, about, **options)

        def make(_):
            made.final.mkdir(parents=True)
            return made.final

        made._make, made._publish = make, made.fill
        return made


def own_part():
    return _spec()


def halves():
    return _spec()


def named_first():
    return _spec()


for _target, _store in ((own_part, OwnPartAsTheWhole), (halves, Halves), (named_first, NamedFirst)):
    mapsto.example(_target, checkpoints=_store)


MUTANTS = [
    Mutant(
        law="program.ranks_save_restore",
        name="sharded optimizer state is kept in half precision",
        bug=halves,
        twin=sharded,
        models="pytorch#43706",
    ),
    Mutant(
        law="program.reshard",
        name="each rank writes its part as the whole",
        bug=own_part,
        twin=sharded,
        models="a shard written as the whole",
    ),
    Mutant(
        law="program.ranks_all_or_nothing",
        name="the directory has its name from the beginning",
        bug=named_first,
        twin=sharded,
        models="adaptdl#81",
    ),
]
