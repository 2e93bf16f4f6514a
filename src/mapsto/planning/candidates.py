"""Candidates: the meshes of so many ranks that are worth a dry run, and why a stated one cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ..core.axes import AXES, REST, ranks_of, sizes
from ..core.errors import SpecError, nearest

PER_NODE = 8
"""Ranks of one machine, where nothing else is said: a tensor axis talks too much to leave it."""
STAGES = 16
"""The longest pipeline that is tried unasked."""


def parse_mesh(text: str, ranks: int | None) -> dict[str, int]:
    """Sizes of the axes from `replicate=8,shard=8`; one may be -1 where the number of ranks is said. Raises SpecError."""
    stated = dict.fromkeys(AXES, 1)
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (part.strip() for part in item.partition("="))
        if name not in AXES:
            raise SpecError(f"--mesh: there is no axis {name!r}; {nearest(name, AXES)}")
        try:
            stated[name] = int(value)
        except ValueError:
            raise SpecError(f"--mesh: {item!r} does not say a number of ranks; write {name}=8") from None
    return fitted(stated, ranks)


def fitted(stated: Mapping[str, int], ranks: int | None) -> dict[str, int]:
    """The axes, all sizes known, for that many ranks (None: as many as they say). Raises SpecError."""
    if ranks is None and REST in stated.values():
        raise SpecError("--mesh: an axis of -1 takes the ranks that are left, so say how many there are: --ranks 64")
    whole = dict.fromkeys(AXES, 1) | dict(stated)
    found = sizes(whole, ranks if ranks is not None else ranks_of({k: abs(v) for k, v in whole.items()}) or 1)
    return {axis: found[axis] for axis in AXES}


def candidates(ranks: int, per_node: int = PER_NODE) -> list[dict[str, int]]:
    """The meshes of `ranks` ranks worth trying, simplest first.

    tensor: divides `ranks` and a machine; pipeline: up to 16 stages; of what is left `shard` takes all, none, one machine's
    ranks or a few machines', the rest are replicas.
    """
    found = [
        {"pipeline": pipeline, "replicate": data // shard, "shard": shard, "tensor": tensor}
        for tensor in divisors(math.gcd(ranks, per_node))
        for pipeline in divisors(ranks // tensor)
        if pipeline <= STAGES
        for data in (ranks // tensor // pipeline,)
        for shard in _shards(data, max(per_node // tensor, 1))
    ]
    return sorted(found, key=lambda axes: (sum(size > 1 for size in axes.values()), axes["pipeline"], axes["tensor"]))


def _shards(data: int, machine: int) -> Iterator[int]:
    """How far parameters are cut over `data` ranks: not, over a machine, over 8 and 64 machines, over all."""
    wanted = {1, data, *(machine * 8**power for power in range(3))}
    yield from sorted(size for size in wanted if size <= data and data % size == 0)


def divisors(number: int) -> list[int]:
    """All of them, from 1 on."""
    return [n for n in range(1, number + 1) if number % n == 0]


def format_axes(axes: Mapping[str, int]) -> str:
    """A mesh in words, as `--mesh` takes it."""
    return ",".join(f"{name}={axes[name]}" for name in AXES if axes.get(name, 1) != 1) or "replicate=1"
