"""The spec: the whole of a run as a typed, frozen value, in Python or in YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import SpecError, UnknownName
from .initial import initial
from .overrides import overridden
from .parts import INJECTED, check
from .plain import digest, live_objects, plain
from .plan import TURNS, Placed, implied_mesh, plan, refuse_beside_turns, suits
from .recipes import Kept, load_file
from .registry import registry
from .shown import OBEYED
from .turns import frozen, turns_of
from .turns import parts as turn_parts
from .typed import from_mapping, put, shortened, validate
from .values import Frozen, Part, freeze, key_of, listed, slot
from .wings import DEFAULT, Framework
from .yaml_text import read_yaml, write_yaml

__all__ = ["LISTS", "SLOTS", "CheckpointPlan", "Spec", "digest", "read_yaml"]

SLOTS = {"model": "model", "task": "task", "optimizer": "optimizer", "schedule": "schedule", "mesh": "mesh"}
LISTS = {"middleware": "middleware", "observers": "observer"}


class _WingsOwn:
    """Stands in a slot for the name that the spec's wing puts there."""

    def __repr__(self) -> str:
        return "the wing's own"


WINGS_OWN: Any = _WingsOwn()


@dataclass(frozen=True, kw_only=True)
class CheckpointPlan:
    """When checkpoints are written and which are kept.

    every: steps between two (None: at the end of each epoch); keep: how many of the newest (None: all); best: how many of
    the best by `metric` besides (0: none); mode: whether less or more of the metric is better; asynchronous: the state is
    copied, and the run goes on while the copy is written.
    """

    every: int | None = None
    keep: int | None = 3
    best: int = 1
    metric: str = "valid/loss"
    mode: Literal["min", "max"] = "min"
    asynchronous: bool = False

    def __post_init__(self) -> None:
        least = {"every": 1, "keep": 1, "best": 0}
        validate(self, [f.name for f in dataclasses.fields(self)], least=least, prefix="checkpoint.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Spec:
    """The whole of a run. Slots hold parts (`use("name", ...)`, a name, a class, a function) or live objects.

    model, task, optimizer, schedule: one part each (task and optimizer: by default those that the wing names, which are
    `classification` and `adamw`); data: a reader each for `train`, for what is evaluated while it trains
    (`valid`, and any other name: `valid_hard` gives the metric `valid_hard/accuracy`) and for `test`, `test_...`;
    middleware: outermost first; observers: besides the built-in ones; steps or epochs: how long (default one epoch);
    mesh: the devices, such as {replicate: 2, shard: 4} or {servers: 2, workers: 4} (None: data parallel over the ranks
    that were started); micro_shards: numbered parts of each global batch, which ranks take (None: one a data rank);
    strict: the weights are bitwise the same on any number of ranks; seed: of every random stream; device: `auto`, `cpu`,
    `cuda`, `cuda:1`, ...; log_every: steps between two records of metrics; evaluate_every: steps between two evaluations
    of the validation sets (None: at the end of each epoch);
    wing: the framework; imports: recipe files whose mappings the names come from; init_from: a run or a file whose weights
    are taken where they fit, {path: runs/base, checkpoint: best, only: [encoder.*], except: [encoder.head]};
    turns: the updates that a step is made of, where they are several, by name in order, such as {generator: {parameters:
    [generator], task: ..., optimizer: ...}, critic: ...} (see `core.turns.Turn`): task, optimizer and schedule of the spec are
    then those of turns that say none, and its task is what evaluates and predicts.

    Specs of equal parts are equal; a live object is equal to itself only.
    """

    model: Any
    data: Mapping[str, Any]
    task: Any = WINGS_OWN
    optimizer: Any = WINGS_OWN
    schedule: Any = None
    middleware: tuple[Any, ...] = ()
    observers: tuple[Any, ...] = ()
    mesh: Any = None
    micro_shards: int | None = None
    strict: bool = False
    checkpoint: CheckpointPlan = field(default_factory=CheckpointPlan)
    name: str = "run"
    steps: int | None = None
    epochs: int | None = None
    seed: int = 0
    device: str = "auto"
    log_every: int = 50
    evaluate_every: int | None = None
    wing: str = DEFAULT
    imports: tuple[str, ...] = ()
    init_from: Any = None
    turns: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        put(self, "turns", frozen(self.turns))
        for name in SLOTS:
            if getattr(self, name) is WINGS_OWN:  # what a program of turns is evaluated by, only its author can say
                stated = self.turns is not None and (name == "task" or all(name in turn for turn in self.turns.values()))
                put(self, name, None if stated else _usual(self.wing, name))
            put(self, name, slot(getattr(self, name), name, default=_mesh(self.mesh) if name == "mesh" else None))
        for name in LISTS:
            parts = list(listed(getattr(self, name), name, "outermost first" if name == "middleware" else "one an item"))
            if nothing := [i for i, v in enumerate(parts) if v is None]:
                raise SpecError(f"{name}.{nothing[0]}: null, and a part is wanted")
            put(self, name, tuple(slot(v, f"{name}.{i}") for i, v in enumerate(parts)))
        if not isinstance(self.data, Mapping) or isinstance(freeze(self.data), Part):
            raise SpecError("data: a mapping of readers is wanted, such as {train: {source: ..., batch_size: 64}}")
        if odd := [name for name in self.data if not isinstance(name, str) or not name]:
            raise SpecError(f"data: {shortened(odd[0])} names no data set: a text such as train is wanted")
        put(self, "data", Frozen({k: slot(v, f"data.{k}", default="batches") for k, v in self.data.items()}))
        if isinstance(self.checkpoint, Mapping):
            put(self, "checkpoint", from_mapping(CheckpointPlan, self.checkpoint, "checkpoint."))
        if not isinstance(self.checkpoint, CheckpointPlan):
            raise SpecError(f"checkpoint: {shortened(self.checkpoint)} is not a mapping, such as {{every: 100, keep: 3}}")
        put(self, "init_from", initial(self.init_from))
        put(self, "imports", tuple(str(path) for path in listed(self.imports, "imports", "recipe files")))
        least = {"steps": 1, "epochs": 1, "seed": 0, "log_every": 1, "evaluate_every": 1, "micro_shards": 1}
        names = ["name", "steps", "epochs", "seed", "device", "log_every", "evaluate_every", "wing", "micro_shards", "strict"]
        validate(self, names, least=least)
        if reason := _unfit(self.name):
            raise SpecError(f"name: {shortened(self.name, 60)} {reason}; a run is kept in runs/NAME-TIME")
        if self.strict and self.micro_shards is None:
            raise SpecError("strict: say micro_shards too (such as 8), since they decide the order of summation, not the ranks")
        if self.steps is not None and self.epochs is not None:
            raise SpecError("steps, epochs: say one of them, not both")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> Any:
        return tuple(key_of(getattr(self, f.name)) for f in dataclasses.fields(self))

    # -- checking ----------------------------------------------------------------------------------------------------
    def check(self) -> Spec:
        """Check every part against its target's signature and the order of the middleware; imports, but builds nothing.

        Raises SpecError naming the path, what is allowed and the nearest right name, and ComposeError where the
        middlewares cannot be put in one order.
        """
        self.load_imports()
        try:
            registry.wing(self.wing)
        except UnknownName as error:
            raise SpecError(f"wing: {error}") from None
        if self.model is None:
            raise SpecError("model: null, and a part is wanted")
        if "train" not in self.data:
            raise SpecError(
                f"data.train: missing, and it is what a run trains on; there is {', '.join(self.data) or 'no data set'}"
            )
        if empty := [name for name, reader in self.data.items() if reader is None]:
            raise SpecError(f"data.{empty[0]}: null, and a reader is wanted")
        for path, kind, part in self.parts():
            if isinstance(part, Part):
                check(part, kind, path, injected=INJECTED, wing=self.wing)
        suits(self.mesh, self.plan(), self.wing)
        if self.turns is not None:
            self._check_turns()
        return self

    def _check_turns(self) -> None:
        if self.task is None and self.validation_sets:
            raise SpecError("task: null; data are to be evaluated, and beside turns it is the task that evaluates and predicts")
        mesh = implied_mesh(self.mesh, self.micro_shards, self.strict)
        for name, turn in turns_of(self.turns, task=self.task).items():
            if turn.task is None:
                raise SpecError(f"turns.{name}.task: missing, and the spec has none either")
            suits(self.mesh, [*plan(turn.middleware, mesh, self.wing, f"turns.{name}.middleware"), TURNS], self.wing)
        refuse_beside_turns(self.plan())

    def plan(self) -> list[Placed]:
        """The middlewares in the order in which they are built, the mesh among them. Raises SpecError, ComposeError."""
        return plan(self.middleware, implied_mesh(self.mesh, self.micro_shards, self.strict), self.wing)

    def parts(self) -> Iterator[tuple[str, str, Any]]:
        """(path, kind, part) of every slot that is filled."""
        for name, kind in SLOTS.items():
            if getattr(self, name) is not None:
                yield name, kind, getattr(self, name)
        yield from turn_parts(self.turns)
        for name, reader in self.data.items():
            yield f"data.{name}", "reader", reader
        for name, kind in LISTS.items():
            for i, part in enumerate(getattr(self, name)):
                yield f"{name}.{part.name if isinstance(part, Part) else i}", kind, part

    @property
    def validation_sets(self) -> tuple[str, ...]:
        """The data sets that are evaluated while a run trains: all but `train` and those whose name begins with `test`."""
        return tuple(name for name in self.data if name != "train" and not name.startswith("test"))

    def load_imports(self, kept: Kept | None = None) -> None:
        """Import the recipe files, which registers what they declare. kept: what is to be read in the place of files."""
        for path in self.imports:
            load_file(path, kept=kept)

    # -- plain data --------------------------------------------------------------------------------------------------
    def to_data(self, *, live: bool = False) -> dict[str, Any]:
        """Plain data (str, numbers, lists, dicts). `live` describes what cannot be written, else it is an error."""
        data: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            if value == default and f.name != "seed":
                continue
            if f.name == "checkpoint":
                data[f.name] = dataclasses.asdict(value)
            else:
                kind = SLOTS.get(f.name) or LISTS.get(f.name) or ("reader" if f.name == "data" else None)
                data[f.name] = plain(value, f.name, kind, live)
        return data

    def to_yaml(self, *, live: bool = False) -> str:
        """The spec in YAML; `Spec.from_yaml` of it builds the same. Raises SpecError where a slot holds a live object.

        A class or function is written by the name under which it can be found, so what is read back is equal where the
        parts were named, and in any case has the same `to_data`.
        """
        return write_yaml(self.to_data(live=live))

    @classmethod
    def from_data(cls, data: Mapping[str, Any], *, base: Path | None = None) -> Spec:
        """A spec from plain data. base: what relative paths in `imports` are relative to."""
        if not isinstance(data, Mapping):
            raise SpecError(f"a spec is a mapping, not a {type(data).__name__}")
        for path, text in live_objects(data):
            raise SpecError(
                f"{path}: this spec was written with a live object ({text}), which a file cannot hold; "
                "start from the Python code that made it, or name it: use('module:factory', ...)"
            )
        spec: Spec = from_mapping(cls, data, "")
        if base is not None:
            spec = dataclasses.replace(spec, imports=tuple(str((base / path).resolve()) for path in spec.imports))
        return spec

    @classmethod
    def from_yaml(cls, text: str, *, base: Path | None = None) -> Spec:
        """A spec from YAML. Raises SpecError with line and column where it cannot be parsed."""
        data = read_yaml(text)
        return cls.from_data({} if data is None else data, base=base)

    def identity(self) -> dict[str, Any]:
        """What decides the trajectory, as plain data: a checkpoint goes on only where this is the same."""
        data = self.to_data(live=True)
        keys = ("model", "data", "task", "optimizer", "schedule", "middleware", "seed", "wing")
        more = (
            "micro_shards",
            "strict",
            "init_from",
            "turns",
        )  # only where they are said, so that checkpoints of before they were still fit
        return {key: data.get(key) for key in keys} | {key: data[key] for key in more if key in data}

    # -- overrides ---------------------------------------------------------------------------------------------------
    def override(self, *changes: str) -> Spec:
        """A changed copy: `optimizer.lr=1e-3`, `middleware.clip_norm.max_norm=2`, `middleware+=ema`, `schedule=null`.

        A step of a path is a key, an index or, in a list, a part's name (null removes it there); values are YAML. Saying
        `steps` unsays `epochs` and the other way round. Raises SpecError naming the path and what is allowed.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["checkpoint"] = Frozen(dataclasses.asdict(self.checkpoint))
        said = {change.partition("=")[0].strip() for change in changes}
        if self.mesh is None and any(path.startswith("mesh.") for path in said):
            values["mesh"] = Frozen()  # its axes can be said one by one
        for one, other in (("steps", "epochs"), ("epochs", "steps")):
            if one in said:
                values[other] = None
        return from_mapping(type(self), overridden(Frozen(values), changes), "")  # type: ignore[no-any-return]


def _usual(wing: Any, slot: str) -> str | None:
    """The name that stands in a slot where none is said; None of a wing that is not there, which `check` tells."""
    known = registry.wing(wing) if wing in registry.wings() else Framework(name="")
    return known.defaults.get(slot)


LONGEST_NAME = 100
"""Bytes in the name of a run: a folder's name has room for the time, a number and the marks of a temporary one besides."""


def _unfit(name: str) -> str:
    """Why a text cannot be the name of a run, that is of a folder; nothing where it can."""
    if not name.strip():
        return "is empty"
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} bytes"
    if any(sign in name for sign in "/\\") or name.startswith("."):
        return "would lead to another folder"
    return "holds control characters" if OBEYED.search(name) or set("\t\n") & set(name) else ""


def _mesh(value: Any) -> str:
    """The part that a mapping of axes is short for."""
    return "servers" if isinstance(value, Mapping) and "servers" in value else "ranks"
