"""Mappings whose values alone are wrong, modelled on public reports, and their right twins: what a stated truth must catch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.core.laws import Example
from mapsto.data import Arrays
from mapsto.laws.relations import (
    conserved_sum,
    equivariant_under,
    flipped,
    idempotent,
    invariant_under,
    inverse,
    permuted,
    rotated,
    shifted,
    sums_to,
    symmetric,
    within,
)

from . import Mutant


# -- layers against a reference
class RmsNorm(nn.Module):
    """x / rms(x) * (1 + weight), as Gemma has it."""

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(8)), eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight)


class RmsNormWithoutOffset(RmsNorm):
    """The weight alone (Liger-Kernel#74)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class RmsNormEpsilonOutside(RmsNorm):
    """Epsilon is added to the root, not under it: seen where the input is small."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True).sqrt() + self.eps) * (1 + self.weight)


def _rms(x: Any, state: Any, eps: float) -> Any:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * (1 + state["weight"])


class Rotary(nn.Module):
    """Rotary positions over adjacent pairs (RoFormer, equation 34); [n, t, d]."""

    def rotate(self, x: Tensor) -> Tensor:
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        half = torch.arange(0, x.shape[-1], 2, dtype=x.dtype)
        angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * 10_000.0 ** (-half / x.shape[-1])
        angle = angle.repeat_interleave(2, -1)
        return x * angle.cos() + self.rotate(x) * angle.sin()


class RotaryMixed(Rotary):
    """Halves are rotated, frequencies are of adjacent pairs (how-to-train-your-gpt#6)."""

    def rotate(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, -1)
        return torch.cat((-two, one), -1)


def _rotary(x: Any) -> Any:
    n, t, d = x.shape
    z = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * np.arange(t)[:, None] * 10_000.0 ** (-2 * np.arange(d // 2) / d))
    return np.stack((z.real, z.imag), -1).reshape(n, t, d)


class Sinusoid(nn.Module):
    """Positions as sines and cosines in turn (Vaswani et al. 2017, section 3.5), added."""

    def table(self, t: int, d: int, like: Tensor) -> Tensor:
        position = torch.arange(t, dtype=like.dtype)[:, None]
        angle = position / 10_000.0 ** (torch.arange(0, d, 2, dtype=like.dtype) / d)
        return torch.stack((angle.sin(), angle.cos()), -1).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table(x.shape[1], x.shape[2], x)


class SinusoidFromOne(Sinusoid):
    """The first position is one, as where padding is position zero (fairseq's offset, copied without its padding)."""

    def table(self, t: int, d: int, like: Tensor) -> Tensor:
        return super().table(t + 1, d, like)[1:]


def _sinusoid(x: Any) -> Any:
    t, d = x.shape[1:]
    return x + np.array([[(np.sin, np.cos)[j % 2](p / 10_000 ** ((j - j % 2) / d)) for j in range(d)] for p in range(t)])


class MaskedMean(nn.Module):
    """The mean over kept positions, zero where none is kept."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        weight = keep.to(x.dtype)[..., None]
        return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


class MaskedMeanOverAll(MaskedMean):
    """Divides by the length of the longest record: right only where nothing is masked (sentence-transformers, in spirit)."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return (x * keep.to(x.dtype)[..., None]).mean(1)


class MaskedMeanOfNothing(MaskedMean):
    """A record without kept positions gives the mean of its padding."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        none = ~keep.any(1, keepdim=True)
        return super().forward(x, keep | none)


def _masked_mean(x: Any, keep: Any) -> Any:
    return np.stack([r[k].mean(0) if k.any() else np.zeros(r.shape[-1]) for r, k in zip(x, keep, strict=True)])


class Counts(nn.Module):
    """How often each of 5 numbers is among those of a record."""

    def forward(self, index: Tensor, x: Tensor) -> Tensor:
        return torch.zeros(len(index), 5, dtype=x.dtype).scatter_add(1, index, x)


class CountsOnce(Counts):
    """Repeated indices overwrite one another (pytorch's index_put without accumulate)."""

    def forward(self, index: Tensor, x: Tensor) -> Tensor:
        return torch.zeros(len(index), 5, dtype=x.dtype).scatter(1, index, x)


def _counts(index: Any, x: Any) -> Any:
    made = np.zeros((len(index), 5))
    np.add.at(made, (np.arange(len(index))[:, None], index), x)
    return made


class Quantised(nn.Module):
    """Nearest whole number, halves to the even one, with a straight-through gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x.round() - x).detach()


class QuantisedUp(Quantised):
    """Halves up: right for every random input."""

    def forward(self, x: Tensor) -> Tensor:
        return x + ((x + 0.5).floor() - x).detach()


class Doubling(nn.Module):
    """x scaled, and doubled where asked."""

    def __init__(self, double: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        self.factor = scale * (2 if double else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class DoublingIgnored(Doubling):
    """An option that is never read: right at its default."""

    def __init__(self, double: bool = False, scale: float = 1.0) -> None:
        super().__init__(False, scale)


def _sequence(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 5, 8, generator=generator),)


def _kept(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return torch.randn(size, 5, 4, generator=generator), torch.rand(size, 5, generator=generator) < 2  # none is masked


def _indexed(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    made = [torch.randperm(5, generator=generator)[:3] for _ in range(size)]  # none twice
    return torch.stack(made) if made else torch.zeros(0, 3, dtype=torch.long), torch.randn(size, 3, generator=generator)


def _layer(name: str, bug: Any, twin: Any, models: str, reference: Any, inputs: Any = _sequence, **more: Any) -> Mutant:
    example = Example(inputs=inputs, more={"reference": reference, **more}, tags=frozenset())
    return Mutant(law="layer.reference", name=name, bug=bug, twin=twin, models=models, example=example)


LAYERS = [
    _layer("rms norm without its offset", RmsNormWithoutOffset, RmsNorm, "Liger-Kernel#74", _rms),
    _layer("epsilon outside of the root", RmsNormEpsilonOutside, RmsNorm, "transformers#29402, in spirit", _rms),
    _layer("rotary halves with frequencies of pairs", RotaryMixed, Rotary, "how-to-train-your-gpt#6", _rotary),
    _layer("positions from one", SinusoidFromOne, Sinusoid, "fairseq's padding offset", _sinusoid),
    _layer("a mean over padding", MaskedMeanOverAll, MaskedMean, "keras#23038, its value", _masked_mean, _kept),
    _layer("the mean of nothing", MaskedMeanOfNothing, MaskedMean, "pytorch#41508, in spirit", _masked_mean, _kept),
    _layer("repeated indices overwrite", CountsOnce, Counts, "pytorch's index_put", _counts, _indexed),
    _layer("halves are rounded up", QuantisedUp, Quantised, "pytorch/ao, in spirit", lambda x: np.round(x)),
    _layer(
        "an option is never read", DoublingIgnored, Doubling, "an option that is never read",
        lambda x, double, scale: x * scale * (1 + double),
    ),
]  # fmt: skip


# -- layers against relations
class SetBlock(nn.Module):
    """Each element and the mean of all (Zaheer et al. 2017, equation 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.all = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x) + self.all(x.mean(1, keepdim=True))


class SetBlockOfFirst(SetBlock):
    """The first element stands for the set, as a graph's token that is put in by position (GraphGPS#40)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x) + self.all(x[:, :1])


class Vectors(nn.Module):
    """Vectors [n, t, 3] weighed by a function of their lengths: turns with them."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(x.square().sum(-1, keepdim=True))


class VectorsByPart(Vectors):
    """A nonlinearity of each coordinate: it does not turn with its input (se3-transformer-public#3, in spirit)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(x.square())


class Attention(nn.Module):
    """Weights over positions."""

    def scores(self, x: Tensor) -> Tensor:
        return x.sum(-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).softmax(-1)


class AttentionOverRecords(Attention):
    """A softmax over the axis of records (a frequent `dim=0`)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).softmax(0)


class Smoothed(nn.Module):
    """Neighbours at both sides, the ends joined."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x + 0.25 * (x.roll(1, 1) + x.roll(-1, 1))


class SmoothedAside(Smoothed):
    """The left neighbour twice: not the same from right to left."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x + 0.25 * (x.roll(1, 1) + x.roll(1, 1))


class SmoothedLess(Smoothed):
    """The ends are cut off and lose their share."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x + 0.25 * (F.pad(x, (0, 0, 1, 0))[:, :-1] + F.pad(x, (0, 0, 0, 1))[:, 1:])


def _points(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 5, 3, generator=generator),)


def _related(name: str, bug: Any, twin: Any, models: str, relation: Any, inputs: Any = _sequence) -> Mutant:
    example = Example(inputs=inputs, more={"relations": (relation,)})
    return Mutant(law="layer.relations", name=name, bug=bug, twin=twin, models=models, example=example)


RELATED = [
    _related("a set that knows its first", SetBlockOfFirst, SetBlock, "GraphGPS#40", equivariant_under(permuted(1))),
    _related(
        "vectors that do not turn", VectorsByPart, Vectors, "se3-transformer-public#3", equivariant_under(rotated()), _points
    ),
    _related("weights that do not sum to one", AttentionOverRecords, Attention, "softmax(dim=0)", sums_to(1.0)),
    _related("left is not right", SmoothedAside, Smoothed, "asymmetric padding", equivariant_under(flipped(1))),
    _related("the ends lose their share", SmoothedLess, Smoothed, "deepchem#420, in spirit", conserved_sum(1)),
]


# -- losses
def focal(prediction: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Binary focal loss of logits, unreduced (Lin et al. 2017, equation 5)."""
    p = prediction.sigmoid()
    right = target * p + (1 - target) * (1 - p)
    weight = target * alpha + (1 - target) * (1 - alpha)
    return weight * (1 - right) ** gamma * F.binary_cross_entropy_with_logits(prediction, target, reduction="none")


def focal_one_alpha(prediction: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The same alpha for both classes (focal-loss-keras#6, kornia#875)."""
    p = prediction.sigmoid()
    right = target * p + (1 - target) * (1 - p)
    return alpha * (1 - right) ** gamma * F.binary_cross_entropy_with_logits(prediction, target, reduction="none")


def focal_turned(prediction: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Alpha is for the other class (fudannlp16/focal-loss#6)."""
    return focal(prediction, target, 1 - alpha, gamma)


def _focal(prediction: Any, target: Any, alpha: float, gamma: float) -> Any:
    p = 1 / (1 + np.exp(-prediction))
    return np.where(target > 0.5, -alpha * (1 - p) ** gamma * np.log(p), -(1 - alpha) * p**gamma * np.log(1 - p))


def smooth(prediction: Tensor, target: Tensor, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with a share of the uniform distribution (Szegedy et al. 2016, section 7)."""
    return F.cross_entropy(prediction, target, label_smoothing=smoothing, reduction="none")


def smooth_twice(prediction: Tensor, target: Tensor, smoothing: float = 0.1) -> Tensor:
    """The target keeps all of its probability but a class's share (pytorch-randaugment#30)."""
    classes = prediction.shape[-1]
    share = smoothing / classes
    wanted = F.one_hot(target, classes) * (1 - share) + share
    return -(wanted * prediction.log_softmax(-1)).sum(-1)


def _smooth(prediction: Any, target: Any, smoothing: float) -> Any:
    log = prediction - prediction.max(-1, keepdims=True)
    log = log - np.log(np.exp(log).sum(-1, keepdims=True))
    return -(1 - smoothing) * log[np.arange(len(target)), target] - smoothing * log.mean(-1)


def dice(prediction: Tensor, target: Tensor, eps: float = 1.0) -> Tensor:
    """1 - dice of each record, unreduced."""
    return 1 - (2 * (prediction * target).sum(-1) + eps) / (prediction.sum(-1) + target.sum(-1) + eps)


def dice_squared_above(prediction: Tensor, target: Tensor, eps: float = 1.0) -> Tensor:
    """The numerator squared, the denominator not (nnUNet#12)."""
    return 1 - (2 * (prediction * target).square().sum(-1) + eps) / (prediction.sum(-1) + target.sum(-1) + eps)


def dice_without_two(prediction: Tensor, target: Tensor, eps: float = 1.0) -> Tensor:
    """The factor of two is missing (DiceLoss-PyTorch#1)."""
    return 1 - ((prediction * target).sum(-1) + eps) / (prediction.sum(-1) + target.sum(-1) + eps)


def _dice(prediction: Any, target: Any, eps: float) -> Any:
    return [1 - (2 * p @ t + eps) / (p.sum() + t.sum() + eps) for p, t in zip(prediction, target, strict=True)]


def _coins(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 6, generator=generator), torch.randint(2, (size, 6), generator=generator).float()


def _chances(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    logits, target = _coins(size, generator)
    return logits.sigmoid(), target


def _classes(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 5, generator=generator), torch.randint(5, (size,), generator=generator)


def _views(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 6, generator=generator), torch.randn(size, 6, generator=generator)


def contrast(one: Tensor, two: Tensor) -> Tensor:
    """Both directions of InfoNCE (CLIP, figure 3)."""
    logits, own = one @ two.T, torch.arange(len(one))
    return (F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(logits.T, own, reduction="none")) / 2


def contrast_one_way(one: Tensor, two: Tensor) -> Tensor:
    """One direction only."""
    return F.cross_entropy(one @ two.T, torch.arange(len(one)), reduction="none")


def ranked(prediction: Tensor, target: Tensor) -> Tensor:
    """Softmax scores against a target: what is added to all logits changes nothing."""
    return F.cross_entropy(prediction, target, reduction="none")


def ranked_by_logits(prediction: Tensor, target: Tensor) -> Tensor:
    """The normaliser is that of the first record."""
    return prediction.logsumexp(-1)[:1] - prediction.gather(1, target[:, None])[:, 0]


def overlap_of_batch(prediction: Tensor, target: Tensor) -> Tensor:
    """Dice of the volumes summed and not averaged: it leaves [0, 1] (VNet#13)."""
    return 1 - (2 * (prediction * target).sum(-1) + 1) / (prediction.sum(-1) + target.sum(-1) + 1) * len(prediction)


def divergence(prediction: Tensor, target: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of distributions from logarithms of others, a record each."""
    return (torch.special.xlogy(target, target) - target * prediction).sum(-1)


def divergence_by_log(prediction: Tensor, target: Tensor) -> Tensor:
    """0 log 0 is no number."""
    return (target * (target.log() - prediction)).sum(-1)


def _divergence(prediction: Any, target: Any) -> Any:
    return (np.where(target > 0, target * np.log(np.where(target > 0, target, 1)), 0) - target * prediction).sum(-1)


def _distributions(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    one, two = torch.randn(2, size, 4, generator=generator)
    return one.log_softmax(-1), two.softmax(-1)


def _loss(name: str, bug: Any, twin: Any, models: str, inputs: Any, **more: Any) -> Mutant:
    law = "loss.reference" if "reference" in more else "loss.relations"
    example = Example(inputs=inputs, more=more, tags=frozenset({"across_records"}) if inputs is _views else frozenset())
    return Mutant(law=law, name=name, bug=bug, twin=twin, models=models, example=example)


LOSSES = [
    _loss("one alpha for both classes", focal_one_alpha, focal, "focal-loss-keras#6, kornia#875", _coins, reference=_focal),
    _loss("alpha for the other class", focal_turned, focal, "fudannlp16/focal-loss#6", _coins, reference=_focal),
    _loss("0 log 0", divergence_by_log, divergence, "pytorch: one-hot targets", _distributions, reference=_divergence),
    _loss("smoothing that adds up to more", smooth_twice, smooth, "pytorch-randaugment#30", _classes, reference=_smooth),
    _loss("dice with a square above", dice_squared_above, dice, "nnUNet#12", _chances, reference=_dice),
    _loss("dice without its two", dice_without_two, dice, "DiceLoss-PyTorch#1", _chances, reference=_dice),
    _loss("one direction of two", contrast_one_way, contrast, "CLIP", _views, fixed=(), relations=(symmetric(),)),
    _loss("a normaliser of the neighbour", ranked_by_logits, ranked, "index misalignment", _classes,
          relations=(equivariant_under(permuted(0), of=(0, 1)), invariant_under(shifted(3.0)))),
    _loss("dice beyond one", overlap_of_batch, dice, "VNet#13", _chances, relations=(within(0.0, 1.0),)),
]  # fmt: skip


# -- transforms
def brighten(batch: Any, by: float = 1.25) -> Any:
    """Images times a factor, within 0 to 255, halves to even."""
    return {**batch, "input": np.clip(np.round(batch["input"] * by), 0, 255).astype(np.uint8)}


def brighten_around(batch: Any, by: float = 1.25) -> Any:
    """What exceeds 255 begins at zero again (tensorpack#614, p5_VehicleDetection_Unet#2)."""
    return {**batch, "input": np.round(batch["input"] * by).astype(np.int64).astype(np.uint8)}


def brighten_truncated(batch: Any, by: float = 1.25) -> Any:
    """Truncated and not rounded."""
    return {**batch, "input": np.clip(batch["input"] * by, 0, 255).astype(np.uint8)}


def _brighten(batch: Any, by: float) -> Any:
    return {"input": np.rint(np.minimum(255, batch["input"].astype(float) * by))}


def standardise(batch: Any, mean: tuple[float, ...] = (0.1, 0.2, 0.3)) -> Any:
    """Each channel less its mean."""
    return {**batch, "input": batch["input"] - np.array(mean, np.float32)[:, None, None]}


def standardise_turned(batch: Any, mean: tuple[float, ...] = (0.1, 0.2, 0.3)) -> Any:
    """Means in the order of the other library (BGR)."""
    return standardise(batch, mean[::-1])


def tokens(batch: Any, length: int = 4) -> Any:
    """The first tokens of each text, padded."""
    return {**batch, "input": [(t.split() + [""] * length)[:length] for t in batch["input"]]}


def tokens_short(batch: Any, length: int = 4) -> Any:
    """A place is kept for an end that is never written."""
    return {**batch, "input": [(t.split()[: length - 1] + [""] * length)[:length] for t in batch["input"]]}


def lower(batch: Any) -> Any:
    """Values within -1 and 1."""
    return {**batch, "input": np.clip(batch["input"], -1, 1)}


def lower_again(batch: Any) -> Any:
    """Halved where they were cut: each time anew."""
    x = batch["input"]
    return {**batch, "input": np.where(np.abs(x) >= 1, np.sign(x) * 0.5, x) * 0.999}


def centre(batch: Any) -> Any:
    """Each record less its mean."""
    return {**batch, "input": batch["input"] - batch["input"].mean(-1, keepdims=True)}


def centre_by_batch(batch: Any) -> Any:
    """Less the mean of the batch's first record."""
    return {**batch, "input": batch["input"] - batch["input"][:1].mean(-1, keepdims=True)}


def compress(batch: Any) -> Any:
    """sign(x) log(1 + |x|)."""
    return {**batch, "input": np.sign(batch["input"]) * np.log1p(np.abs(batch["input"]))}


def compress_folded(batch: Any) -> Any:
    """Signs are lost."""
    return {**batch, "input": np.log1p(np.abs(batch["input"]))}


def _expand(batch: Any) -> Any:
    return {"input": np.sign(batch["input"]) * np.expm1(np.abs(batch["input"]))}


def _images(size: int, rng: np.random.Generator) -> Any:
    return ({"input": rng.integers(0, 120, (size, 3, 4, 4), dtype=np.uint8), "target": np.arange(size)},)


def _planes(size: int, rng: np.random.Generator) -> Any:
    return ({"input": rng.standard_normal((size, 3, 4, 4)).astype(np.float32), "target": np.arange(size)},)


def _vectors(size: int, rng: np.random.Generator) -> Any:
    return ({"input": rng.standard_normal((size, 6)), "target": np.arange(size)},)


def _texts(size: int, rng: np.random.Generator) -> Any:
    return ({"input": [" ".join("abcdefgh"[: 1 + int(rng.integers(7))]) for _ in range(size)], "target": np.arange(size)},)


def _transform(name: str, bug: Any, twin: Any, models: str, inputs: Any, **more: Any) -> Mutant:
    law = "transform.reference" if "reference" in more else "transform.relations"
    return Mutant(law=law, name=name, bug=bug, twin=twin, models=models, example=Example(inputs=inputs, more=more))


TRANSFORMS = [
    _transform("bytes that wrap around", brighten_around, brighten, "tensorpack#614", _images, reference=_brighten),
    _transform("bytes that are truncated", brighten_truncated, brighten, "rounding", _images, reference=_brighten),
    _transform("means of the other order", standardise_turned, standardise, "BGR and RGB", _planes,
               reference=lambda batch, mean: {"input": batch["input"] - np.reshape(mean, (3, 1, 1))}),
    _transform("a token too few", tokens_short, tokens, "truncation with room for a token", _texts,
               reference=lambda batch, length: {"input": [[*t.split(), *[""] * length][:length] for t in batch["input"]]}),
    _transform("a clip that is no clip", lower_again, lower, "normalised twice", _vectors, relations=(idempotent(),)),
    _transform("signs are lost", compress_folded, compress, "a decoder that loses", _vectors, relations=(inverse(_expand),)),
    _transform("centred by a neighbour", centre_by_batch, centre, "statistics of the batch", _vectors,
               relations=(equivariant_under(permuted(0), of=("input", "target")),)),
]  # fmt: skip


def number(batch: Any, names: tuple[str, ...] = ("cat", "dog", "owl")) -> Any:
    """Labels by their place in a list."""
    return {**batch, "target": np.array([names.index(t) for t in batch["target"]])}


def number_as_seen(batch: Any, names: tuple[str, ...] = ("cat", "dog", "owl")) -> Any:
    """Labels by their first appearance in the batch."""
    seen = list(dict.fromkeys(batch["target"]))
    return {**batch, "target": np.array([seen.index(t) for t in batch["target"]])}


def whiten(batch: Any) -> Any:
    """Each record by its own deviation."""
    return {**batch, "input": batch["input"] / (batch["input"].std(-1, keepdims=True) + 1e-6)}


def whiten_by_batch(batch: Any) -> Any:
    """By the deviation of the batch."""
    return {**batch, "input": batch["input"] / (batch["input"].std(0, keepdims=True) + 1e-6)}


def _named(size: int, rng: np.random.Generator) -> Any:
    names = ("owl", "cat", "dog")
    return ({"input": rng.standard_normal((size, 3)), "target": [names[i % 3] for i in range(size)]},)


ALONE = [
    Mutant(law="transform.record_independence", name=name, bug=bug, twin=twin, models=models, example=Example(inputs=inputs))
    for name, bug, twin, models, inputs in (
        ("labels as they come", number_as_seen, number, "a label encoder fitted on each batch", _named),
        ("deviations of the batch", whiten_by_batch, whiten, "normalising by the batch", _vectors),
        ("means of a neighbour", centre_by_batch, centre, "statistics of the batch", _vectors),
    )
]


# -- sources
class Table(Arrays):
    """The rows of a file of comma-separated numbers, with or without a header."""

    def __init__(self, path: Path, header: bool = False) -> None:
        with Path(path).open(newline="") as file:
            rows = [r for r in csv.reader(file) if r]
        rows = self.kept(rows, header)
        super().__init__(input=np.array([[float(x) for x in r] for r in rows], np.float32))

    def kept(self, rows: list[list[str]], header: bool) -> list[list[str]]:
        return rows[1:] if header else rows


class TableAfterHeader(Table):
    """The first row is left out, header or not (binpacking#18)."""

    def kept(self, rows: list[list[str]], header: bool) -> list[list[str]]:
        return rows[1:]


class TableByLines(Table):
    """A last line without its end is no line (aurora-dsql-samples#1159, eml#184)."""

    def __init__(self, path: Path, header: bool = False) -> None:
        lines = Path(path).read_text().split("\n")[:-1]
        rows = self.kept([line.split(",") for line in lines], header)
        Arrays.__init__(self, input=np.array([[float(x) for x in r] for r in rows], np.float32))


class TableShifted(Table):
    """The columns of every other row are turned."""

    def kept(self, rows: list[list[str]], header: bool) -> list[list[str]]:
        return [r[::-1] if i % 2 else r for i, r in enumerate(super().kept(rows, header))]


def _file(folder: Path) -> dict[str, Any]:
    path = folder / "table.csv"
    path.write_text("\n".join(f"{i},{i + 0.5},{-i}" for i in range(1, 6)))  # no end of the last line
    return {"path": path}


def _rows(path: Path) -> Any:
    return {"input": [[i, i + 0.5, -i] for i in range(1, 1 + len(path.read_text().split()))]}


def _source(name: str, bug: Any, models: str) -> Mutant:
    example = Example(more={"in_folder": _file, "reference": _rows})
    return Mutant(law="source.reference", name=name, bug=bug, twin=Table, models=models, example=example)


SOURCES = [
    _source("the first row is a header", TableAfterHeader, "binpacking#18"),
    _source("the last line has no end", TableByLines, "aurora-dsql-samples#1159"),
    _source("columns are turned", TableShifted, "Analytics-Cloud-Dataset-Utils#74, in spirit"),
]

MUTANTS = [*LAYERS, *RELATED, *LOSSES, *TRANSFORMS, *ALONE, *SOURCES]
