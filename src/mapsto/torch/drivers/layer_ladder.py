"""Inputs of a layer found along a ladder of common signatures, smallest first."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor, nn

Make = Callable[[int, torch.Generator], tuple[Any, ...]]

TIME, SIDE, LARGE, IDS = 5, 7, 64, 16
WIDTH_NAMES = (
    "in_features", "in1_features", "in2_features", "in_channels", "num_features", "num_channels", "embed_dim",
    "d_model", "input_size",
    "hidden_size", "embedding_dim", "normalized_shape", "dim", "channels", "features", "num_parameters",
)  # fmt: skip
TRIES = 300


@dataclass(frozen=True)
class Candidate:
    """Inputs to try: said in words, made for a size, and the axis that counts records."""

    said: str
    make: Make
    record_axis: int = 0


@dataclass(frozen=True)
class Hints:
    """What a built instance tells of its inputs."""

    names: tuple[str, ...]
    widths: tuple[int, ...]
    vocabulary: int | None
    families: tuple[str, ...]
    batch_first: bool
    recurrent: bool


def hints(module: nn.Module) -> Hints:
    """Names of forward's required parameters, plausible widths from attributes and weights, the likely families of shapes."""
    leaves = [m for m in module.modules() if not list(m.children())]
    widths: dict[int, None] = {}
    for holder in (module, *leaves[:8]):
        for name in WIDTH_NAMES:
            value = getattr(holder, name, None)
            value = value[-1] if isinstance(value, (tuple, list)) and value else value
            if isinstance(value, int) and not isinstance(value, bool) and 1 < value <= 4096:
                widths[value] = None
    for parameter in islice((p for p in module.parameters() if not nn.parameter.is_lazy(p)), 4):
        for size in (*reversed(parameter.shape[1:]), *parameter.shape[:1]):
            if size > 1:
                widths[size] = None
    for size in (8, 3, 4, 1):
        widths.setdefault(size)
    embedding = next((m for m in leaves if isinstance(m, (nn.Embedding, nn.EmbeddingBag))), None)
    parameters = forward_parameters(module)
    return Hints(
        names=tuple(n for n, p in parameters.items() if p.default is p.empty) or tuple(islice(parameters, 1)),
        widths=tuple(widths)[:8],
        vocabulary=embedding.num_embeddings if embedding is not None else None,
        families=tuple(_families(module, leaves, embedding is not None)),
        batch_first=_batch_first(module),
        recurrent=isinstance(module, nn.RNNBase),
    )


def _batch_first(module: nn.Module) -> bool:
    """Whether records come first: as it says itself or, in PyTorch's own blocks, as its attention says."""
    own = (module, *module.children()) if type(module).__module__.startswith("torch.nn") else (module,)
    return next((bool(m.batch_first) for m in own if hasattr(m, "batch_first")), True)


