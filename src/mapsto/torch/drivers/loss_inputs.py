"""Inputs that losses take: families of predictions and targets, and which of them a loss takes by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CLASSES, WIDTH, TIME = 5, 4, 6

Make = Callable[[int, torch.Generator], tuple[Any, ...]]


@dataclass(frozen=True)
class Family:
    """Inputs of a form: `fixed` are the targets, which are not differentiated; `axes` the axis of records of each input.

    domain: where predictions live: `real`, `probability`, `log_probability` or `positive`.
    """

    said: str
    make: Make
    fixed: tuple[int, ...] = (1,)
    domain: str = "real"
    axes: tuple[int, ...] = (0, 0, 0, 0)


def _normal(size: int, generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(size, *shape, generator=generator)


def _ids(size: int, generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(CLASSES, (size, *shape), generator=generator)


def _coins(size: int, generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(2, (size, *shape), generator=generator).float()


def _signs(size: int, generator: torch.Generator, *shape: int) -> Tensor:
    return 2 * _coins(size, generator, *shape) - 1


def _simplex(size: int, generator: torch.Generator, *shape: int) -> Tensor:
    return torch.softmax(_normal(size, generator, *shape), -1)


def _sets(size: int, generator: torch.Generator) -> Tensor:
    """Sets of classes, each ended by -1."""
    order = torch.rand(size, CLASSES, generator=generator).argsort(-1)
    counts = torch.randint(1, CLASSES, (size, 1), generator=generator)
    return torch.where(torch.arange(CLASSES) < counts, order, -1)


def _ctc(size: int, generator: torch.Generator) -> tuple[Any, ...]:
    log_probabilities = torch.log_softmax(torch.randn(9, size, CLASSES, generator=generator), -1)
    lengths = torch.randint(1, 4, (size,), generator=generator)
    targets = torch.randint(1, CLASSES, (size, 3), generator=generator)
    return log_probabilities, targets, torch.full((size,), 9), lengths


FAMILIES: dict[str, Family] = {
    "classes": Family(f"logits [size, {CLASSES}] and class ids [size]",
                      lambda n, g: (_normal(n, g, CLASSES), _ids(n, g))),
    "sequences": Family(f"logits [size, {TIME}, {CLASSES}] and token ids [size, {TIME}]",
                        lambda n, g: (_normal(n, g, TIME, CLASSES), _ids(n, g, TIME))),
    "log classes": Family(f"log-probabilities [size, {CLASSES}] and class ids [size]",
                          lambda n, g: (_simplex(n, g, CLASSES).log(), _ids(n, g)), domain="log_probability"),
    "binary": Family("logits [size, 3] and targets of 0 or 1",
                     lambda n, g: (_normal(n, g, 3), _coins(n, g, 3))),
    "probabilities": Family("probabilities [size, 3] and targets of 0 or 1",
                            lambda n, g: (torch.sigmoid(_normal(n, g, 3)), _coins(n, g, 3)), domain="probability"),
    "pairs": Family("numbers [size, 3] and targets alike",
                    lambda n, g: (_normal(n, g, 3), _normal(n, g, 3))),
    "counts": Family("log rates [size, 3] and counts",
                     lambda n, g: (_normal(n, g, 3), torch.randint(4, (n, 3), generator=g).float())),
    "signs": Family("scores [size, 3] and targets of 1 or -1",
                    lambda n, g: (_normal(n, g, 3), _signs(n, g, 3))),
    "distances": Family("distances [size, 3] and targets of 1 or -1",
                        lambda n, g: (_normal(n, g, 3).abs(), _signs(n, g, 3)), domain="positive"),
    "sets": Family(f"scores [size, {CLASSES}] and sets of classes ended by -1",
                   lambda n, g: (_normal(n, g, CLASSES), _sets(n, g))),
    "many labels": Family(f"scores [size, {CLASSES}] and targets of 0 or 1",
                          lambda n, g: (_normal(n, g, CLASSES), _coins(n, g, CLASSES))),
    "distributions": Family(f"log-probabilities and probabilities [size, {CLASSES}]",
                            lambda n, g: (_simplex(n, g, CLASSES).log(), _simplex(n, g, CLASSES)), domain="log_probability"),
    "embedding pairs": Family("two embeddings [size, 4] and targets of 1 or -1",
                              lambda n, g: (_normal(n, g, 4), _normal(n, g, 4), _signs(n, g)), fixed=(2,)),
    "ranks": Family("two scores [size] and targets of 1 or -1",
                    lambda n, g: (_normal(n, g), _normal(n, g), _signs(n, g)), fixed=(2,)),
    "triplets": Family("anchor, positive and negative [size, 4]",
                       lambda n, g: (_normal(n, g, 4), _normal(n, g, 4), _normal(n, g, 4)), fixed=()),
    "gaussians": Family("means [size, 3], targets and variances",
                        lambda n, g: (_normal(n, g, 3), _normal(n, g, 3), _normal(n, g, 3).square() + 0.1)),
    "alignments": Family(f"log-probabilities [9, size, {CLASSES}], labels [size, 3], lengths [size] and [size]", _ctc,
                         fixed=(1, 2, 3), domain="log_probability", axes=(1, 0, 0, 0)),
    "images": Family("numbers [size, 2, 4, 4] and targets alike",
                     lambda n, g: (_normal(n, g, 2, 4, 4), _normal(n, g, 2, 4, 4))),
    "features": Family(f"features [size, {WIDTH}] and class ids [size]",
                       lambda n, g: (_normal(n, g, WIDTH), _ids(n, g))),
    "masks": Family("logits [size, 1, 4, 4] and masks of 0 or 1",
                    lambda n, g: (_normal(n, g, 1, 4, 4), _coins(n, g, 1, 4, 4))),
    "scores": Family("scores [size, 5] alone", lambda n, g: (_normal(n, g, CLASSES),), fixed=()),
}  # fmt: skip

BY_NAME: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"ctc", ("alignments",)),
    (r"triplet", ("triplets",)),
    (r"nll.*gauss|gauss.*nll", ("gaussians",)),
    (r"poisson", ("counts",)),
    (r"kl_?div|kullback", ("distributions",)),
    (r"(?<!log)nll", ("log classes",)),
    (r"(bce|binary).*(logit)|binary|sigmoid|focal.*bin", ("binary", "masks", "probabilities")),
    (r"bce", ("binary", "probabilities")),
    (r"dice|tversky|jaccard|iou|lovasz", ("masks", "binary", "probabilities")),
    (r"cosine.*embed|contrastive", ("embedding pairs", "features")),
    (r"rank", ("ranks",)),
    (r"hinge|soft_?margin", ("signs",)),
    (r"cross_?entropy|softmax|entmax|sparsemax|label_?smooth|focal|poly|logit", ("classes", "sequences", "features", "binary")),
    (r"mse|l1|l2|mae|huber|smooth|regress|quantile|cosh|charbonnier|error", ("pairs", "images")),
)
"""Names of losses and the families they are likely to take, the likeliest first."""


def likely(name: str, count: int) -> Iterator[Family]:
    """Families to try on a loss of this name that takes `count` inputs."""
    plain, seen = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower(), dict[str, None]()
    for pattern, families in BY_NAME:
        if re.search(pattern, plain):
            seen |= dict.fromkeys(families)
    rest = (
        "classes",
        "pairs",
        "binary",
        "signs",
        "sequences",
        "images",
        "triplets",
        "embedding pairs",
        "ranks",
        "gaussians",
        "scores",
    )
    for key in seen | dict.fromkeys(rest):
        family = FAMILIES[key]
        if len(family.make(1, torch.Generator())) == count:
            yield family
