"""Layers with a planted bug, and their correct twins: compile, export, vmap, autocast, meta device, ranks, repetition."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mapsto
from mapsto.core.laws import Example

from . import Mutant


def _vectors(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 4, generator=generator),)


def _sequences(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 5, 4, generator=generator),)


def _masked(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return torch.randn(size, 5, 4, generator=generator), torch.ones(size, 5, dtype=torch.bool)


def tagged(inputs: Any, *tags: str, **more: Any) -> Example:
    return Example(inputs=inputs, tags=frozenset(tags), more=more)


VECTORS, SEQUENCES = tagged(_vectors), tagged(_sequences)


# -- compiled and exported ---------------------------------------------------------------------------------------------
class TracedOtherwise(nn.Module):
    """A shortcut taken while compiling that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if torch.compiler.is_compiling() else x.clamp(min=0) + x.clamp(max=0) * 0.01


class TracedAlike(nn.Module):
    """Correct: compiled, it takes other operations with other roundings (as GRUCell and UpsamplingBilinear2d do)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, x / 100.0) if torch.compiler.is_compiling() else nn.functional.leaky_relu(x, 0.01)


class StaleBuffer(nn.Module):
    """A buffer whose value is read when tracing and kept in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(4))

    @torch.compiler.assume_constant_result
    def _scale(self) -> Tensor:
        return self.scale.clone()

    def forward(self, x: Tensor) -> Tensor:
        return x * self._scale().to(x.dtype)


class FreshBuffer(StaleBuffer):
    def _scale(self) -> Tensor:
        return self.scale.clone()


class ForgetsStatistics(nn.Module):
    """A running mean that is not updated while compiling."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not torch.compiler.is_compiling():
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return x.tanh()


class KeepsStatistics(ForgetsStatistics):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return x.tanh()


class Breaks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (2.0 if x.sum().item() > 0 else 3.0)


class Selects(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.where(x.sum() > 0, 2.0, 3.0)


class Recompiles(nn.Module):
    """A Python counter that each call changes: a new graph for every call."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.step += 0.5
        return x * self.step


class CountsInBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.step += 0.5
        return x * self.step


