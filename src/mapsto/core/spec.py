"""The spec: the whole of a run as a typed, frozen value, in Python or in YAML."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from .errors import SpecError, nearest
from .parts import PLAIN, Frozen, Part, _import, _validated, as_part, check, freeze
from .recipes import load_file, loaded_files
from .registry import reference_of, registry

SLOTS = {"model": "model", "task": "task", "optimizer": "optimizer", "schedule": "schedule"}
LISTS = {"middleware": "middleware", "observers": "observer"}


@dataclass(frozen=True, kw_only=True)
class CheckpointPlan:
    """When checkpoints are written and which are kept.

    every: steps between two (None: at the end of each epoch); keep: how many of the newest; best: how many of the best
    by `metric` besides (0: none); mode: whether less or more of the metric is better.
    """

    every: int | None = None
    keep: int | None = 3
    best: int = 1
    metric: str = "valid/loss"
    mode: Literal["min", "max"] = "min"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The whole of a run. Slots hold parts (`use("name", ...)`, a name, a class, a function) or live objects.

    model, task, optimizer, schedule: one part each; data: a reader each for `train`, `valid`, `test`, ...;
    middleware: outermost first; observers: besides the built-in ones; steps or epochs: how long (default one epoch);
    seed: of every random stream; device: `auto`, `cpu`, `cuda`, `cuda:1`, ...; log_every: steps between two records of
    metrics; evaluate_every: steps between two evaluations of `valid` (None: at the end of each epoch);
    wing: the framework; imports: recipe files whose mappings the names come from.
    """

    model: Any
    data: Mapping[str, Any]
    task: Any = "classification"
    optimizer: Any = "adamw"
    schedule: Any = None
    middleware: tuple[Any, ...] = ()
    observers: tuple[Any, ...] = ()
    checkpoint: CheckpointPlan = field(default_factory=CheckpointPlan)
    name: str = "run"
    steps: int | None = None
    epochs: int | None = None
    seed: int = 0
    device: str = "auto"
    log_every: int = 50
    evaluate_every: int | None = None
    wing: str = "torch"
    imports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        for slot in SLOTS:
            put(slot, as_part(getattr(self, slot)))
        for slot in LISTS:
            value = getattr(self, slot)
            if isinstance(value, (str, Part, Mapping)) or not isinstance(value, Iterable):
                raise SpecError(f"{slot}: a list is wanted, outermost first; write [{value!r}]")
            put(slot, tuple(as_part(v) for v in value))
        if not isinstance(self.data, Mapping) or isinstance(freeze(self.data), Part):
            raise SpecError("data: a mapping of readers is wanted, such as {train: {source: ..., batch_size: 64}}")
        put("data", Frozen({k: as_part(v, default="batches") for k, v in self.data.items()}))
        if isinstance(self.checkpoint, Mapping):
            put("checkpoint", _typed(CheckpointPlan, self.checkpoint, "checkpoint"))
        if isinstance(self.imports, str):
            raise SpecError(f"imports: a list of files is wanted; write [{self.imports}]")
        put("imports", tuple(str(p) for p in self.imports))
        for name in ("name", "steps", "epochs", "seed", "device", "log_every", "evaluate_every", "wing"):
            put(name, _validated(getattr(self, name), _fields(type(self))[name], name))
        if self.steps is not None and self.epochs is not None:
            raise SpecError("steps, epochs: say one of them, not both")
        for name in ("steps", "epochs", "log_every", "evaluate_every"):
            if (value := getattr(self, name)) is not None and value < (0 if name in ("steps", "epochs") else 1):
                raise SpecError(f"{name}: {value} is too small")

    # -- checking ----------------------------------------------------------------------------------------------------
    def check(self) -> Spec:
        """Check every part against its target's signature without building it; imports the recipes.

        Raises SpecError naming the path, what is allowed and the nearest right name.
        """
        self.load_imports()
        for path, kind, part in self.parts():
            if isinstance(part, Part):
                check(part, kind, path, offers=("total_steps", "seed"))
        return self

    def parts(self) -> Iterable[tuple[str, str, Any]]:
        """(path, kind, part) of every slot that is filled."""
        for slot, kind in SLOTS.items():
            if getattr(self, slot) is not None:
                yield slot, kind, getattr(self, slot)
        for name, reader in self.data.items():
            yield f"data.{name}", "reader", reader
        for slot, kind in LISTS.items():
            for i, part in enumerate(getattr(self, slot)):
                yield f"{slot}.{part.name if isinstance(part, Part) else i}", kind, part

    def load_imports(self) -> None:
        for path in self.imports:
            load_file(path)

    # -- plain data --------------------------------------------------------------------------------------------------
    def to_data(self, *, live: bool = False) -> dict[str, Any]:
        """Plain data (str, numbers, lists, dicts). `live` describes what cannot be written, else it is an error."""
        data: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            if f.name in SLOTS:
                default = as_part(default)
            if value == default and f.name not in ("model", "data", "task", "optimizer", "seed"):
                continue
            if f.name == "checkpoint":
                data[f.name] = dataclasses.asdict(value)
            else:
                kind = SLOTS.get(f.name) or LISTS.get(f.name) or ("reader" if f.name == "data" else None)
                data[f.name] = _plain(value, f.name, kind, live)
        return data

    def to_yaml(self, *, live: bool = False) -> str:
        """The spec in YAML; `Spec.from_yaml` of it is the same spec. Raises SpecError where a slot holds a live object."""
        return yaml.safe_dump(self.to_data(live=live), sort_keys=False, allow_unicode=True, width=110)

    @classmethod
    def from_data(cls, data: Mapping[str, Any], *, base: Path | None = None) -> Spec:
        """A spec from plain data. base: what relative paths in `imports` are relative to."""
        if not isinstance(data, Mapping):
            raise SpecError(f"a spec is a mapping, not a {type(data).__name__}")
        if base is not None and isinstance(data.get("imports"), (list, tuple)):
            data = {**data, "imports": [str((base / p).resolve()) for p in data["imports"]]}
        for path, text in _live(data):
            raise SpecError(
                f"{path}: this spec was written with a live object ({text}), which a file cannot hold; "
                "start from the Python code that made it, or name it: use('module:factory', ...)"
            )
        return _typed(cls, data, "")

    @classmethod
    def from_yaml(cls, text: str, *, base: Path | None = None) -> Spec:
        """A spec from YAML. Raises SpecError with line and column where it cannot be parsed."""
        return cls.from_data(read_yaml(text) or {}, base=base)

    def identity(self) -> dict[str, Any]:
        """What decides the trajectory, as plain data: a checkpoint goes on only where this is the same."""
        data = self.to_data(live=True)
        keys = ("model", "data", "task", "optimizer", "schedule", "middleware", "seed", "wing")
        return {key: data.get(key) for key in keys}

    # -- overrides ---------------------------------------------------------------------------------------------------
    def override(self, *changes: str) -> Spec:
        """A changed copy: `optimizer.lr=1e-3`, `middleware.clip_norm.max_norm=2`, `middleware+=ema`, `epochs=3`.

        A step of a path is a key, an index or, in a list, a part's name; values are YAML. Raises SpecError.
        """
        data: dict[str, Any] = {
            f.name: _open(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "checkpoint"
        }
        data["checkpoint"] = dataclasses.asdict(self.checkpoint)
        for change in changes:
            path, sign, text = change.partition("=")
            if not sign or not path:
                raise SpecError(f"{change!r} is not an override: write path=value, such as optimizer.lr=1e-3")
            append, path = path.endswith("+"), path.removesuffix("+").strip()
            _assign(data, path.split("."), read_yaml(text), path, append)
            if path in ("steps", "epochs"):
                data["epochs" if path == "steps" else "steps"] = None
        return type(self).from_data(data)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as text; people mean a number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def read_yaml(text: str) -> Any:
    """Plain data from YAML. Raises SpecError with line and column."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        raise SpecError(f"this is not YAML: {error}") from None


def _fields(cls: type) -> dict[str, Any]:
    import typing

    return typing.get_type_hints(cls)


def _typed(cls: Any, data: Mapping[str, Any], path: str) -> Any:
    """A frozen dataclass from plain data, each error with its path."""
    names = [f.name for f in dataclasses.fields(cls)]
    dot = f"{path}." if path else ""
    for key in data:
        if key not in names:
            raise SpecError(f"{dot}{key}: unknown key; {nearest(str(key), names)}")
    required = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in data
    ]
    if required:
        raise SpecError(f"{dot}{required[0]}: missing; a {cls.__name__} needs {', '.join(required)}")
    if cls is Spec:
        return cls(**data)
    hints = _fields(cls)
    return cls(**{k: _validated(v, hints[k], f"{dot}{k}") for k, v in data.items()})


def _plain(value: Any, path: str, kind: str | None, live: bool) -> Any:
    if isinstance(value, Part):
        args = {k: _plain(v, f"{path}.{k}", None, live) for k, v in value.args.items()}
        name = value.use if isinstance(value.use, str) else _refer(value.use, path, kind, live)
        return {"use": name, **args} if isinstance(name, str) else name
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{path}.{k}", kind, live) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v, f"{path}.{i}", kind, live) for i, v in enumerate(value)]
    if type(value) in PLAIN:
        return value
    if isinstance(value, Path):
        return str(value)
    if inspect.isclass(value) or inspect.isroutine(value):
        name = _refer(value, path, kind, live)
        return {"use": name} if isinstance(name, str) else name
    return _describe(value, path, live)


def _refer(target: Callable[..., Any], path: str, kind: str | None, live: bool) -> Any:
    """A callable by its registered name or `module:qualname`, where another process can find it."""
    if kind is not None and (name := registry.name_of(kind, target)):
        return name
    reference = reference_of(target)
    module = reference.partition(":")[0]
    if module in loaded_files() or (module != "__main__" and "<" not in reference and _reachable(reference, target)):
        return reference
    return _describe(target, path, live)


def _reachable(reference: str, target: Any) -> bool:
    try:
        return _import(reference) is target
    except (ImportError, LookupError):
        return False


def _describe(value: Any, path: str, live: bool) -> dict[str, str]:
    text = " ".join(repr(value).split())
    if live:
        return {"live": re.sub(r" at 0x[0-9a-f]+", "", text)[:2000]}
    raise SpecError(
        f"{path}: a live object ({text[:60]}...) cannot be written to a file; name what makes it: "
        "use('registered-name', ...) or use('package.module:factory', ...)"
    )


def _live(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        if set(value) == {"live"}:
            yield path, str(value["live"])[:60]
        for k, v in value.items():
            yield from _live(v, f"{path}.{k}" if path else str(k))
    elif isinstance(value, (list, tuple)):
        for i, v in enumerate(value):
            yield from _live(v, f"{path}.{i}")


def _open(value: Any) -> Any:
    """Spec values as plain containers that an override can reach into; leaves stay what they are."""
    if isinstance(value, Part):
        return {"use": value.use, **{k: _open(v) for k, v in value.args.items()}}
    if isinstance(value, Mapping):
        return {k: _open(v) for k, v in value.items()}
    return [_open(v) for v in value] if type(value) in (tuple, list) else value


def _assign(data: Any, steps: list[str], value: Any, path: str, append: bool) -> None:
    parent, key = data, steps[0]
    for i, step in enumerate(steps):
        key = _find(parent, step, ".".join(steps[: i + 1]))
        if i < len(steps) - 1:
            if isinstance(parent, dict) and parent.get(key) is None:
                raise SpecError(f"{path}: {'.'.join(steps[: i + 1])!r} is not set; {nearest(step, _keys(parent))}")
            parent = parent[key]
            if isinstance(parent, str):
                parent = data_part(data, steps[: i + 1], parent)
    if append:
        if not isinstance(parent, dict) or not isinstance(parent.get(key), list):
            raise SpecError(f"{path}+=: {path!r} is not a list")
        parent[key].append(value)
    elif len(steps) == 1 and isinstance(parent.get(key), dict) and isinstance(value, str) and key in SLOTS:
        parent[key] = {"use": value}
    else:
        parent[key] = value


def data_part(data: Any, steps: list[str], name: str) -> dict[str, Any]:
    """A part that was given by its bare name, opened so that an argument can be set."""
    parent = data
    for i, step in enumerate(steps[:-1]):
        parent = parent[_find(parent, step, ".".join(steps[: i + 1]))]
    opened = {"use": name}
    parent[_find(parent, steps[-1], ".".join(steps))] = opened
    return opened


def _find(parent: Any, step: str, path: str) -> Any:
    if isinstance(parent, list):
        names = [str(p["use"] if isinstance(p["use"], str) else p["use"].__name__) if isinstance(p, dict) and "use" in p else p for p in parent]
        if step in names:
            return names.index(step)
        if step.isdigit() and int(step) < len(parent):
            return int(step)
        raise SpecError(f"{path}: no {step!r} in this list; {nearest(step, [str(n) for n in names])}")
    if not isinstance(parent, dict):
        raise SpecError(f"{path}: its parent is a {type(parent).__name__}, which has no parts")
    return step


def _keys(parent: Any) -> list[str]:
    return [k for k, v in parent.items() if v is not None and k != "use"]


# -- finding a spec ------------------------------------------------------------------------------------------------------
def load_spec(argument: str) -> Spec:
    """A spec from what the command line names.

    `file.py` or `file.py:function` (default `spec`), `package.module:function`, `file.yaml`, or a run folder.
    Raises SpecError with what exists.
    """
    path_text, _, function = argument.rpartition(":") if ":" in argument else (argument, "", "")
    path = Path(path_text)
    if path.suffix == ".py":
        return _called(load_file(path), function or "spec", str(path))
    if Path(argument).suffix in (".yaml", ".yml"):
        return _from_file(Path(argument))
    if Path(argument).is_dir():
        return _from_file(Path(argument) / "spec.yaml")
    if function:
        try:
            return _called(importlib.import_module(path_text), function, path_text)
        except ModuleNotFoundError as error:
            raise SpecError(f"{argument}: no module named {error.name!r}") from None
    raise SpecError(
        f"{argument!r} is not a spec: name a recipe (file.py or file.py:function), package.module:function, "
        "a YAML file, or a run folder"
    )


def _from_file(path: Path) -> Spec:
    if not path.is_file():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise SpecError(f"there is no spec file {path}; {nearest(path.name, there)}")
    try:
        return Spec.from_yaml(path.read_text(encoding="utf-8"), base=path.parent)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def _called(module: Any, name: str, where: str) -> Spec:
    function = getattr(module, name, None)
    if not callable(function):
        own = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        raise SpecError(f"{where} has no function {name!r} that returns a spec; {nearest(name, own)}")
    spec = function()
    if not isinstance(spec, Spec):
        raise SpecError(f"{where}:{name} returned a {type(spec).__name__}, and a mapsto.Spec is wanted")
    files = [f for f in loaded_files().values() if f not in spec.imports]
    return dataclasses.replace(spec, imports=(*spec.imports, *files))


def digest(data: Any) -> str:
    """A short hash of plain data."""
    import hashlib

    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:16]
