"""Layers with a planted bug, and their correct twins: gradients, layout, purity, state, activation checkpointing."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mapsto.core.laws import Example

from . import Mutant


def _vectors(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 4, generator=generator),)


def _images(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 3, 4, 5, generator=generator),)


VECTORS, IMAGES = Example(inputs=_vectors), Example(inputs=_images)
IN_PLACE = Example(inputs=_vectors, tags=frozenset({"in_place"}))
TWICE = Example(inputs=_vectors, tags=frozenset({"twice_differentiable"}))


# -- gradients ---------------------------------------------------------------------------------------------------------
class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * 2 * x


class _SquareForgets(_Square):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x


class _SquareOnce(_Square):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * 2 * x.detach()


class _SquareFixed(_Square):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad.detach() * 2 * x


class Square(nn.Module):
    function: Any = _Square

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


class SquareForgets(Square):
    function = _SquareForgets


class SquareOnce(Square):
    function = _SquareOnce


class SquareFixed(Square):
    function = _SquareFixed


class Gate(nn.Module):
    """A gate that is a part of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.inner(x).sigmoid()


class GateDetached(Gate):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.inner(x).detach().sigmoid() + 0 * self.inner(x)


class TrainingOnlyWrong(nn.Module):
    """A backward that is right in evaluation and wrong in training."""

    def forward(self, x: Tensor) -> Tensor:
        return (_SquareForgets if self.training else _Square).apply(x)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        return (grad * weight if ctx.needs_input_grad[0] else None, (grad * x).sum(0) if ctx.needs_input_grad[1] else None)


class _ScaleTogether(_Scale):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        return (grad * weight, (grad * x).sum(0)) if ctx.needs_input_grad[0] else (None, torch.zeros_like(weight))


class Scale(nn.Module):
    function: Any = _Scale

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x, self.weight)


class ScaleTogether(Scale):
    function = _ScaleTogether


# -- layout ------------------------------------------------------------------------------------------------------------
def raw(x: Tensor) -> Tensor:
    """The numbers in memory from where a tensor starts, as a kernel that assumes contiguity reads them."""
    held = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
    flat = torch.as_strided(x, (min(x.numel(), held),), (1,), x.storage_offset())
    return functional.pad(flat, (0, x.numel() - len(flat))).view(x.shape)


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return raw(x.contiguous()) * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return raw(grad.contiguous()) * 2


class _DoubleOfMemory(_Double):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return raw(x) * 2


class _DoubleOfGradientMemory(_Double):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return raw(grad) * 2


class Double(nn.Module):
    function: Any = _Double

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


class DoubleOfMemory(Double):
    function = _DoubleOfMemory


class DoubleOfGradientMemory(Double):
    function = _DoubleOfGradientMemory


class Views(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1) * 2


class Reshapes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1) * 2


class ChannelsLastWrong(nn.Module):
    """A fast path for channels last that forgets to permute back."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
            return x.permute(0, 2, 3, 1).reshape(x.shape) * 2
        return x * 2


class ChannelsLastRight(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
            return (x.permute(0, 2, 3, 1) * 2).permute(0, 3, 1, 2)
        return x * 2


class CancellingNorm(nn.Module):
    """Correct: the gradient of a sum cancels to rounding noise, which depends on layout and is no bug (as in
    InstanceNorm2d).
    """

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.InstanceNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


# -- purity ------------------------------------------------------------------------------------------------------------
class Overwrites(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone().clamp_(min=0) if x.requires_grad else x.clamp_(min=0)


class Copies(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone().clamp_(min=0)


class AlwaysDrops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5)


class Drops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, self.training)


class Seeds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        torch.manual_seed(7)
        return x + torch.randn_like(x)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


class SwitchesMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.eval()(x)


class KeepsMode(SwitchesMode):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner[0](x)


class Counts(nn.Module):
    """A running mean that moves in evaluation too."""

    always = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.always:
            self.mean.lerp_(x.detach().mean(0).to(self.mean.dtype), 0.1)
        return x - self.mean.to(x.dtype)


class CountsInTraining(Counts):
    always = False


class ChangesDtype(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        y = x + torch.ones(4)
        return y.to(x.dtype)


class KeepsSettings(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(4, dtype=x.dtype)


class PythonNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * random.random() if self.training else x


# -- state -------------------------------------------------------------------------------------------------------------
class MeanInAttribute(nn.Module):
    """A running mean in a plain attribute: it never reaches a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.detach().mean(0)
        return x - self.mean.to(x.dtype)


class MeanInBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.copy_(0.5 * self.mean + 0.5 * x.detach().mean(0))
        return x - self.mean


class Projection(nn.Module):
    """A fixed random projection that is saved; the twin's is not (not persistent)."""

    persistent = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(4, 4), persistent=self.persistent)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.projection.to(x.dtype)


class ProjectionLost(Projection):
    persistent = False


class Constant(nn.Module):
    """A constant that is a tensor in a plain attribute: right on one device only."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype)


class ConstantBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class CachedWeight(nn.Module):
    """Correct: a tensor in an attribute that each call computes anew (as weight normalisation keeps its weight)."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(4))
        self.cached = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        self.cached = self.raw.detach().exp()
        return x * self.raw.exp()


class SharesOnCopy(MeanInBuffer):
    def __deepcopy__(self, memo: dict[int, Any]) -> SharesOnCopy:
        copied = SharesOnCopy()
        copied.training = self.training
        copied._buffers["mean"] = self.mean
        return copied


class CopiesAll(MeanInBuffer):
    def __deepcopy__(self, memo: dict[int, Any]) -> CopiesAll:
        copied = CopiesAll()
        copied.training = self.training
        copied._buffers["mean"] = copy.deepcopy(self.mean, memo)
        return copied


class HoldsLambda(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = lambda x: x.relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class HoldsFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = torch.relu

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


# -- activation checkpointing ------------------------------------------------------------------------------------------
class OwnGenerator(nn.Module):
    """Dropout from a generator of its own, which activation checkpointing does not rewind."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = [torch.Generator().manual_seed(0)]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * x * (torch.rand(x.shape, generator=self.generator[0]) > 0.5).to(x.dtype)


class GlobalGenerator(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * x * (torch.rand(x.shape) > 0.5).to(x.dtype)


class CountsCalls(nn.Module):
    """What it computes depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return (x * self.calls).tanh() if self.training else x.tanh()


class CountsOnly(CountsCalls):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.tanh()


class NumpyDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x * torch.from_numpy(np.random.rand(*x.shape) > 0.5).to(x.dtype) if self.training else x


class WritesSaved(nn.Module):
    """PyTorch's own: the noise of RReLU is saved before it is filled, and recomputation stops as soon as it is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.RReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class LeakySlope(nn.Module):
    """The same with the slopes drawn first and saved as they are."""

    def forward(self, x: Tensor) -> Tensor:
        slope = torch.empty_like(x).uniform_(1 / 8, 1 / 3) if self.training else torch.full_like(x, 11 / 48)
        return torch.where(x < 0, x * slope, x)


class Normalises(nn.Module):
    """Correct: batch normalisation, whose averages move in both passes, beside a buffer that none moves."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return self.norm(x) * self.scale


class WarmsUp(nn.Module):
    """A strength in a buffer that grows with each pass, the recomputed ones too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
        return x.tanh()


class Queues(nn.Module):
    """The last keys in a buffer (He et al. 2020), which a recomputed pass pushes again."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.queue.copy_(torch.cat([x.detach(), self.queue])[:8])
        return x.tanh()


class NormalisesOnce(nn.Module):
    """Statistics that move in the first of the two passes only."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not torch._C._current_graph_task_id() >= 0:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return (x - x.mean(0)).tanh() if self.training else (x - self.mean).tanh()


def _mutant(law: str, name: str, bug: Any, twin: Any, models: str, example: Example = VECTORS, **more: Any) -> Mutant:
    return Mutant(law=f"layer.{law}", name=name, bug=bug, twin=twin, models=models, example=example, kind="layer", **more)


MUTANTS = [
    _mutant("gradients", "backward forgets a factor of two", SquareForgets, Square, "hand-written autograd.Function"),
    _mutant("gradients", "a gate is detached", GateDetached, Gate, "a detach left from debugging"),
    _mutant("gradients", "wrong in training only", TrainingOnlyWrong, Square, "a kernel of training that no test calls"),
    _mutant("double_gradients", "the backward detaches", SquareOnce, Square, "gradient penalties that vanish", TWICE),
    _mutant("double_gradients", "the backward detaches its own gradient", SquareFixed, Square, "grad_output.numpy()", TWICE),
    _mutant("partial_gradients", "no weight gradient where the input needs none", ScaleTogether, Scale,
            "fine-tuning first layers"),
    _mutant("layout", "reads memory as contiguous", DoubleOfMemory, Double, "pytorch#194719"),
    _mutant("layout", "view of a transposed input", Views, Reshapes, "view where reshape is due", IMAGES),
    _mutant("layout", "channels last not permuted back", ChannelsLastWrong, ChannelsLastRight, "NHWC fast paths", IMAGES),
    _mutant("gradient_layout", "reads the gradient's memory", DoubleOfGradientMemory, Double, "ROCm/TransformerEngine#623"),
    _mutant("gradient_layout", "the same beside rounding that cancels", DoubleOfGradientMemory, CancellingNorm,
    "ROCm/TransformerEngine#623",
            IMAGES),
    _mutant("purity", "writes into its input", Overwrites, Copies, "pytorch#118959"),
    _mutant("purity", "drops in evaluation", AlwaysDrops, Drops, "F.dropout without self.training"),
    _mutant("purity", "seeds the generator", Seeds, Noise, "torch.manual_seed in forward"),
    _mutant("purity", "switches a child to evaluation", SwitchesMode, KeepsMode, "frozen batch normalisation"),
    _mutant("purity", "statistics move in evaluation", Counts, CountsInTraining, "running means"),
    _mutant("purity", "changes the default dtype", ChangesDtype, KeepsSettings, "set_default_dtype in forward"),
    _mutant("purity", "draws from Python's stream", PythonNoise, Noise, "random.random in augmentation layers"),
    _mutant("state", "a running mean in an attribute", MeanInAttribute, MeanInBuffer, "keras#17383"),
    _mutant("state", "a random projection that is not saved", ProjectionLost, Projection, "random features"),
    _mutant("state", "a constant in a plain attribute", Constant, ConstantBuffer, "constants that stay on the CPU"),
    _mutant("state", "a used constant beside a cache", Constant, CachedWeight, "weight normalisation's cache"),
    _mutant("copies", "deepcopy shares a buffer", SharesOnCopy, CopiesAll, "EMA of a shared buffer"),
    _mutant("copies", "a lambda in an attribute", HoldsLambda, HoldsFunction, "modules that do not pickle"),
    _mutant("checkpointing", "dropout from its own generator", OwnGenerator, GlobalGenerator, "OLMo-core#828"),
    _mutant("checkpointing", "counts its calls", CountsCalls, CountsOnly, "schedules kept in forward"),
    _mutant("checkpointing", "dropout from numpy", NumpyDropout, GlobalGenerator, "hidden random streams"),
    _mutant("checkpointing", "noise saved before it is filled", WritesSaved, LeakySlope, "pytorch#193671"),
    _mutant("checkpointing_buffers", "a count moves twice", WarmsUp, NormalisesOnce, "a schedule in a buffer"),
    _mutant("checkpointing_buffers", "a queue is filled twice", Queues, Normalises, "a queue of keys"),
]  # fmt: skip