class TracedSize(nn.Module):
    """The number of records of the first compiled call becomes a constant."""

    @torch.compiler.assume_constant_result
    def _count(self, x: Tensor) -> Tensor:
        return torch.tensor(float(x.shape[0]), dtype=x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return x / self._count(x)


class EachSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.shape[0]


class ReordersExported(nn.Module):
    """Correct: exported, it takes another path with other roundings (as the fast path of TransformerEncoderLayer does)."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 3.0 * 0.7 if torch.compiler.is_exporting() else x * 0.7 / 3.0


class BranchesOnSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 4:
            return x.flip(0)
        return x


class FlipsAlways(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(0)


class BakesConstant(nn.Module):
    """What the traced inputs give is computed while exporting and becomes a constant."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return x + 0.1 * torch.ones(4)
        return x + 0.1 * x.detach().abs().amax()


class ComputesScale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * x.detach().abs().amax()


# -- dependence --------------------------------------------------------------------------------------------------------
class SoftmaxOverBatch(nn.Module):
    axis = 0

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(self.axis)


class SoftmaxOverFeatures(SoftmaxOverBatch):
    axis = -1


class DrawsForNegatives(nn.Module):
    """Correct: in training it draws for negative numbers alone, so that other records shift its draws (as RReLU's)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * 0.5
        slopes = torch.ones_like(x)
        slopes[x < 0] = torch.rand(int((x < 0).sum()), dtype=x.dtype)
        return x * slopes


class MixingView(nn.Module):
    """Time and records exchanged by a view where a transpose is due."""

    def forward(self, x: Tensor) -> Tensor:
        records, time, width = x.shape
        return x.reshape(time, records, width).mean(0)


class PoolsTime(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1).mean(0)


class MeanOverPadding(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x.mean(1)


class MeanOverKept(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        kept = mask.to(x.dtype).unsqueeze(-1)
        return (x * kept).sum(1) / kept.sum(1).clamp(min=1)


class AttendsToPadding(nn.Module):
    """Self-attention that zeroes scores of masked positions, which still take part in the softmax."""

    fill = 0.0

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = x @ x.transpose(1, 2)
        return scores.masked_fill(~mask[:, None, :], self.fill).softmax(-1) @ x


class AttendsToKept(AttendsToPadding):
    fill = float("-inf")


class CausalOffByOne(nn.Module):
    diagonal = 2

    def forward(self, x: Tensor) -> Tensor:
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(self.diagonal)
        return (x @ x.transpose(1, 2)).masked_fill(future, float("-inf")).softmax(-1) @ x


class Causal(CausalOffByOne):
    diagonal = 1


class PadsBothSides(nn.Module):
    padding = (1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv1d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(nn.functional.pad(x.transpose(1, 2), self.padding)).transpose(1, 2)


class PadsLeft(PadsBothSides):
    padding = (2, 0)


# -- vmap --------------------------------------------------------------------------------------------------------------
class _Cube(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * 3 * x**2


class _CubeNoRule(_Cube):
    generate_vmap_rule = False


class _CubeMixed(_Cube):
    """A rule for vmap that forgets on which axis the stack lies."""

    generate_vmap_rule = False

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor) -> tuple[Tensor, int]:
        return _Cube.apply(x.flip(0)), 0


class Cube(nn.Module):
    function: Any = _Cube

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


class CubeNoRule(Cube):
    function = _CubeNoRule


class CubeMixed(Cube):
    function = _CubeMixed


class ScalesByNumber(nn.Module):
    """In training the gradient is scaled by a Python number of the batch (functorch#1108)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y / self.scale(y.detach()) if self.training else y

    def scale(self, y: Tensor) -> Any:
        return 1.0 + y.abs().mean().item()


class ScalesByTensor(ScalesByNumber):
    def scale(self, y: Tensor) -> Any:
        return 1.0 + y.abs().mean()


# -- autocast ----------------------------------------------------------------------------------------------------------
class NaiveSoftmax(nn.Module):
    """exp without taking the maximum off first: infinite in float16 (and in float32 from 89 on)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.inner(x).exp()
        return weights / weights.sum(-1, keepdim=True)


class StableSoftmax(NaiveSoftmax):
    def forward(self, x: Tensor) -> Tensor:
        scores = self.inner(x)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        return weights / weights.sum(-1, keepdim=True)


class LeaksDtype(nn.Module):
    """Statistics that take the dtype of the activations."""

    keeps = False

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        new = 0.9 * self.seen.to(y.dtype) + 0.1 * y.detach().mean(0)
        self.seen = new.to(self.seen.dtype) if self.keeps else new
        return y


class KeepsDtype(LeaksDtype):
    keeps = True


class RoundsTwice(nn.Module):
    """A factor that is rounded to float16's tiny range, and is zero there."""

    factor = 1e-9

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return (y * self.factor).to(y.dtype) / self.factor


class RoundsOnce(RoundsTwice):
    factor = 2.0**-4


# -- meta device -------------------------------------------------------------------------------------------------------
class Rotary(nn.Module):
    """Frequencies in a buffer that is not persistent and that nothing computes again (transformers#45902)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 1.0 / 10 ** torch.arange(4.0), persistent=False)
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.frequencies.to(x.dtype).cos()


class RotaryResets(Rotary):
    def reset_parameters(self) -> None:
        self.frequencies.copy_(1.0 / 10 ** torch.arange(4.0))
        nn.init.normal_(self.weight)


class ResetsHalf(RotaryResets):
    def reset_parameters(self) -> None:
        self.frequencies.copy_(1.0 / 10 ** torch.arange(4.0))


class ReadsValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        rates = [r.item() for r in torch.linspace(0, 0.5, 3)]
        self.weight = nn.Parameter(torch.ones(4) * rates[1])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class ReadsNone(ReadsValues):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.ones(4) * 0.25)


# -- repetition --------------------------------------------------------------------------------------------------------
class NumpyNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_numpy(np.random.randn(*x.shape)).to(x.dtype) if self.training else x


class TorchNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


class PythonWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([random.random() for _ in range(4)]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class TorchWeights(PythonWeights):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.rand(4))


class FirstCallSets(nn.Module):
    """A scale that the first call fixes: calls depend on what was called before."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.scale = self.scale or float(x.detach().abs().max())
        return x / self.scale


class EachCallSets(FirstCallSets):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.detach().abs().max()


class CountsInside(nn.Module):
    """A stochastic layer whose seed is fixed inside."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(x.dtype)


class Samples(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class BatchNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) * x.detach().std()


class NeverDrops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=False)


class Drops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=self.training)


class ScalesInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training else x


class ScalesAlways(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class KeepsOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        self.kept.append(y.mean())
        return y


class KeepsLast(KeepsOutputs):
    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        self.kept[:] = [y.detach().mean()]
        return y


class KeepsGraph(nn.Module):
    """A running mean that is not detached: its graph grows with every step."""

    detaches = False

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.running: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        mean = y.square().mean()
        self.running = 0.9 * self.running + 0.1 * (mean.detach() if self.detaches else mean)
        return y


class DropsGraph(KeepsGraph):
    detaches = True


class SavesMuch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(8):
            x = x.sin()
        return x


class SavesLittle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


# -- ranks -------------------------------------------------------------------------------------------------------------
class Unused(nn.Module):
    """A head that forward forgets: DDP waits for its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Used(Unused):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x))


