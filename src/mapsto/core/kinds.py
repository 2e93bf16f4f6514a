"""Kinds: classes of mappings that share a signature and laws.

A kind says which leading parameters are not the user's to state in a spec: `given` ones are supplied by whoever builds
the part (an optimizer is given its parameters), `applied` ones are the arguments of the mapping itself, so that a plain
function of that signature *is* the mapping and its other parameters are its options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import RegistryError, UnknownName, nearest


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A declared kind of mapping.

    name: singular, as written in `kind/name`; signature: for people; given, applied: see the module's text;
    methods: a class of this kind must define at least one of these names (empty: no demand); later: keyword arguments
    that whoever applies the mapping supplies, so that a spec does not state them; native: each wing has its own mappings of
    this kind, and what they are given is the wing's to say (`mapsto.core.wings`); the others serve all wings.
    """

    name: str
    signature: str
    summary: str
    given: tuple[str, ...] = ()
    applied: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    native: bool = False

    @property
    def plural(self) -> str:
        """`loss` -> `losses`: the name of a parameter that takes several."""
        return plural(self.name)

    def is_mapping(self, target: Any) -> bool:
        """Whether `target` is itself the mapping, with options to bind, rather than what makes one."""
        return bool(self.applied) and not self.given and not inspect.isclass(target)

    def supplied(self, target: Any) -> tuple[str, ...]:
        """The leading parameters of `target` that a spec does not state."""
        return self.applied if self.is_mapping(target) else self.given

    def reject(self, target: Any) -> str | None:
        """Why `target` cannot be of this kind, or None."""
        if not callable(target):
            return f"is a {type(target).__name__}, which cannot be called"
        if inspect.isclass(target) and self.methods and not any(_defines(target, m) for m in self.methods):
            return f"defines {'no method' if len(self.methods) == 1 else 'none of the methods'} {', '.join(self.methods)}"
        parameters = parameters_of(target)
        if parameters is None:
            return None
        need = self.supplied(target)
        takes = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if any(p.kind is p.VAR_POSITIONAL for p in parameters) or len(takes) >= len(need):
            return None
        return f"takes {len(takes)} positional argument(s) where a {self.name} is given {', '.join(need)}"


def parameters_of(target: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """The parameters of a call, or None where the callable does not tell (some are written in C)."""
    try:
        return list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return None


def _defines(cls: type, method: str) -> bool:
    """Whether the class or a base defines it; `hasattr` would find `__call__` on the metaclass of every class."""
    return any(method in vars(base) for base in cls.__mro__)


def plural(name: str) -> str:
    """The plural of a kind's name."""
    return name + ("es" if name.endswith(("s", "sh")) else "s")


_BUILT_IN = (
    Kind(name="source", signature="indices -> records", summary="data, addressed by record index, gathered a batch at a time"),
    Kind(name="order", signature="(seed, epoch, position) -> record index", summary="which record stands where in the stream"),
    Kind(
        name="transform",
        signature="batch -> batch",
        summary="augmentation, tokenising, padding",
        applied=("batch",),
        methods=("__call__",),
        later=("rng",),
    ),
    Kind(name="reader", signature="position -> batch", summary="source + order + transforms, cut into batches"),
    Kind(name="model", signature="x -> y", summary="the framework's own module, trained as a whole", native=True),
    Kind(name="layer", signature="x -> y", summary="the framework's own module, a part of a model", native=True),
    Kind(
        name="loss",
        signature="(prediction, target) -> (total, weight)",
        summary="a sum and its weight, never a mean",
        applied=("prediction", "target"),
        native=True,
    ),
    Kind(
        name="task",
        signature="(model, batch) -> (total, weight, outputs)",
        summary="the adaptation layer between data and model: loss, prediction, metrics",
        applied=("model", "batch"),
        methods=("__call__",),
        native=True,
    ),
    Kind(
        name="metric",
        signature="(prediction, target) -> statistics that add, then numbers",
        summary="what an evaluation measures, of any shape, exact however it is cut",
        applied=("prediction", "target"),
        methods=("count", "compute"),
    ),
    Kind(name="optimizer", signature="params -> optimizer", summary="the framework's own optimizer", native=True),
    Kind(name="schedule", signature="optimizer -> scheduler", summary="the framework's own scheduler", native=True),
    Kind(
        name="middleware",
        signature="mapping -> mapping of the same type",
        summary="wraps one or more of a program's four mappings",
        applied=("inner",),
        methods=("loss", "grad", "update", "step", "evaluation_weights", "setup", "begin"),
        native=True,
    ),
    Kind(
        name="observer",
        signature="event -> nothing (may ask to stop)",
        summary="watches a run and never changes its trajectory",
        applied=("event",),
        methods=("__call__",),
    ),
    Kind(
        name="surgery",
        signature="model -> model",
        summary="replaces, adds to or compresses parts of a model",
        applied=("model",),
        methods=("__call__",),
        native=True,
    ),
    Kind(
        name="mesh",
        signature="program -> program",
        summary="the one description of devices",
        methods=("setup", "grad", "program"),
        native=True,
    ),
    Kind(
        name="export",
        signature="model -> artefact",
        summary="a deployable artefact",
        applied=("model",),
        methods=("__call__",),
        native=True,
    ),
    Kind(name="op", signature="tensors -> tensors", summary="a custom operator of the framework", native=True),
    Kind(name="program", signature="spec -> program", summary="a whole spec, composed", native=True),
    Kind(
        name="training",
        signature="data -> weights",
        summary="anybody's whole trainer, behind one function",
        applied=("data",),
        methods=("__call__",),
        later=("seed", "batch_size", "steps"),
    ),
    Kind(name="law", signature="mapping -> verdict", summary="a statement that every mapping of a kind owes"),
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _BUILT_IN}
"""Every declared kind by name; a plugin adds its own through the entry point `kind/<name>` or `mapsto.add_kind(...)`."""

BUILT_IN = frozenset(KINDS)


def add_kind(kind: Kind) -> Kind:
    """Declare a new kind. Raises RegistryError where another kind already has the name."""
    if not isinstance(kind, Kind):
        raise RegistryError(f"a kind is declared by a mapsto.Kind, not by a {type(kind).__name__}")
    if KINDS.get(kind.name, kind) != kind:
        raise RegistryError(f"kind {kind.name!r} is already declared: {KINDS[kind.name].signature}")
    KINDS[kind.name] = kind
    return kind


def kind_of(name: str) -> Kind:
    """The declared kind of that name. Raises UnknownName with what exists."""
    if name not in KINDS:
        raise UnknownName(f"there is no kind {name!r}; {nearest(name, KINDS)}")
    return KINDS[name]
