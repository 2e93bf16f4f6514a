"""Laws of what an update may touch: parameters without gradient, groups, .grad, closures."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ...core.laws import Laws, Trial
from .compare import differs, same
from .optimizer_examples import Problem, advance, build, fill, finite, options, plain, problem_for, run, settle, weights

laws = Laws("optimizer")

MOVING = 12
"""Updates after which even a rule with a warm-up of its own (AdaShift: ten) has moved."""


# -- missing gradients --------------------------------------------------------------------------------------------------
@laws.law(
    "O3",
    "missing_gradients",
    priority=0,
    tolerance="T0",
    why="Frozen, unused and routed-past parameters have no gradient, and must not drift.",
    satisfy="Skip a parameter whose .grad is None before anything else, decay included.",
    catches=("pytorch#100701", "weight decay on a parameter without gradient", "a norm over an empty tensor"),
)
def missing_gradients(trial: Trial) -> None:
    """A parameter whose gradient is None keeps its bits and its state; parameters of size zero are accepted."""
    problem = problem_for(trial)
    rest = len(problem.shapes) - 1
    with trial.case(dtype="float64", gradient="None", step="first and third"):
        parameters = problem.parameters()
        optimizer = build(trial, parameters)
        start = weights(parameters)
        for t, without in enumerate(([rest], [], [rest], list(range(rest + 1)))):
            before, kept = weights(parameters), _own(optimizer, parameters[rest])
            with trial.component(f"an update without the gradient of {'all' if len(without) > 1 else 'one'}"):
                if len(without) <= rest or not problem.tags & {"needs_closure", "needs_graph"}:
                    advance(problem, optimizer, parameters, t, without)
            after = weights(parameters)
            for i in without:
                name = f"parameter {i}"
                same(
                    trial,
                    "a parameter without gradient",
                    {name: after[name]},
                    {name: before[name]},
                    cause="decay or momentum is applied without a gradient",
                )
            if rest in without and kept:
                same(trial, "the state of a parameter without gradient", _own(optimizer, parameters[rest]), kept)
        run(problem, optimizer, parameters, 4, MOVING)
        trial.control("with a gradient it moves", differs(weights(parameters), start))
    with trial.case(dtype="float64", shape=(0, 3)):
        empty = nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
        parameters = problem.parameters()
        optimizer = build(trial, [*parameters, empty])
        for t in range(2):
            with trial.component("an update with a parameter of size zero"):
                if problem.tags & {"needs_closure", "needs_graph"}:
                    advance(problem, optimizer, parameters, t)
                else:
                    fill(problem, parameters, t)
                    empty.grad = (
                        torch.zeros_like(empty).to_sparse(1) if "sparse_only" in problem.tags else torch.zeros_like(empty)
                    )
                    optimizer.step()
            finite(trial, weights(parameters), "an update beside a parameter of size zero")


def _own(optimizer: Any, parameter: Tensor) -> dict[str, Any]:
    held: dict[str, Any] = plain(copy.deepcopy(dict(optimizer.state.get(parameter, {}))))
    return held


# -- groups ------------------------------------------------------------------------------------------------------------
@laws.law(
    "O4",
    "groups",
    priority=0,
    tolerance="T0",
    why="Decay is switched off for biases, and backbones learn slower, by groups: an option that is read once for all is "
    "ignored.",
    satisfy="Read every option from the group inside the loop over groups; tags={'across_parameters'} where updates depend "
    "on one "
    "another by design.",
    catches=("an option of the first group used for all", "lr=0 that does not freeze"),
)
def groups(trial: Trial) -> None:
    """Two groups with their own lr and weight decay equal two optimizers; a group with lr=0 keeps its bits."""
    problem = problem_for(trial)
    if trial.has("one_group"):
        trial.skip("it takes one group only, as it declares")
    plain = options(build(trial, problem.parameters()))
    if not isinstance(plain.get("lr"), float):
        trial.skip("its groups have no lr")
    choices: list[dict[str, Any]] = [{"lr": plain["lr"]}, {"lr": plain["lr"] * 3.0}]
    if isinstance(plain.get("weight_decay"), (int, float)):
        choices[0]["weight_decay"], choices[1]["weight_decay"] = 0.0, 0.2
    _frozen(trial, problem, plain["lr"])
    if trial.has("across_parameters") or trial.has("stochastic"):
        return
    parameters = problem.parameters()
    both = build(trial, [{"params": parameters[:1], **choices[0]}, {"params": parameters[1:], **choices[1]}])
    one, other = problem.parameters(), problem.parameters()
    parts = [
        (build(trial, [{"params": one[:1], **choices[0]}]), one),
        (build(trial, [{"params": other[1:], **choices[1]}]), other),
    ]
    alike = problem.parameters()
    uniform = build(trial, [{"params": alike, **choices[0]}])
    for t in range(MOVING):
        with trial.case(dtype="float64", step=t + 1, groups=str(choices)), trial.component("an update of two groups"):
            advance(problem, both, parameters, t)
            for optimizer, own in parts:
                advance(problem, optimizer, own, t)
            advance(problem, uniform, alike, t)
            want = {**weights(one[:1]), **{f"parameter {i + 1}": p.detach().clone() for i, p in enumerate(other[1:])}}
            same(
                trial,
                "two groups against two optimizers",
                weights(parameters),
                want,
                cause="an option of one group is used for both, or an update depends on other parameters",
            )
    trial.control("the options matter", differs(weights(parameters), weights(alike)))


def _frozen(trial: Trial, problem: Problem, lr: float) -> None:
    parameters = problem.parameters()
    optimizer = build(trial, [{"params": parameters[:1], "lr": lr}, {"params": parameters[1:], "lr": lr}])
    optimizer.param_groups[0]["lr"] = 0.0
    start = weights(parameters)
    with trial.case(dtype="float64", lr=0.0):
        with trial.component("updates of a group with lr=0"):
            run(problem, optimizer, parameters, 0, MOVING)
        after = weights(parameters)
        same(
            trial,
            "a group with lr=0",
            {"parameter 0": after["parameter 0"]},
            {"parameter 0": start["parameter 0"]},
            cause="lr=0 does not freeze: a floor, or an lr that is not read from the group",
        )
        if not trial.has("across_parameters"):
            trial.control("the other group moves", differs(after, start))


# -- what must not be touched -------------------------------------------------------------------------------------------
@laws.law(
    "O5",
    "untouched",
    priority=0,
    tolerance="T0",
    why="Clipping, logging and accumulation read .grad after the step; a decay that was written into it is counted twice.",
    satisfy="Write g = grad.add(p, alpha=wd), not grad.add_(...); call the closure once, under torch.enable_grad(), return "
    "its loss.",
    catches=("weight decay written into .grad", "a closure called without gradients", "a step that returns None for its loss"),
)
def untouched(trial: Trial) -> None:
    """An update leaves .grad and other parameters as they were; a closure is called once, gradients on, its loss returned."""
    problem = problem_for(trial)
    parameters, other = problem.parameters(), nn.Parameter(torch.ones(3, dtype=torch.float64))
    other.grad = torch.full_like(other, 2.0)
    optimizer = build(trial, parameters)
    if not problem.tags & {"needs_closure", "needs_graph"} and not trial.has("modifies_grad"):
        for t in range(3):
            fill(problem, parameters, t)
            grads = {f"gradient {i}": _dense(p.grad) for i, p in enumerate(parameters)}
            with trial.case(dtype="float64", step=t + 1), trial.component("an update"):
                optimizer.step()
                same(
                    trial,
                    "gradients after an update",
                    {f"gradient {i}": _dense(p.grad) for i, p in enumerate(parameters)},
                    grads,
                    cause="an in-place operation on .grad",
                )
    same(
        trial,
        "a parameter that is not its own",
        {"weight": other, "gradient": other.grad},
        {"weight": torch.ones_like(other), "gradient": torch.full_like(other, 2.0)},
    )
    if "closure" not in inspect.signature(type(optimizer).step).parameters or trial.has("sparse_only"):
        return
    with trial.case(dtype="float64", closure=True):
        _closure(trial, problem)


def _dense(grad: Tensor | None) -> Tensor | None:
    return None if grad is None else grad.detach().to_dense().clone() if grad.is_sparse else grad.detach().clone()


def _closure(trial: Trial, problem: Problem) -> None:
    parameters = problem.parameters()
    optimizer = build(trial, parameters)
    modes: list[bool] = []
    losses: list[float] = []

    def closure() -> Tensor:
        modes.append(torch.is_grad_enabled())
        for parameter in parameters:
            parameter.grad = None
        with torch.enable_grad():
            loss = problem.loss(0, parameters)
            torch.autograd.backward(loss, create_graph="needs_graph" in problem.tags)
        losses.append(loss.item())
        return loss

    with trial.component("an update with a closure"):
        returned = optimizer.step(closure)
    trial.demand(bool(modes), "the closure is never called", first={"step": 1})
    trial.demand(
        all(modes),
        "the closure is called with gradients off",
        first={"step": 1},
        measured=str(modes),
        cause="no torch.enable_grad() around it",
    )
    if not settle(trial).tags & {"needs_closure", "many_calls"}:
        trial.demand(
            len(modes) == 1,
            f"the closure is called {len(modes)} times",
            measured=len(modes),
            allowed=1,
            cause="state tags={'needs_closure'} where this is meant",
        )
    trial.demand(
        returned is not None and any(float(returned) == x for x in losses),
        f"step returns {returned!r:.60}, not the loss of its closure",
        measured=str(returned)[:40],
        allowed=losses[0],
    )
    trial.control("gradients are on outside", torch.is_grad_enabled())
