"""Examples of exports: which models are exported, by what, and how the artefact is loaded; a `Cell` is one such case.

For `export/...` the mapping is judged on small models; for a layer or model `export/torch_export` is what exports it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from ...core.errors import MissingExtra
from ...core.laws import Subject, Trial
from ...core.random import derive
from ..export import onnx_session, torch_export
from ..laws.compare import close_to_oracle, same
from .export_models import SAMPLES, Sample
from .layer_examples import build, in_dtype, inputs, settle

TRACED = 5
"""Records in the example that is traced; no declared size is judged at this one alone."""
SUFFIXES = (".pt2", ".onnx")
"""Artefacts that can be loaded without being told how."""


def complete(subject: Subject) -> Subject:
    """The subject as it is: an export needs no example, only a `load` where its artefact is of an unknown sort."""
    return subject


@dataclass(frozen=True)
class Cell:
    """One model exported by one mapping.

    build: dtype -> a fresh instance, the same each time; inputs: (records, stream) -> inputs; blocked: modules that hold the
    model's source; load: how an artefact becomes a function, `reference` names it for another process.
    """

    said: str
    build: Callable[[torch.dtype], nn.Module]
    inputs: Callable[[int, str], tuple[Any, ...]]
    export: Callable[[nn.Module, tuple[Any, ...], Path, Any], Any]
    load: Callable[[Any], Callable[..., Any]]
    tolerance: str
    blocked: frozenset[str]
    reference: str = ""


def cells(trial: Trial) -> Iterator[Cell]:
    """The cells of a trial's subject, the smallest model first."""
    if trial.subject.kind == "export":
        for sample in trial.example.more.get("models", SAMPLES):
            yield of_export(trial, sample)
    else:
        yield of_layer(trial)


# -- an export on small models -----------------------------------------------------------------------------------------
def of_export(trial: Trial, sample: Sample) -> Cell:
    """The subject, an export, on one of the models."""

    def make(dtype: torch.dtype) -> nn.Module:
        torch.manual_seed(derive(trial.seed, "build", sample.said))
        return sample.build().to(dtype)

    def given(size: int, stream: str) -> tuple[Any, ...]:
        return sample.inputs(size, torch.Generator().manual_seed(derive(trial.seed, stream, size)))

    return Cell(
        said=sample.said,
        build=make,
        inputs=given,
        export=mapping(trial),
        load=lambda artefact: _load(trial, artefact),
        tolerance=str(trial.example.more.get("tolerance", "T2")),
        blocked=frozenset({type(part).__module__ for part in make(torch.float32).modules() if not _of_torch(part)}),
        reference=_reference(trial),
    )


def mapping(trial: Trial) -> Callable[[nn.Module, tuple[Any, ...], Path, Any], Any]:
    """(model, inputs, folder, dynamic) -> artefact, giving the subject what its signature asks for."""
    subject, args = trial.subject, dict(trial.example.args)
    target: Any = subject.target(**args) if inspect.isclass(subject.target) else subject.target
    options = {} if inspect.isclass(subject.target) else args
    parameters = inspect.signature(target).parameters

    def export(model: nn.Module, given: tuple[Any, ...], folder: Path, dynamic: Any) -> Any:
        offered = {"inputs": given, "dynamic": dynamic}
        if "path" in parameters:
            usual = parameters["path"].default
            offered["path"] = folder / (Path(usual).name if isinstance(usual, (str, Path)) else "artefact")
        return target(model, **{k: v for k, v in offered.items() if k in parameters}, **options)

    return export


def _load(trial: Trial, artefact: Any) -> Callable[..., Any]:
    if (stated := trial.example.more.get("load")) is not None:
        loaded: Callable[..., Any] = stated(artefact)
        return loaded
    if isinstance(artefact, (str, Path)) and Path(artefact).suffix in SUFFIXES:
        return load_file(Path(artefact))
    if not callable(artefact):
        _unloadable(trial, artefact)
    call: Callable[..., Any] = artefact
    return call


def _unloadable(trial: Trial, artefact: Any) -> NoReturn:
    name = trial.subject.label.rpartition(":")[2].rpartition("/")[2]
    trial.undecided(
        f"it made {artefact!r:.80}, of which it is not known how to run it; write beside it\n"
        f"  mapsto.example({name}, load=load)  # load(artefact) -> a function of the model's inputs"
    )


def load_file(path: Path) -> Callable[..., Any]:
    """A .pt2 or .onnx file as a function of the model's inputs."""
    if path.suffix == ".onnx":
        return onnx_session(path)
    call: Callable[..., Any] = torch.export.load(path).module()
    return call


def _reference(trial: Trial) -> str:
    stated = trial.example.more.get("load")
    return "" if stated is None else f"{stated.__module__}:{stated.__qualname__}"


