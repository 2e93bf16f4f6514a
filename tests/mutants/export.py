"""Exports with a planted bug, layers that cannot be shipped, and their correct twins."""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mapsto
from mapsto.core.laws import Example
from mapsto.torch.export import torch_export

from . import Mutant

DYNAMIC = torch.export.Dim.DYNAMIC


def _saved(model: nn.Module, inputs: tuple[Any, ...], path: str, dynamic: Any = True) -> Path:
    """The shortest right export: trace in evaluation, put the mode back, save."""
    modes = {part: part.training for part in model.modules()}
    shapes = tuple({0: DYNAMIC} for _ in inputs) if dynamic else None
    torch.export.save(torch.export.export(model.eval(), inputs, dynamic_shapes=shapes), path)
    for part, mode in modes.items():
        part.training = mode
    return Path(path)


def right(model: nn.Module, *, inputs: Any, path: str = "model.pt2", dynamic: Any = True) -> Path:
    return _saved(model, inputs, path, dynamic)


# -- X1: numbers and branches of the example
class _Answer(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.kept = nn.Module()
        for i, y in enumerate(answer if isinstance(answer, tuple) else (answer,)):
            self.kept.register_buffer(f"y{i}", y.detach().clone())

    def forward(self, *inputs: Tensor) -> Any:
        made = tuple(y + 0 for y in self.kept.buffers())
        return made if len(made) > 1 else made[0]


def baked_answer(model: nn.Module, *, inputs: Any, path: str = "model.pt2") -> Path:
    """The result on the example stands in the artefact."""
    modes = {part: part.training for part in model.modules()}
    answer = model.eval()(*inputs)
    for part, mode in modes.items():
        part.training = mode
    return _saved(_Answer(answer), inputs, path, False)


class _Calibrated(nn.Module):
    """Inputs are clipped to the largest value of the example, as a calibrated range is."""

    def __init__(self, inner: nn.Module, top: float) -> None:
        super().__init__()
        self.inner, self.top = inner, top

    def forward(self, *inputs: Tensor) -> Any:
        return self.inner(*(x.clamp(max=self.top) if x.is_floating_point() else x for x in inputs))


def baked_range(model: nn.Module, *, inputs: Any, path: str = "model.pt2") -> Path:
    """Right on the example and on anything smaller."""
    top = max((float(x.max()) for x in inputs if x.is_floating_point()), default=0.0)
    return _saved(_Calibrated(copy.deepcopy(model), top), inputs, path, False)


class Branches(nn.Module):
    """[B, 4] -> [B, 4]: the sign of the batch's mean chooses a branch by torch.where, in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.mean() > 0, self.up(x), self.down(x))


class BranchesWhenTraced(Branches):
    """While it is traced the branch of the first call is taken: what torch.jit.trace did (pytorch#80973)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x) if torch.compiler.is_compiling() else super().forward(x)


class ByPython(Branches):
    """The branch is Python's: it cannot be traced at all."""

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x) if x.mean() > 0 else self.down(x)


class Masked(nn.Module):
    """[B, 5], mask [B, 5] -> [B]: the mean over what the mask keeps."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        kept = self.kept(mask).to(x.dtype)
        return (x * kept).sum(1) / kept.sum(1).clamp(min=1)

    def kept(self, mask: Tensor) -> Tensor:
        return mask


class MaskDropped(Masked):
    """An exporter's workaround: the mask is taken to be full where the model is traced."""

    def kept(self, mask: Tensor) -> Tensor:
        return torch.ones_like(mask) if torch.compiler.is_compiling() else mask


class Level(nn.Module):
    """[B, 4] -> [B, 4], over a running level."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x / self.level


class LevelAsNumber(Level):
    """The level is read as a Python number when the layer is built."""

    def __init__(self) -> None:
        super().__init__()
        self.number = float(self.level)

    def forward(self, x: Tensor) -> Tensor:
        return x / (self.number if torch.compiler.is_compiling() else self.level)


# -- X1b: ONNX
class Halves(nn.Module):
    """[B, 4] -> [B, 2]: the sum of two halves."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] + x[:, 2:]


class HalvesOfTraced(Halves):
    """Half the batch is flattened by a size that was fixed when the layer first ran."""

    size: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return x.reshape(5, 4)[:, :2] + x.reshape(5, 4)[:, 2:]
        return super().forward(x)


class Odd(nn.Module):
    """[B, 4] -> [B, 4]: a function without a translation to ONNX."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.airy_ai(x)


# -- X2: the traced size
def one_size(model: nn.Module, *, inputs: Any, path: str = "model.pt2", dynamic: Any = True) -> Path:
    """`dynamic` is ignored."""
    return _saved(model, inputs, path, False)


class _Scaled(nn.Module):
    def __init__(self, inner: nn.Module, size: int) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, *inputs: Tensor) -> Any:
        size = inputs[0].shape[0]
        made = self.inner(*inputs)
        return torch.utils._pytree.tree_map(lambda y: y * (size / self.size), made)


def scaled_by_size(model: nn.Module, *, inputs: Any, path: str = "model.pt2", dynamic: Any = True) -> Path:
    """Runs for every size, and divides by the size of the example."""
    shapes = (tuple({0: DYNAMIC} for _ in inputs),)
    program = torch.export.export(_Scaled(copy.deepcopy(model), inputs[0].shape[0]).eval(), inputs, dynamic_shapes=shapes)
    torch.export.save(program, path)
    return Path(path)


# -- X3: the source
def pickled(model: nn.Module, *, inputs: Any, path: str = "model.pkl") -> Path:
    """A pickle of the module: the class is looked up where it is loaded."""
    torch.save(copy.deepcopy(model).eval(), path)
    return Path(path)


def unpickled(path: Any) -> Callable[..., Any]:
    model: Callable[..., Any] = torch.load(path, weights_only=False)
    return model


def opened(path: Any) -> Callable[..., Any]:
    call: Callable[..., Any] = torch.export.load(path).module()
    return call


mapsto.example(pickled, load=unpickled)


def own_format(model: nn.Module, *, inputs: Any, path: str = "model.program") -> Path:
    """A file of an own sort, which its author says how to open."""
    made = _saved(model, inputs, f"{path}.pt2")
    os.replace(made, path)
    return Path(path)


mapsto.example(own_format, load=opened, tolerance="T0")


@torch.library.custom_op("mapsto_mutants::shifted", mutates_args=())
def shifted(x: Tensor) -> Tensor:
    return x + 1


@shifted.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class OwnOperator(nn.Module):
    """[B, 4] -> [B, 4] by an operator that only this package registers."""

    def forward(self, x: Tensor) -> Tensor:
        return shifted(x)


class NoOperator(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


# -- X4: evaluation, storage, mode
def in_training(model: nn.Module, *, inputs: Any, path: str = "model.pt2", dynamic: Any = True) -> Path:
    """Dropout stays on."""
    copied = copy.deepcopy(model).train()
    for part in copied.modules():
        part.training = isinstance(part, (nn.Dropout,))
    shapes = tuple({0: DYNAMIC} for _ in inputs)
    torch.export.save(torch.export.export(copied, inputs, dynamic_shapes=shapes), path)
    return Path(path)


def left_in_evaluation(model: nn.Module, *, inputs: Any, path: str = "model.pt2") -> Path:
    """The mode of the model is not put back."""
    torch.export.save(torch.export.export(model.eval(), inputs), path)
    return Path(path)


def all_in_training(model: nn.Module, *, inputs: Any, path: str = "model.pt2") -> Path:
    """model.train() afterwards: a part that was frozen in evaluation no longer is."""
    torch.export.save(torch.export.export(model.eval(), inputs), path)
    model.train()
    return Path(path)


def frozen_weights(model: nn.Module, *, inputs: Any, path: str = "model.pt2") -> Path:
    """The weights of the model no longer require gradients."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return _saved(model, inputs, path)


def in_memory(model: nn.Module, *, inputs: Any) -> Callable[..., Any]:
    """A program in memory whose weights are those of the model."""
    modes = {part: part.training for part in model.modules()}
    call: Callable[..., Any] = torch.export.export(model.eval(), inputs).module()
    for part, mode in modes.items():
        part.training = mode
    return call


def in_memory_of_its_own(model: nn.Module, *, inputs: Any) -> Callable[..., Any]:
    return in_memory(copy.deepcopy(model), inputs=inputs)


def writes_back(model: nn.Module, *, inputs: Any) -> Callable[..., Any]:
    """Every call of the artefact counts in the first buffer or weight of the original."""
    call, state = in_memory_of_its_own(model, inputs=inputs), next(iter(model.state_dict().values()))

    def run(*given: Any) -> Any:
        with torch.no_grad():
            state.add_(1)
        return call(*given)

    return run


for _made in (in_memory, in_memory_of_its_own, writes_back):
    mapsto.example(_made, tags={"in_memory", "static"})


def weights_twice(model: nn.Module, *, inputs: Any, path: str = "model.pt2", dynamic: Any = True) -> Path:
    """Weights that are shared become two."""
    copied = copy.deepcopy(model)
    for part in copied.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                setattr(part, name, nn.Parameter(parameter.detach().clone()))
    return _saved(copied, inputs, path, dynamic)


def table() -> Tensor:
    return torch.linspace(1, 2, 4)


kept_table = functools.cache(table)


class Remembers(nn.Module):
    """[B, 4] -> [B, 4], scaled by a table that is made anew in each call."""

    def forward(self, x: Tensor) -> Tensor:
        return x * table()


class RemembersTraced(nn.Module):
    """The table is cached: where the first call is a trace, a tensor without data is."""

    def forward(self, x: Tensor) -> Tensor:
        return x * kept_table()


VECTORS = Example(inputs=lambda size, generator: (torch.randn(size, 4, generator=generator),))
MASKS = Example(
    inputs=lambda size, generator: (torch.randn(size, 5, generator=generator), torch.rand(size, 5, generator=generator) > 0.4)
)
BITS = Example(more={"tolerance": "T0"})
CLONED = Example(more={"tolerance": "T0"}, tags=frozenset({"static"}))


def _of(law: str, kind: str, example: Example, *rows: tuple[str, Any, Any, str]) -> list[Mutant]:
    return [
        Mutant(law=law, name=name, bug=bug, twin=twin, models=models, example=example, kind=kind)
        for name, bug, twin, models in rows
    ]


ONNX = _of(
    "layer.onnx", "layer", VECTORS,
    ("the traced batch size in a reshape", HalvesOfTraced, Halves, "pytorch#133653"),
    ("no translation to ONNX", Odd, Halves, "an operation without a translation"),
)  # fmt: skip
MUTANTS = [
    *_of(
        "export.fresh_inputs", "export", CLONED,
        ("the example's result is the artefact", baked_answer, right, "constants folded over the example's inputs"),
        ("clipped to the example's range", baked_range, right, "a calibrated range"),
    ),
    *_of(
        "export.fresh_inputs", "layer", VECTORS,
        ("a branch frozen when tracing", BranchesWhenTraced, Branches, "pytorch#80973"),
        ("a branch in Python", ByPython, Branches, "pytorch#80973"),
    ),
    *_of("export.fresh_inputs", "layer", MASKS,
         ("the mask is dropped when tracing", MaskDropped, Masked, "masks taken to be full")),
    *(ONNX if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript") else ()),
    *_of(
        "export.dynamic_range", "export", BITS,
        ("`dynamic` is ignored", one_size, right, "pytorch#133653"),
        ("divided by the traced size", scaled_by_size, right, "pytorch#140011"),
    ),
    *_of(
        "export.without_source", "export", BITS,
        ("a pickled module", pickled, own_format, "torch.save(model)"),
        ("a pickled module, and a program", pickled, torch_export, "torch.save(model)"),
    ),
    *_of("export.without_source", "layer", VECTORS,
         ("an operator that the package registers", OwnOperator, NoOperator, "a missing op when serving")),
    *_of(
        "export.evaluation_and_original", "export", CLONED,
        ("dropout stays on", in_training, right, "a training graph exported"),
        ("the model stays in evaluation", left_in_evaluation, right, "model.eval() and no way back"),
        ("the model is put in training as a whole", all_in_training, right, "frozen batch statistics that move again"),
        ("weights no longer require gradients", frozen_weights, right, "freezing before tracing"),
        ("the artefact shares the model's memory", in_memory, in_memory_of_its_own, "ExportedProgram.module()"),
        ("the artefact writes into the model", writes_back, in_memory_of_its_own, "a buffer that both count in"),
        ("shared weights become two", weights_twice, right, "safetensors and tied weights"),
    ),
    *_of(
        "export.evaluation_and_original", "layer", VECTORS,
        ("a tensor of the trace is kept", RemembersTraced, Remembers, "a cached table that holds a FakeTensor"),
        ("a buffer read as a number", LevelAsNumber, Level, "old statistics in the artefact"),
    ),
]  # fmt: skip
