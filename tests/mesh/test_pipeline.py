"""Stages of a pipeline do what one process does that accumulates over the same micro-batches: bit for bit, dropout included."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import attention_models
import numpy as np
import pytest
import torch
from attention_models import Branching, Followed, Llama, Recipe
from company import on_ranks
from mesh_programs import MODELS, Net, all_steps, steps
from test_tensor import error, same
from torch import Tensor, nn

from mapsto import Spec, use
from mapsto.core.errors import CheckpointError, ComposeError, MapstoError, SpecError
from mapsto.torch.mesh.pipeline.sections import balanced, sections
from mapsto.torch.tasks import Classification

CLIP, EMA = use("clip_norm", max_norm=0.05), use("ema", decay=0.9)
DROPS = {"dropout": 0.3}
PIPELINE = {"pipeline": 2}
CASES: dict[str, dict[str, Any]] = {
    "llama": {"model": "llama", "options": DROPS, "mesh": {**PIPELINE, "microbatches": 4}},
    "gpipe": {"model": "words", "options": DROPS, "mesh": {**PIPELINE, "microbatches": 4, "schedule": "gpipe"}},
    "interleaved": {"model": "llama", "options": DROPS, "mesh": {**PIPELINE, "microbatches": 4, "schedule": "interleaved"}},
    "split": {
        "options": DROPS,
        "mesh": {**PIPELINE, "split": ["blocks.1"], "microbatches": 2},
        "middleware": [use("mixup", alpha=0.5)],
    },
    "declared": {"model": "branching", "mesh": PIPELINE, "middleware": [use("distillation", teacher=use(Branching))]},
    "tied": {"model": "recipe", "options": DROPS, "mesh": PIPELINE, "middleware": [CLIP]},
    "adamw": {
        "model": "llama",
        "optimizer": use("adamw", lr=1e-2),
        "middleware": ["no_weight_decay", CLIP, EMA, use("accumulate", steps=2)],
        "mesh": PIPELINE,
    },
    "sharp": {"model": "llama", "middleware": [use("sam", rho=0.1), use("nonfinite")], "mesh": PIPELINE, "steps": 2},
    "watched": {"model": "llama", "middleware": [use("health", every=1)], "mesh": PIPELINE, "steps": 2},
    "nothing": {"model": "words", "batch": 1, "mesh": PIPELINE},
    "bf16": {"options": DROPS, "dtype": "float32", "middleware": ["mixed_precision"], "mesh": PIPELINE, "steps": 2},
}
UNEQUAL = {"tied"}
"""Cases in which sums have another order: the gradient of a weight that two stages use."""


def reference(case: dict[str, Any]) -> dict[str, Any]:
    mesh = case["mesh"]
    data = mesh.get("replicate", 1)
    default = mesh["pipeline"] * (2 if mesh.get("schedule") == "interleaved" else 1)
    return steps({**{k: v for k, v in case.items() if k != "mesh"}, "micro_shards": data * mesh.get("microbatches", default)})


@cache
def alone(name: str) -> dict[str, Any]:
    return reference(CASES[name])


@cache
def two() -> list[Any]:
    return on_ranks(2, both, CASES, {name: case for name, (case, _) in BAD.items()})


def both(cases: dict[str, dict[str, Any]], bad: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    found = all_steps(cases), {name: refused(case) for name, case in bad.items()}
    torch.distributed.barrier()  # the first rank keeps the store, which others still need to be refused
    return found


def refused(case: dict[str, Any]) -> str:
    try:
        steps(case)
    except (MapstoError, RuntimeError) as found:
        return str(found)
    return "nothing"


def stages(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What the ranks have, as one: gradients of the stages together."""
    gradients = {name: value for each in found for name, value in each["gradients"].items()}
    return {**found[0], "gradients": gradients}


@pytest.mark.parametrize("name", CASES)
def test_two_stages_do_what_one_process_does(name: str) -> None:
    found = [each[name] for each, _ in two()]
    assert set(found[0]["gradients"]) != set(found[1]["gradients"]), "each rank has its own parameters"
    for rank, got in enumerate(found):
        same({**stages(found), **{k: got[k] for k in ("weights", "metrics", "evaluation")}}, alone(name), name, f"rank {rank}")


@pytest.mark.bits
@pytest.mark.parametrize("name", [name for name in CASES if name not in UNEQUAL])
def test_bits_are_those_of_one_process(name: str) -> None:
    wanted = alone(name)["weights"]
    for got, _ in two():
        for parameter, weight in wanted.items():
            assert np.array_equal(got[name]["weights"][parameter], weight), parameter


def test_other_micro_batches_would_be_seen() -> None:
    """The control: dropout is drawn for each micro-batch, so that another number of them gives other weights."""
    other = steps({"model": "llama", "options": DROPS, "micro_shards": 2})["weights"]["output.weight"]
    assert error(other, alone("llama")["weights"]["output.weight"]) > 1e-4


