"""Laws of optimizers in their contexts: loss scaling, shards, other kernels, sparse gradients."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.laws import Laws, Trial
from ..drivers.optimizer import Problem, build, fill, options, problem_for, run, state, weights
from .compare import close_to_oracle, differs, same

laws = Laws("optimizer")

SCALE = 4096.0
"""A power of two: scaling by it and back loses no bits."""


# -- loss scaling ------------------------------------------------------------------------------------------------------
@laws.law(
    "O6",
    "loss_scaling",
    priority=1,
    tolerance="T0",
    why="A gradient that overflowed must leave no trace; one that did not must be seen unscaled.",
    satisfy="Let GradScaler skip step(); where step() handles grad_scale and found_inf itself, touch nothing (counts either) "
    "when set.",
    catches=("pytorch#67590", "a step count that moves in a skipped step", "a scale that is not divided out"),
)
def loss_scaling(trial: Trial) -> None:
    """Under GradScaler a step with an infinite gradient changes no parameter and no state; others equal unscaled ones."""
    problem = problem_for(trial, torch.float32)
    if problem.tags & {"needs_closure", "needs_graph", "sparse_only"}:
        trial.skip("GradScaler supports neither closures nor what needs other than dense gradients")
    scaled, plain = problem.parameters(), problem.parameters()
    optimizer, other = build(trial, scaled), build(trial, plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    for t in range(4):
        overflow = t in (0, 2)
        before = {**weights(scaled), **state(optimizer)}
        with trial.case(dtype="float32", step=t + 1, gradient="infinite" if overflow else "finite"):
            with trial.component("a step under GradScaler"):
                _scaled(problem, scaler, optimizer, scaled, t, overflow=overflow)
            if overflow:
                _untouched(trial, {**weights(scaled), **state(optimizer)}, before)
            else:
                other.zero_grad()
                torch.autograd.backward(problem.loss(t, plain))
                other.step()
                same(trial, "a scaled step", weights(scaled), weights(plain), cause="the scale is not divided out, or twice")
    trial.control("finite steps move it", differs(weights(scaled), weights(problem.parameters())))


def _untouched(trial: Trial, after: dict[str, Any], before: dict[str, Any]) -> None:
    """State that is allocated in a skipped step counts as untouched where it is zero."""
    fresh = {
        k for k in after.keys() - before.keys() if not (bool(after[k].any()) if isinstance(after[k], Tensor) else after[k])
    }
    same(
        trial,
        "what a skipped step leaves",
        {k: v for k, v in after.items() if k not in fresh},
        before,
        cause="state is updated before the check for overflow",
    )


def _scaled(problem: Problem, scaler: Any, optimizer: Any, parameters: list[nn.Parameter], t: int, *, overflow: bool) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(scaler.scale(problem.loss(t, parameters)))
    if overflow:
        grad = parameters[-1].grad
        assert grad is not None
        grad.view(-1)[0] = float("inf")
    scaler.step(optimizer)
    scaler.update()


# -- shards ------------------------------------------------------------------------------------------------------------
class _Weights(nn.Module):
    """A module that holds the parameters of a problem."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(parameters)


