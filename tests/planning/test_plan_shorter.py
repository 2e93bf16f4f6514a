"""What a few of a model's equal blocks tell of all of them is what the whole model tells, on every kind of mesh."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto import Spec, use
from mapsto.core.parts import Part
from mapsto.planning import plan as planning
from mapsto.planning.candidates import format_axes, parse_mesh
from mapsto.torch.planning import meshes as stepping
from mapsto.torch.planning import shorter

WIDTH, LENGTH, BLOCKS = 32, 8, 9
EXAMPLE = {"input": np.zeros((4, LENGTH), np.int64), "target": np.zeros((4, LENGTH), np.int64)}
INJECTED = {"total_steps": 10, "steps_per_epoch": 5, "seed": 0}
CHECKPOINTS = use("activation_checkpointing", modules=["blocks.*"])
MUCH = [use("clip_norm", max_norm=1.0), "ema", use("accumulate", steps=2), use("mixed_precision", dtype="bf16")]


class Block(nn.Module):
    def __init__(self, wide: int = 2) -> None:
        super().__init__()
        self.norm, self.q, self.k, self.v, self.out = nn.LayerNorm(WIDTH), *(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, wide * WIDTH), nn.Linear(wide * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).unflatten(-1, (-1, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(x)))


class Text(nn.Module):
    """Equal blocks in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Embedding(64, WIDTH), nn.Linear(WIDTH, 64)
        self.blocks = nn.ModuleList(self.block(number) for number in range(BLOCKS))

    def block(self, number: int) -> nn.Module:
        return Block()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(4, WIDTH), nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.norm(x.transpose(1, 2)).relu()).transpose(1, 2)


class Image(Text):
    def block(self, number: int) -> nn.Module:
        return Convolution()


class Skipping(Text):
    """What each block gives is kept until the end."""

    def forward(self, ids: Tensor) -> Tensor:
        outputs = [self.token(ids)]
        for block in self.blocks:
            outputs.append(block(outputs[-1]))
        for output in outputs:
            outputs[-1] = outputs[-1] * output.tanh()
        return self.head(outputs[-1])


class Unequal(Text):
    """Each block is wider than the one before."""

    def block(self, number: int) -> nn.Module:
        return Block(1 + number)


class Tied(Text):
    """Blocks of which two have the same parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks[4].up.weight = self.blocks[6].up.weight  # type: ignore[union-attr]


class Same(Text):
    """One block that is called again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block()] * BLOCKS)


class Counting(Text):
    """It reaches for its blocks by number."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids)
        for number in range(BLOCKS):
            x = self.blocks[number](x)
        return self.head(x)


class Pooling(Text):
    """Equal blocks that get half as long inputs after the sixth: what fewer blocks cannot tell."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids)
        for number, block in enumerate(self.blocks):
            x = block(x[:, : LENGTH // 2] if number == 6 else x)
        return self.head(F.pad(x, (0, 0, 0, LENGTH - x.shape[1])))


def estimates(model: Any, middleware: list[Any], meshes: list[str], **more: Any) -> tuple[planning.Planner, dict[str, Any]]:
    spec = Spec(
        model=use(model), task="language_model", optimizer=use("adamw", lr=0.1), device="cpu", middleware=middleware,
        data={"train": {"source": use("arrays", **EXAMPLE), "batch_size": 4}}, mesh=Part("ranks", {"replicate": 1}),
    )  # fmt: skip
    planner = planning.Planner(spec, EXAMPLE, 64, INJECTED, planning.Limits(**more))
    found = planner.rank([parse_mesh(mesh, None) for mesh in meshes])
    return planner, {format_axes(one.axes): one.to_data() for one in found}


@pytest.mark.parametrize(
    ("model", "middleware", "meshes", "right"),
    [
        (Text, [], ["replicate=4", "shard=3"], ["", "replicate", "shard"]),
        pytest.param(Text, [], ["shard=2,replicate=2", "shard=2,tensor=2"], ["replicate+shard"], marks=pytest.mark.slow),
        pytest.param(Text, MUCH, ["replicate=4", "shard=3"], [], marks=pytest.mark.slow),
        pytest.param(Text, [CHECKPOINTS], ["shard=3"], [], marks=pytest.mark.slow),
        (Image, [], ["shard=3"], ["", "shard"]),
        (Skipping, [], ["replicate=2"], []),
        (Same, [], ["replicate=2"], []),
        (Unequal, [], ["replicate=2"], None),
        (Tied, [], ["replicate=2"], None),
        (Counting, [], ["replicate=2"], None),
        (Pooling, [], ["replicate=2"], None),
    ],
    ids=[
        "text", "more axes", "much", "checkpoints", "image", "skipping", "same", "unequal", "tied", "counting", "pooling"
    ],
)  # fmt: skip
def test_a_few_blocks_tell_what_the_whole_model_tells(
    model: Any, middleware: list[Any], meshes: list[str], right: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """right: kinds of meshes of which they must tell it; None: nothing of the model must be taken from them."""
    monkeypatch.setattr(shorter, "BUCKET", 0)  # one bucket has all gradients of these small models
    meshes = [*meshes, "replicate=1"]
    planner, short = estimates(model, middleware, meshes, memory=3_000_000)
    if right is None:
        assert planner.dry_run.shorter is None
    elif right:
        assert planner.dry_run.shorter is not None
        told = {"+".join(sorted(kind)) for kind, regular in planner.dry_run.shorter.regular.items() if regular}
        assert told >= set(right)
    monkeypatch.setattr(stepping, "equal_blocks", lambda _: None)
    planner, whole = estimates(model, middleware, meshes, memory=3_000_000)
    assert planner.dry_run.shorter is None
    assert short == whole
    assert all(one["largest_micro_batch"] > 1 for one in whole.values() if one["fits"])


def test_buckets_that_may_reach_over_blocks_are_not_told_by_few() -> None:
    planner, _ = estimates(Text, [], ["replicate=4", "shard=2"])
    assert planner.dry_run.shorter is not None
    assert [*planner.dry_run.shorter.regular] == [frozenset({"shard"})]
    assert planner.dry_run.shorter.told(parse_mesh("replicate=4", None), 4, None) is None


def test_what_a_block_adds_is_added_as_often_as_it_is_missing() -> None:
    def made(count: int) -> Any:
        edge, forward, backward = [(4, 40), (5, 6)], [(4, 7), (4, 9), (4, -7)], [(1, 3), (4, -9), (5, -5)]
        middle = [(4, 2), *backward[:2], *[(5, 5), *backward] * (count - 1), (4, 11)]  # the last asks for less
        norms = [(4, 1)] * count + [(4, count), (4, -count)] + [(4, -1)] * count
        return np.array([*edge, *forward * count, *middle, *norms, (4, -2)], np.int64)

    for times in (0, 1, 2, 20):
        assert np.array_equal(shorter._repeated(made(3), made(4), times), made(3 + times))
    assert shorter._repeated(made(4), made(3), 2) is None
    assert shorter._repeated(made(3), made(4)[::-1], 1) is None
