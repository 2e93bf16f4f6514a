"""Later micro-batches of a pipeline repeat the second, and all that is told is what is told where each of them is computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto import Spec, use
from mapsto.planning import plan as planning
from mapsto.planning.estimate import Measured
from mapsto.torch.planning import repeats
from mapsto.torch.planning.dry_run import dry_run
from mapsto.torch.planning.meshes import Meshes
from mapsto.torch.planning.stages import Mail

WIDTH, LENGTH, STAGES, MICRO_BATCHES = 16, 8, 3, 6
EXAMPLE = {"input": np.zeros((4, LENGTH), np.int64), "target": np.zeros((4, LENGTH), np.int64)}
OFFERS = {"total_steps": 10, "steps_per_epoch": 5, "seed": 0}
CHECKPOINTS = use("activation_checkpointing", modules=["blocks.*"])
MUCH = ["ema", use("clip_norm", max_norm=1.0), use("accumulate", steps=2)]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.q, self.k, self.v, self.out = nn.LayerNorm(WIDTH), *(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Embedding(64, WIDTH), nn.Linear(WIDTH, 64)
        self.blocks = nn.Sequential(*[self.block() for _ in range(STAGES)])

    def block(self) -> nn.Module:
        return Block()

    def pipeline_plan(self) -> list[Any]:
        return [self.token, *self.blocks, self.head]

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.blocks(self.token(ids)))


class Saturated(Text):
    """The last layer keeps its own output for backward."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh())


class Counting(Text):
    """From a pass on, a block makes more."""

    def block(self) -> nn.Module:
        class Counted(Block):
            calls = 0

            def forward(self, x: Tensor) -> Tensor:
                self.calls += 1
                return super().forward(x if self.calls < MICRO_BATCHES else x + (x.exp() + x.sin()).tanh())

        return Counted()


class Noting(Text):
    """The same of a count in a list, where it is not seen as long as nothing follows from it."""

    def block(self) -> nn.Module:
        class Noted(Block):
            def __init__(self) -> None:
                super().__init__()
                self.calls = [0]

            def forward(self, x: Tensor) -> Tensor:
                self.calls[0] += 1
                return super().forward(x if self.calls[0] <= 3 else x + (x.exp() + x.sin()).tanh())

        return Noted()


class Hoarding(Text):
    """What a block makes is kept for longer than its micro-batch."""

    def block(self) -> nn.Module:
        class Keeping(Block):
            def forward(self, x: Tensor) -> Tensor:
                self.kept = [*getattr(self, "kept", []), x.detach() * 2]
                return super().forward(x)

        return Keeping()


class Aliasing(Text):
    """A stage gives on what it was given, beside what it makes."""

    def pipeline_plan(self) -> list[Any]:
        first, *others = self.blocks
        pieces = [lambda ids: (self.token(ids), ids), lambda x, ids: (first(x), ids)]
        pieces += [lambda x, ids, b=b: (b(x), ids) for b in others]
        names = ["token", *(f"blocks.{number}" for number in range(STAGES))]
        return [*zip(pieces, names, strict=True), (lambda x, ids: self.head(x), "head")]


def planner(model: Any, middleware: list[Any], schedule: str = "1f1b") -> planning.Planner:
    spec = Spec(
        model=use(model), task="language_model", optimizer=use("adamw", lr=0.1), device="cpu", middleware=middleware,
        data={"train": {"source": use("arrays", **EXAMPLE), "batch_size": 4}},
        mesh=use("ranks", microbatches=MICRO_BATCHES, schedule=schedule),
    )  # fmt: skip
    return planning.Planner(spec, EXAMPLE, 96, OFFERS, planning.Limits(memory=2_000_000))


def steps(planner: planning.Planner, axes: dict[str, int], repeating: bool) -> Iterator[tuple[Measured, str]]:
    """Two steps of each stage, and what was unlike in them."""
    mail, each = Mail(), axes["replicate"] * axes["tensor"]
    for stage in range(axes["pipeline"]):
        with dry_run(planner.spec, axes, stage * each, EXAMPLE, OFFERS, mail, repeating=repeating) as run:
            for records in (4, 8):
                yield run.step(records), run.unlike


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Passes that were not computed."""
    found: list[str] = []
    backward = repeats._Replay.backward

    def counted(self: Any, gradients: Any) -> None:
        found.append("backward")
        backward(self, gradients)

    monkeypatch.setattr(repeats._Replay, "backward", counted)
    return found


AXES = {"pipeline": STAGES, "replicate": 2, "shard": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("model", "middleware", "schedule", "tensor", "share"),
    [
        (Text, [], "1f1b", 1, 1),
        (Text, [], "gpipe", 1, 1),
        (Text, [], "1f1b", 2, 1),
        (Text, [CHECKPOINTS], "1f1b", 1, 1),
        (Saturated, [], "1f1b", 1, 1),
        (Text, MUCH, "1f1b", 1, 1),
        (Text, [use("mixed_precision", dtype="bf16")], "1f1b", 1, 0),
        (Hoarding, [], "1f1b", 1, 0),
        (Counting, [], "1f1b", 1, 0),
        (Aliasing, [], "1f1b", 1, 1 / 3),
    ],
    ids=["text", "gpipe", "tensor", "checkpoints", "saturated", "much", "bf16", "hoarding", "counting", "aliasing"],
)
def test_a_step_that_repeats_the_second_micro_batch_is_that_which_computes_all(
    model: Any, middleware: list[Any], schedule: str, tensor: int, share: float, repeated: list[str]
) -> None:
    """share: of the stages that repeat at least."""
    axes = AXES | {"tensor": tensor}
    plan = planner(model, middleware, schedule)
    short = list(steps(plan, axes, True))
    passes = (MICRO_BATCHES - 3) + (MICRO_BATCHES - 2)  # the first step computes the last too, to compare it
    assert len(repeated) >= share * STAGES * passes
    whole = list(steps(plan, axes, False))
    for (one, unlike), (other, _) in zip(short, whole, strict=True):
        assert unlike == "" or not share
        if unlike:  # and another dry run is made
            continue
        assert one == other
        assert np.array_equal(one.timeline.held, other.timeline.held)
        assert np.array_equal(one.timeline.changes, other.timeline.changes)


@pytest.mark.parametrize(("model", "seen"), [(Noting, True), (Counting, False), (Hoarding, False)])
def test_what_later_micro_batches_do_otherwise_is_seen_and_all_are_computed(
    model: Any, seen: bool, repeated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """seen: only when some had been repeated."""
    plan = planner(model, [])
    found = plan.estimate(AXES)
    assert bool(repeated) is seen is not plan.dry_run.repeating
    monkeypatch.setattr(Meshes, "repeating", property(lambda _: False, lambda *_: None), raising=False)
    whole = planner(model, []).estimate(AXES)
    assert found.measured is not None
    assert found.to_data() == whole.to_data()
    assert found.to_data() != planner(Text, []).estimate(AXES).to_data()
