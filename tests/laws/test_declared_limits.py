"""What the framework or the checker cannot do is no fault of a component, and what compared nothing proves nothing."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from tests.mutants.layer_twins import Folds
from torch import Tensor, nn

from mapsto.check.runner import gating
from mapsto.core.laws import Example, Subject, Trial, Verdict, find_law, verdict
from mapsto.torch.modes import modes_kept
from mapsto.torch.optimizers import sgd


def judged(kind: str, law: str, target: Any, *tags: str, **example: Any) -> Verdict:
    from mapsto.check.targets import complete

    stated = Example(tags=frozenset(tags), **example)
    subject = Subject(kind=kind, label="it", reference="", target=target, example=stated, wing="torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in the checker's workers
        return verdict(Trial(complete(subject), find_law(law)))


def vectors(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 4, generator=generator),)


# -- layers ------------------------------------------------------------------------------------------------------------
class _Old(torch.autograd.Function):
    """Written as before torch.func: it saves within forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Old(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Old.apply(x)


class Checkpoints(nn.Module):
    reentrant = False

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=self.reentrant)


class Reentrant(Checkpoints):
    reentrant = True


class Rounds(nn.Module):
    """A straight-through estimator (Bengio et al. 2013)."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x.round() - x).detach()


class Picks(nn.Module):
    """Whole numbers: nothing to differentiate."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).argmax(-1)


class Returns(nn.Module):
    """An object of a class that the exporter does not know."""

    def forward(self, x: Tensor) -> Any:
        return torch.distributions.Normal(x, 1.0, validate_args=False)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(4.0, dtype=x.dtype).expand_as(x)


NO_GRADIENT = ("layer.gradients", "layer.partial_gradients", "layer.gradient_layout", "layer.checkpointing")


@pytest.mark.parametrize(
    ("law", "layer", "tag", "said"),
    [
        ("layer.vmap", Old, "no_functorch", "setup_context"),
        ("layer.per_sample_gradients", Checkpoints, "no_functorch", "checkpoint within"),
        ("layer.gradients", Reentrant, "reentrant", "use_reentrant=False"),
        ("export.fresh_inputs", Returns, "eager_only", "pytree"),
        ("layer.dynamic_export", Returns, "eager_only", "pytree"),
        ("layer.per_sample_gradients", Picks, "not_differentiable", "no gradient was compared"),
        *[(law, Picks, "not_differentiable", "no gradient was compared") for law in NO_GRADIENT],
    ],
)
def test_a_limit_is_named_and_a_tag_declares_it(law: str, layer: type[nn.Module], tag: str, said: str) -> None:
    made = judged("layer", law, layer, inputs=vectors)
    assert made.status == "unknown", made.reason
    assert said in made.reason
    assert tag in made.reason
    assert judged("layer", law, layer, tag, inputs=vectors).status == "not applicable"


def test_an_estimator_says_that_its_gradient_is_no_derivative() -> None:
    made = judged("layer", "layer.gradients", Rounds, inputs=vectors)
    assert made.status == "fail"
    assert made.witness is not None
    assert "surrogate_gradient" in str(made.witness.cause)
    assert judged("layer", "layer.gradients", Rounds, "surrogate_gradient", inputs=vectors).status == "not applicable"


@pytest.mark.parametrize("law", ["layer.layout", "layer.rerun", "layer.vmap", "export.fresh_inputs"])
def test_a_layer_may_declare_that_no_value_of_its_inputs_matters(law: str) -> None:
    assert judged("layer", law, Constant, inputs=vectors).status == "vacuous"
    assert judged("layer", law, Constant, "ignores_values", inputs=vectors).status == "pass"
    assert judged("layer", law, Rounds, "ignores_values", inputs=vectors).status == "fail"


@pytest.mark.parametrize("law", ["layer.checkpointing", "layer.layout", "layer.state", "layer.rerun"])
def test_a_reentrant_checkpoint_within_is_judged_by_backward(law: str) -> None:
    assert judged("layer", law, Reentrant, inputs=vectors).status == "pass"


def test_modes_are_put_back_by_the_modules_own_train() -> None:
    layer = Folds()
    layer.requires_grad_(False)
    x = torch.randn(3, 8)
    wanted = layer(x)
    with modes_kept(layer):
        layer.eval()
        assert layer.folded
    assert not layer.folded
    torch.testing.assert_close(layer(x), wanted)