class Scalar(nn.Module):
    """A parameter without an axis: there is nothing to split, and every rank has it whole."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


class ScalarByRank(Scalar):
    def forward(self, x: Tensor) -> Tensor:
        rank = torch.distributed.get_rank() if hasattr(self, "unshard") else 0
        return super().forward(x) * (self.scale if rank else 1.0)


class LocalNorm(nn.Module):
    """A penalty on the norm of a weight, which is taken outside of the modules that gather it: each rank sees its shard."""

    local = True

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.inner.weight
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        sharded = self.local and hasattr(self, "unshard")
        part = weight.chunk(world)[torch.distributed.get_rank()] if sharded else weight
        return self.inner(x) * part.square().sum()


class WholeNorm(LocalNorm):
    local = False


for _component in (Unused, Used, Scalar, ScalarByRank, LocalNorm, WholeNorm):
    mapsto.example(_component, inputs=_vectors)


def _mutant(law: str, name: str, bug: Any, twin: Any, models: str, example: Example = VECTORS, **more: Any) -> Mutant:
    return Mutant(law=f"layer.{law}", name=name, bug=bug, twin=twin, models=models, example=example, kind="layer", **more)


ROWS, ROWS_IN_TIME = tagged(_vectors, "row_independent"), tagged(_sequences, "row_independent")
ROWS_AND_NOISE = tagged(_vectors, "row_independent", "stochastic")
MASKED, CAUSAL = tagged(_masked, "masked", mask=1), tagged(_sequences, "causal")
STOCHASTIC, MODES = tagged(_vectors, "stochastic"), tagged(_vectors, "mode_dependent")

MUTANTS = [
    _mutant("compile", "computes something else when traced", TracedOtherwise, TracedAlike, "fast paths under is_compiling"),
    _mutant("compile", "a buffer kept in the graph", StaleBuffer, FreshBuffer, "pytorch#115774"),
    _mutant("compile", "statistics are not updated when compiled", ForgetsStatistics, KeepsStatistics, "pytorch#115774"),
    _mutant("one_graph", ".item() breaks the graph", Breaks, Selects, "data-dependent branches"),
    _mutant("one_graph", "a counter recompiles every call", Recompiles, CountsInBuffer, "Python counters in forward"),
    _mutant("dynamic_compile", "the traced size is a constant", TracedSize, EachSize, "pytorch#133653"),
    _mutant("dynamic_export", "a branch on the size", BranchesOnSize, FlipsAlways, "pytorch#133653"),
    _mutant("dynamic_export", "a baked constant, beside rounding", BakesConstant, ReordersExported, "pytorch#80973"),
    _mutant("dynamic_export", "a baked constant", BakesConstant, ComputesScale, "pytorch#80973"),
    _mutant("row_independence", "softmax over the batch", SoftmaxOverBatch, SoftmaxOverFeatures, "dim=0 for dim=-1", ROWS),
    _mutant("row_independence", "softmax over the batch, beside draws", SoftmaxOverBatch, DrawsForNegatives, "RReLU", ROWS),
    _mutant("row_independence", "noise scaled by the batch", BatchNoise, Samples, "FractionalMaxPool2d", ROWS_AND_NOISE),
    _mutant("row_independence", "a view mixes records", MixingView, PoolsTime, "view where transpose is due", ROWS_IN_TIME),
    _mutant("mask_independence", "mean over padding", MeanOverPadding, MeanOverKept, "keras#23038", MASKED),
    _mutant("mask_independence", "masked scores are zero", AttendsToPadding, AttendsToKept, "transformers#31673", MASKED),
    _mutant("causality", "mask off by one", CausalOffByOne, Causal, "triu(diagonal=2)", CAUSAL),
    _mutant("causality", "convolution padded on both sides", PadsBothSides, PadsLeft, "padding=1 for causal", CAUSAL),
    _mutant("vmap", "no rule for vmap", CubeNoRule, Cube, "custom autograd.Function"),
    _mutant("vmap", "a rule that mixes the items", CubeMixed, Cube, "a rule with a wrong axis"),
    _mutant("per_sample_gradients", "a Python number of the batch", ScalesByNumber, ScalesByTensor, "functorch#1108", MODES),
    _mutant("autocast", "exp overflows", NaiveSoftmax, StableSoftmax, "exp overflow in float16"),
    _mutant("autocast", "a buffer takes the activations' dtype", LeaksDtype, KeepsDtype, "dtype leak"),
    _mutant("autocast", "a factor underflows", RoundsTwice, RoundsOnce, "float16 underflow"),
    _mutant("meta_init", "a buffer that nothing fills", Rotary, RotaryResets, "transformers#45902"),
    _mutant("meta_init", "a constructor that reads values", ReadsValues, ReadsNone, "linspace(...).item() in constructors"),
    _mutant("meta_init", "reset_parameters leaves one out", ResetsHalf, RotaryResets, "LlamaFactory#10820"),
    _mutant("rerun", "noise from numpy", NumpyNoise, TorchNoise, "hidden random streams"),
    _mutant("rerun", "weights from Python's random", PythonWeights, TorchWeights, "hidden random streams"),
    _mutant("rerun", "the first call sets a scale", FirstCallSets, EachCallSets, "hidden state"),
    _mutant("rerun", "a stochastic layer with a fixed seed", CountsInside, Samples, "seed insensitivity", STOCHASTIC),
    _mutant("modes", "dropout that never drops", NeverDrops, Drops, "training=False", MODES),
    _mutant("modes", "an undeclared difference", ScalesInTraining, ScalesAlways,
            "a branch left from debugging", status="unknown"),
    _mutant("memory", "keeps outputs in a list", KeepsOutputs, KeepsLast, "horovod#641"),
    _mutant("memory", "a running mean keeps its graph", KeepsGraph, DropsGraph, "running means without detach"),
    _mutant("memory", "saves more than declared", SavesMuch, SavesLittle,
            "chains of saved activations", tagged(_vectors, saved_bytes=64)),
    _mutant("data_parallel", "a parameter is not used", Unused, Used, "unused heads under DDP"),
    _mutant("sharded", "a norm of the local shard", LocalNorm, WholeNorm, "fairscale#767"),
    _mutant("sharded", "a scalar that ranks use differently", ScalarByRank, Scalar, "a rank's number in forward"),
]  # fmt: skip
