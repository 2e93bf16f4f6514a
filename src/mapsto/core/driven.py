"""Drivers as laws call them: what a driver does wrong is told as its own fault, and never held against what it drives.

A wing's driver stands behind the protocol that a file of laws declares (`Laws(..., driver=LayerDriver)`). A method that is
missing, that raises in its own code, or that gives another thing than its protocol says, makes the verdict unknown, in one line
that names the method and its place. What the component raises below it goes through as it is.
"""

from __future__ import annotations

import functools
import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, NoReturn

from .errors import first_line
from .protocols import attributes, is_protocol, methods, misfit
from .registry import place_of
from .wings import lineage


class Driven:
    """A driver, or what its `build` gave, behind its protocol; attributes beside the protocol's are those of what it holds."""

    _inner: Any
    _protocol: type
    _target: Any
    _undecided: Callable[[str], NoReturn]

    def __init__(self, inner: Any, protocol: type, target: Any, undecided: Callable[[str], NoReturn]) -> None:
        vars(self).update(_inner=inner, _protocol=protocol, _target=target, _undecided=undecided)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # of a copy that is not filled yet
        inner, calls, values = self._inner, methods(self._protocol), attributes(self._protocol)
        if name not in calls and name not in values:
            return getattr(inner, name)
        if not hasattr(inner, name):
            self._blame(name, f"is missing, which {self._protocol.__name__} asks for", type(inner))
        found = getattr(inner, name)
        if name in calls:
            return functools.partial(self._call, name, found)
        if wrong := misfit(found, values[name]):
            self._blame(name, f"is {wrong}", type(inner))
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)

    def _call(self, name: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            made = method(*args, **options)
        except Exception as error:
            if (place := _own_fault(error, self._inner, method, self._target)) is not None:
                self._blame(name, f"raised {type(error).__name__}: {first_line(error)[:300]}", place)
            raise
        hint = methods(self._protocol)[name]
        if wrong := misfit(made, hint):
            self._blame(name, f"gave {wrong}", method)
        return Driven(made, hint, self._target, self._undecided) if is_protocol(hint) and methods(hint) else made

    def _blame(self, name: str, what: str, place: Any) -> NoReturn:
        kind = type(self._inner)
        where = place if isinstance(place, str) else place_of(place)
        self._undecided(f"the driver is at fault: {kind.__module__}:{kind.__qualname__}.{name} {what} ({where})")


# -- whose fault -------------------------------------------------------------------------------------------------------
def _own_fault(error: Exception, driver: Any, method: Callable[..., Any], target: Any) -> str | None:
    """Where the driver's own code raised an error; None where the component did, or the framework below both.

    The call that raised is of the driver's class or a function beside it, and none of the component stands before it.
    """
    frames = [*traceback.walk_tb(error.__traceback__)][1:]  # without the call here
    component = [*lineage(target)]
    if any(_is_of(frame, component) for frame, _ in frames) or _names(error, component):
        return None
    if not frames:  # it takes other arguments
        return place_of(method)
    frame, line = frames[-1]
    if _is_of(frame, type(driver).__mro__) or _is_function_beside(frame, type(driver).__module__):
        return f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
    return None


def is_of_law(error: Exception, check: Callable[..., Any], target: Any) -> bool:
    """Whether the code of a law, or of the laws beside it, raised an error, and nothing of the component did."""
    frames = [*traceback.walk_tb(error.__traceback__)]
    component = [*lineage(target)]
    if any(_is_of(frame, component) for frame, _ in frames) or _names(error, component):
        return False
    return _is_function_beside(frames[-1][0], check.__module__)


def _is_of(frame: FrameType, things: Iterable[Any]) -> bool:
    """Whether a frame is of a function, or of the methods of a class."""
    module, name = frame.f_globals.get("__name__"), frame.f_code.co_qualname
    return any(
        t.__module__ == module and f"{name}.".startswith(f"{t.__qualname__}.") for t in things if hasattr(t, "__qualname__")
    )


def _is_function_beside(frame: FrameType, module: str) -> bool:
    """Whether a frame is of a plain function in a module, or beside it in its package."""
    there, (root, _, _) = str(frame.f_globals.get("__name__")), frame.f_code.co_qualname.partition(".")
    room = module.rpartition(".")[0]
    near = there == module or (bool(room) and there.rpartition(".")[0] == room)
    return near and inspect.isfunction(frame.f_globals.get(root))


def _names(error: Exception, component: Sequence[Any]) -> bool:
    """Whether an error says that the component lacks an attribute, or that one of its methods takes other arguments."""
    if isinstance(error, AttributeError):
        return any(error.obj is thing or type(error.obj) is thing for thing in component)
    called = re.match(r"([\w.<>]+)\(\) ", str(error)) if isinstance(error, TypeError) else None
    names = [t.__qualname__ for t in component if hasattr(t, "__qualname__")]
    return called is not None and any(f"{called[1]}.".startswith(f"{name}.") for name in names)
