"""What is asked of a framework only where it is loaded: which values are its arrays, and what batches and launches need of it.

Data and launches name no framework: they ask the wings, by the module that `Framework.native` names. Nothing is imported for
it that the process has not imported already; what is held in memory as an array of a framework comes from one that is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

from .errors import RegistryError
from .registry import registry
from .wings import ARRAY_TYPES, NATIVE


class Native(Protocol):
    """Implemented by a module as functions, which are called where the framework is loaded."""

    def is_array(self, value: Any) -> bool:
        """Whether a value is an array (or tensor) of the framework."""
        ...

    def on_device(self, array: Any) -> str:
        """The device that an array is on, where that is not the host; else nothing."""
        ...

    def detached(self, array: Any) -> Any:
        """The array as plain data, which no gradient follows."""
        ...

    def to_numpy(self, array: Any) -> Any:
        """A NumPy array of the same values, in the same memory where that can be.

        Raises TypeError or RuntimeError where NumPy has no such type (bfloat16) or layout.
        """
        ...

    def from_numpy(self, array: Any) -> Any:
        """An array of the framework of the values of a NumPy array, in the same memory where that can be."""
        ...

    def rows(self, array: Any, indices: Any) -> Any:
        """Rows of a NumPy array by int64 indices, copied into an array of the framework."""
        ...

    def take(self, array: Any, indices: Any) -> Any:
        """Rows of an array of the framework by NumPy's int64 indices, copied."""
        ...

    def concatenate(self, arrays: Sequence[Any]) -> Any:
        """Arrays one after another along the first axis. Raises ValueError or RuntimeError where their shapes differ."""
        ...

    def stack(self, arrays: Sequence[Any], shape: Sequence[int], dtype: Any) -> Any:
        """Arrays of this shape and type along a new first axis, none of them too."""
        ...

    def cast(self, array: Any, dtype: Any) -> Any:
        """The array in another of the framework's types."""
        ...

    def dtype_name(self, dtype: Any) -> str:
        """The name of one of the framework's types, as NumPy would call it: `float32`."""
        ...

    def to_bytes(self, array: Any) -> bytes:
        """The bytes of all values in order, of any type."""
        ...

    def is_dataset(self, value: Any) -> bool:
        """Whether a value is a data set of the framework, which gives records one by one."""
        ...

    def ranks(self) -> tuple[int, int] | None:
        """Rank and world size of this process, where the framework has joined it with others."""
        ...

    def collectives(self) -> list[dict[str, Any]]:
        """The last collectives that this process entered, as the framework keeps them for post-mortems."""
        ...


def native(wing: str) -> Native:
    """What the wing says of its framework, which is imported where it is not. Raises UnknownName, ImportError."""
    if wing not in NATIVE:
        NATIVE[wing] = importlib.import_module(registry.wing(wing).native)
    return cast(Native, NATIVE[wing])


def loaded() -> dict[str, Native]:
    """What the wings say whose frameworks this process has imported, by wing."""
    found = {}
    for name in registry.wings():
        try:
            framework = registry.wing(name)
        except RegistryError:  # told by whoever uses that wing
            continue
        if framework.native and framework.loaded:
            found[name] = native(name)
    return found


def wing_of_array(value: Any) -> str:
    """The wing whose framework's array a value is; nothing for any other value."""
    kind = type(value)
    if kind not in ARRAY_TYPES:
        ARRAY_TYPES[kind] = next((name for name, own in loaded().items() if own.is_array(value)), "")
    return ARRAY_TYPES[kind]


def native_of(value: Any) -> Native | None:
    """What the wing of an array says of its framework; None for any other value."""
    wing = wing_of_array(value)
    return native(wing) if wing else None


def is_framework_file(path: str) -> bool:
    """Whether a file of a traceback is of a framework that some wing drives, and no code of the user's."""
    return any(f"/{package}/" in path for package in _packages())


def _packages() -> Iterable[str]:
    for name in registry.wings():
        try:
            yield from (package for package in registry.wing(name).packages if "." not in package)
        except RegistryError:  # told by whoever uses that wing
            continue
