"""Checksums of a state tree: what ranks compare to see whether what they hold of the same is still the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .one import local

CHUNK = 2**16
"""Words that are summed at once: they and their products stay in the cache."""
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
MULTIPLIER = 0x9E3779B97F4A7C15 - 2**64


def checksums(tree: Any) -> dict[str, dict[str, int]]:
    """Of every tensor a checksum of all its bits, by path; under the part that this rank holds, such as `shard 1` or ``.

    Ranks that hold the same part must have the same. What is each rank's own by its nature (a `PerRank` leaf) is left out.
    """
    found: dict[str, dict[str, int]] = {}
    sums: dict[torch.device, list[Tensor]] = {}
    places: dict[torch.device, list[tuple[str, str]]] = {}
    weights: dict[torch.device, Tensor] = {}
    for path, tensor in _tensors(tree, ""):
        own = local(tensor)
        if own.device not in weights:
            weights[own.device] = (torch.arange(CHUNK, device=own.device) * 2 + 1) * MULTIPLIER
        sums.setdefault(own.device, []).append(checksum(own, weights[own.device]))
        places.setdefault(own.device, []).append((_part(tensor), path))
    for device, values in sums.items():
        for (part, path), value in zip(places[device], torch.stack(values).tolist(), strict=True):
            found.setdefault(part, {})[path] = value
    return found


def checksum(tensor: Tensor, weights: Tensor) -> Tensor:
    """A number of 64 bits that depends on every bit and its place: sums of words by odd multipliers, modulo 2^64."""
    words = tensor.detach().contiguous().view(-1)
    if words.dtype.itemsize == 16:
        words = torch.view_as_real(words).view(-1)
    words = words.view(WORDS[words.dtype.itemsize])
    total = torch.full((), tensor.numel(), dtype=torch.int64, device=tensor.device)
    for chunk in torch.split(words, CHUNK):
        total.mul_(MULTIPLIER).add_((chunk.long() * weights[: len(chunk)]).sum())
    return total


def _tensors(tree: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _tensors(value, f"{path}/{name}" if path else str(name))
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            yield from _tensors(value, f"{path}/{i}")


def _part(tensor: Any) -> str:
    """Which part of a tensor lies here: the coordinates along the axes that cut it; empty for a whole one."""
    mesh = getattr(tensor, "device_mesh", None)
    if mesh is None:
        return ""
    names = mesh.mesh_dim_names or [str(i) for i in range(mesh.ndim)]
    cut = [i for i, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    return " ".join(f"{names[i]} {mesh.get_local_rank(i)}" for i in cut)