@laws.law(
    "O7",
    "sharded",
    priority=1,
    tolerance="T1",
    ranks=2,
    seconds=180,
    why="A rule that uses a norm, a mean or the shape of a weight sees a shard of it under FSDP2, and is then another rule.",
    satisfy="Compute norms and means on the parameter itself (a DTensor reduces over ranks), not on its local shard.",
    catches=("fairscale#767", "Megatron-LM#6489", "a trust ratio of the local shard"),
)
def sharded(trial: Trial) -> None:
    """Four updates of parameters sharded by FSDP2 over two ranks equal those of whole parameters in float64."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_tensor

    problem = problem_for(trial)
    if problem.tags & {"needs_closure", "needs_graph", "sparse_only"}:
        trial.skip("its update is no function of dense gradients alone")
    mesh = init_device_mesh("cpu", (trial.world,))
    whole = problem.parameters()
    module = _Weights(problem.parameters())
    fully_shard(module, mesh=mesh)
    shards: list[Any] = list(module.parameters())
    unsharded, optimizer = build(trial, whole), build(trial, shards)
    start = weights(whole)
    for t in range(4):
        fill(problem, whole, t)
        with trial.case(dtype="float64", step=t + 1, world=trial.world):
            for shard, parameter in zip(shards, whole, strict=True):
                assert parameter.grad is not None
                shard.grad = distribute_tensor(parameter.grad.clone(), mesh, shard.placements)
            torch.manual_seed(t)
            unsharded.step()
            torch.manual_seed(t)
            with trial.component("an update of sharded parameters"):
                optimizer.step()
            got = {f"parameter {i}": s.full_tensor().detach() for i, s in enumerate(shards)}
            same(
                trial, "sharded against whole", got, weights(whole), tolerance="T1", cause="a norm or mean over the local shard"
            )
    trial.control("the parameters moved", differs(weights(whole), start))


# -- kernels -----------------------------------------------------------------------------------------------------------
@laws.law(
    "O8",
    "kernels",
    priority=1,
    tolerance="T1",
    seconds=180,
    why="The fast kernels are what is used; the loop is what was read and tested.",
    satisfy="Derive foreach and fused updates from the loop's, and compare them; keep an lr that is a tensor a tensor.",
    catches=("a fused kernel with another eps", "a tensor lr that is read once", "a foreach path that ignores maximize"),
)
def kernels(trial: Trial) -> None:
    """With foreach=True, fused=True, lr as a tensor, or compiled, it updates as the plain loop does."""
    problem = problem_for(trial)
    takes = inspect.signature(trial.subject.target).parameters
    flags = [f for f in ("foreach", "fused", "capturable") if f in takes]
    compiles = trial.has("compilable") or bool(flags)
    if (not flags and not compiles) or problem.tags & {"needs_closure", "needs_graph", "sparse_only"}:
        trial.skip("it has one kernel only (state tags={'compilable'} to have its compiled step compared)")
    loop = dict.fromkeys(flags, False)
    plain = _weights_after(problem, trial, loop)
    lr = options(build(trial, problem.parameters()))["lr"]
    for name, chosen in {
        **{f"{f}=True": {**loop, f: True} for f in flags if f != "capturable"},
        "lr a tensor": {**loop, "lr": torch.tensor(lr, dtype=torch.float64)},
        "lr a tensor, foreach": {**loop, "foreach": True, "lr": torch.tensor(lr, dtype=torch.float64)}
        if "foreach" in flags
        else None,
        "weight_decay": {**dict.fromkeys(flags[:1], True), "weight_decay": 0.1} if "weight_decay" in takes else None,
    }.items():
        if chosen is None:
            continue
        with trial.case(dtype="float64", kernel=name):
            try:
                got = _weights_after(problem, trial, chosen)
            except (RuntimeError, ValueError, TypeError) as error:
                if _refused(str(error)):
                    continue
                trial.fail(f"with {name} it raised {type(error).__name__}: {str(error)[:200]}", cause="the component raised")
            want = plain if name != "weight_decay" else _weights_after(problem, trial, {**loop, "weight_decay": 0.1})
            same(trial, f"{name} against the loop", got, want, tolerance="T1", cause="another rule in this kernel")
    if compiles:
        single = problem_for(trial, torch.float32)  # a compiled step computes with its count, which is held in float32
        with trial.case(dtype="float32", kernel="compiled"), _fresh_compiler():
            usual = _off_by_roundings(trial, _weights_after(single, trial, loop), plain, loop)
            close_to_oracle(trial, "the compiled step", _compiled(single, trial, loop), usual, plain)
    trial.control("the parameters moved", differs(plain, weights(problem.parameters())))


def _off_by_roundings(
    trial: Trial, eager: dict[str, Tensor], plain: dict[str, Tensor], loop: dict[str, Any]
) -> dict[str, Tensor]:
    """The plain result off by the error of the loop in float32, and by that of its options' arithmetic in float32.

    The loop computes with Python's numbers, and a compiled step in float32, where 1 - 0.999 has an error of 6e-5. How much
    that moves weights is measured by the loop in float64 whose options are `Single`, rounded down and rounded up.
    """
    problem = problem_for(trial)
    group = options(build(trial, problem.parameters()))
    takes = inspect.signature(trial.subject.target).parameters
    rounded = [
        _weights_after(problem, trial, {**loop, **{n: _single(v, side) for n, v in group.items() if n in takes}})
        for side in (-float("inf"), float("inf"))
    ]
    errors = {n: (eager[n].double() - x).abs().max() for n, x in plain.items()}
    return {n: x + errors[n] + max((r[n] - x).abs().max() for r in rounded) for n, x in plain.items()}


class Single(float):
    """A number of which arithmetic gives a neighbour in float32 of the result, the one on a `side` of it."""

    side = 0.0

    def _of(self, made: float) -> Single:
        near = np.float32(made)
        if np.isfinite(near) and near and (float(near) > made) != (self.side > 0):
            near = np.nextafter(near, np.float32(self.side))
        found = Single(near)
        found.side = self.side
        return found

    def __add__(self, other: float) -> Single:
        return self._of(float(self) + float(other))

    def __sub__(self, other: float) -> Single:
        return self._of(float(self) - float(other))

    def __rsub__(self, other: float) -> Single:
        return self._of(float(other) - float(self))

    def __mul__(self, other: float) -> Single:
        return self._of(float(self) * float(other))

    def __truediv__(self, other: float) -> Single:
        return self._of(float(self) / float(other))

    def __rtruediv__(self, other: float) -> Single:
        return self._of(float(other) / float(self))

    def __pow__(self, other: float, _: None = None) -> Single:
        return self._of(float(self) ** float(other))

    __radd__, __rmul__ = __add__, __mul__


def _single(value: Any, side: float) -> Any:
    """A number (or each of several) as a `Single`; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_single(v, side) for v in value)
    if type(value) is not float:
        return value
    made = Single(value)
    made.side = side
    return made


