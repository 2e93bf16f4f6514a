"""Right components, as public libraries write them, that a law once took for wrong; beside each a wrong one that must fail."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mapsto
from mapsto.testing import judge_law


# -- what casts to float32 -------------------------------------------------------------------------------------------------
class Focal(nn.Module):
    """A focal loss that computes in float32. factor: of its backward pass; beside: of a term that does not cast."""

    factor, beside = 1.0, 0.0

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        score, due = prediction.float(), target.float()
        if self.factor != 1.0:
            score = _Scaled.apply(score, self.factor)
        logs = nn.functional.binary_cross_entropy_with_logits(score, due, reduction="none")
        losses = ((1 - (-logs).exp()) ** 2 * logs).sum(1)
        losses = losses + self.beside * (prediction**2).sum(1) if self.beside else losses
        return losses if self.reduction == "none" else losses.sum() if self.reduction == "sum" else losses.mean()


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient * ctx.factor, None


class FocalBeside(Focal):
    """Only a part of it casts."""

    beside = 0.1


class FocalWithAFactor(Focal):
    factor, beside = 1.5, 0.1


class FocalMeanOfHalf(Focal):
    """Its mean divides by one more than there are."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        found = super().forward(prediction, target)
        return found * len(prediction) / (len(prediction) + 1) if self.reduction == "mean" else found


def pairs(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 4, generator=generator), torch.randint(2, (size, 4), generator=generator).float()


for one in (Focal, FocalBeside, FocalWithAFactor, FocalMeanOfHalf):
    mapsto.example(one, inputs=pairs)


@pytest.mark.parametrize("law", ["loss.gradients", "loss.additivity", "loss.reductions"])
@pytest.mark.parametrize("right", [Focal, FocalBeside])
def test_a_loss_that_computes_in_float32_is_judged_by_what_float32_tells(right: Any, law: str) -> None:
    assert judge_law(right, law, kind="loss").status == "pass"


@pytest.mark.parametrize(("wrong", "law"), [(FocalWithAFactor, "loss.gradients"), (FocalMeanOfHalf, "loss.reductions")])
def test_a_wrong_one_is_caught_in_float32_too(wrong: Any, law: str) -> None:
    assert judge_law(wrong, law, kind="loss").status == "fail"


class RMSNorm(nn.Module):
    """A norm that computes in float32, as those of language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class NormOfMemory(RMSNorm):
    """It takes its mean over what lies together in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.is_contiguous() else super().forward(x) * 1.001


for one in (RMSNorm, NormOfMemory):
    mapsto.example(one, inputs=lambda size, generator: (torch.randn(size, 5, 4, generator=generator),))


def test_a_layer_that_computes_in_float32_is_allowed_its_rounding_and_no_more() -> None:
    assert judge_law(RMSNorm, "layer.layout", kind="layer").status == "pass"
    assert judge_law(NormOfMemory, "layer.layout", kind="layer").status == "fail"


# -- what is given modules -------------------------------------------------------------------------------------------------
class Wrapped(nn.Module):
    """It adds to its input what a module that it is given makes of it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Slicing(Wrapped):
    """It looks at memory, not at numbers, where its input is sliced."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x if x.is_contiguous() else x * 1.01)


for one in (Wrapped, Slicing):
    mapsto.example(
        one, args={"inner": nn.Linear(4, 4)}, inputs=lambda size, generator: (torch.randn(size, 4, generator=generator),)
    )


@pytest.mark.parametrize("law", ["layer.copies", "layer.layout", "layer.history", "layer.state"])
def test_instances_that_are_given_a_module_do_not_share_it(law: str) -> None:
    assert judge_law(Wrapped, law, kind="layer").status == "pass"


def test_one_that_depends_on_the_layout_is_still_caught() -> None:
    assert judge_law(Slicing, "layer.layout", kind="layer").status == "fail"


# -- what keeps sums in its groups -----------------------------------------------------------------------------------------
class Averaging(torch.optim.Optimizer):
    """Gradient descent whose groups hold a count, which is no option; it has modes, as schedule-free rules have."""

    def __init__(self, params: Any, lr: float = 0.1, weight_decay: float = 0.0, **_: Any) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "lr_sum": 0.0, "training": False})

    def train(self) -> None:
        for group in self.param_groups:
            group["training"] = True

    def decay(self, group: dict[str, Any]) -> float:
        return float(group["weight_decay"])

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        found = None
        if closure is not None:
            with torch.enable_grad():
                found = closure()
        for group in self.param_groups:
            if not group["training"]:
                raise RuntimeError("Optimizer was not in train mode when step is called")
            group["lr_sum"] += group["lr"]
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * (p.grad + self.decay(group) * p) * (1.0 + 0.01 * (group["lr_sum"] > 0)))
        return found


class DecayOfTheFirst(Averaging):
    """It reads the decay of the first group for all."""

    def decay(self, group: dict[str, Any]) -> float:
        return float(self.param_groups[0]["weight_decay"])


def test_what_an_optimizer_counts_in_its_groups_is_no_option_and_its_mode_is_set() -> None:
    assert judge_law(Averaging, "optimizer.groups", kind="optimizer").status == "pass"
    assert judge_law(DecayOfTheFirst, "optimizer.groups", kind="optimizer").status == "fail"


# -- what draws its first state --------------------------------------------------------------------------------------------
class Kinematic(torch.optim.Optimizer):
    """Descent with a velocity that is drawn at the first update, as Gravity's (Bahrami and Zadeh, 2021) is."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def first(self, grad: Tensor) -> Tensor:
        return torch.randn_like(grad)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        found = None
        if closure is not None:
            with torch.enable_grad():
                found = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    grad = p.grad.clone()
                    if not state:
                        state["v"] = self.first(p.grad)
                    p.sub_(group["lr"] * state["v"].lerp_(grad, 0.1))
        return found


class VelocityOfTheirs(Kinematic):
    """Its velocity begins as the tensor that is .grad."""

    def first(self, grad: Tensor) -> Tensor:
        return grad


def test_a_velocity_that_is_drawn_at_the_first_update_is_not_the_gradients_memory() -> None:
    assert judge_law(Kinematic, "optimizer.untouched", kind="optimizer").status == "pass"
    assert judge_law(VelocityOfTheirs, "optimizer.untouched", kind="optimizer").status == "fail"


# -- what is traced otherwise ----------------------------------------------------------------------------------------------
class Blur(nn.Module):
    """A mean over windows: where it is traced by a convolution, else by two passes, which round otherwise."""

    factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return nn.functional.conv1d(x, torch.full((1, 1, 5), 0.2, dtype=x.dtype) * self.factor)
        return sum(x[..., i : x.shape[-1] - 4 + i] for i in range(5)) / 5


class BlurOtherwise(Blur):
    factor = 1.001


for one in (Blur, BlurOtherwise):
    mapsto.example(one, inputs=lambda size, generator: (torch.randn(size, 1, 16, generator=generator),))


def test_a_trace_that_adds_up_in_another_order_is_no_other_model() -> None:
    assert judge_law(Blur, "export.fresh_inputs", kind="layer").status == "pass"
    assert judge_law(BlurOtherwise, "export.fresh_inputs", kind="layer").status == "fail"
