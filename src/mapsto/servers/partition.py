"""Which rows of which parameter lie on which server.

Every server knows every parameter by its name; of those that lie elsewhere it holds none of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

NONE = range(0)
Rows = Mapping[str, range]
"""Parameter name -> the rows (indices of the first axis) that one server holds; a scalar counts as one row."""


class HasRows(Protocol):
    """An array of any framework."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...


def partition(parameters: Mapping[str, HasRows], servers: int, *, split: bool = True) -> list[dict[str, range]]:
    """The rows that each of `servers` holds, balanced by bytes.

    A parameter of more than half a server's share is cut into equal ranges of rows, one a server (`split`); the others
    stay whole and go, the largest first, to the server that has least.
    """
    sizes = {name: p.nbytes for name, p in parameters.items()}
    share = sum(sizes.values()) / servers
    found: list[dict[str, range]] = [dict.fromkeys(parameters, NONE) for _ in range(servers)]
    load = [0.0] * servers
    for name in sorted(parameters, key=lambda n: -sizes[n]):  # stable: equal sizes stay in the model's order
        rows = rows_of(parameters[name])
        if split and servers > 1 and sizes[name] > share / 2 and rows >= servers:
            for k in range(servers):
                own = range(rows * k // servers, rows * (k + 1) // servers)
                found[k][name] = own
                load[k] += sizes[name] * len(own) / rows
        else:
            k = load.index(min(load))
            found[k][name] = range(rows)
            load[k] += sizes[name]
    return found


def rows_of(array: HasRows) -> int:
    """How many rows an array counts as."""
    return array.shape[0] if array.shape else 1


def is_split(name: str, shards: Sequence[Rows]) -> bool:
    """Whether more than one server holds rows of a parameter."""
    return sum(1 for rows in shards if rows[name]) > 1
