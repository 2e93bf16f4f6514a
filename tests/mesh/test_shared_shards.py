"""Sharded, models that FSDP2 alone refuses or would get wrong are those of one process; what cannot be is told before a run."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from company import on_ranks
from mesh_programs import MODELS, TOKENS, WIDTH, WORDS, Net, Words, all_steps, refused, steps
from tests.mesh.errors import error
from torch import Tensor, nn

from mapsto import use
from mapsto.torch.mesh.shard import unshared


class Scalars(Net):
    """Parameters without an axis, of the model and of a block."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.blocks[0].gain = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x * self.blocks[0].gain)


class Again(Net):
    """Calls its first block twice."""

    def forward(self, x: Tensor) -> Tensor:
        for block in (*self.blocks, self.blocks[0]):
            x = x + block(x)
        return self.head(x)


class Same(Net):
    """One block stands in its list twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.blocks[0]] * 2)


class SharedModule(Net):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].fc1 = self.blocks[0].fc1


class TiedWeight(Net):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].fc2.weight = self.blocks[0].fc2.weight


class TiedHead(Words):
    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.embed.weight


class Mixed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.blocks[0].norm.half()


class Sparse(Words):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH, sparse=True)


OWN = {
    "scalars": Scalars, "again": Again, "same": Same, "shared": SharedModule, "tied": TiedWeight, "head": TiedHead,
    "mixed": Mixed, "sparse": Sparse,
}  # fmt: skip
MODELS |= OWN
TOKENS |= {"head", "sparse"}
SHARD = {"shard": 2}
MIDDLEWARE = [use("clip_norm", max_norm=0.05), use("ema", decay=0.9), use("accumulate", steps=2)]
CASES: dict[str, dict[str, Any]] = {
    **{name: {"model": name} for name in ("again", "same", "shared", "tied", "head")},
    "scalars": {"model": "scalars", "middleware": MIDDLEWARE, "optimizer": use("sgd", lr=0.1, momentum=0.9)},
    "scalars, adamw": {"model": "scalars", "optimizer": use("adamw", lr=1e-2), "steps": 1},
}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "mixed": ({"model": "mixed"}, "'blocks.0.fc1.weight' is float64 and 'blocks.0.norm.weight' float16, and both are gathered"),
    "sparse": ({"model": "sparse"}, "mesh.shard: 'embed' has sparse gradients (sparse=True), which are not scattered"),
    "adafactor": ({"optimizer": use("adafactor", lr=0.1)}, "optimizer: Adafactor cannot update parameters of which ranks hold"),
    "lbfgs": ({"optimizer": use("lbfgs")}, "LBFGS takes inner products over all parameters"),
    "strict": ({"model": "scalars", "strict": True, "micro_shards": 2}, "has no axis along which it could be sharded"),
}


def both(cases: dict[str, Any], bad: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    found = all_steps(cases), {name: refused(case) for name, case in bad.items()}
    torch.distributed.barrier()  # the first rank keeps the store, which others still need to be refused
    return found


@cache
def two() -> list[Any]:
    cases = {name: {**case, "mesh": SHARD} for name, case in CASES.items()}
    return on_ranks(2, both, cases, {name: {**case, "mesh": SHARD} for name, (case, _) in BAD.items()})


@pytest.mark.parametrize("name", CASES)
def test_sharded_it_is_the_model_of_one_process(name: str) -> None:
    wanted = steps(CASES[name])
    for found, _ in two():
        assert error(found[name]["gradients"], wanted["gradients"]) < 1e-12
        assert error(found[name]["weights"], wanted["weights"]) < (1e-9 if "adamw" in name else 1e-12)
        assert found[name]["evaluation"] == pytest.approx(wanted["evaluation"], rel=1e-9)


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_sharded_is_one_line_before_the_first_step(name: str) -> None:
    for _, found in two():
        assert BAD[name][1] in found[name]
        assert "\n" not in found[name]


def test_blocks_that_share_are_named_and_gathered_with_the_model() -> None:
    model = SharedModule()
    assert unshared(model, list(model.blocks)) == (
        [],
        ["shard: blocks.0, blocks.1 share parameters with other blocks, and are gathered with what holds all of these"],
    )
    same = Same()
    assert unshared(same, list(same.blocks)) == ([same.blocks[0]], [])
