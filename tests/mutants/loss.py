"""Losses with a planted bug, and their correct twins."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mapsto.core.laws import Example

from . import Mutant

IGNORE = -100


def _classes(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 5, generator=generator), torch.randint(5, (size,), generator=generator)


def _tokens(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 4, 5, generator=generator), torch.randint(5, (size, 4), generator=generator)


def _pairs(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, generator=generator), torch.randn(size, 3, generator=generator)


def _coins(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, generator=generator), torch.randint(2, (size, 3), generator=generator).float()


# -- parts add up
def tokens(prediction: Tensor, target: Tensor, ignore_index: int = IGNORE) -> tuple[Tensor, Tensor]:
    kept = target != ignore_index
    losses = F.cross_entropy(prediction.flatten(0, -2), target.flatten(), ignore_index=ignore_index, reduction="sum")
    return losses, kept.sum()


def tokens_meaned(prediction: Tensor, target: Tensor, ignore_index: int = IGNORE) -> tuple[Tensor, Tensor]:
    """A mean over the batch where a sum is announced (torchtune#1875)."""
    total, count = tokens(prediction, target, ignore_index)
    return total / count.clamp(min=1), count


def tokens_by_record(prediction: Tensor, target: Tensor, ignore_index: int = IGNORE) -> tuple[Tensor, Tensor]:
    """Each part is normalised by the tokens of its fullest record (transformers#35203, in spirit)."""
    total, count = tokens(prediction, target, ignore_index)
    return total / (target != ignore_index).sum(-1).max().clamp(min=1), count


def centred(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """Errors about the mean error of the part: a statistic of the batch that is not declared."""
    error = prediction - target
    return ((error - error.mean(0)) ** 2).sum(), error.numel()


def squared(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    return ((prediction - target) ** 2).sum(), prediction.numel()


def square_mean(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target) ** 2).mean()


def square_none(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target) ** 2


# -- nothing
def masked_mean(prediction: Tensor, target: Tensor, ignore_index: int = IGNORE) -> Tensor:
    kept = target != ignore_index
    losses = F.cross_entropy(prediction.flatten(0, -2), target.flatten(), ignore_index=ignore_index, reduction="none")
    return losses.sum() / kept.sum()


def masked_mean_guarded(prediction: Tensor, target: Tensor, ignore_index: int = IGNORE) -> Tensor:
    kept = target != ignore_index
    losses = F.cross_entropy(prediction.flatten(0, -2), target.flatten(), ignore_index=ignore_index, reduction="none")
    return losses.sum() / kept.sum().clamp(min=1)


def root_of_sum(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """A root whose gradient at zero is infinite: 0 times it is no number."""
    kept = (prediction - target).abs() > 1e9
    distances = (prediction - target).square().sum(-1) * kept.any(-1)
    return (square_none(prediction, target)).sum() + distances.sqrt().sum(), len(target)


def root_guarded(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    kept = ((prediction - target).abs() > 1e9).any(-1)
    distances = (prediction - target).square().sum(-1)
    return square_none(prediction, target).sum() + distances[kept].sqrt().sum(), len(target)


# -- reductions and ignored targets
class _Reduced:
    """A loss with reductions; `mean_of` says what its mean is."""

    def __init__(self, reduction: str = "mean", ignore_index: int = IGNORE) -> None:
        self.reduction, self.ignore_index = reduction, ignore_index

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        losses = self.losses(prediction, target)
        if self.reduction == "none":
            return losses
        return self.mean(losses, target) if self.reduction == "mean" else losses.sum()

    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(prediction, target, ignore_index=self.ignore_index, reduction="none")

    def mean(self, losses: Tensor, target: Tensor) -> Tensor:
        return losses.sum() / (target != self.ignore_index).sum()


class Reduced(_Reduced):
    pass


class DividedTwice(_Reduced):
    """unsloth-zoo#1023: normalised by the count, and then averaged."""

    def mean(self, losses: Tensor, target: Tensor) -> Tensor:
        return super().mean(losses, target) / (target != self.ignore_index).sum()


class CountsIgnored(_Reduced):
    def mean(self, losses: Tensor, target: Tensor) -> Tensor:
        return losses.mean()


class SmoothsIgnored(_Reduced):
    """Label smoothing that reaches the targets that are ignored."""

    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        return super().losses(prediction, target) - 0.1 * F.log_softmax(prediction, -1).mean(-1)


class Smooths(_Reduced):
    def losses(self, prediction: Tensor, target: Tensor) -> Tensor:
        smooth = F.log_softmax(prediction, -1).mean(-1)
        return super().losses(prediction, target) - 0.1 * smooth * (target != self.ignore_index)


def weighs_ignored(prediction: Tensor, target: Tensor, ignore_index: int = IGNORE) -> tuple[Tensor, int]:
    return tokens(prediction, target, ignore_index)[0], target.numel()


# -- extreme values
def entropy(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    return F.cross_entropy(prediction, target, reduction="sum"), len(target)


def entropy_by_exp(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    scores = prediction.exp()
    return -(scores[torch.arange(len(target)), target] / scores.sum(-1)).log().sum(), len(target)


def binary(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    return F.binary_cross_entropy_with_logits(prediction, target, reduction="sum"), target.numel()


def binary_of_sigmoid(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """The log of a sigmoid that was rounded to 0 or 1 (and kept from it by an eps that half precision rounds away)."""
    p = torch.sigmoid(prediction)
    return -(target * (p + 1e-12).log() + (1 - target) * (1 - p + 1e-12).log()).sum(), target.numel()


# -- permutation and bounds
def shifted(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """The last two records are compared with each other's targets."""
    moved = torch.cat([target[:-2], target[-2:].flip(0)]) if len(target) > 1 else target
    return squared(prediction, moved)


def first_weighs_more(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    losses = square_none(prediction, target)
    return losses.sum() + losses[:1].sum(), losses.numel()


def negative_term(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    p = torch.sigmoid(prediction)
    return -(target * p.log() - (1 - target) * (1 - p).log()).sum(), target.numel()


def biased(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    return squared(prediction - 0.05, target)


# -- as a layer
class _Absolute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.abs()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.sign()


class _AbsoluteHalf(_Absolute):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.sign() * 0.5


class _AbsoluteByMemory(_Absolute):
    """Its backward reads the gradient's memory as if it were contiguous (ROCm/TransformerEngine#623)."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        have = grad.untyped_storage().size() // grad.element_size() - grad.storage_offset()
        rows = torch.as_strided(grad, (min(have, x.numel()),), (1,), grad.storage_offset())
        flat = torch.zeros(x.numel(), dtype=x.dtype)
        flat[: len(rows)] = rows
        return flat.view_as(x) * x.sign()


def absolute(prediction: Tensor, target: Tensor) -> Tensor:
    return _Absolute.apply(prediction - target)


def absolute_half(prediction: Tensor, target: Tensor) -> Tensor:
    return _AbsoluteHalf.apply(prediction - target)


def absolute_by_memory(prediction: Tensor, target: Tensor) -> Tensor:
    return _AbsoluteByMemory.apply(prediction - target)


def viewed(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    return F.cross_entropy(prediction.view(-1, prediction.shape[-1]), target.view(-1), reduction="sum"), target.numel()


def clamps_target(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """It writes into its target (pytorch#118959)."""
    return squared(prediction, target.clamp_(-1.0, 1.0))


def clamped_target(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    return squared(prediction, target.clamp(-1.0, 1.0))


class Balanced:
    """Weighs by a number that is a Python float, read when it is traced and then changed by each call."""

    def __init__(self) -> None:
        self.scale = 1.0

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return square_none(prediction, target) * self.weight(prediction)

    def weight(self, prediction: Tensor) -> Any:
        return self.scale


class BalancedByCompiling(Balanced):
    """Another rule where it is compiled."""

    def weight(self, prediction: Tensor) -> Any:
        return 2.0 if torch.compiler.is_compiling() else 1.0


def exponential(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """Cross entropy from exponentials in half precision: exp(30) is no float16."""
    low = prediction.half() if torch.is_autocast_enabled("cpu") else prediction
    chosen = low[torch.arange(len(target)), target]
    return (low.exp().sum(-1).log() - chosen).float().sum(), len(target)


def distance(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """The sum of Euclidean distances, whose root has no slope at zero."""
    return (prediction - target).square().sum(-1).sqrt().sum(), len(target)


def distance_guarded(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    return (prediction - target).square().sum(-1).clamp(min=1e-24).sqrt().sum(), len(target)


def overlap(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """One less what two intervals [n, 2] share of what they cover."""
    both = (torch.minimum(prediction[:, 1], target[:, 1]) - torch.maximum(prediction[:, 0], target[:, 0])).clamp(min=0)
    lengths = (prediction[:, 1] - prediction[:, 0]) + (target[:, 1] - target[:, 0])
    return (1 - both / (lengths - both)).sum(), len(target)


def overlap_counted_twice(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    """What both cover is left out of the total twice, so that the best value is below zero."""
    both = (torch.minimum(prediction[:, 1], target[:, 1]) - torch.maximum(prediction[:, 0], target[:, 0])).clamp(min=0)
    lengths = (prediction[:, 1] - prediction[:, 0]) + (target[:, 1] - target[:, 0])
    return (1 - both / (lengths - 1.5 * both)).sum(), len(target)


def _intervals(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    start = torch.rand(size, 1, generator=generator)
    return torch.cat([start, start + 0.2], 1), torch.cat([start, start + 0.2], 1) + 5.0


def _same_interval(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    one = _intervals(size, generator)[0]
    return one.clone(), one


def _mutant(law: str, name: str, bug: Any, twin: Any, models: str, inputs: Any = _pairs, **more: Any) -> Mutant:
    return Mutant(law=f"loss.{law}", name=name, bug=bug, twin=twin, models=models, example=Example(inputs=inputs, more=more))


def _best(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    target = torch.randn(size, 3, generator=generator)
    return target.clone(), target


MUTANTS = [
    _mutant("additivity", "a mean is announced as a sum", tokens_meaned, tokens, "torchtune#1875", _tokens),
    _mutant(
        "additivity", "normalised by the fullest record of the part", tokens_by_record, tokens, "transformers#35203", _tokens
    ),
    _mutant("additivity", "errors about the mean of the part", centred, squared, "statistics of the micro-batch"),
    _mutant(
        "states_weight", "a mean that does not say its weight", square_mean, square_none, "transformers#34242, ms-swift#10081"
    ),
    _mutant(
        "states_weight",
        "a mean over targets is stated as one over elements",
        masked_mean_guarded,
        tokens,
        "transformers#35203",
        _tokens,
        weight="elements",
    ),
    _mutant(
        "degenerate",
        "0 / 0 where all targets are ignored",
        masked_mean,
        masked_mean_guarded,
        "Automodel#3796, pytorch#70348",
        _tokens,
    ),
    _mutant("degenerate", "a root of zero under a mask", root_of_sum, root_guarded, "infinite times zero in a backward pass"),
    _mutant("degenerate", "a distance of zero", distance, distance_guarded, "pytorch: the gradient of a norm at zero"),
    _mutant("reductions", "the mean divides twice", DividedTwice, Reduced, "unsloth-zoo#1023", _classes),
    _mutant("reductions", "the mean counts ignored targets", CountsIgnored, Reduced, "unsloth-zoo#1023", _classes),
    _mutant("reductions", "smoothing reaches ignored targets", SmoothsIgnored, Smooths, "label smoothing", _classes),
    _mutant("reductions", "the weight counts ignored targets", weighs_ignored, tokens, "mlx-lm#1413", _tokens),
    _mutant("extreme", "exp overflows", entropy_by_exp, entropy, "exp overflow", _classes),
    _mutant(
        "extreme", "the log of a rounded sigmoid", binary_of_sigmoid, binary, "eps that half precision rounds away", _coins
    ),
    _mutant("permutation", "two targets are exchanged", shifted, squared, "index misalignment"),
    _mutant("permutation", "the first record weighs more", first_weighs_more, squared, "a position that weighs more"),
    _mutant("bounds", "a sign in one term", negative_term, binary, "a sign error", _coins, bounds=(0.0, None)),
    _mutant(
        "bounds", "least beside the target", biased, squared, "a minimum that is not at the target", minimum=_best, fixed=(1,)
    ),
    _mutant(
        "bounds",
        "what both cover is taken off twice",
        overlap_counted_twice,
        overlap,
        "unions of boxes",
        _intervals,
        bounds=(0.0, 1.0),
        minimum=_same_interval,
    ),
    _mutant("gradients", "half the gradient", absolute_half, absolute, "a hand-written backward"),
    _mutant("layout", "a view of a transposed prediction", viewed, tokens, "view on a transposed input", _tokens),
    _mutant("gradient_layout", "memory read as if contiguous", absolute_by_memory, absolute, "ROCm/TransformerEngine#623"),
    _mutant("purity", "it writes into its target", clamps_target, clamped_target, "pytorch#118959"),
    _mutant("compile", "another rule where it is compiled", BalancedByCompiling, Balanced, "pytorch#115774"),
    _mutant("autocast", "an exponential in float16", exponential, entropy, "overflow", _classes),
]
