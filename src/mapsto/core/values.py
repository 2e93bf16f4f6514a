"""What a spec is made of: parts, frozen mappings, tuples and leaves. Values are compared, hashed and pickled as such."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from .errors import SpecError
from .registry import registry, snake
from .typed import shortened

PLAIN = (str, int, float, bool, type(None))


class Frozen(dict[str, Any]):
    """A dict that cannot be changed: a spec is a value."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a spec is frozen: make a changed copy with spec.override('path=value') or dataclasses.replace")

    __setitem__ = __delitem__ = update = setdefault = pop = popitem = clear = __ior__ = _refuse

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and key_of(self) == key_of(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]  # a dict that cannot change can be hashed
        return hash(key_of(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Frozen, (dict(self),))


@dataclass(frozen=True, eq=False)
class Part:
    """A mapping that is used (a registered name, `module:attribute`, or the callable itself) and its arguments."""

    use: str | Callable[..., Any]
    args: Mapping[str, Any] = field(default_factory=Frozen)

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", Frozen({k: freeze(v) for k, v in self.args.items()}))

    @property
    def name(self) -> str:
        """What people call it: the registered name, or the target's own in snake_case.

        Nothing is imported for it: a `module:Class` whose module nobody has imported yet is called `class`, whatever name
        its module will register it under.
        """
        if not isinstance(self.use, str):
            return registry.label(self.use)
        module, colon, attribute = self.use.partition(":")
        if not colon:
            return self.use.rpartition("/")[2]
        try:
            return registry.label(functools.reduce(getattr, attribute.split("."), sys.modules[module]))
        except (KeyError, AttributeError):
            return snake(attribute.rpartition(".")[2])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and key_of(self) == key_of(other)

    def __hash__(self) -> int:
        return hash(key_of(self))


@dataclass(frozen=True)
class Reference:
    """A class or function that stands as an argument for itself: `{reference: "torch.nn:ReLU"}` in YAML."""

    reference: str


def use(target: str | Callable[..., Any], /, **args: Any) -> Part:
    """A part of a spec: `use("adamw", lr=3e-4)`, `use(torch.optim.SGD, lr=0.1)`, `use("package.module:Thing")`."""
    return Part(target, args)


def freeze(value: Any) -> Any:
    """Plain data as spec values: a mapping with `use` is a part, lists are tuples, NumPy scalars are Python's.

    Anything else is kept as it is.
    """
    if isinstance(value, Mapping):
        if "use" in value:
            return Part(value["use"], {k: v for k, v in value.items() if k != "use"})
        if set(value) == {"reference"} and isinstance(value["reference"], str) and ":" in value["reference"]:
            return Reference(value["reference"])
        return Frozen({k: freeze(v) for k, v in value.items()})
    if type(value) in (list, tuple):
        return tuple(freeze(v) for v in value)
    numpy = sys.modules.get("numpy")
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value


def thaw(value: Any) -> Any:
    """Frozen mappings as plain dicts, for targets that expect their own."""
    if isinstance(value, Frozen):
        return {k: thaw(v) for k, v in value.items()}
    return tuple(thaw(v) for v in value) if type(value) is tuple else value


def as_part(value: Any, default: str | None = None) -> Any:
    """What stands in a slot as a Part: a name, class or function is a part without arguments; a live object stays.

    A `functools.partial` with keywords only is the part it spells. default: what a mapping without `use` uses.
    """
    value = freeze(value)
    if isinstance(value, Frozen) and default is not None:
        return Part(default, value)
    if isinstance(value, functools.partial) and not value.args:
        return Part(value.func, value.keywords)
    if isinstance(value, str) or inspect.isclass(value) or inspect.isroutine(value):
        return Part(value)
    return value


def slot(value: Any, path: str, default: str | None = None) -> Any:
    """A part or a live object. Raises SpecError for plain data that is neither."""
    part = as_part(value, default)
    if isinstance(part, Frozen):
        raise SpecError(f"{path}: a mapping needs the key 'use', which names what is used; {shortened(value)} has none")
    if type(part) in (int, float, bool, tuple):
        raise SpecError(f"{path}: {shortened(value)} is a {type(value).__name__}, and a name, a part or an object is wanted")
    return part


def listed(value: Any, path: str, what: str) -> Iterable[Any]:
    """The items of a list. Raises SpecError for one value that stands where a list is wanted."""
    if value is None:
        return ()
    if isinstance(value, (str, Part, Mapping)) or not isinstance(value, Iterable):
        raise SpecError(f"{path}: a list is wanted, {what}; write [{shortened(value)}]")
    return value


def name_of(value: Any) -> str:
    """The one name of what stands in a slot or list of a spec: of a part, a function, or a live object (its class's)."""
    if isinstance(value, Part):
        return value.name
    named = hasattr(value, "__name__") or isinstance(value, functools.partial)
    return registry.label(value if named else type(value))


def contains(value: Any, what: type) -> bool:
    """Whether an instance of `what` is the value or stands in its mappings and tuples; arguments of parts are not searched."""
    if isinstance(value, Frozen):
        return any(contains(v, what) for v in value.values())
    return any(contains(v, what) for v in value) if type(value) is tuple else isinstance(value, what)


class _Itself:
    """A leaf that is equal to itself only: arrays and the like, whose `==` does not answer with a bool."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def key_of(value: Any) -> Hashable:
    """A hashable that is equal for equal spec values."""
    if isinstance(value, Part):
        return (Part, key_of(value.use), key_of(value.args))
    if isinstance(value, Mapping):
        return (Mapping, frozenset((k, key_of(v)) for k, v in value.items()))
    if type(value) in (list, tuple):
        return (tuple, tuple(key_of(v) for v in value))
    if hasattr(type(value), "__array__"):
        return _Itself(value)
    try:
        hash(value)
    except TypeError:
        return _Itself(value)
    return value  # type: ignore[no-any-return]