# -- losses ------------------------------------------------------------------------------------------------------------
def pairs(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return torch.randn(size, 4, generator=generator), torch.randint(4, (size,), generator=generator)


def mistakes(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    return (prediction.argmax(-1) != target).double().sum(), len(target)


class OnlyMean(nn.Module):
    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction != "mean":
            raise NotImplementedError(f"reduction={reduction!r}: this loss is a mean")

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(prediction, target)


class MeanOrSum(nn.Module):
    factor = 1.0

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        assert reduction in ("mean", "sum"), reduction
        self.reduction = reduction

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        value = nn.functional.cross_entropy(prediction, target, reduction=self.reduction)
        return value * self.factor if self.reduction == "mean" else value


class MeanOfTwo(MeanOrSum):
    factor = 0.5


def test_a_loss_without_a_gradient_is_not_known() -> None:
    made = judged("loss", "loss.additivity", mistakes, inputs=pairs)
    assert made.status == "unknown"
    assert "no gradient" in made.reason


@pytest.mark.parametrize(
    ("law", "loss", "status"),
    [
        ("loss.reductions", OnlyMean, "not applicable"),
        ("loss.additivity", OnlyMean, "pass"),
        ("loss.states_weight", OnlyMean, "pass"),
        ("loss.degenerate", OnlyMean, "pass"),
        ("loss.reductions", MeanOrSum, "pass"),
        ("loss.reductions", MeanOfTwo, "fail"),
    ],
)
def test_a_loss_may_refuse_a_reduction(law: str, loss: type[nn.Module], status: str) -> None:
    made = judged("loss", law, loss, inputs=pairs, more={"weight": "records"})
    assert made.status == status, made.reason


# -- schedules ---------------------------------------------------------------------------------------------------------
def one_of_two(optimizer: Any, warmup: int | None = None, total: int | None = None) -> Any:
    if (warmup is None) == (total is None):
        raise ValueError("say one of warmup and total")
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.9**t)


def constant(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)


def test_arguments_that_were_guessed_are_no_fault_of_a_schedule() -> None:
    assert judged("schedule", "schedule.resume", one_of_two).status == "unknown"
    assert judged("schedule", "schedule.resume", one_of_two, args={"warmup": 3, "total": 4}).status == "fail"
    assert judged("schedule", "schedule.resume", one_of_two, args={"warmup": 3}).status == "pass"


def test_a_schedule_that_sets_nothing_keeps_every_ratio() -> None:
    assert judged("schedule", "schedule.group_ratios", constant).status == "vacuous"


def test_what_is_not_stated_is_unknown_only_where_the_check_gates() -> None:
    made = judged("schedule", "schedule.formula", one_of_two, args={"warmup": 3})
    assert made.status == "not stated"
    assert "formula=" in made.reason
    assert gating(made).status == "unknown"


# -- optimizers --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("law", ["optimizer.missing_gradients", "optimizer.loss_scaling"])
def test_the_fused_kernel_of_sgd_is_not_chosen_with_momentum_and_its_limit_is_named(law: str) -> None:
    assert judged("optimizer", law, sgd, args={"lr": 0.1, "momentum": 0.9}).status == "pass"
    asked = judged("optimizer", law, sgd, args={"lr": 0.1, "momentum": 0.9, "fused": True})
    assert asked.status == "expected failure"
    assert "the framework's fused kernel" in asked.reason


class Batches(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015), written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = (x.mean(0), x.var(0, unbiased=False)) if self.training else (self.mean, self.var)
        if self.training:
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.mean.lerp_(mean, 0.1)
                self.var.lerp_(x.var(0), 0.1)
        return self.scale * (x - mean) / (var + 1e-5).sqrt()


@pytest.mark.parametrize(
    "layer", [Batches, lambda: nn.BatchNorm1d(4), lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))]
)
@pytest.mark.parametrize("law", ["layer.checkpointing_buffers", "layer.per_sample_gradients"])
def test_statistics_that_move_as_those_of_batch_normalisation_are_no_fault(law: str, layer: Any) -> None:
    made = judged("layer", law, layer, inputs=vectors)
    assert made.status == "not applicable"
    assert "nn.BatchNorm" in made.reason


@pytest.mark.parametrize("law", ["layer.per_sample_gradients", "layer.vmap"])
def test_what_pytorch_gives_vmap_no_rule_for_is_no_fault(law: str) -> None:
    def sequences(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(size, 5, 4, generator=generator),)

    made = judged("layer", law, lambda: nn.GRU(4, 3, batch_first=True), inputs=sequences)
    assert made.status == "not applicable", made.reason


class LowRank(nn.Module):
    """A linear map and a correction of low rank that is nothing at first, with dropout before it (Hu et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(4, 4), nn.Dropout(0.1)
        self.down, self.up = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.zeros(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.drop(x) @ self.down.T @ self.up.T


class Scaled(nn.Module):
    """Twice multiplied: by a number that is trained, and two maps of the input by one another before a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.norm = nn.Parameter(torch.tensor(2.0)), nn.LayerNorm(4)
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.norm(self.one(x) * self.other(x))


class Rotated(nn.Module):
    """Attention over records of [n, 4] whose scores grow with the square of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.query(x) @ self.key(x).T).softmax(-1) @ x


@pytest.mark.parametrize("layer", [LowRank, Scaled, Rotated])
@pytest.mark.parametrize("law", ["layer.autocast", "layer.fresh_noise", "layer.gradients", "layer.copies", "layer.history"])
def test_right_layers_that_were_once_called_broken_are_not(law: str, layer: type[nn.Module]) -> None:
    made = judged("layer", law, layer, inputs=vectors)
    assert made.status in ("pass", "not applicable"), made.reason
