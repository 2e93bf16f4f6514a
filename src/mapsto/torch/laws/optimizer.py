"""Laws of optimizers: the author's formula, a first update that descends, resuming."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...core.laws import Laws, Trial
from ...formulas.optimizers import Formula
from .compare import differs, max_error, same
from .optimizer_examples import (
    Problem,
    advance,
    build,
    finite,
    has_state,
    options,
    problem_for,
    run,
    state,
    weights,
)  # fmt: skip

laws = Laws("optimizer")

STEPS = 10
"""Updates that are compared: RAdam changes its rule after the fifth."""
RESUMED = 6


# -- the formula -------------------------------------------------------------------------------------------------------
@laws.law(
    "O1",
    "formula",
    priority=0,
    tolerance="T1",
    why="A wrong bias correction or decay still descends, so no test of descent sees it.",
    satisfy="State the rule on float64 arrays beside it: mapsto.example(it, formula=f) with f(w, g, t, memory, **options) "
    "-> w, for one parameter at step t = 1, 2, ...; `memory` is a dict kept for it.",
    catches=("a bias correction with t - 1", "a first step with another rule", "weight decay applied after the update"),
)
def formula(trial: Trial) -> None:
    """The first ten updates equal the author's formula in float64, step by step."""
    problem = problem_for(trial)
    build(trial, problem.parameters())
    rule: Formula | None = trial.example.more.get("formula")
    if rule is None:
        trial.skip("no formula is stated: mapsto.example(..., formula=lambda w, g, t, memory, **options: ...)")
    if problem.tags & {"needs_closure", "needs_graph", "sparse_only"}:
        trial.skip("its update is no function of dense gradients alone")
    takes = inspect.signature(trial.subject.target).parameters
    for variant in ({}, *(v for v in trial.example.more.get("variants", ()) if set(v) <= set(takes))):
        with trial.case(dtype="float64", options=", ".join(f"{k}={v}" for k, v in variant.items()) or "as stated"):
            _by_formula(trial, problem, rule, variant)


def _by_formula(trial: Trial, problem: Problem, rule: Any, variant: Mapping[str, Any]) -> None:
    parameters = problem.parameters()
    optimizer = build(trial, parameters, **variant)
    chosen = options(optimizer)
    wanted = [p.detach().clone() for p in parameters]
    start = weights(parameters)
    memories: list[dict[str, Any]] = [{} for _ in parameters]
    for t in range(STEPS):
        given = [(w.detach().numpy(), problem.gradient(t, i, w).numpy()) for i, w in enumerate(wanted)]
        wanted = [torch.as_tensor(rule(w, g, t + 1, m, **chosen)) for (w, g), m in zip(given, memories, strict=True)]
        with trial.case(step=t + 1), trial.component(f"update {t + 1}"):
            advance(problem, optimizer, parameters, t)
            got, want = weights(parameters), {f"parameter {i}": w for i, w in enumerate(wanted)}
            same(trial, f"update {t + 1}", got, want, tolerance="T1", cause=_bias(trial, got, want, start, t + 1))
    trial.control("the parameters moved", differs(weights(parameters), start))


def _bias(trial: Trial, got: dict[str, Tensor], want: dict[str, Tensor], start: dict[str, Tensor], step: int) -> str | None:
    """What the ratio of the first updates tells."""
    del trial
    if step > 1:
        return f"the first {step - 1} update(s) are right: a rule that changes with the step"
    ratios = torch.cat([((got[k] - start[k]) / (want[k] - start[k])).flatten() for k in got])
    spread = float(ratios.max() - ratios.min())
    return f"the first update is {float(ratios.mean()):.6g} of what it should be" if spread < 1e-6 else None


@laws.law(
    "O1b",
    "descends",
    priority=0,
    tolerance="T4",
    why="An update that is not a number, or goes uphill, ends the training before it begins.",
    satisfy="Guard divisions (eps inside or beside the root), and subtract the step; tags={'first_update_free'} where this "
    "is meant.",
    catches=("0 / 0 in the first bias correction", "a sign error", "a division by the norm of a zero gradient"),
)
def descends(trial: Trial) -> None:
    """The first update is finite and not uphill, zero gradients give finite updates, and thirty steps stay finite."""
    problem = problem_for(trial)
    parameters = problem.parameters()
    before = weights(parameters)
    optimizer = build(trial, parameters)
    slopes = [problem.gradient(0, i, p) for i, p in enumerate(parameters)]
    with trial.case(dtype="float64", step=1), trial.component("the first update"):
        advance(problem, optimizer, parameters, 0)
    moved = {k: after - before[k] for k, after in weights(parameters).items()}
    finite(trial, moved, "the first update")
    if not trial.has("first_update_free"):
        uphill = sum(float((d * g).sum()) for d, g in zip(moved.values(), slopes, strict=True))
        uphill = -uphill if options(optimizer).get("maximize") else uphill
        trial.demand(
            uphill <= 0.0,
            f"the first update goes uphill: its product with the gradient is {uphill:.3g}",
            measured=uphill,
            allowed="at most 0",
            first={"step": 1},
            cause="a sign",
        )
    with trial.case(dtype="float64", steps=30), trial.component("thirty updates"):
        run(problem, optimizer, parameters, 1, 30)
    finite(trial, weights(parameters), "thirty updates")
    if not problem.tags & {"needs_closure", "needs_graph", "sparse_only"}:
        with trial.case(dtype="float64", gradient="zero"):
            still = problem.parameters()
            optimizer = build(trial, still)
            for _ in range(2):
                for parameter in still:
                    parameter.grad = torch.zeros_like(parameter)
                with trial.component("an update with gradients of zero"):
                    optimizer.step()
            finite(trial, weights(still), "an update with gradients of zero")


