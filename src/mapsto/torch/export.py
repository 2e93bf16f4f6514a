"""Exports, model -> artefact: a file that computes what the model computes in evaluation, without the model's source.

Both trace the model once, on example inputs, in evaluation and without gradients; the model itself is left as it was, its
mode included. The file appears under its name when it is complete and, unless `check=False`, gave the model's outputs.
"""

from __future__ import annotations

import inspect
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..core.errors import ExportError, require
from ..core.laws import example
from .modes import modes_kept

ONNX_RTOL = 1e-3
"""How far an ONNX runtime may be from eager on the example inputs, relative to the largest output: it has other kernels."""

HINTS = {
    "a branch or a number taken from a tensor's value cannot be traced: use torch.where or torch.cond": (
        "data-dependent", "Could not guard", "GuardOnDataDependent", "Could not extract specialized",
    ),
    "it computes with the traced number of records as a constant: read sizes from x.shape, or dynamic=False": (
        "specialized", "Constraints violated", "conflicts between user-specified",
    ),
    "the ONNX operator set lacks an operation of the model": ("No ONNX function found", "No decompositions registered"),
}  # fmt: skip
"""What to do about an error of the tracer, and the words that it is known by."""


def torch_export(
    model: nn.Module, *, inputs: Any, path: str | Path = "model.pt2", dynamic: Any = True, check: bool = True
) -> Path:
    """A program of ATen operations, `torch.export.load(path).module()(*inputs)`; bitwise what the model computes.

    inputs: a tuple of example inputs (or one tensor); dynamic: True: the first axis of every tensor is the number of records
    and may be any; False: sizes are as in the example; else `dynamic_shapes` of torch.export. Raises ExportError.
    """
    given, file = _asked("torch_export", model, inputs, path, ".pt2")
    with _written(file) as target, _evaluating(model) as module:
        wanted = _outputs(module, given) if check else []  # before tracing: what it caches then has data
        shapes = _shapes(module, given, dynamic)
        program = _traced("torch_export", lambda: torch.export.export(module, given, dynamic_shapes=shapes))
        torch.export.save(program, target)
        if check:
            _demand(file, _outputs(torch.export.load(target).module(), given), wanted, rtol=0.0)
    return file


def onnx(
    model: nn.Module,
    *,
    inputs: Any,
    path: str | Path = "model.onnx",
    dynamic: Any = True,
    opset: int | None = None,
    check: bool = True,
) -> Path:
    """An ONNX graph whose inputs are named as those of `forward` and whose outputs are `output`, or `output_0`, `output_1`, ...

    inputs, dynamic: as for `torch_export`; opset: the version of the operator set (default: PyTorch's). Beyond 2 GB the
    weights stand in `<path>.data`. Raises ExportError, and MissingExtra without `mapsto[onnx]`.
    """
    for module_name in ("onnx", "onnxscript", "onnxruntime"):
        require(module_name, "onnx", "export/onnx")
    given, file = _asked("onnx", model, inputs, path, ".onnx")
    if not [x for x in pytree.tree_leaves(given) if isinstance(x, Tensor)]:
        raise ExportError("export/onnx: `inputs` hold no tensor")
    with _written(file) as target, _evaluating(model) as module:
        wanted = _outputs(module, given)
        names = ["output"] if len(wanted) == 1 else [f"output_{i}" for i in range(len(wanted))]
        shapes = _shapes(module, given, dynamic)

        def trace() -> Any:
            with warnings.catch_warnings(), _quiet("torch.onnx"):
                warnings.simplefilter("ignore")  # of the exporter's own dependencies
                return torch.onnx.export(
                    module, given, dynamo=True, dynamic_shapes=shapes, opset_version=opset, output_names=names, verbose=False
                )

        _traced("onnx", trace).save(target)
        if check:
            _demand(file, onnx_session(target)(*given), wanted, rtol=ONNX_RTOL)
    return file