# -- a layer by torch.export -------------------------------------------------------------------------------------------
def of_layer(trial: Trial, export: Callable[..., Any] = torch_export, suffix: str = ".pt2", tolerance: str = "T0") -> Cell:
    """The subject, a layer or model, exported by `export`."""
    settle(trial)
    if trial.has("eager_only"):
        trial.skip("it declares that it is not exported")
    if not [x for x in pytree.tree_leaves(inputs(trial, 2)) if isinstance(x, Tensor)]:
        trial.skip("it takes no tensors")
    own = {type(part).__module__.partition(".")[0] for part in build(trial).modules() if not _of_torch(part)}
    return Cell(
        said=trial.subject.label.rpartition(":")[2],
        build=lambda dtype: build(trial, dtype),
        inputs=lambda size, stream: inputs(trial, size, stream=stream),
        export=lambda model, given, folder, dynamic: export(
            model, inputs=given, path=folder / f"model{suffix}", dynamic=dynamic, check=False
        ),
        load=load_file,
        tolerance=tolerance,
        blocked=frozenset(own - {"__main__", "builtins"}),
    )


def _of_torch(part: nn.Module) -> bool:
    return type(part).__module__.partition(".")[0] == "torch"


# -- exporting and comparing -------------------------------------------------------------------------------------------
@contextmanager
def exported(
    trial: Trial, cell: Cell, *, size: int = TRACED, dynamic: Any = None, model: nn.Module | None = None
) -> Iterator[Any]:
    """The artefact of a fresh instance (or of `model`), there within the block; an error of the export fails the law."""
    if dynamic is None:
        dynamic = trial.subject.kind == "export" and not trial.has("static")
    with TemporaryDirectory(prefix="mapsto-export-") as folder:
        with trial.component("exporting it"):
            try:
                artefact = cell.export(model or cell.build(torch.float32), cell.inputs(size, "traced"), Path(folder), dynamic)
            except MissingExtra as missing:
                trial.skip(str(missing))
        yield artefact


def loaded(trial: Trial, cell: Cell, artefact: Any) -> Callable[..., Any]:
    """The artefact as a function of inputs."""
    with trial.component("loading the artefact"):
        return cell.load(artefact)


def outputs(tree: Any) -> dict[str, Tensor]:
    """The tensors among the leaves of an output; an artefact keeps their order, and not always their names."""
    tensors = [y for y in pytree.tree_leaves(tree) if isinstance(y, Tensor)]
    return {f"output {i}": y.detach().clone() for i, y in enumerate(tensors)}


def called(trial: Trial, what: str, call: Callable[..., Any], given: tuple[Any, ...], seed: int = 0) -> dict[str, Tensor]:
    """The outputs of a call that must work, from a seed."""
    with trial.component(what), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = outputs(call(*given))
    for path, y in made.items():
        if isinstance(y, FakeTensor):
            said = f"{what}: {path} is a tensor without data"
            trial.fail(said, first={"tensor": path}, cause="a tensor made while tracing was kept in a cache")
    return made


def agree(
    trial: Trial,
    cell: Cell,
    what: str,
    got: dict[str, Tensor],
    model: nn.Module,
    given: tuple[Any, ...],
    *,
    cause: str | None = None,
) -> dict[str, Tensor]:
    """Demand what the model gives in evaluation: its bits (T0), or its accuracy against float64 (T2). Returns what was due."""
    want = called(trial, "the model itself", model.eval(), given)
    if cell.tolerance == "T0":
        same(trial, what, got, want, cause=cause)
        return want
    if [(y.shape, y.dtype) for y in got.values()] != [(y.shape, y.dtype) for y in want.values()]:
        same(trial, what, got, want, cause=cause)
    whole = {k: y for k, y in want.items() if not y.is_floating_point()}
    same(trial, what, {k: got[k] for k in whole}, whole, cause=cause)
    true = cell.build(torch.float64).eval()
    take_weights(true, model)
    exact = called(trial, "the model in float64", true, in_dtype(given, torch.float64))
    close_to_oracle(trial, what, got, want, exact, floor=_floor(exact), cause=cause)
    return want


def take_weights(model: nn.Module, other: nn.Module) -> None:
    """Copy parameters and buffers, those that no checkpoint holds included, from a model of the same form."""
    with torch.no_grad():
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.copy_(theirs)
        for kept, now in zip(model.buffers(), other.buffers(), strict=True):
            kept.copy_(now)


def _floor(exact: dict[str, Tensor]) -> float:
    """Other kernels sum in another order: 16 roundings of the largest output, of which a sum of n terms has about sqrt(n)."""
    largest = max(
        (float(y.abs().nan_to_num().max()) for y in exact.values() if y.is_floating_point() and y.numel()), default=0.0
    )
    return 16 * torch.finfo(torch.float32).eps * largest


def variations(given: tuple[Any, ...]) -> Sequence[tuple[str, tuple[Any, ...]]]:
    """Inputs of the same form that take other branches: signs, sizes of values and masks turned over, ids moved on."""

    def each(change: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
        made: tuple[Any, ...] = pytree.tree_map(lambda x: change(x) if isinstance(x, Tensor) else x, given)
        return made

    ways: Iterable[tuple[str, Callable[[Tensor], Tensor]]] = (
        ("values negated", lambda x: -x if x.is_floating_point() else x.clone()),
        ("values eightfold", lambda x: x * 8 if x.is_floating_point() else x.clone()),
        ("all values one", lambda x: torch.ones_like(x) if x.is_floating_point() else x.clone()),
        ("masks turned over", lambda x: ~x if x.dtype == torch.bool else x.clone()),
        (
            "whole numbers moved on",
            lambda x: x if x.is_floating_point() or x.dtype == torch.bool else x.roll(1, -1) if x.dim() else x,
        ),
    )
    return [(said, each(change)) for said, change in ways]
