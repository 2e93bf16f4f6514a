"""Parts: a mapping by name with its arguments, checked against its own signature and built.

`use("adamw", lr=3e-4)` in Python is `{use: adamw, lr: 3e-4}` in YAML. What a part may be given is what its target's
signature says, so nothing is described twice; every error names the path, what is allowed and the nearest right name.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import traceback
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Any

from .errors import MapstoError, MissingExtra, MissingFile, RegistryError, SpecError, UnknownName, nearest, placed
from .kinds import Kind, parameters_of
from .ranges import CONVENTIONS
from .recipes import loaded_as
from .registry import reference_of, registry
from .trust import REFERENCE, must_be_registered
from .typed import EMPTY, format_type, hints_of, holds_nan, kind_of_hint, takes_class, takes_text, validated
from .values import Frozen, Part, Reference, as_part, contains, freeze, thaw, use
from .wings import DEFAULT

__all__ = [
    "INJECTED", "Checked", "Frozen", "Part", "as_part", "build", "check", "freeze", "imported", "resolve", "stated", "use",
]  # fmt: skip

INJECTED = ("seed", "steps_per_epoch", "total_steps")
"""Parameters of these names have a value injected by the engine wherever a spec leaves them open."""


# -- finding -----------------------------------------------------------------------------------------------------------
def resolve(part: Part, kind: Kind | str | None, path: str, wing: str = DEFAULT) -> tuple[Any, Kind | None]:
    """The target of a part and its kind, as the wing supplies it; a name is one of the wing's, or neutral.

    Raises SpecError with the path where the name or reference is unknown, RegistryError where a plugin cannot be
    imported or two claim the name, MissingExtra where it needs what is not installed.
    """
    found = registry.kind(kind, wing) if isinstance(kind, str) else registry.supplied(kind, wing) if kind is not None else None
    if not isinstance(part.use, str):
        return part.use, found
    try:
        if ":" in part.use:
            must_be_registered(part.use)
            return imported(part.use), found
        family, slash, name = part.use.partition("/")
        if slash:
            if found is not None and family != found.name:
                raise UnknownName(f"{part.use!r} is a {family}, and a {found.name} is wanted here")
            return registry.get(family, name, wing), registry.kind(family, wing)
        if found is None:
            known = ", ".join(registry.kinds())
            raise UnknownName(f"{part.use!r} does not say its kind here: write 'kind/{part.use}', a kind being one of {known}")
        return registry.get(found.name, part.use, wing), found
    except (UnknownName, SpecError) as error:
        raise SpecError(f"{path}: {error}") from None
    except (RegistryError, MissingExtra) as error:
        raise type(error)(f"{path}: {error}") from error


def imported(reference: str) -> Any:
    """What `module:attribute` names. Raises UnknownName saying which of the two does not exist."""
    if not REFERENCE.fullmatch(reference):
        raise UnknownName(f"{reference!r} is not of the form package.module:attribute")
    module, _, attribute = reference.partition(":")
    try:
        found: Any = loaded_as(module) or importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UnknownName(f"{reference!r}: no module named {error.name!r}") from None
    for step in attribute.split("."):
        if not hasattr(found, step):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise UnknownName(f"{reference!r}: {module} has no {step!r}; {nearest(step, public)}")
        found = getattr(found, step)
    return found


# -- checking ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Stated:
    """The parameters that a spec states for a target: its signature without what is given or applied.

    named: those that can be named; open_ended: whether any other name is taken too (also where a callable does not tell
    its signature); unnamed: required ones that are positional only, so that no spec can state them.
    """

    named: dict[str, Parameter]
    open_ended: bool
    unnamed: tuple[str, ...] = ()


def stated(target: Callable[..., Any], kind: Kind | None) -> Stated:
    """What a spec states for `target` as a mapping of `kind`."""
    found = parameters_of(target)
    if found is None:
        return Stated({}, open_ended=True)
    supplied = len(kind.supplied(target)) if kind is not None else 0
    positional = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    later = kind.later if kind is not None and not inspect.isclass(target) else ()
    own = [p for p in found if p not in positional[:supplied] and p.name not in later]
    return Stated(
        named={p.name: p for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)},
        open_ended=any(p.kind is p.VAR_KEYWORD for p in own),
        unnamed=tuple(p.name for p in own if p.kind is p.POSITIONAL_ONLY and p.default is EMPTY),
    )


def check(part: Part, kind: Kind | str | None, path: str, injected: Collection[str] = (), wing: str = DEFAULT) -> Checked:
    """Check a part's arguments against its target's signature, nested parts included.

    injected: names of parameters that may stay open, since whoever builds the part fills them; wing: whose names it may use.
    Raises SpecError naming the path, what is allowed and the nearest right name.
    """
    target, found = resolve(part, kind, path, wing)
    if not callable(target):
        raise SpecError(f"{path}: {part.use!r} is a {type(target).__name__}, which cannot be called")
    if found is not None and (reason := found.reject(target)):
        raise SpecError(f"{path}: {label(target)} {reason}; a {found.name} maps {found.signature}")
    known, hints = stated(target, found), hints_of(target)
    args: dict[str, Any] = {}
    for name, value in part.args.items():
        where = f"{path}.{name}"
        if name not in known.named and not known.open_ended:
            raise SpecError(f"{where}: {label(target)} has no argument {name!r}; {nearest(str(name), known.named)}")
        hint = hints.get(name, EMPTY)
        usual = known.named[name].default if name in known.named else EMPTY
        args[name] = value if holds_nan(value) and holds_nan(usual) else _argument(value, name, hint, where, injected, wing)
        if found is not None and typing.get_origin(hint) is not typing.Annotated:
            _conventional(value, args[name], CONVENTIONS.get(found.name, {}).get(name), where)
    if known.unnamed:
        raise SpecError(
            f"{path}: {label(target)} takes {', '.join(known.unnamed)} by position only, which a spec cannot state; "
            "wrap it in a function of named arguments"
        )
    missing = [n for n, p in known.named.items() if p.default is EMPTY and n not in args and n not in injected]
    if missing:
        raise SpecError(
            f"{path}: {label(target)} needs {', '.join(f'{n}: {format_type(hints.get(n, EMPTY))}' for n in missing)}"
        )
    return Checked(target, found, args, path)


def _argument(value: Any, name: str, hint: Any, path: str, injected: Collection[str], wing: str) -> Any:
    """One argument, with the parts in it checked and everything else fitted to its hint."""
    kind = kind_of_hint(hint) or (None if takes_text(hint) else registry.kind_of_parameter(name))
    value = _dereferenced(value, path)
    if kind is not None and not isinstance(value, Frozen) and not (inspect.isclass(value) and takes_class(hint)):
        value = as_part(value)
    if isinstance(value, Part):
        return check(value, kind, path, injected, wing)
    if hint in (EMPTY, Any) or kind_of_hint(hint) is not None:  # it says nothing of numbers
        if kind is not None and type(value) in (int, float, bool):
            raise SpecError(f"{path}: {value!r} is a {type(value).__name__}, and a {kind.name} is wanted")
        if type(value) is float and holds_nan(value):
            raise SpecError(f"{path}: {value!r} is not a number")
    if contains(value, Part) or (kind is not None and contains(value, str)):
        return _inside(value, kind, path, injected, wing)
    return validated(thaw(value), hint, path)


def _conventional(value: Any, fitted: Any, hint: Any, path: str) -> None:
    """Raise SpecError where a number, or one of several, is none that an option of that name can be.

    fitted: the value as its own hint wants it, by which a text that stands for a number is known as one.
    """
    several = type(value) is tuple and type(fitted) in (tuple, list)
    for given, number in zip(value, fitted, strict=True) if several else ((value, fitted),):
        if hint is not None and type(number) in (int, float):
            validated(given, hint, path)


def _dereferenced(value: Any, path: str) -> Any:
    """The value with each reference replaced by what it names."""
    if isinstance(value, Reference):
        try:
            must_be_registered(value.reference)
            return imported(value.reference)
        except (UnknownName, SpecError) as error:
            raise SpecError(f"{path}: {error}") from None
    if type(value) is tuple:
        return tuple(_dereferenced(v, f"{path}.{i}") for i, v in enumerate(value))
    return Frozen({k: _dereferenced(v, f"{path}.{k}") for k, v in value.items()}) if isinstance(value, Frozen) else value


def _inside(value: Any, kind: Kind | None, path: str, injected: Collection[str], wing: str) -> Any:
    """The items of a container that holds parts: those of a kind may be written by name."""
    if type(value) is tuple:
        return [_item(v, kind, f"{path}.{i}", injected, wing) for i, v in enumerate(value)]
    return {k: _item(v, registry.kind_of_parameter(str(k)) or kind, f"{path}.{k}", injected, wing) for k, v in value.items()}


def _item(value: Any, kind: Kind | None, path: str, injected: Collection[str], wing: str) -> Any:
    if type(value) is tuple:
        return _inside(value, kind, path, injected, wing)
    if isinstance(value, Frozen):  # such as {source: ..., weight: 2}: only its keys tell a kind
        return {k: _argument(v, str(k), EMPTY, f"{path}.{k}", injected, wing) for k, v in value.items()}
    part = as_part(value) if kind is not None else value
    return check(part, kind, path, injected, wing) if isinstance(part, Part) else value


# -- building ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Checked:
    """A part whose arguments fit its target: nested parts are `Checked` themselves."""

    target: Any
    kind: Kind | None
    args: dict[str, Any]
    path: str

    def build(self, *given: Any, injected: Mapping[str, Any] | None = None) -> Any:
        """Build it: call the target, or bind the options of a function that is the mapping itself.

        given: what the kind supplies; injected: values for parameters of those names that the spec leaves open, here and in
        nested parts. Raises SpecError with the path where the target refuses its arguments; a MapstoError that the target
        raises stays of its kind and gets the path.
        """
        args = {name: _built(value, injected) for name, value in self.args.items()}
        if injected:
            known = stated(self.target, self.kind).named
            args |= {n: v for n, v in injected.items() if n not in args and n in known}
        if self.kind is not None and self.kind.is_mapping(self.target):
            return functools.partial(self.target, **args) if args else self.target
        try:
            return self.target(*given, **args)
        except MapstoError as error:  # it says what is wrong; only where is added
            if (told := placed(error, self.path)) is error:
                raise
            raise told from error
        except FileNotFoundError as error:
            raise MissingFile(
                f"{self.path}: there is no {error.filename}" if error.filename else f"{self.path}: {error}"
            ) from error
        except Exception as error:
            if _refused(error, self.target):
                said = error.args[0] if isinstance(error, KeyError) and error.args else error  # whose text is a repr
                why = " ".join(str(said).split()) or type(error).__name__
                raise SpecError(f"{self.path}: {label(self.target)} refuses these arguments: {why}") from error
            raise


REFUSALS = (ValueError, RuntimeError, AssertionError, ArithmeticError)
"""What constructors raise by whose arguments they cannot be; other errors are faults in their own code."""


def _refused(error: BaseException, target: Any) -> bool:
    """Whether the arguments were refused, rather than something within the target broke.

    A call that does not fit raises TypeError without entering the target; a constructor that checks its values raises
    in its first frames, those of the constructors that it inherits from not counted. Of a library the code is not the
    user's to mend, and the arguments are.
    """
    if of_library(target):
        return True
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, TypeError):
        return len(names) == 1
    return isinstance(error, REFUSALS) and (len(names) <= 3 or all(name == "__init__" for name in names[3:]))


def of_library(target: Any) -> bool:
    """Whether a target is an installed package's, such as the framework's, and neither ours nor a plugin's."""
    module = getattr(target, "__module__", None) or ""
    place = Path(getattr(sys.modules.get(module), "__file__", None) or ".").parts
    own = {entry.package for entry in registry.entries() if entry.point is not None and not entry.origin.startswith("mapsto ")}
    return ("site-packages" in place or "dist-packages" in place) and module.partition(".")[0] not in {"mapsto", *own}


def _built(value: Any, injected: Mapping[str, Any] | None) -> Any:
    if isinstance(value, Checked):
        if value.kind is not None and value.kind.given:  # such as an optimizer within a part: made once its parameters exist
            return functools.partial(value.build, injected=injected)
        return value.build(injected=injected)
    if type(value) in (tuple, list):
        return type(value)(_built(v, injected) for v in value)
    if isinstance(value, dict):
        return {k: _built(v, injected) for k, v in value.items()}
    return value


def build(
    value: Any, kind: str | None, *given: Any, path: str, injected: Mapping[str, Any] | None = None, wing: str = DEFAULT
) -> Any:
    """Check and build what stands in a slot; a live object is returned as it is."""
    if not isinstance(value, Part):
        return value
    return check(value, kind, path, injected or (), wing).build(*given, injected=injected)


def label(target: Any) -> str:
    """The name of a part's target as error sentences say it: its own, or the reference that imports it."""
    return getattr(target, "__name__", None) or reference_of(target)
