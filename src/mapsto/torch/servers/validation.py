"""What a parameter server can train: everything else is refused by name, with the reason, before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ...core.errors import SpecError
from ...core.plan import Placed
from ...servers.partition import Rows, is_split
from ..mappings import needs_closure
from ..middleware.accumulation import Accumulate
from ..middleware.averaging import EMA
from ..middleware.clipping import ClipNorm, ClipValue
from ..middleware.compiling import Compile
from ..middleware.guard import Nonfinite
from ..middleware.noise import GradientNoise
from ..middleware.precision import MixedPrecision
from ..middleware.sharpness import SAM
from ..middleware.timing import Timing
from ..program import Program
from .tables import sparse_tables

ELEMENTWISE = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.Adamax,
    torch.optim.ASGD, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop, torch.optim.Rprop, torch.optim.SparseAdam,
)  # fmt: skip
"""Optimizers whose rule acts on each element for itself, so that they may act on some rows of a parameter."""

TAKE_SPARSE = (torch.optim.SGD, torch.optim.Adagrad, torch.optim.SparseAdam)
"""Those of torch.optim that take sparse gradients."""

ON_SERVERS = (ClipNorm, ClipValue, EMA, Nonfinite)
"""Middlewares of `update` and of whole gradients that are right on some rows, or ask the other servers what they need."""

REASONS: dict[type, str] = {
    SAM: "it climbs along the gradient of the whole batch, and no worker has more of it than its own micro-shards'",
    GradientNoise: "its noise is drawn for whole parameters in one order, and each server has only some rows",
    Timing: "the parts of a step run in several processes at once; the metrics time/read, time/pull, time/compute and "
    "time/apply tell where its time goes",
}


def admit(program: Program, shards: Sequence[Rows], micro_shards: int) -> None:
    """Raises SpecError naming what in a program cannot be trained by servers and workers."""
    _layers(program.model, micro_shards)
    _optimizer(program, shards)
    _tables(program)
    mesh = next(i for i, placed in enumerate(program.plan) if placed.name == "mesh")
    for i, placed in enumerate(program.plan):
        if i != mesh:
            _middleware(placed, program.middleware[placed.name], outside=i < mesh)


def _layers(model: nn.Module, micro_shards: int) -> None:
    found = [
        f"{name!r} ({type(m).__name__})"
        for name, m in model.named_modules()
        if isinstance(m, _NormBase) and m.training and (m.track_running_stats or micro_shards > 1)
        and not isinstance(m, nn.modules.instancenorm._InstanceNorm)
    ]  # fmt: skip
    if found:
        raise SpecError(
            f"mesh: {', '.join(found[:4])}: statistics over a batch would be those of a micro-shard, and running ones would "
            "stay with the workers: use GroupNorm or LayerNorm, or freeze the layer"
        )


def _optimizer(program: Program, shards: Sequence[Rows]) -> None:
    optimizer, kind = program.optimizer, type(program.optimizer)
    if needs_closure(optimizer):
        raise SpecError(f"optimizer: {kind.__name__} evaluates the objective itself, several times a step: a server cannot")
    if isinstance(optimizer, ELEMENTWISE) or getattr(optimizer, "elementwise", False):
        return
    split = [n for n in program.state.names if is_split(n, shards)]
    if split:
        raise SpecError(
            f"optimizer: {kind.__name__} is not known to act on each element for itself, and {split[0]!r} would be split by "
            "rows over the servers: say mesh.split=false to keep parameters whole, or `elementwise = True` in the class"
        )


def _tables(program: Program) -> None:
    tables, optimizer = sparse_tables(program.model), program.optimizer
    for name, module in tables.items():
        for option in ("max_norm", "scale_grad_by_freq"):
            if getattr(module, option):
                raise SpecError(f"model: {option} of {name!r} looks at more than the rows of a micro-shard; leave it out")
        if sum(1 for m in program.model.modules() if getattr(m, "weight", None) is module.weight) > 1:
            raise SpecError(f"model: {name!r} is sparse and used by another module too, which needs it whole: sparse=False")
    if not tables:
        return
    kind = type(optimizer)
    if kind.__module__.startswith("torch.optim") and not isinstance(optimizer, TAKE_SPARSE):
        raise SpecError(f"optimizer: {kind.__name__} takes no sparse gradients, and {next(iter(tables))!r} has them; "
                        f"allowed: {', '.join(c.__name__ for c in TAKE_SPARSE)}, or sparse=False")  # fmt: skip
    if any(group.get("fused") for group in optimizer.param_groups):
        raise SpecError(f"optimizer: the fused kernel of {kind.__name__} takes no sparse gradients: say fused=false")
    dense = [n for n in program.state.names if n not in tables]
    if isinstance(optimizer, torch.optim.SparseAdam) and dense:
        raise SpecError(f"optimizer: SparseAdam takes sparse gradients only, and {dense[0]!r} has dense ones")


def _middleware(placed: Placed, made: Any, *, outside: bool) -> None:
    name, wraps = placed.name, set(placed.declared.wraps)

    def refuse(reason: str) -> None:
        raise SpecError(f"middleware.{name}: with a mesh of servers this cannot be: {reason}")

    for kind, reason in REASONS.items():
        if isinstance(made, kind):
            refuse(reason)
    if isinstance(made, MixedPrecision):
        if made.scaled:
            refuse("the loss scale of fp16 follows the whole gradient, which the workers never see: use bf16")
        return
    if isinstance(made, Nonfinite):
        if not made.skips:
            refuse("the servers, which see the whole gradient, have no model to search for the culprit: say action=skip")
        return
    if isinstance(made, ON_SERVERS):
        return
    if "step" in wraps:
        refuse("it wraps `step`, which is spread over several processes")
    if "update" in wraps and not getattr(made, "elementwise", False):
        refuse("it wraps `update`, and a server updates some rows only; say `elementwise = True` in the class if that is right")
    if "grad" in wraps and outside:
        refuse("it wraps the gradient of the whole batch, which no worker has; say after='mesh' if each micro-shard's is meant")
    if wraps & {"loss", "grad"} and "update" in wraps:
        refuse("it wraps mappings of workers and of servers, and could not carry anything from one to the other")
    if wraps & {"loss", "grad"} and hasattr(made, "state_dict"):
        refuse("it keeps a state, and what each worker keeps would reach neither the others nor a checkpoint")


def admit_with_tables(program: Program, tables: Iterable[str]) -> None:
    """Raises SpecError naming a middleware that needs a sparse table's whole weight or gradient on a worker."""
    table = next(iter(tables), None)
    for placed in program.plan:
        made = program.middleware[placed.name]
        wraps_grad = "grad" in placed.declared.wraps and placed.name != "mesh"
        if table is not None and isinstance(made, Compile) and made.enabled:
            raise SpecError(f"middleware.{placed.name}: the rows of {table!r} are fetched within the forward pass")
        if table is not None and wraps_grad and not isinstance(made, (Accumulate, MixedPrecision, Nonfinite)):
            raise SpecError(f"middleware.{placed.name}: it wraps `grad`, and a worker has no gradient of all rows of {table!r}")