def _refused(text: str) -> bool:
    """An explicit refusal of a combination is a contract kept."""
    return any(
        word in text
        for word in ("not supported", "must be", "is not supported", "capturable", "cannot be", "requires", "should be")
    )


def _weights_after(problem: Problem, trial: Trial, chosen: dict[str, Any]) -> dict[str, Tensor]:
    parameters = problem.parameters()
    torch.manual_seed(trial.seed)
    optimizer = trial.subject.target(parameters, **{**trial.example.args, **chosen})
    run(problem, optimizer, parameters, 0, 4)
    return weights(parameters)


@contextmanager
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    try:
        yield
    finally:
        torch._dynamo.reset()


def _compiled(problem: Problem, trial: Trial, chosen: dict[str, Any]) -> dict[str, Tensor]:
    parameters = problem.parameters()
    optimizer = build(trial, parameters, **chosen)
    step = torch.compile(lambda: optimizer.step(), backend="aot_eager")
    for t in range(4):
        fill(problem, parameters, t)
        with trial.component("the compiled step"):
            step()
    return weights(parameters)


# -- sparse ------------------------------------------------------------------------------------------------------------
@laws.law(
    "O10b",
    "sparse",
    priority=2,
    tolerance="T1",
    why="Embeddings with sparse gradients must train as those with dense ones.",
    satisfy="Coalesce the gradient before squaring it; add it by index.",
    catches=("a sparse gradient that is not coalesced, squared twice",),
)
def sparse(trial: Trial) -> None:
    """Declared `sparse`: sparse gradients, with an index twice, give the update of the dense gradient they stand for."""
    problem = problem_for(trial)
    if not trial.has("sparse"):
        trial.skip("it does not declare `sparse`")
    if trial.has("sparse_only"):
        trial.skip("it takes sparse gradients only: there is no dense update of its own to compare with")
    of_sparse, of_dense = (nn.Parameter(torch.ones(4, 3, dtype=problem.dtype)) for _ in range(2))
    one, other = build(trial, [of_sparse]), build(trial, [of_dense])
    for t in range(4):
        index = torch.tensor([[0, 2, 2, 3]])
        values = torch.randn(4, 3, dtype=problem.dtype, generator=torch.Generator().manual_seed(trial.seed + t))
        of_sparse.grad = torch.sparse_coo_tensor(index, values, (4, 3), is_coalesced=False)
        of_dense.grad = of_sparse.grad.to_dense()
        with trial.case(dtype="float64", step=t + 1), trial.component("an update with a sparse gradient"):
            one.step()
            other.step()
            same(
                trial,
                "sparse against dense",
                weights([of_sparse]),
                weights([of_dense]),
                tolerance="T1",
                cause="an index counted twice",
            )
    trial.control("the parameter moved", bool((of_dense != 1).any()))