# -- cutting -------------------------------------------------------------------------------------------------------------
def test_a_model_is_cut_where_its_forward_says_and_parts_cost_about_the_same() -> None:
    cut = sections(Llama(layers=4), 3, None)
    assert [sorted(section.uses) for section in cut] == [
        ["layers.0", "tok_embeddings"],
        ["layers.1", "layers.2"],
        ["layers.3", "norm", "output"],
    ] or max(s.cost for s in cut) < 1.5 * min(s.cost for s in cut)
    tied = sections(Recipe(), 2, None)
    assert all("token.weight" in s.uses or "token" in s.uses for s in tied)
    assert sections(Branching(), 2, None)[0].uses == {"first"}
    x = torch.randn(5, 6)
    values: tuple[Any, ...] = ()
    for section in sections(net := Net(), 3, None):
        values = section.call({"x": x}, values)
    assert torch.equal(values[0], net(x))


def test_the_dearest_part_is_as_cheap_as_can_be() -> None:
    assert balanced([1, 1, 1, 1], range(4), 2) == [2]
    assert balanced([9, 1, 1, 1], range(4), 2) == [1]
    assert balanced([1, 1, 9, 1], [1, 3], 2) in ([1], [3])
    assert balanced([1, 1], [], 2) is None


class Masked(nn.Module):
    """A size that is read of a value within, and an argument that is not given."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.a(x)
        records, width = y.shape
        y = self.b(y if mask is None else y * mask)
        return self.c(y.view(records, width))


class Misnamed(Branching):
    def pipeline_plan(self) -> list[object]:
        return [(self.begin, "frist"), self.last]


class Incomplete(Branching):
    def end(self, x: Tensor) -> Tensor:
        return self.last(x) + self.first.weight.sum()

    def pipeline_plan(self) -> list[object]:
        return [(self.begin, "first"), (self.end, "last")]


class Idle(Net):
    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Linear(6, 3)


class Twice(Classification):
    def forward(self, model: nn.Module, batch: Any) -> Any:
        return super().forward(model, batch) + super().forward(model, batch)


class Parts(Classification):
    def forward(self, model: nn.Module, batch: Any) -> Any:
        return model.head(batch["input"])


class Gives(Classification):
    def forward(self, model: nn.Module, batch: Any) -> Any:
        return model(batch["input"], mask=torch.ones(1, 6, dtype=torch.float64))


MODELS |= {"masked": Masked, "misnamed": Misnamed, "incomplete": Incomplete, "idle": Idle}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "branches": ({"model": "followed"}, "the forward of Followed cannot be followed (TraceError: symbolically traced"),
    "too many": ({"model": "branching", "mesh": {**PIPELINE, "schedule": "interleaved"}}, "2 pieces do not make 4 stages"),
    "name": ({"model": "misnamed"}, "Misnamed.pipeline_plan: piece 0 uses 'frist'; allowed: first"),
    "size": ({"model": "masked", "mesh": {**PIPELINE, "split": ["b"]}}, "mesh.split: a size (getitem"),
    "idle": ({"model": "idle"}, "no stage uses 'never.weight'"),
    "frozen": (
        {"middleware": [use("freeze", patterns=["blocks"])], "mesh": {**PIPELINE, "split": ["head"]}},
        "stage 0 (blocks.0, blocks.1) has nothing to train",
    ),
    "split": ({"mesh": {**PIPELINE, "split": ["block.1"]}}, "no stage can begin at 'block.1'; allowed: blocks, blocks.0"),
    "splits": ({"mesh": {**PIPELINE, "split": ["blocks.1", "head"]}}, "2 stages begin at 1 modules after the first, and 2 are"),
    "micro-batches": ({"micro_shards": 3, "mesh": {**PIPELINE, "microbatches": 4}}, "4 on 1 data rank are 4 micro-shards"),
    "schedule": ({"mesh": {**PIPELINE, "schedule": "f1b"}}, "did you mean '1f1b'?"),
    "stages": ({"mesh": {**PIPELINE, "stages": 2}}, "1f1b has 1 stage a rank"),
    "noise": ({"middleware": [use("gradient_noise", eta=1.0)]}, "mesh.pipeline and gradient_noise do not go together"),
    "compile": ({"middleware": ["compile"]}, "compile compiles the whole model, which mesh.pipeline cuts"),
    "lbfgs": ({"optimizer": "lbfgs"}, "LBFGS takes inner products over all parameters"),
}
for _case, _ in BAD.values():
    _case.setdefault("mesh", PIPELINE)


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_on_every_rank_before_the_first_step(name: str) -> None:
    for _, found in two():
        assert BAD[name][1] in found[name]


DURING: dict[str, tuple[dict[str, Any], str]] = {
    "twice": ({"task": Twice}, "the task calls the model twice for a batch"),
    "parts": ({"task": Parts}, "the task uses 'head' of the model, whose parts lie on several ranks"),
    "gives": ({"task": Gives, "model": "masked"}, "the task gives the model 'mask', and its forward was followed"),
    "incomplete": ({"model": "incomplete"}, "'first' lies on another stage: the piece that uses it does not name it"),
}


@cache
def during() -> dict[str, list[str]]:
    """What each rank of each case was told: together, since the rank that sees nothing waits until its time is up."""
    with ThreadPoolExecutor(len(DURING)) as threads:
        mesh = {**PIPELINE, "timeout": 15.0}
        found = threads.map(lambda case: on_ranks(2, refused, {**case, "mesh": mesh}), [case for case, _ in DURING.values()])
        return dict(zip(DURING, found, strict=True))


@pytest.mark.parametrize("name", DURING)
def test_what_shows_in_the_first_step_ends_the_rank_that_sees_it(name: str) -> None:
    found = during()[name]
    assert any(DURING[name][1] in told for told in found), found
    assert "nothing" not in found


def test_what_does_not_go_together_is_told_by_the_spec_alone() -> None:
    def spec(mesh: dict[str, Any], *middleware: Any) -> Spec:
        data = {"train": {"source": {"input": np.zeros((4, 6)), "target": np.zeros(4, int)}, "batch_size": 2}}
        return Spec(model=use(Net), data=data, mesh=mesh, middleware=middleware)

    spec({"pipeline": 2, "replicate": 2}, "nonfinite").check()
    with pytest.raises(ComposeError, match="mesh.pipeline and shard do not go together: sharded parameters"):
        spec({"pipeline": 2, "shard": 2}).check()
    with pytest.raises(ComposeError, match="mesh.tensor and compile do not go together"):
        spec({"tensor": 2}, "compile").check()
    with pytest.raises(SpecError, match="allowed: .*tensor"):
        spec({"tensors": 2}).check()


def test_optimizer_state_goes_to_its_parameter_in_whatever_order_stages_had_it() -> None:
    """Parameters of one shape would be exchanged unseen: the optimizer itself goes by place."""
    from mesh_programs import made

    program, reader = made({"optimizer": use("adamw", lr=0.1)})
    with reader.stream(0, 3) as stream:
        for _, batch in stream:
            program.step(batch)
    tree = copy.deepcopy(program.state_tree())
    tree["optimizer"]["names"].reverse()
    tree["optimizer"]["groups"][0]["params"].reverse()
    other, _ = made({"optimizer": use("adamw", lr=0.1)})
    other.restore(tree)
    for each in (program, other):
        each.step(reader.batch(3))
    wanted = program.weights()
    assert all(np.array_equal(weight, wanted[name]) for name, weight in other.weights().items())
    tree["optimizer"]["groups"][0]["params"][0] = tree["optimizer"]["groups"][0]["params"][1]
    with pytest.raises(CheckpointError, match="groups hold other parameters here"):
        other.restore(tree)


# -- with other axes -----------------------------------------------------------------------------------------------------
FOUR: dict[str, dict[str, Any]] = {
    "pipeline 4": {"model": "llama", "options": {**DROPS, "layers": 4}, "mesh": {"pipeline": 4, "microbatches": 4}},
    "interleaved 4": {
        "model": "llama",
        "options": {**DROPS, "layers": 8},
        "mesh": {"pipeline": 4, "microbatches": 8, "schedule": "interleaved"},
        "steps": 1,
    },
    "replicated": {"model": "llama", "options": DROPS, "mesh": {"pipeline": 2, "replicate": 2}},
    "replicated, nothing": {"model": "words", "batch": 1, "mesh": {"pipeline": 2, "replicate": 2}},
    "replicated, tied": {
        "model": "llama",
        "options": {"tied": True},
        "optimizer": use("adamw", lr=1e-2),
        "middleware": ["no_weight_decay", CLIP, EMA, use("accumulate", steps=2)],
        "mesh": {"pipeline": 2, "replicate": 2},
    },
    "divided": {"model": "llama", "options": DROPS, "mesh": {"pipeline": 2, "tensor": 2}},
    "divided, sharp": {
        "model": "recipe",
        "middleware": [use("sam", rho=0.1, adaptive=True), use("nonfinite")],
        "mesh": {"pipeline": 2, "tensor": 2},
    },
}


@cache
def four() -> list[Any]:
    return [found for found, _ in on_ranks(4, both, FOUR, {}, limit=400)]


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
def test_four_ranks_of_two_axes_do_what_one_process_does(name: str) -> None:
    wanted = reference(FOUR[name])
    found = [each[name] for each in four()]
    for rank, got in enumerate(found):
        together = {**stages(found), **{k: got[k] for k in ("weights", "metrics", "evaluation")}}
        same(together, wanted, "adamw" if "optimizer" in FOUR[name] else name, f"rank {rank}")


assert attention_models, Followed
