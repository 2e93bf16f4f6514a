"""The ranks of a run as the engine sees them: who leads, and how all come to know one value."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from ..core.errors import DivergenceError, MapstoError, SpecError
from .identity import differences

T = TypeVar("T")


class Ranks(Protocol):
    """What a wing tells of the processes that carry a run out together."""

    rank: int
    world: int
    leader: bool

    def share(self, value: T) -> T:
        """The leader's value, on every rank."""
        ...

    def gather(self, value: T) -> list[T]:
        """Every rank's value by rank, on every rank."""
        ...

    def barrier(self) -> None:
        """Wait until every rank is here."""
        ...

    def new_group(self, seconds: float) -> Ranks:
        """The same ranks on a line of their own, for another thread; each wait on it ends after `seconds`."""
        ...


class Alone:
    """The ranks of a run that is one process: nothing is exchanged, and it leads."""

    rank, world, leader = 0, 1, True

    def share(self, value: T) -> T:
        return value

    def gather(self, value: T) -> list[T]:
        return [value]

    def barrier(self) -> None:
        return

    def new_group(self, seconds: float) -> Ranks:  # noqa: ARG002  # nobody is waited for
        return self


def each(ranks: Ranks, action: Callable[[], T]) -> list[T]:
    """Do it on every rank; what each returned by rank, on all of them.

    Where it raised on some, all raise what the first of them did, with its rank, as a MapstoError of the same kind.
    """
    if ranks.world == 1:
        return [action()]
    found: tuple[Any, MapstoError | None] = (None, None)
    mine: Exception | None = None
    try:
        found = (action(), None)
    except Exception as error:  # noqa: BLE001  # all ranks must hear of it, else they wait for this one
        mine = error
        found = (None, error if isinstance(error, MapstoError) else MapstoError(f"{type(error).__name__}: {error}"))
    told: list[tuple[Any, MapstoError | None]] = ranks.gather(found)
    failed = {rank: error for rank, (_, error) in enumerate(told) if error is not None}
    if failed:
        rank, first = next(iter(failed.items()))
        same = [str(r) for r, error in failed.items() if str(error) == str(first)]
        who = f"rank {rank}" if len(same) == 1 else f"ranks {', '.join(same[:8])}{', ...' if len(same) > 8 else ''}"
        raise type(first)(f"{who}: {first}") from mine
    return [value for value, _ in told]


def lead(ranks: Ranks, action: Callable[[], T]) -> T:
    """Do it on the leader alone; what it returned, or raised, on every rank."""
    if ranks.world == 1:
        return action()
    found: tuple[Any, Exception | None] = (None, None)
    if ranks.leader:
        try:
            found = (action(), None)
        except Exception as error:  # noqa: BLE001  # all ranks must hear of it, else they wait for the leader
            found = (None, error)
    value, failed = ranks.share(found)
    if failed is not None:
        raise failed
    result: T = value
    return result


def serve(ranks: Ranks, action: Callable[[Callable[[str], Any]], None], services: Mapping[str, Callable[[], Any]]) -> None:
    """Do it on the leader alone, while the others stand ready for what needs all of them.

    action is given a function that calls one of the services by name, on all ranks at once.
    """
    if ranks.world == 1:
        action(lambda name: services[name]())
        return
    if not ranks.leader:
        nothing: Any = None
        while (wanted := ranks.share(nothing)) is not None:
            if isinstance(wanted, Exception):
                raise wanted
            services[wanted]()
        return

    def call(name: str) -> Any:
        ranks.share(name)
        return services[name]()

    try:
        action(call)
    except Exception as error:
        ranks.share(error)
        raise
    ranks.share(None)