def onnx_session(path: str | Path) -> Callable[..., list[Tensor]]:
    """An ONNX file as a function of tensors, in the order of its inputs, run by onnxruntime on one thread of the CPU."""
    runtime: Any = require("onnxruntime", "onnx", "running an ONNX file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(*inputs: Any) -> list[Tensor]:
        values = [x.detach().cpu().numpy() for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
        fed = dict(zip((i.name for i in session.get_inputs()), values, strict=True))
        return [torch.from_numpy(y) for y in session.run(None, fed)]

    return run


# -- what was asked ----------------------------------------------------------------------------------------------------
def _asked(name: str, model: Any, inputs: Any, path: str | Path, suffix: str) -> tuple[tuple[Any, ...], Path]:
    if not isinstance(model, nn.Module):
        raise ExportError(f"export/{name}: it maps a torch.nn.Module, not a {type(model).__name__}")
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs) if isinstance(inputs, (tuple, list)) else None
    if given is None:
        said = f"export/{name}: `inputs` is a {type(inputs).__name__}; allowed: a tuple of what forward takes, or one tensor"
        raise ExportError(said)
    file = Path(path)
    if file.suffix != suffix:
        raise ExportError(f"export/{name}: the path {str(path)!r} must end in {suffix!r}")
    return given, file


def _shapes(module: nn.Module, given: tuple[Any, ...], dynamic: Any) -> Any:
    """`dynamic_shapes` of torch.export. Raises ExportError where the example cannot show that a size may change."""
    if dynamic is False:
        return None
    if dynamic is not True:
        return dynamic

    def first_axis(x: Any) -> Any:
        return {0: torch.export.Dim.DYNAMIC} if isinstance(x, Tensor) and x.dim() else None

    few = [list(x.shape) for x in pytree.tree_leaves(given) if isinstance(x, Tensor) and x.dim() and x.shape[0] < 2]
    if few:
        raise ExportError(
            f"an example input is {few[0]}: sizes 0 and 1 are held as constants by torch.export; "
            "give an example with 2 records or more, or dynamic=False"
        )
    shapes = pytree.tree_map(first_axis, given)
    parameters = inspect.signature(module.forward).parameters.values()
    named = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    return (*shapes[:named], shapes[named:]) if len(shapes) > named else shapes


# -- tracing and writing -----------------------------------------------------------------------------------------------
@contextmanager
def _evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation and without gradients; afterwards every part is in the mode that it was in, and has the buffers
    that it had: one that a trace puts into a cache holds no data."""
    module: nn.Module = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    buffers = [(part, dict(part._buffers)) for part in module.modules()]
    with modes_kept(module):
        try:
            with torch.no_grad():
                yield module.eval()
        finally:
            for part, held in buffers:
                part._buffers.clear()
                part._buffers.update(held)


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Only errors of a logger: PyTorch's exporter tells, each time, that torchvision is not installed."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _written(file: Path) -> Iterator[Path]:
    """A path to write to; what was written gets its name when the block ends well, and is gone otherwise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
        yield Path(folder) / file.name
        for part in sorted(Path(folder).iterdir(), key=lambda p: p.name == file.name):  # the file that names the others last
            os.replace(part, file.with_name(part.name))


def _outputs(call: Callable[..., Any], given: tuple[Any, ...]) -> list[Tensor]:
    """The tensors it gives. Raises ExportError where it does not take the inputs."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = call(*given)
    except Exception as error:
        raise ExportError(f"the model does not take the example inputs: {type(error).__name__}: {_said(error)}") from error
    return [y for y in pytree.tree_leaves(made) if isinstance(y, Tensor)]


def _traced(name: str, trace: Callable[[], Any]) -> Any:
    try:
        return trace()
    except ExportError:
        raise
    except Exception as error:
        text = " ".join(str(part) for part in (error, error.__cause__) if part is not None)
        hint = next((f"; {h}" for h, signs in HINTS.items() if any(s in text for s in signs)), "")
        raise ExportError(f"export/{name}: the model cannot be traced: {type(error).__name__}: {_said(error)}{hint}") from error


def _said(error: BaseException) -> str:
    """The lines of a long message that tell something: those of its cause where ONNX's exporter only says how far it came."""
    if isinstance(error, torch.onnx.OnnxExporterError) and error.__cause__ is not None:
        return f"{type(error.__cause__).__name__}: {_said(error.__cause__)}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:400]


def _demand(file: Path, got: list[Tensor], wanted: list[Tensor], *, rtol: float) -> None:
    """The artefact gives the model's outputs on the example inputs. Raises ExportError."""
    if [y.shape for y in got] != [y.shape for y in wanted]:
        raise ExportError(f"{file.name} gives {[list(y.shape) for y in got]}, the model {[list(y.shape) for y in wanted]}")
    for i, (mine, theirs) in enumerate(zip(got, wanted, strict=True)):
        a, b = mine.cpu().double(), theirs.cpu().double()
        limit = rtol * float(b.abs().nan_to_num(posinf=0.0, neginf=0.0).max()) if b.numel() else 0.0
        if not torch.allclose(a, b, rtol=0.0, atol=limit, equal_nan=True):
            error = float((a - b).abs().max())
            said = f"output {i} is {error:.3g} off, {limit:.3g} is allowed"
            raise ExportError(f"{file.name} does not compute what the model does: {said}")


example(torch_export, tolerance="T0")
example(onnx, tolerance="T2")