def forward_parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    """The positional parameters of forward."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(module.forward).parameters
    given = {n: p for n, p in found.items() if p.kind in kinds}
    return given or {n: p for n, p in found.items() if p.kind is inspect.Parameter.VAR_POSITIONAL}


def _families(module: nn.Module, leaves: list[nn.Module], embeds: bool) -> Iterator[str]:
    seen: dict[str, None] = {}
    name = type(module).__name__
    for kind in (name, *(type(m).__name__ for m in leaves[:3])):
        if found := re.search(r"([123])d$", kind, re.IGNORECASE):
            seen[f"image{found[1]}"] = None
        elif kind in ("PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "Upsample", "Unfold"):
            seen["image2"] = None
        elif kind == "Fold":
            seen["columns"] = None
    if embeds or re.search("embed|token", name, re.IGNORECASE):
        seen.setdefault("ids")
        seen.setdefault("sets")
    if re.search("attention|transformer|encoder|decoder|sequence|rnn|lstm|gru", name, re.IGNORECASE):
        seen.setdefault("sequence")
    if name.endswith("Cell"):
        seen.setdefault("vector")
    yield from {
        **seen,
        "vector": None,
        "sequence": None,
        "image1": None,
        "image2": None,
        "image3": None,
        "ids": None,
        "sets": None,
    }


def candidates(module: nn.Module) -> Iterator[Candidate]:
    """Inputs to try on an instance, the likeliest first."""
    told = hints(module)
    return islice(_candidates(told), TRIES)


def _candidates(told: Hints) -> Iterator[Candidate]:
    count = len(told.names)
    if count == 0:
        yield Candidate("no inputs", lambda *_: ())
        return
    if told.recurrent and not told.batch_first:
        for width in told.widths:
            yield Candidate(f"a sequence [time {TIME}, size, {width}]", _time_first(width, count), 1)
    if "indices" in told.names and count == 2:
        yield from _pooled(told.families[0])
    for family in told.families:
        for widths in product(told.widths, repeat=min(count, 2)):
            if count > 2 and len(set(widths)) > 1:
                continue
            wide = (*widths, *([widths[0]] * (count - len(widths))))
            first = family == "sequence" and not told.batch_first
            yield Candidate(*_described(told, family, wide, time_first=first), record_axis=int(first))
    for family in (f for f in told.families if f.startswith("image")):
        for width in told.widths:
            yield Candidate(*_described(told, f"large {family}", (width,) * count, time_first=False))
    for width in told.widths:
        if count >= 2:
            families = ["image2"] + ["vector"] * (count - 1)
            yield Candidate(*_mixed(told, families, width))
            yield Candidate(*_mixed(told, ["sequence"] + ["vector"] * (count - 1), width))
            yield Candidate(*_mixed(told, ["vector"] + ["classes"] * (count - 1), width))


def _described(told: Hints, family: str, widths: tuple[int, ...], *, time_first: bool) -> tuple[str, Make]:
    makers = [_tensor(told, name, family, width) for name, width in zip(told.names, widths, strict=True)]

    def make(size: int, generator: torch.Generator) -> tuple[Any, ...]:
        made = tuple(m(size, generator) for _, m in makers)
        return tuple(x.transpose(0, 1).contiguous() if time_first and x.dim() > 1 else x for x in made)

    order = " with time first" if time_first else ""
    return ", ".join(f"{n}: {said}" for n, (said, _) in zip(told.names, makers, strict=True)) + order, make


def _mixed(told: Hints, families: list[str], width: int) -> tuple[str, Make]:
    makers = [_tensor(told, name, family, width) for name, family in zip(told.names, families, strict=True)]
    said = ", ".join(f"{n}: {text}" for n, (text, _) in zip(told.names, makers, strict=True))
    return said, lambda size, generator: tuple(m(size, generator) for _, m in makers)


def _tensor(told: Hints, name: str, family: str, width: int) -> tuple[str, Callable[[int, torch.Generator], Tensor]]:
    """How one parameter of forward is made in a family of shapes, by its name where that tells something."""
    plain = name.lower()
    if re.search("mask", plain):
        square = re.search("attn_mask|src_mask|tgt_mask|attention_bias|causal", plain)
        if square:
            return f"bool [{TIME}, {TIME}]", lambda *_: torch.zeros(TIME, TIME, dtype=torch.bool)
        return f"bool [size, {TIME}]", lambda size, _: torch.ones(size, TIME, dtype=torch.bool)
    high = told.vocabulary or IDS
    if re.fullmatch(r"(input_?)?ids|.*_ids|tokens?|idx|indices|captions?|src_tokens", plain) and family not in ("sets",):
        return f"ids [size, {TIME}] below {high}", lambda size, generator: torch.randint(
            high, (size, TIME), generator=generator
        )
    if re.fullmatch(r"t|time_?steps?|sigma|noise_level", plain) and family != "sequence":
        return "numbers [size]", lambda size, generator: torch.rand(size, generator=generator)
    if family == "ids":
        return f"ids [size, {TIME}] below {high}", lambda size, generator: torch.randint(
            high, (size, TIME), generator=generator
        )
    if family in ("sets", "classes"):
        top = high if family == "sets" else 4
        return f"ids [size] below {top}", lambda size, generator: torch.randint(top, (size,), generator=generator)
    shape = {
        "vector": (width,), "sequence": (TIME, width), "image1": (width, SIDE), "image2": (width, SIDE, SIDE),
        "image3": (width, SIDE, SIDE, SIDE), "columns": (width * 6, 9), "large image1": (width, LARGE),
        "large image2": (width, LARGE, LARGE), "large image3": (width, LARGE // 2, LARGE // 2, LARGE // 2),
    }[family]  # fmt: skip
    return f"[size, {', '.join(map(str, shape))}]", lambda size, generator: torch.randn(size, *shape, generator=generator)


def _time_first(width: int, count: int) -> Make:
    return lambda size, generator: tuple(torch.randn(TIME, size, width, generator=generator) for _ in range(count))


def _pooled(family: str) -> Iterator[Candidate]:
    """Values and the indices that max pooling with kernel 3 gives, for layers that undo it."""
    for axes, pool in ((1, nn.functional.max_pool1d), (2, nn.functional.max_pool2d), (3, nn.functional.max_pool3d)):
        if family in ("image1", "image2", "image3") and family != f"image{axes}":
            continue

        def make(size: int, generator: torch.Generator, axes: int = axes, pool: Any = pool) -> tuple[Any, ...]:
            made: tuple[Any, ...] = pool(torch.randn(size, 4, *[9] * axes, generator=generator), 3, return_indices=True)
            return made

        yield Candidate(f"values and indices that max pooling over {axes} axes gave", make)
