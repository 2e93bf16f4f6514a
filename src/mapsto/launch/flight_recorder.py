"""The flight recorder: the last collectives of each rank, and where the ranks took different ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.native import loaded

ALIKE = ("allreduce", "all_reduce", "broadcast", "reduce", "allgather", "all_gather")
"""Collectives to which every rank brings a tensor of one shape; others, such as all_to_all, may bring what they like."""
DTYPES = {"Float": "float32", "Double": "float64", "Half": "float16", "Long": "int64", "Int": "int32", "Byte": "uint8"}


@dataclass(frozen=True)
class Collective:
    """One collective of a rank: which group's, its number there, and what it was."""

    group: str
    number: int
    name: str
    sizes: str

    @property
    def what(self) -> str:
        """Such as `all_reduce of float32[4, 8]`."""
        return f"{self.name} of {self.sizes}" if self.sizes else self.name


def entries() -> list[dict[str, Any]]:
    """The last collectives of this process, of each framework that is loaded and keeps them; nothing where none does."""
    return [entry for own in loaded().values() for entry in own.collectives()]


def collectives(found: Sequence[Mapping[str, Any]]) -> list[Collective]:
    """The collectives among the entries, in their order; one that is listed twice (an operation and its work) counts once."""
    made: dict[tuple[str, int], Collective] = {}
    for entry in found:
        group = entry.get("process_group", ["0"])
        key = (str(group[0] if isinstance(group, list) and group else group), int(entry.get("collective_seq_id", 0)))
        if entry.get("is_p2p") or key in made:
            continue
        name = str(entry.get("profiling_name", "?")).rpartition(":")[2]
        kinds = [DTYPES.get(str(k), str(k).lower()) for k in entry.get("input_dtypes", [])]
        sizes = [str(list(s)) for s in entry.get("input_sizes", [])]
        pairs = [f"{k}{s}" for k, s in zip(kinds or [""] * len(sizes), sizes, strict=False)]
        made[key] = Collective(*key, name, ", ".join(pairs) if name in ALIKE else "")
    return list(made.values())


def divergence(ranks: Mapping[int, Sequence[Collective]]) -> tuple[list[int], str] | None:
    """The ranks that went another way than most (nobody where there is no most), and a sentence on the first collective
    where they did; None where none did.

    Compared are collectives of the same number in the same group; that one rank has come further is no divergence.
    """
    by_number: dict[tuple[str, int], dict[int, str]] = {}
    for rank, found in ranks.items():
        for each in found:
            by_number.setdefault((each.group, each.number), {})[rank] = each.what
    for (_, number), whats in sorted(by_number.items(), key=lambda item: item[0][1]):
        counts = Counter(whats.values())
        if len(counts) > 1:
            usual, most = counts.most_common(1)[0]
            told = [f"{listed([r for r in sorted(whats) if whats[r] == what])} in {what}" for what in counts]
            odd = [rank for rank, what in sorted(whats.items()) if what != usual] if 2 * most > len(whats) else []
            return odd, f"at collective {number} there {'was' if told[0].startswith('rank ') else 'were'} {', '.join(told)}"
    return None


def listed(ranks: Sequence[int]) -> str:
    """`rank 1`, or `ranks 0, 2, 3`."""
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))
