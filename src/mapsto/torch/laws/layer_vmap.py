"""Laws of a layer under vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core.laws import Laws, Trial
from ..drivers.layer_examples import build, inputs
from ..drivers.layer_passes import cotangents, double, draws, with_gradient
from .compare import differs, leaves, same

laws = Laws("layer", "model")

# -- vmap --------------------------------------------------------------------------------------------------------------
STACK = 3


@laws.law(
    "L12",
    "vmap",
    priority=1,
    tolerance="T1",
    why="Ensembles, Jacobians and per-sample gradients run a layer under torch.func.vmap.",
    satisfy="Branch on no value of a tensor, call no .item(), give a custom autograd.Function generate_vmap_rule = True.",
    catches=("a custom autograd.Function without a vmap rule", "a data-dependent branch"),
)
def vmapped(trial: Trial) -> None:
    """Under vmap over a stack of inputs, in evaluation, outputs equal those of a loop."""
    module, given = double(trial)
    if draws(build(trial, torch.float64).eval(), given):
        trial.skip("it draws random numbers in evaluation, and vmap draws them in another order than a loop")
    stack = [inputs(trial, 2, torch.float64, stream=f"item {i}") for i in range(STACK)]
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def run(*given: Any) -> dict[str, Any]:
        made = leaves(torch.func.functional_call(module, state, given))
        return {k: y for k, y in made.items() if isinstance(y, Tensor)}

    _compare(trial, "outputs under vmap", run, stack, "evaluation")


@laws.law(
    "L12b",
    "per_sample_gradients",
    priority=1,
    tolerance="T1",
    why="Differential privacy and influence functions need the gradient of each sample: vmap of grad.",
    satisfy="Write no buffer from the batch in training (use GroupNorm, or batch normalisation without running statistics).",
    catches=("pytorch/functorch#505", "statistics updated in place under vmap"),
)
def per_sample_gradients(trial: Trial) -> None:
    """In training, gradients of each item of a stack under vmap equal those of a loop."""
    module, given = double(trial, training=True)
    if draws(build(trial, torch.float64).train(), given):
        module.eval()
    stack = [inputs(trial, 2, torch.float64, stream=f"item {i}") for i in range(STACK)]
    parameters = {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}
    if not parameters:
        trial.skip("it has no parameters")
    rest = {**{n: p for n, p in module.named_parameters() if not p.requires_grad}, **dict(module.named_buffers())}

    def total(weights: dict[str, Tensor], given: tuple[Any, ...]) -> Tensor:
        outputs = with_gradient(
            torch.func.functional_call(module, {**{k: b.clone() for k, b in rest.items()}, **weights}, given)
        )
        drawn = cotangents(outputs, trial.seed)
        return sum(
            ((y * g).real.sum() for y, g in zip(outputs.values(), drawn, strict=True)), torch.zeros((), dtype=torch.float64)
        )

    def run(*given: Any) -> dict[str, Any]:
        found: dict[str, Any] = torch.func.grad(total)(parameters, given)
        return found

    _compare(trial, "gradients of each sample", run, stack, "training" if module.training else "evaluation")


def _compare(trial: Trial, what: str, run: Callable[..., dict[str, Any]], stack: list[tuple[Any, ...]], mode: str) -> None:
    with trial.case(size=STACK, dtype="float64", mode=mode):
        with trial.component("the loop that vmap is compared with"):
            loop = [run(*item) for item in stack]
        if not loop[0]:
            trial.skip("it gives no tensors")
        together, axes = _stacked(stack)
        if not any(a == 0 for a in leaves(axes).values()):
            trial.skip("it takes no tensors")
        with trial.component("calling it under vmap"):
            got = torch.func.vmap(run, in_dims=axes, randomness="same")(*together)
        want = {k: torch.stack([item[k] for item in loop]) for k in loop[0]}
        same(trial, what, got, want, tolerance="T1", cause="items of the stack are mixed, or another operation is taken")
        trial.control("items differ", any(differs(loop[0], item) for item in loop[1:]))


def _stacked(stack: list[tuple[Any, ...]]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    def join(items: list[Any]) -> tuple[Any, Any]:
        one = items[0]
        if isinstance(one, Tensor):
            return torch.stack(items), 0
        if type(one) in (tuple, list):
            pairs = [join([i[k] for i in items]) for k in range(len(one))]
            return type(one)(p[0] for p in pairs), type(one)(p[1] for p in pairs)
        return one, None

    pairs = [join([item[k] for item in stack]) for k in range(len(stack[0]))]
    return tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)