# -- resuming ----------------------------------------------------------------------------------------------------------
@laws.law(
    "O2",
    "resume",
    priority=0,
    tolerance="T0",
    why="What is not in state_dict() is lost when a run goes on from a checkpoint, and the run is another one from there.",
    satisfy="Keep all that later updates depend on in self.state[parameter] or in the groups, never in attributes.",
    catches=("torchtitan#4615", "davda54/sam#39", "a step count in an attribute"),
)
def resume(trial: Trial) -> None:
    """Saved after m updates and loaded over fresh parameters, it goes on with the bits of the run that was not interrupted."""
    for dtype in (torch.float64, torch.float32):
        with trial.case(dtype=str(dtype).removeprefix("torch.")):
            _resumed(trial, problem_for(trial, dtype))


@laws.law(
    "O2b",
    "resume_low_precision",
    priority=0,
    tolerance="T0",
    why="State in float32 beside bfloat16 weights is there for its precision; Optimizer.load_state_dict casts it to the "
    "weights' dtype.",
    satisfy="Restore dtypes after load_state_dict (mapsto.torch.saving.restore_optimizer does), or override "
    "_process_value_according_to_param_policy.",
    catches=("pytorch#43706",),
)
def resume_low_precision(trial: Trial) -> None:
    """With bfloat16 parameters it resumes bitwise too, its state in the dtypes it had."""
    problem = problem_for(trial, torch.bfloat16)
    with trial.case(dtype="bfloat16"):
        parameters = problem.parameters()
        optimizer = build(trial, parameters)
        try:
            run(problem, optimizer, parameters, 0, 2)
        except RuntimeError as error:
            trial.skip(f"it does not run with bfloat16 parameters: {str(error)[:160]}")
        _resumed(trial, problem)


def _resumed(trial: Trial, problem: Problem) -> None:
    parameters = problem.parameters()
    optimizer = _visible(problem, build(trial, parameters))
    saved: list[tuple[list[Tensor], bytes, dict[str, Any]]] = []
    trace: list[dict[str, Tensor]] = []
    for t in range(RESUMED):
        if t == 2:
            _halve(optimizer)
        with trial.component(f"update {t + 1}"):
            advance(problem, optimizer, parameters, t)
        trace.append(weights(parameters))
        with trial.component("saving its state_dict"):
            saved.append(([p.detach().clone() for p in parameters], _bytes(optimizer.state_dict()), state(optimizer)))
    last, cold_differs = state(optimizer), False
    for m in range(1, RESUMED):
        with trial.case(saved_after=m):
            held, written, kept = saved[m - 1]
            fresh = [nn.Parameter(p.clone()) for p in held]
            again = build(trial, fresh)
            with trial.component("loading its state_dict"):
                again.load_state_dict(torch.load(io.BytesIO(written), weights_only=False))
            same(trial, "the state after loading", state(again), kept, cause=_cast(state(again), kept))
            _go_on(trial, problem, again, fresh, m, trace)
            same(trial, "the state at the end", state(again), last)
            cold = [nn.Parameter(p.clone()) for p in held]
            without = _visible(problem, build(trial, cold))
            if m > 2:
                _halve(without)
            _go_on(None, problem, without, cold, m, trace)
            cold_differs |= differs(weights(cold), trace[-1])
    if has_state(optimizer):
        trial.control("without the state it differs", cold_differs)


def _go_on(
    trial: Trial | None,
    problem: Problem,
    optimizer: Any,
    parameters: list[nn.Parameter],
    m: int,
    trace: list[dict[str, Tensor]],
) -> None:
    for t in range(m, RESUMED):
        if t == 2:
            _halve(optimizer)
        advance(problem, optimizer, parameters, t)
        if trial is not None:
            same(
                trial,
                f"update {t + 1} after a restore",
                weights(parameters),
                trace[t],
                cause="state that is not in state_dict()",
            )


def _visible(problem: Problem, optimizer: Any) -> Any:
    """The optimizer with rates whose updates bfloat16 does not round away."""
    for group in optimizer.param_groups:
        if problem.dtype is torch.bfloat16 and isinstance(group.get("lr"), float):
            group["lr"] = max(group["lr"], 0.05)
    return optimizer


def _halve(optimizer: Any) -> None:
    """What a schedule would do."""
    for group in optimizer.param_groups:
        if isinstance(group.get("lr"), float):
            group["lr"] *= 0.5


def _bytes(tree: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(copy.deepcopy(tree), buffer)
    return buffer.getvalue()


def _cast(got: dict[str, Any], want: dict[str, Any]) -> str | None:
    for key, value in want.items():
        other = got.get(key)
        if isinstance(value, Tensor) and isinstance(other, Tensor) and other.dtype != value.dtype:
            return f"load_state_dict casts {key} from {value.dtype} to {other.dtype} (error {max_error(other, value):.2g})"
    return None
