"""The driver of exports: which models are exported, by what, and how the artefact is opened and run.

For `export/...` the mapping is judged on small models; for a layer or model `export/torch_export` is what exports it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from ...core.laws import Subject, Trial, Undecided
from ...core.random import derive
from ...laws.drivers import ExportCase, Run
from ..export import onnx_session, torch_export
from ..laws.compare import arrays, tensors
from ..modes import modes_kept
from .export_models import SAMPLES, Sample, Tagger, ids
from .export_process import NotRun, run_elsewhere
from .layer_examples import build, inputs, settle
from .layer_passes import draws, reassign

SUFFIXES = (".pt2", ".onnx")
"""Artefacts that can be opened without being told how."""


def complete(subject: Subject) -> Subject:
    """The subject with its driver; it needs no example, only a `load` where its artefact is of an unknown sort."""
    return replace(subject, driver=DRIVER)


@dataclass(frozen=True)
class Case:
    """One model exported by one mapping (`mapsto.laws.drivers.ExportCase`).

    make: dtype -> a fresh instance; feed: (records, stream) -> inputs; by: (model, inputs, folder, dynamic) -> artefact;
    load: an artefact as a function of tensors.
    """

    said: str
    tolerance: Literal["T0", "T2"]
    sources: frozenset[str]
    make: Callable[[torch.dtype], nn.Module]
    feed: Callable[[int, str], tuple[Any, ...]]
    by: Callable[[nn.Module, tuple[Any, ...], Path, Any], Any]
    load: Callable[[Any], Callable[..., Any]]

    def build(self, dtype: str = "float32") -> nn.Module:
        return self.make(getattr(torch, dtype))

    def inputs(self, size: int, stream: str) -> tuple[Any, ...]:
        given: tuple[Any, ...] = arrays(self.feed(size, stream))
        return given

    def export(self, model: nn.Module, given: tuple[Any, ...], folder: Path, dynamic: Any) -> Any:
        with known_outputs():
            return self.by(model, tensors(given), folder, dynamic)

    def open(self, artefact: Any) -> Run:
        return partial(_run, self.load(artefact))


@contextmanager
def known_outputs() -> Iterator[None]:
    """Within it a model is traced: that the tracer takes no output of its class is a limit of PyTorch, and undecided."""
    try:
        yield
    except Exception as error:
        if "in output, which is not a known type" not in str(error):
            raise
        raise Undecided(
            f"{str(error).partition(' If this type')[0][-300:]} PyTorch's exporter returns tensors and objects of classes that "
            "torch.utils._pytree knows; where the model is never exported, state tags={'eager_only'}"
        ) from None


def _run(call: Callable[..., Any], given: tuple[Any, ...], seed: int) -> dict[str, Any]:
    """The tensors among the leaves of an output; an artefact keeps their order, and not always their names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = [y for y in pytree.tree_leaves(call(*tensors(given))) if isinstance(y, Tensor)]
    return _outputs(made)


def _outputs(made: Sequence[Tensor]) -> dict[str, Any]:
    return {f"output {i}": None if isinstance(y, FakeTensor) else arrays(y.detach().clone()) for i, y in enumerate(made)}


