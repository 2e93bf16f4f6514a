"""Laws of a layer on several ranks: data parallel and fully sharded, it has the gradients of one process."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...core.errors import SpecError
from ...core.laws import Laws, Trial
from ...core.random import derive
from ...laws.layer_inputs import no_gradient
from ..drivers.layer_examples import build, inputs, settle
from ..drivers.layer_passes import cotangents, differentiable, double, with_gradient
from ..mesh.shard import refuse_sparse
from .compare import differs, same

laws = Laws("layer", "model")

PARTS = (7, 6)
"""Records a rank: an uneven split shows means of means, which an even one hides."""
STEPS = 2
"""Parameters that take no part in a step are seen in the next one."""
PATIENCE = timedelta(seconds=20)
_GROUPS: list[Any] = []


@laws.law(
    "L10",
    "data_parallel",
    priority=1,
    tolerance="T1",
    ranks=2,
    seconds=120,
    why="On several ranks a layer must have the gradient that one process has of all the records.",
    satisfy="Use every parameter in each pass (or state tags={'unused_parameters'}); keep no parameters outside "
    "the module's own.",
    catches=("a parameter that forward does not use", "a parameter used outside of forward", "weights drawn anew on each rank"),
)
def data_parallel(trial: Trial) -> None:
    """Under DDP on two ranks with 7 and 6 records, gradients equal those of one process in float64, in two steps."""

    def wrap(module: nn.Module, group: Any) -> nn.Module:
        unused = trial.has("unused_parameters")
        return nn.parallel.DistributedDataParallel(module, process_group=group, find_unused_parameters=unused)

    _equal(trial, "DDP", wrap, trial.world)


@laws.law(
    "L10b",
    "sharded",
    priority=1,
    tolerance="T1",
    ranks=2,
    seconds=120,
    why="Large models are sharded over ranks; a layer that fully_shard refuses, or that reads its shard for the "
    "whole, cannot grow.",
    satisfy="Read parameters inside forward only, and compute norms over whole tensors.",
    catches=("a weight read in the constructor of a view", "fairscale#767"),
)
def sharded(trial: Trial) -> None:
    """Under FSDP2 on two ranks with 7 and 6 records, gradients equal those of one process in float64, in two steps."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    def wrap(module: nn.Module, group: Any) -> nn.Module:
        try:
            refuse_sparse(module)
        except SpecError as error:
            trial.skip(f"it is not sharded: {error}")
        scalars = {p for p in module.parameters() if p.ndim == 0}  # which a mesh leaves whole, too
        fully_shard(module, mesh=DeviceMesh.from_group(group, "cpu"), ignored_params=scalars)  # in place
        return module

    _equal(trial, "FSDP2", wrap, trial.world)


def _equal(trial: Trial, name: str, wrap: Callable[[nn.Module, Any], nn.Module], world: int) -> None:
    """Compare the gradients of each step with those one process sums over the parts."""
    settle(trial)
    if not dist.is_initialized() or world < 2:
        trial.undecided("it needs a group of ranks: run it with `mapsto check`")
    double(trial, PARTS[0], training=True)
    local = build(trial, torch.float64).train()
    if not any(p.requires_grad for p in local.parameters()):
        trial.skip("it has no parameters")
    wanted = [_summed(trial, step) for step in range(STEPS)]
    if not wanted[0]:
        no_gradient(trial)
    failed = torch.ones(1)
    try:
        _steps(trial, name, wrap, _group(), wanted)
        failed.zero_()
    finally:
        dist.all_reduce(failed)  # the ranks agree whether the group can serve again
        if failed.item():
            _GROUPS.clear()
    trial.control("steps differ", differs(wanted[0], wanted[1]))


def _group() -> Any:
    """The group that laws share, with a patience of its own: what waits for a collective that never comes fails in seconds."""
    if not _GROUPS:
        _GROUPS.append(dist.new_group(timeout=PATIENCE, backend="gloo"))
    return _GROUPS[0]


def _steps(
    trial: Trial, name: str, wrap: Callable[[nn.Module, Any], nn.Module], group: Any, wanted: list[dict[str, Any]]
) -> None:
    world = trial.world
    with trial.case(world=world, records=PARTS[:world], dtype="float64", by=name):
        with trial.component(f"wrapping it in {name}"):
            module = wrap(build(trial, torch.float64).train(), group)
        for step in range(STEPS):
            with trial.case(step=step):
                with trial.component(f"a step under {name}"):
                    got = _stepped(trial, module, step, world)
                _compare(trial, name, got, wanted[step])


def _compare(trial: Trial, name: str, got: dict[str, Any], want: dict[str, Any]) -> None:
    lost = sorted(n for n, g in want.items() if g is not None and got.get(n) is None)
    trial.demand(not lost, f"under {name} there is no gradient for {', '.join(lost)}", first={"tensor": min(lost, default="")})
    kept = {n: g for n, g in want.items() if g is not None}
    idle = [n for n, g in want.items() if g is None]
    cause = f"{name} waits for the gradients of {', '.join(idle)}, which forward does not use" if idle else None
    same(trial, f"gradients under {name}", {n: got[n] for n in kept}, kept, tolerance="T1", cause=cause)


def _part(trial: Trial, module: nn.Module, step: int, rank: int) -> Tensor:
    """The weighted sum of the outputs for the records of a rank, from a seed of its own."""
    given = inputs(trial, PARTS[rank % len(PARTS)], torch.float64, stream=f"step {step}, rank {rank}")
    given, _ = differentiable(given, tuple(trial.example.more.get("fixed", ())))
    given = tuple(x.clone() if trial.has("in_place") and isinstance(x, Tensor) else x for x in given)
    torch.manual_seed(derive(trial.seed, "ranks", step, rank) % (1 << 63))
    outputs = with_gradient(module(*given))
    drawn = cotangents(outputs, derive(trial.seed, "part", step, rank))
    return sum(((y * g).real.sum() for y, g in zip(outputs.values(), drawn, strict=True)), torch.zeros((), dtype=torch.float64))


def _summed(trial: Trial, step: int) -> dict[str, Any]:
    """Gradients of one process over all the parts, divided by the records."""
    module = build(trial, torch.float64).train()
    for rank in range(trial.world):
        total = _part(trial, module, step, rank)
        if not total.requires_grad:
            return {}
        torch.autograd.backward(total / sum(PARTS[: trial.world]))
    return {n: None if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def _stepped(trial: Trial, module: nn.Module, step: int, world: int) -> dict[str, Any]:
    """Gradients of a step on this rank: the part's sum, so weighted that the mean over ranks is that over records."""
    module.zero_grad(set_to_none=True)
    torch.autograd.backward(_part(trial, module, step, trial.rank) * (world / sum(PARTS[:world])))
    found = {}
    for name, parameter in module.named_parameters():
        grad = parameter.grad
        if grad is not None and parameter.ndim == 0 and hasattr(module, "unshard"):  # no rank holds a part of it
            dist.all_reduce(grad, group=_group())
            grad /= world
        whole = getattr(grad, "full_tensor", None)
        found[name.removeprefix("module.")] = whole() if callable(whole) else None if grad is None else grad.clone()
    return found