def agree(ranks: Ranks, told: Mapping[str, Any]) -> None:
    """Compare what every rank tells of itself. Raises SpecError naming what differs and the ranks that are not as most are."""
    every = ranks.gather(dict(told))
    for name in told:
        values = [repr(one.get(name)) for one in every]
        usual, count = Counter(values).most_common(1)[0]
        if count < len(values):
            others = [rank for rank, value in enumerate(values) if value != usual]
            most = every[values.index(usual)][name]
            named = "; ".join(f"rank {rank} has {_difference(every[rank][name], most)}" for rank in others[:4])
            more = f"; and {len(others) - 4} more ranks" if len(others) > 4 else ""
            raise SpecError(f"the ranks do not run the same {name}: {named}{more}")


def alike(ranks: Ranks, sums: Mapping[str, Mapping[str, int]]) -> None:
    """Compare checksums (see `Wing.checksums`) among the ranks that hold the same part of a state.

    Raises DivergenceError naming the ranks that do not hold what most hold, and what differs.
    """
    told = ranks.gather({part: (_named(own), _digest(sorted(own.items()))) for part, own in sums.items()})
    groups: dict[tuple[str, bytes], dict[int, bytes]] = {}
    for rank, one in enumerate(told):
        for part, (names, found) in one.items():
            groups.setdefault((part, names), {})[rank] = found
    for (part, _), held in sorted(groups.items()):
        if len(set(held.values())) > 1:
            every = ranks.gather(dict(sums.get(part, {})))
            raise DivergenceError(_diverged(part, {rank: every[rank] for rank in held}))
    if len({names for _, names in groups}) > 1:  # stages of a pipeline: what they have in common is one thing in a file
        _common_to_stages(ranks, sums)


def _common_to_stages(ranks: Ranks, sums: Mapping[str, Mapping[str, int]]) -> None:
    there: dict[tuple[str, str], tuple[int, int]] = {}
    for rank, told in enumerate(ranks.gather({part: dict(own) for part, own in sums.items()})):
        for part, own in told.items():
            for path, value in own.items():
                first, kept = there.setdefault((part, path), (rank, value))
                if kept != value:
                    raise DivergenceError(
                        f"ranks {first} and {rank} hold other parts of the model, and something else as {path}, of which a "
                        "checkpoint holds one: name what goes with a parameter after it (state.names), or keep it as a PerRank"
                    )


def _named(sums: Mapping[str, int]) -> bytes:
    """Which parameters and buffers they are of: ranks with other stages of a model have others."""
    return _digest(sorted(path for path in sums if path.startswith("model/")))


def _digest(value: Any) -> bytes:
    return hashlib.sha256(repr(value).encode()).digest()


def _diverged(part: str, every: Mapping[int, Mapping[str, int]]) -> str:
    usual, count = Counter(tuple(sorted(own.items())) for own in every.values()).most_common(1)[0]
    most = dict(usual)
    others = [rank for rank, own in every.items() if own != most]
    differ = [path for path in most if any(every[rank].get(path) != most[path] for rank in others)]
    differ += [path for rank in others for path in every[rank] if path not in most and path not in differ]
    more = f" and {len(differ) - 1} more tensors" if len(differ) > 1 else ""
    who = f"rank {others[0]}" if len(others) == 1 else f"ranks {', '.join(map(str, others[:8]))}"
    who += ", ..." if len(others) > 8 else ""
    if count * 2 <= len(every):  # nobody can say who is right
        who = f"ranks {', '.join(map(str, list(every)[:8]))}{', ...' if len(every) > 8 else ''}"
        return f"{who} no longer hold the same {differ[0]}{more}{f' ({part})' if part else ''}"
    hold = "holds" if len(others) == 1 else "hold"
    return f"{who} {hold} another {differ[0]}{more} than the others{f' with {part}' if part else ''}"


def _difference(own: Any, most: Any) -> str:
    """What a rank has where most have something else: the paths of it, for what has paths."""
    lines = [line.replace(" there, ", " and not ").removesuffix(" here") for line in differences(own, most)]
    return ", ".join(lines[:3]) + (f" and {len(lines) - 3} more" if len(lines) > 3 else "")
