"""Laws of a layer under vmap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...core.laws import Laws, Trial, Violation
from ...laws.layer_inputs import controlled_by_inputs, no_gradient
from ..drivers.layer_examples import build, inputs, settle
from ..drivers.layer_passes import cotangents, double, draws, seen_by, with_gradient
from .compare import differs, leaves, same

laws = Laws("layer", "model")

# -- vmap --------------------------------------------------------------------------------------------------------------
STACK = 3
LIMITS = {
    "setup_context": "torch.func takes no autograd.Function without setup_context",
    "saved tensor hooks": "torch.func.grad takes no checkpoint within a layer (it does not support saved tensor hooks)",
}
"""What an error of the framework says -> the limit of torch.func that it is, and no fault of the layer."""

NO_RULE = ("Batching rule not implemented", "we do not yet support aten::")
"""What PyTorch says where it has no rule for an operator of its own."""


@contextmanager
def _within_limits(trial: Trial, doing: str) -> Iterator[None]:
    """Within it an error is the layer's own, unless it says that torch.func has no support for what the layer is made of."""
    try:
        with trial.component(doing):
            yield
    except Violation as refused:
        rules = (*NO_RULE, *(["doesn't match the broadcast shape"] if _recurrent(trial) else []))  # of their gradients
        if any(text in refused.witness.said for text in rules):
            trial.skip("PyTorch has no rule by which vmap takes one of the operators in it")
        limit = next((said for text, said in LIMITS.items() if text in refused.witness.said), None)
        if limit is None:
            raise
        trial.undecided(f"{limit}; where the layer is not meant for it, state tags={{'no_functorch'}}")


def _recurrent(trial: Trial) -> bool:
    return any(isinstance(part, (nn.RNNBase, nn.RNNCellBase)) for part in build(trial).modules())


def _of_torch_func(trial: Trial) -> None:
    """Skips what is declared to be none of torch.func's business."""
    settle(trial)
    if trial.has("no_functorch"):
        trial.skip("it is not meant for torch.func, as it declares")


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
    _of_torch_func(trial)
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
    satisfy="Take no Python number of the batch (.item(), a branch), and write into no tensor that holds all samples.",
    catches=("functorch#1108", "a scale of gradients that is taken from the batch"),
)
def per_sample_gradients(trial: Trial) -> None:
    """In training, gradients of each item of a stack under vmap equal those of a loop."""
    _of_torch_func(trial)
    module, given = double(trial, training=True)
    if any(getattr(part, "sparse", False) for part in module.modules()):
        trial.skip("its gradients are sparse, as its embeddings say, and vmap has no rules for these")
    if draws(build(trial, torch.float64).train(), given):
        module.eval()
    stack = [inputs(trial, 2, torch.float64, stream=f"item {i}") for i in range(STACK)]
    parameters = {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}
    if not parameters:
        trial.skip("it has no parameters")
    before = {n: b.detach().clone() for n, b in module.named_buffers()}
    if "gradient" not in seen_by(trial, module, given):
        no_gradient(trial)
    if written := [n for n, b in module.named_buffers() if differs(b, before[n])]:
        trial.skip(
            f"it writes {written[0]} from the batch in training, as nn.BatchNorm does, and of a sample there is no batch"
        )
    rest = {**{n: p for n, p in module.named_parameters() if not p.requires_grad}, **dict(module.named_buffers())}

    def total(weights: dict[str, Tensor], given: tuple[Any, ...]) -> Tensor:
        outputs = with_gradient(
            torch.func.functional_call(module, {**{k: b.clone() for k, b in rest.items()}, **weights}, given)
        )
        drawn = cotangents(outputs, trial.seed)
        return sum(
            ((y * g).real.sum() for y, g in zip(outputs.values(), drawn, strict=True)), torch.zeros((), dtype=torch.float64)
        )

    def run(factor: Tensor, *given: Any) -> dict[str, Any]:
        found: dict[str, Any] = torch.func.grad(lambda weights: factor * total(weights, given))(parameters)
        return found

    # each with a factor of its own, since a table that is added to its inputs has one gradient for all of them
    scaled = [(torch.tensor(1.0 + i, dtype=torch.float64), *item) for i, item in enumerate(stack)]
    _compare(trial, "gradients of each sample", run, scaled, "training" if module.training else "evaluation")


def _compare(trial: Trial, what: str, run: Callable[..., dict[str, Any]], stack: list[tuple[Any, ...]], mode: str) -> None:
    with trial.case(size=STACK, dtype="float64", mode=mode):
        with _within_limits(trial, "the loop that vmap is compared with"):
            loop = [run(*item) for item in stack]
        if not loop[0]:
            trial.skip("it gives no tensors")
        together, axes = _stacked(stack)
        if not any(a == 0 for a in leaves(axes).values()):
            trial.skip("it takes no tensors")
        with _within_limits(trial, "calling it under vmap"):
            got = torch.func.vmap(run, in_dims=axes, randomness="same")(*together)
        want = {k: torch.stack([item[k] for item in loop]) for k in loop[0]}
        same(trial, what, got, want, tolerance="T1", cause="items of the stack are mixed, or another operation is taken")
        controlled_by_inputs(trial, "items differ", any(differs(loop[0], item) for item in loop[1:]))


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
