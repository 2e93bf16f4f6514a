"""Targets: what a person names (a registered name, an import path, a distribution, a spec) as subjects with their kinds."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..core.errors import SpecError, UnknownName, nearest
from ..core.kinds import KINDS
from ..core.laws import Example, Subject, example_of
from ..core.parts import Part
from ..core.recipes import load_file, loaded_files
from ..core.registry import Entry, reference_of, registry
from ..core.spec import Spec, load_spec
from .wings import law_wings

UNCHECKED = ("law", "mesh")
"""Kinds that are not mappings of a run."""


def subjects(targets: Iterable[str], *, kind: str | None = None) -> list[Subject]:
    """Every subject that the targets name, each once. Raises UnknownName, SpecError."""
    found: dict[tuple[str, str], Subject] = {}
    for target in targets:
        for subject in _subjects(target, kind):
            found.setdefault((subject.kind, subject.label), subject)
    return list(found.values())


def _subjects(target: str, kind: str | None) -> Iterator[Subject]:
    if _is_spec(target):
        yield from of_spec(target)
    elif ":" in target:
        yield of_reference(target, kind)
    elif (entries := _named(target, kind)) or (entries := _distribution(target)):
        for entry in entries:
            yield of_entry(entry)
    else:
        names = [e.name for e in registry.entries()] + [e.key for e in registry.entries()]
        raise UnknownName(
            f"{target!r} is no registered name, import path (package.module:Thing), installed distribution or spec; "
            + nearest(target, names)
        )


def _is_spec(target: str) -> bool:
    path, _, _ = target.partition(":")
    return (Path(path).suffix in (".py", ".yaml", ".yml") and not _names_component(target)) or Path(target).is_dir()


def _names_component(target: str) -> bool:
    """Whether `file.py:Name` names a component rather than a function that returns a spec."""
    path, _, name = target.partition(":")
    if not name or Path(path).suffix != ".py":
        return False
    found = getattr(load_file(path), name, None)
    if inspect.isclass(found) or not callable(found):
        return found is not None
    return registry_kind(found) is not None or any(w.infer_kind(found) for w in law_wings())


def _named(target: str, kind: str | None) -> list[Entry]:
    family, slash, name = target.partition("/")
    if slash:
        return [e for e in registry.entries(family) if e.name == name] if family in KINDS else []
    if target in KINDS and kind is None:
        return [e for e in registry.entries(target) if e.kind not in UNCHECKED]
    hits = [e for e in registry.entries(kind) if e.name == target and e.kind not in UNCHECKED]
    if len({e.kind for e in hits}) > 1:
        raise UnknownName(f"{target!r} may be {' or '.join(e.key for e in hits)}: name one of them")
    return hits


def _distribution(target: str) -> list[Entry]:
    wanted = target.lower().replace("_", "-")
    try:
        metadata.distribution(target)
    except metadata.PackageNotFoundError:
        return []
    return [
        e
        for e in registry.entries()
        if e.kind not in UNCHECKED and e.point is not None and e.point.dist is not None
        and e.point.dist.name.lower().replace("_", "-") == wanted
    ]  # fmt: skip


def of_entry(entry: Entry) -> Subject:
    """The subject of a registered name."""
    target = registry.get(entry.kind, entry.name)
    return complete(Subject(kind=entry.kind, label=entry.key, reference=entry.key, target=target, example=_stated(target)))


def of_reference(reference: str, kind: str | None = None, args: Mapping[str, Any] | None = None) -> Subject:
    """The subject of `package.module:Thing` or `file.py:Thing`: a class, a factory or an instance."""
    where, _, name = reference.partition(":")
    if where.endswith(".py"):
        module: Any = load_file(where)
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise UnknownName(f"{reference!r}: no module named {error.name!r}") from None
    target = module
    for step in name.split("."):
        if not hasattr(target, step):
            public = [n for n in dir(target) if not n.startswith("_")]
            raise UnknownName(f"{reference!r}: {where} has no {step!r}; {nearest(step, public)}")
        target = getattr(target, step)
    return of_target(target, kind, reference=reference, args=args)


def of_target(
    target: Any, kind: str | None = None, *, reference: str | None = None, args: Mapping[str, Any] | None = None
) -> Subject:
    """The subject of an object at hand. Raises SpecError where its kind cannot be told."""
    found = kind or registry_kind(target) or next((k for w in law_wings() if (k := w.infer_kind(target))), None)
    label = reference or reference_of(target)
    if found is None:
        raise SpecError(f"{label}: its kind cannot be told; say one of {', '.join(k for k in KINDS if k not in UNCHECKED)}")
    registry.kind(found)
    stated = _stated(target)
    if args:
        stated = replace(stated, args={**stated.args, **args})
    instance = not inspect.isclass(target) and not inspect.isroutine(target) and not isinstance(target, Part)
    make = (lambda: copy.deepcopy(target)) if instance and found not in ("loss", "transform") else None
    return complete(Subject(kind=found, label=label, reference=label, target=target, example=stated, make=make))


def of_spec(argument: str) -> Iterator[Subject]:
    """Every part of a spec with the arguments it is given there, and the composed program."""
    spec: Spec = load_spec(argument)
    spec.load_imports()
    for path, kind, part in spec.parts():
        if not isinstance(part, Part):
            continue
        target = registry.get(kind, part.use) if isinstance(part.use, str) and ":" not in part.use else part.use
        if isinstance(target, str):
            subject = of_reference(target, kind, part.args)
        else:
            stated = _stated(target)
            example = replace(stated, args={**stated.args, **part.args})
            subject = complete(Subject(kind=kind, label=path, reference=f"{argument}#{path}", target=target, example=example))
        yield replace(subject, label=path, reference=f"{argument}#{path}")
    yield Subject(kind="program", label=spec.name, reference=f"{argument}#", target=spec, example=Example())


def find(reference: str, kind: str) -> Subject:
    """The subject that another process named by `reference`."""
    if "#" in reference:
        argument, _, path = reference.rpartition("#")
        for subject in of_spec(argument):
            if subject.reference == reference and subject.kind == kind:
                return subject
        raise UnknownName(f"{argument} has no part {path!r}")
    if ":" in reference:
        return of_reference(reference, kind)
    family, _, name = reference.partition("/")
    return next(of_entry(e) for e in registry.entries(family) if e.name == name)


def complete(subject: Subject) -> Subject:
    """The subject with what a wing finds of its example."""
    for wing in law_wings():
        subject = wing.complete(subject)
    return subject


def registry_kind(target: Any) -> str | None:
    """The kind under which a target is registered, or None."""
    for entry in registry.entries():
        if entry.target is target or entry.reference == reference_of(target):
            return entry.kind
    return None


def _stated(target: Any) -> Example:
    return example_of(target) or Example()


def recipe_files() -> list[str]:
    """Recipe files that workers must load to find what is registered in them."""
    return list(loaded_files().values())