# -- an export on small models -----------------------------------------------------------------------------------------
def of_export(trial: Trial, sample: Sample) -> Case:
    """The subject, an export, on one of the models."""

    def make(dtype: torch.dtype) -> nn.Module:
        torch.manual_seed(derive(trial.seed, "build", sample.said))
        return sample.build().to(dtype)

    def given(size: int, stream: str) -> tuple[Any, ...]:
        return sample.inputs(size, torch.Generator().manual_seed(derive(trial.seed, stream, size)))

    return Case(
        said=sample.said,
        tolerance=trial.example.more.get("tolerance", "T2"),
        sources=frozenset({type(part).__module__ for part in make(torch.float32).modules() if not _of_torch(part)}),
        make=make,
        feed=given,
        by=mapping(trial),
        load=lambda artefact: _load(trial, artefact),
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
def of_layer(
    trial: Trial, export: Callable[..., Any] = torch_export, suffix: str = ".pt2", tolerance: Literal["T0", "T2"] = "T0"
) -> Case:
    """The subject, a layer or model, exported by `export`."""
    settle(trial)
    if trial.has("eager_only"):
        trial.skip("it declares that it is not exported")
    if not [x for x in pytree.tree_leaves(inputs(trial, 2)) if isinstance(x, Tensor)]:
        trial.skip("it takes no tensors")
    own = {type(part).__module__.partition(".")[0] for part in build(trial).modules() if not _of_torch(part)}
    return Case(
        said=trial.subject.label.rpartition(":")[2],
        tolerance=tolerance,
        sources=frozenset(own - {"__main__", "builtins"}),
        make=lambda dtype: build(trial, dtype),
        feed=lambda size, stream: inputs(trial, size, stream=stream),
        by=lambda model, given, folder, dynamic: export(
            model, inputs=given, path=folder / f"model{suffix}", dynamic=dynamic, check=False
        ),
        load=load_file,
    )


def _of_torch(part: nn.Module) -> bool:
    return type(part).__module__.partition(".")[0] == "torch"


# -- for the laws of every wing ----------------------------------------------------------------------------------------
class Driver:
    """Exports as the laws see them (`mapsto.laws.drivers.ExportDriver`)."""

    def cases(self, trial: Trial) -> Iterator[Case]:
        if trial.subject.kind == "export":
            for sample in trial.example.more.get("models", SAMPLES):
                yield of_export(trial, sample)
        else:
            yield of_layer(trial)

    def tied(self, trial: Trial) -> tuple[Case, Case, int]:
        one, two = (of_export(trial, Sample(partial(Tagger, tied=tied), ids)) for tied in (True, False))
        weight = Tagger().embed.weight
        return one, two, weight.numel() * weight.element_size()

    def call(self, model: nn.Module, given: tuple[Any, ...], seed: int) -> dict[str, Any]:
        with modes_kept(model):  # a model that is exported next is in the mode that it was in
            return _run(model.eval(), given, seed)

    def draws(self, model: nn.Module, given: tuple[Any, ...]) -> bool:
        return draws(model.eval(), tensors(given))

    def trained(self, case: ExportCase, seed: int) -> nn.Module:
        model: nn.Module = case.build().train()
        reassign(model, seed)
        with modes_kept(model), torch.no_grad():  # once to evaluation and back, which rounds weights that are folded there
            model.eval()
            if any(b is None for part in model.modules() for b in part._buffers.values()):
                model(*tensors(case.inputs(2, "before")))  # torch.export loses count of buffers that it sees come into being
        for part in list(model.children())[:1]:
            part.eval()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        return model

    def train(self, model: nn.Module, seed: int) -> None:
        reassign(model, seed)

    def take(self, model: nn.Module, other: nn.Module) -> None:
        now = dict(other.eval().named_buffers())
        with torch.no_grad():
            for mine, theirs in zip(model.eval().parameters(), other.parameters(), strict=True):
                mine.copy_(theirs)
            for name, kept in model.named_buffers():
                if name in now:  # a cache that was filled in one of them has no counterpart
                    kept.copy_(now[name])

    def state(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        buffers = dict(model.named_buffers(remove_duplicate=False))
        both = {**parameters, **buffers}
        return {
            "mode": {n or "itself": part.training for n, part in model.named_modules()},
            "parameters": _copies(parameters),
            "buffers": _copies(buffers),
            "requires gradient": {n: x.requires_grad for n, x in both.items()},
            "memory": {n: x.data_ptr() for n, x in both.items()},
            "gradient": _copies({n: p.grad for n, p in model.named_parameters() if p.grad is not None}),
        }

    def sharing(self, model: nn.Module, artefact: Any) -> tuple[dict[str, str], dict[str, str]]:
        got, want = (_first_names(m) for m in (dict(torch.export.load(artefact).state_dict), dict(model.state_dict())))
        both = sorted(want.keys() & got.keys())
        return {n: got[n] for n in both}, {n: want[n] for n in both}

    def elsewhere(
        self, trial: Trial, made: Sequence[tuple[ExportCase, Path, Sequence[tuple[Any, ...]]]], blocked: Sequence[str]
    ) -> list[list[dict[str, Any]]] | str:
        reference = _reference(trial)
        if "<" in reference:
            trial.undecided(
                "`load` must be a function of a module (no lambda, no inner one), so that another process can import it"
            )
        imports = tuple(trial.example.more.get("runtime", ()))
        artefacts = [(path, [tensors(given) for given in calls]) for _, path, calls in made]
        try:
            results = run_elsewhere(artefacts, blocked=blocked, load=reference, imports=imports)
        except NotRun as error:
            return str(error)
        return [[_outputs(outputs) for outputs in calls] for calls in results]


DRIVER = Driver()


def _copies(named: dict[str, Any]) -> dict[str, Any]:
    return {n: arrays(x.detach().clone()) for n, x in named.items()}


def _first_names(state: dict[str, Tensor]) -> dict[str, str]:
    """For each name the first name of the same weight."""
    first: dict[tuple[Any, ...], str] = {}
    return {n: first.setdefault((x.data_ptr(), tuple(x.shape)), n) for n, x in sorted(state.items()) if x.numel()}
