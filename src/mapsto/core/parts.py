"""Parts: a mapping by name with its arguments, checked against its own signature and built.

`use("adamw", lr=3e-4)` in Python is `{use: adamw, lr: 3e-4}` in YAML. What a part may be given is what its target's
signature says, so nothing is described twice; every error names the path, what is allowed and the nearest right name.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from .errors import SpecError, UnknownName, nearest
from .kinds import KINDS, Kind, kind_of_parameter
from .registry import reference_of, registry

PLAIN = (str, int, float, bool, type(None))


class Frozen(dict[str, Any]):
    """A dict that cannot be changed: a spec is a value."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a spec is frozen: make a changed copy with spec.override('path=value') or dataclasses.replace")

    __setitem__ = __delitem__ = update = setdefault = pop = popitem = clear = __ior__ = _refuse  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Frozen, (dict(self),))


@dataclass(frozen=True)
class Part:
    """A mapping that is used (a registered name, `module:attribute`, or the callable itself) and its arguments."""

    use: str | Callable[..., Any]
    args: Mapping[str, Any] = field(default_factory=Frozen)

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", Frozen({k: freeze(v) for k, v in self.args.items()}))

    @property
    def name(self) -> str:
        """What people call it: the registered name, or the callable's own."""
        return self.use if isinstance(self.use, str) else getattr(self.use, "__name__", reference_of(self.use))


def use(target: str | Callable[..., Any], /, **args: Any) -> Part:
    """A part of a spec: `use("adamw", lr=3e-4)`, `use(torch.optim.SGD, lr=0.1)`, `use("package.module:Thing")`."""
    return Part(target, args)


def freeze(value: Any) -> Any:
    """Plain data as spec values: a mapping with `use` is a part, lists are tuples; anything else is kept as it is."""
    if isinstance(value, Mapping):
        if "use" in value:
            return Part(value["use"], {k: v for k, v in value.items() if k != "use"})
        return Frozen({k: freeze(v) for k, v in value.items()})
    if type(value) in (list, tuple):
        return tuple(freeze(v) for v in value)
    return value


def as_part(value: Any, default: str | None = None) -> Any:
    """What stands in a slot as a Part: a name, class or function is a part without arguments; a live object stays."""
    value = freeze(value)
    if isinstance(value, Frozen) and default is not None:
        return Part(default, value)
    if isinstance(value, str) or inspect.isclass(value) or inspect.isroutine(value):
        return Part(value)
    return value


def resolve(part: Part, kind: Kind | str | None, path: str) -> tuple[Any, Kind | None]:
    """The target of a part and its kind. Raises SpecError with the path where the name or reference is unknown."""
    found = registry.kind(kind) if isinstance(kind, str) else kind
    if not isinstance(part.use, str):
        return part.use, found
    try:
        if ":" in part.use:
            return _import(part.use), found
        family, slash, name = part.use.partition("/")
        if slash:
            if found is not None and family != found.name:
                raise UnknownName(f"{part.use!r} is a {family}, and a {found.name} is wanted here")
            return registry.get(family, name), registry.kind(family)
        if found is None:
            raise UnknownName(f"{part.use!r} does not say its kind here: write 'kind/{part.use}'; {nearest('', KINDS)}")
        return registry.get(found.name, part.use), found
    except UnknownName as error:
        raise SpecError(f"{path}: {error}") from None


