"""What an update must leave as it was: .grad, other parameters; and how it calls a closure."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from ...core.laws import Laws, Trial
from ..drivers.optimizer import Problem, advance, build, fill, problem_for, seed, settle
from .compare import same

laws = Laws("optimizer")


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
    """An update leaves .grad and other parameters as they were; gradients zeroed in place are none to it later; a closure is
    called once, gradients on, its loss returned.
    """
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
        if not problem.tags & {"sparse_only", "stochastic"}:
            _zeroed_in_place(trial, problem)
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


def _zeroed_in_place(trial: Trial, problem: Problem) -> None:
    """zero_grad(set_to_none=False) writes into the tensor that was .grad: what an optimizer keeps must be its own."""
    renewed, kept = problem.parameters(), problem.parameters()
    one, other = build(trial, renewed), build(trial, kept)
    fill(problem, kept, 0)
    with trial.case(dtype="float64", gradients="zeroed in place"), trial.component("an update"):
        for t in range(3):
            for i, parameter in enumerate(kept):
                if parameter.grad is not None:
                    parameter.grad.zero_().add_(problem.gradient_of(t, i, parameter))
            advance(problem, one, renewed, t)
            seed(problem, t)
            other.step()
            other.zero_grad(set_to_none=False)
        same(
            trial,
            "parameters where gradients are zeroed in place",
            {f"parameter {i}": p for i, p in enumerate(kept)},
            {f"parameter {i}": p for i, p in enumerate(renewed)},
            cause="its state is the tensor that was .grad, and not a copy",
        )


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
