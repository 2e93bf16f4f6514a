"""Laws of layers and models: x -> y."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from ...core.laws import Laws, Trial
from .layer_examples import build, inputs

laws = Laws("layer", "model")


@laws.law(
    "L1",
    "gradients",
    priority=0,
    tolerance="T3",
    why="A wrong backward trains to something, only worse; no shape or loss check sees it.",
    satisfy="Let autograd differentiate, or check a hand-written backward with torch.autograd.gradcheck in float64.",
    catches=("a custom autograd.Function whose backward forgets a factor",),
)
def gradients(trial: Trial) -> None:
    """Gradients with respect to inputs and parameters equal finite differences in float64."""
    module = build(trial, torch.float64).eval()
    given = inputs(trial, 2, torch.float64)
    names = [n for n, p in module.named_parameters() if p.requires_grad]
    fixed = {n: b for n, b in module.state_dict().items() if n not in names}
    floating = [i for i, x in enumerate(given) if isinstance(x, Tensor) and x.is_floating_point()]

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        arguments = list(given)
        for i, leaf in zip(floating, leaves, strict=False):
            arguments[i] = leaf
        weights = dict(zip(names, leaves[len(floating) :], strict=True))
        outputs = torch.func.functional_call(module, {**fixed, **weights}, tuple(arguments))
        every = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        return tuple(y for y in every if isinstance(y, Tensor) and y.is_floating_point() and y.requires_grad)

    leaves = [given[i].detach().clone().requires_grad_() for i in floating]
    leaves += [module.get_parameter(n).detach().clone().requires_grad_() for n in names]
    if not leaves or not run(*leaves):
        trial.skip("nothing of it is differentiable")
    with trial.case(size=2, dtype="float64"):
        try:
            torch.autograd.gradcheck(run, leaves, fast_mode=sum(x.numel() for x in leaves) >= 400)
        except GradcheckError as error:
            said = str(error).strip().splitlines()
            trial.fail(f"analytic and numeric gradients differ: {said[0]}", measured=" ".join(said[:6])[:400])
    trial.exercised("gradients", len(leaves))
