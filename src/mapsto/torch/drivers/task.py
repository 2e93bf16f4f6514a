"""The driver of tasks: how the laws build a task with a model, apply it to batches of arrays and differentiate its total."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.laws import Example, Subject, Trial
from ...core.parts import build as built_part
from ...core.random import derive
from ...core.values import use
from ...laws.compare import Array
from ...laws.discovery import Held, settled
from ...laws.drivers.task import TaskValue
from ..laws.compare import arrays, leaves
from .layer import DRIVER as LAYERS
from .recipe import of_recipe

_FOUND: Held = {}
Batch = dict[str, Any]
Made = tuple[Any, nn.Module]
"""A task and the model that it is given."""


# -- what a task may be tried with -----------------------------------------------------------------------------------------
class Tagger(nn.Module):
    """Token ids [n, t] -> logits [n, t, 7]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 5), nn.Linear(5, 7)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.embed(ids)))
        return logits


def _fields(task: Any) -> tuple[tuple[str, ...], str]:
    return tuple(getattr(task, "inputs", ("input",))), str(getattr(task, "target", "target"))


def _batches(task: Any) -> dict[str, tuple[Callable[[int, torch.Generator], Any], Callable[[], nn.Module]]]:
    """Batches and models by name, in the order in which they are tried."""
    inputs, target = _fields(task)

    def vectors(wanted: Callable[[int, torch.Generator], Tensor]) -> Callable[[int, torch.Generator], tuple[Batch]]:
        return lambda n, g: ({**{name: torch.randn(n, 4, generator=g) for name in inputs}, target: wanted(n, g)},)

    def tokens(n: int, g: torch.Generator) -> tuple[Batch]:
        return ({name: torch.randint(7, (n, 5), generator=g) for name in (*inputs, target)},)

    def times(n: int, g: torch.Generator) -> tuple[Batch]:
        seen = {str(getattr(task, "event", "event")): torch.randint(2, (n,), generator=g)}
        return ({**vectors(lambda n, g: torch.randint(5, (n,), generator=g))(n, g)[0], **seen},)

    return {
        "vectors and classes": (vectors(lambda n, g: torch.randint(3, (n,), generator=g)), lambda: nn.Linear(4, 3)),
        "vectors and vectors": (vectors(lambda n, g: torch.randn(n, 2, generator=g)), lambda: nn.Linear(4, 2)),
        "tokens and tokens": (tokens, Tagger),
        "vectors and numbers": (vectors(lambda n, g: torch.randn(n, 1, generator=g)), lambda: nn.Linear(4, 1)),
        "vectors and a number of two outputs": (vectors(lambda n, g: torch.randn(n, generator=g)), lambda: nn.Linear(4, 2)),
        "vectors and a number of three outputs": (vectors(lambda n, g: torch.randn(n, generator=g)), lambda: nn.Linear(4, 3)),
        "vectors, times and events": (times, lambda: nn.Linear(4, 5)),
    }


OWN: dict[str, dict[str, Any]] = {
    "LanguageModel": {"family": "tokens and tokens", "pads": {"input": 0, "target": -100}, "ignored": {"target": -100}},
    "SequenceLabelling": {"family": "tokens and tokens", "pads": {"input": 0, "target": -100}, "ignored": {"target": -100}},
    "Gaussian": {"family": "vectors and a number of two outputs"},
    "Quantiles": {"family": "vectors and a number of three outputs"},
    "Ordinal": {"family": "vectors and classes"},
    "Survival": {"family": "vectors, times and events"},
    "Classification": {},
    "Regression": {},
}
"""What our own tasks state of themselves."""


def complete(subject: Subject) -> Subject:
    """The subject with its driver; what is missing of its example is found by `settle`, in the first trial that needs it."""
    return replace(subject, driver=DRIVER)


def _make(subject: Subject, args: Mapping[str, Any]) -> Any:
    if subject.make is not None:
        return subject.make()
    if inspect.isclass(subject.target):
        return built_part(use(subject.target, **args), "task", path=subject.label)
    return subject.target