def _import(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UnknownName(f"{reference!r}: no module named {error.name!r}") from None
    for step in attribute.split("."):
        if not hasattr(found, step):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise UnknownName(f"{reference!r}: {module} has no {step!r}; {nearest(step, public)}")
        found = getattr(found, step)
    return found


@dataclass(frozen=True)
class Checked:
    """A part whose arguments fit its target: nested parts are `Checked` themselves."""

    target: Any
    kind: Kind | None
    args: dict[str, Any]
    path: str

    def build(self, *given: Any, offers: Mapping[str, Any] | None = None) -> Any:
        """Build it: call the target, or bind the options of a function that is the mapping itself.

        given: what the kind supplies; offers: values for parameters of those names that the spec leaves open.
        """
        args = {name: _built(value) for name, value in self.args.items()}
        if offers:
            args |= {n: v for n, v in offers.items() if n not in args and n in parameters(self.target, self.kind)}
        applied = self.kind is not None and self.kind.applied and not self.kind.given and not inspect.isclass(self.target)
        if applied:
            return functools.partial(self.target, **args) if args else self.target
        try:
            return self.target(*given, **args)
        except SpecError as error:
            raise SpecError(f"{self.path}: {error}") from error
        except (TypeError, ValueError) as error:
            if _raised_outside(error, self.target):
                raise SpecError(f"{self.path}: {_label(self.target)} refuses these arguments: {error}") from error
            raise


def _raised_outside(error: BaseException, target: Any) -> bool:
    """Whether the call itself was refused (at most two frames deep), rather than something within the target broke."""
    depth, trace = 0, error.__traceback__
    while trace is not None:
        depth, trace = depth + 1, trace.tb_next
    return depth <= 3


def _built(value: Any) -> Any:
    if isinstance(value, Checked):
        return value.build()
    if type(value) in (tuple, list):
        return type(value)(_built(v) for v in value)
    if isinstance(value, dict):
        return {k: _built(v) for k, v in value.items()}
    return value


def build(value: Any, kind: str | None, *given: Any, path: str, offers: Mapping[str, Any] | None = None) -> Any:
    """Check and build what stands in a slot; a live object is returned as it is."""
    if not isinstance(value, Part):
        return value
    return check(value, kind, path, offers or ()).build(*given, offers=offers)


def parameters(target: Any, kind: Kind | None) -> dict[str, inspect.Parameter]:
    """The parameters that a spec states for `target`: its signature without what is given or applied."""
    try:
        found = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return {}
    skip = len(kind.supplied(target)) if kind is not None else 0
    return {p.name: p for i, p in enumerate(found) if i >= skip or p.kind is p.KEYWORD_ONLY}


def check(part: Part, kind: Kind | str | None, path: str, offers: Collection[str] = ()) -> Checked:
    """Check a part's arguments against its target's signature, nested parts included.

    Raises SpecError naming the path, what is allowed and the nearest right name.
    """
    target, found = resolve(part, kind, path)
    if not callable(target):
        raise SpecError(f"{path}: {part.name!r} is a {type(target).__name__}, which cannot be called")
    known = parameters(target, found)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    named = {n: p for n, p in known.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    hints = _hints(target)
    args: dict[str, Any] = {}
    for name, value in part.args.items():
        where = f"{path}.{name}"
        if name not in named and not open_ended:
            raise SpecError(f"{where}: {_label(target)} has no argument {name!r}; {nearest(name, named)}")
        args[name] = _check_value(value, name, hints.get(name, inspect.Parameter.empty), where)
    missing = [n for n, p in named.items() if p.default is p.empty and n not in args and n not in offers]
    if missing:
        stated = ", ".join(f"{n}: {_say(hints.get(n, named[n].annotation))}" for n in missing)
        raise SpecError(f"{path}: {_label(target)} needs {stated}")
    return Checked(target, found, args, path)


def _check_value(value: Any, name: str, hint: Any, path: str) -> Any:
    kind = _kind_of_hint(hint) or (None if _takes_text(hint) else kind_of_parameter(name))
    if isinstance(value, Part):
        return check(value, kind, path)
    if kind is not None and isinstance(value, str):
        return check(Part(value), kind, path)
    if isinstance(value, tuple) and any(isinstance(v, Part) or (kind and isinstance(v, str)) for v in value):
        return [_check_value(v, name, inspect.Parameter.empty, f"{path}.{i}") for i, v in enumerate(value)]
    if isinstance(value, Frozen):
        if any(isinstance(v, Part) for v in value.values()):
            return {k: _check_value(v, name, inspect.Parameter.empty, f"{path}.{k}") for k, v in value.items()}
        value = thaw(value)
    return _validated(value, hint, path)


def thaw(value: Any) -> Any:
    """Frozen mappings as plain dicts, for targets that expect their own."""
    if isinstance(value, Frozen):
        return {k: thaw(v) for k, v in value.items()}
    return tuple(thaw(v) for v in value) if type(value) is tuple else value


def _kind_of_hint(hint: Any) -> Kind | None:
    return next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Kind)), None)


def _takes_text(hint: Any) -> bool:
    """Whether a string is this parameter's own value, so that it does not name a part."""
    members = [m for m in (typing.get_args(hint) or (hint,)) if m is not type(None)]
    return typing.get_origin(hint) is typing.Literal or bool(members) and all(m is str for m in members)


@functools.lru_cache(maxsize=1024)
def _hints(target: Any) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def _validated(value: Any, hint: Any, path: str) -> Any:
    if hint is inspect.Parameter.empty or hint is Any:
        return value
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:
        try:
            adapter = TypeAdapter(hint)
        except Exception:  # noqa: BLE001  # a type that pydantic cannot describe is the target's own to check
            return value
    except Exception:  # noqa: BLE001
        return value
    try:
        converted = adapter.validate_python(value)
    except ValidationError as error:
        raise SpecError(f"{path}: {_explain(value, hint, error)}") from None
    return converted if _is_plain(converted) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    if isinstance(value, dict):
        return all(_is_plain(v) for v in value.values())
    return isinstance(value, PLAIN) or not isinstance(value, Iterator)


def _explain(value: Any, hint: Any, error: ValidationError) -> str:
    first = error.errors()[0]
    inside = ".".join(str(step) for step in first["loc"] if not isinstance(step, str) or step.isidentifier())
    if choices := _choices(hint):
        return f"{value!r} is not a choice; {nearest(str(value), choices)}"
    where = f" (at {inside})" if inside and isinstance(value, (list, tuple, dict)) else ""
    return f"{value!r} is a {type(value).__name__}, and {_say(hint)} is wanted{where}: {first['msg'].lower()}"


def _choices(hint: Any) -> list[str]:
    if typing.get_origin(hint) is typing.Literal:
        return [str(a) for a in typing.get_args(hint)]
    members = [m for m in typing.get_args(hint) if m is not type(None)]
    return [c for m in members for c in _choices(m)] if members and all(_choices(m) for m in members) else []


def _say(hint: Any) -> str:
    if hint is inspect.Parameter.empty:
        return "a value"
    return hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _label(target: Any) -> str:
    return getattr(target, "__name__", reference_of(target))