def _discover(subject: Subject) -> Example:
    """The example with a batch and a model that work together."""
    stated = subject.example
    own = OWN.get(getattr(subject.target, "__name__", ""), {}) if _ours(subject.target) else {}
    more = {**own, **stated.more, "settled": True}
    family = more.pop("family", None)
    if subject.spec is not None and stated.inputs is None and "model" not in more:
        own = {**stated.more, "settled": True, "model": lambda: _model_of(subject.spec)}
        return replace(stated, inputs=of_recipe(subject.spec), more=own)
    if stated.inputs is not None and "model" in more:
        return replace(stated, more=more)
    said = ""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            task = _make(subject, stated.args)
        except Exception as error:  # noqa: BLE001  # what its author has to state
            return replace(stated, more={**more, "unfound": f"building it raised {type(error).__name__}: {error}"})
        for name, (batch, model) in _batches(task).items():
            if family not in (None, name):
                continue
            chosen = stated.inputs or batch, more.get("model", model)
            try:
                total = task(chosen[1](), chosen[0](3, torch.Generator().manual_seed(0))[0])[0]
            except Exception as error:  # noqa: BLE001  # not its batch
                said = said or f"{type(error).__name__}: {str(error)[:160]}"
                continue
            if isinstance(total, Tensor) and total.requires_grad and bool(total.isfinite().all()):
                more |= {"model": chosen[1], "found": f"example found: {name}"}
                return replace(stated, inputs=chosen[0], more=more)
    return replace(stated, more={**more, "unfound": f"no batch and model were found that suit it ({said})"})


def _model_of(spec: Any) -> nn.Module:
    made: nn.Module = built_part(spec.model, "model", path="model", injected={"seed": spec.seed}, wing=spec.wing)
    return made


def _ours(target: Any) -> bool:
    return str(getattr(target, "__module__", "")).startswith("mapsto.torch")


class Driver:
    """Tasks as the laws see them (`mapsto.laws.drivers.TaskDriver`)."""

    def settle(self, trial: Trial) -> Example:
        example = settled(trial, _discover, _FOUND)
        if unfound := example.more.get("unfound"):
            name = trial.subject.label.rpartition(":")[2].rpartition("/")[2]
            trial.undecided(
                f"{unfound}; write beside it\n  mapsto.example({name}, model=lambda: ..., "
                "inputs=lambda size, generator: ({'input': ..., 'target': ...},))"
            )
        return example

    def build(self, trial: Trial, *, training: bool = False, stream: str = "build") -> Made:
        example = self.settle(trial)
        torch.manual_seed(derive(trial.seed, stream) % (1 << 63))
        model = example.more["model"]
        module: nn.Module = copy.deepcopy(model) if isinstance(model, nn.Module) else model()
        return _make(trial.subject, example.args), module.double().train(training)

    def batch(self, trial: Trial, size: int, *, stream: str = "batch") -> Batch:
        make = self.settle(trial).inputs
        assert make is not None
        generator = torch.Generator().manual_seed(derive(trial.seed, stream, size))
        made = make(size, generator)
        made = made[0] if isinstance(made, tuple) else made
        return {f: _double(arrays(v) if isinstance(v, Tensor) else v) for f, v in made.items()}

    def look(
        self,
        trial: Trial,  # noqa: ARG002  # of the protocol
        built: Made,
        batch: Mapping[str, Any],
        *,
        seed: int = 0,
        gradients: bool = True,
    ) -> TaskValue:
        task, model = built
        torch.manual_seed(seed % (1 << 63))
        given = {f: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for f, v in batch.items()}
        with torch.set_grad_enabled(gradients):
            total, weight, outputs = task(model, given)
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        total = torch.as_tensor(total)
        found = torch.autograd.grad(total, list(named.values()), allow_unused=True) if total.requires_grad and named else ()
        predictions = measured = None
        with torch.no_grad():
            if hasattr(task, "predict"):
                predictions = _numbers(task.predict(outputs))
            if hasattr(task, "measure"):
                measured = {n: (_number(t), float(w)) for n, (t, w) in task.measure(outputs, given).items()}
        return TaskValue(
            total=_number(total),
            weight=float(weight),
            gradients=dict(zip(named, arrays(list(found)), strict=True)) if found else dict.fromkeys(named),
            outputs=_numbers(outputs),
            predictions=predictions,
            measures=measured,
        )

    def differs_by_mode(self, built: Made) -> bool:
        return LAYERS.differs_by_mode(built[1])


DRIVER = Driver()


def _number(value: Any) -> Array:
    return np.asarray(torch.as_tensor(value).detach().double().numpy())


def _numbers(tree: Any) -> dict[str, Array]:
    """The tensors of a tree as arrays by path."""
    return {k: np.asarray(arrays(v.detach())) for k, v in leaves(tree).items() if isinstance(v, Tensor)}


def _double(array: Any) -> Any:
    return array.astype(np.float64) if isinstance(array, np.ndarray) and array.dtype == np.float32 else array
