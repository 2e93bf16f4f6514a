"""Tensor ranks do what one process does: attention, MLPs and embeddings cut by derived, stated and declared plans."""

from __future__ import annotations

from functools import cache
from typing import Any

import attention_models
import numpy as np
import pytest
import torch
from attention_models import VOCABULARY, Encoder, Llama, Recipe
from company import on_ranks
from mesh_programs import MODELS, Net, all_steps, refused, steps
from tests.mesh.errors import error
from torch import nn

from mapsto import use
from mapsto.core.errors import SpecError
from mapsto.torch.mesh.tensor.plan import planned

CLIP, EMA = use("clip_norm", max_norm=0.05), use("ema", decay=0.9)
TENSOR = {"tensor": 2}
DROPS = {"options": {"dropout": 0.3}}
CASES: dict[str, dict[str, Any]] = {
    "recipe": {"model": "recipe", **DROPS},
    "llama": {"model": "llama", **DROPS},
    "tied": {"model": "llama", "options": {"tied": True}, "middleware": [use("accumulate", steps=3), CLIP]},
    "encoder": {"model": "encoder", "steps": 1},
    "adamw": {"model": "llama", "optimizer": use("adamw", lr=1e-2), "middleware": ["no_weight_decay", CLIP, EMA]},
    "sharp": {"middleware": [use("sam", rho=0.1, adaptive=True), use("gradient_noise", eta=1e-3), use("nonfinite")]},
    "recomputed": {"model": "llama", "middleware": [use("activation_checkpointing", modules=["layers.*"])], "steps": 1},
    "nothing": {"model": "words", "batch": 1, "steps": 1},
    "float32": {"model": "llama", "dtype": "float32", "steps": 1},
}
QUICK = ("recipe", "llama", "tied", "encoder", "adamw", "sharp", "float32")
WEIGHTS = {"adamw": 1e-9, "float32": 1e-6}
PLANS: dict[str, dict[str, Any]] = {
    "stated": {"mesh": {**TENSOR, "tensor_plan": {"*.fc1": "colwise", "*.fc2": "rowwise", "head": "replicate"}}},
    "declared": {"model": "declares", "mesh": TENSOR},
}


class Declares(Net):
    """Cuts its first block only, and says so."""

    tensor_plan = {"blocks.0.fc1": "colwise", "blocks.0.fc2": "rowwise"}  # noqa: RUF012


MODELS["declares"] = Declares


@cache
def alone(name: str) -> dict[str, Any]:
    return steps({k: v for k, v in {**CASES, **PLANS}[name].items() if k != "mesh"})


def both(cases: dict[str, dict[str, Any]], bad: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    found = all_steps(cases), {name: refused(case) for name, case in bad.items()}
    torch.distributed.barrier()  # the first rank keeps the store, which others still need to be refused
    return found


@cache
def two() -> list[Any]:
    cases = {name: {**CASES[name], "mesh": TENSOR} for name in QUICK}
    return on_ranks(2, both, {**cases, **PLANS}, {name: case for name, (case, _) in BAD.items()})


def same(found: dict[str, Any], wanted: dict[str, Any], name: str, where: str) -> None:
    """The gradients of the first step, the weights after the last, metrics and evaluation are those of one process."""
    exact = 5e-6 if name == "float32" else 1e-12  # by the largest element; of a small gradient as much as one process errs
    for parameter, gradient in wanted["gradients"].items():
        assert error(found["gradients"][parameter], gradient) < exact, f"{where}, gradient of {parameter}"
    for parameter, weight in wanted["weights"].items():
        assert error(found["weights"][parameter], weight) < WEIGHTS.get(name, 1e-12), f"{where}, {parameter}"
    for kind in ("metrics", "evaluation"):
        assert found[kind].keys() == wanted[kind].keys()
        for metric, value in wanted[kind].items():
            ranked = 2e-3 if (name, metric) == ("float32", "auroc") else 1e-9  # scores that rounding exchanges
            assert found[kind][metric] == pytest.approx(value, rel=max(WEIGHTS.get(name, 0), ranked)), (where, metric)


@pytest.mark.parametrize("name", [*QUICK, *PLANS])
def test_two_tensor_ranks_do_what_one_process_does(name: str) -> None:
    for rank, (found, _) in enumerate(two()):
        same(found[name], alone(name), name, f"rank {rank}")


def test_float32_gradients_together_are_those_of_one_process() -> None:
    """Within 1e-6 of their norm: a single element of a small one errs by as much as one process does."""
    wanted, got = alone("float32")["gradients"], two()[0][0]["float32"]["gradients"]
    apart = sum(float(np.square(got[n].astype("float64") - w).sum()) for n, w in wanted.items())
    assert apart**0.5 < 1e-6 * sum(float(np.square(w.astype("float64")).sum()) for w in wanted.values()) ** 0.5


@pytest.mark.bits
def test_whole_parameters_have_one_gradient_on_both_ranks() -> None:
    """Bit for bit, since nothing brings them together again."""
    for name in QUICK:
        (one, _), (other, _) = two()
        for parameter, gradient in one[name]["gradients"].items():
            assert np.array_equal(gradient, other[name]["gradients"][parameter]), (name, parameter)


def test_ranks_that_drop_the_same_of_different_columns_would_be_seen() -> None:
    """The control: other draws are far from what one process has, so that equality above says that they are the same."""
    other = steps({**CASES["llama"], "options": {"dropout": 0.3}, "micro_shards": 2})
    name = "layers.0.feed_forward.w2.weight"
    assert error(other["weights"][name], alone("llama")["weights"][name]) > 1e-4


# -- plans ---------------------------------------------------------------------------------------------------------------
def test_a_plan_is_derived_from_names() -> None:
    llama = planned(Llama(), None, 2).styles
    assert llama["layers.1.attention.wq"] == "colwise"
    assert llama["layers.1.attention.wo"] == "rowwise"
    assert llama["layers.0.attention.q_norm"] == "replicate"
    assert llama["layers.0.feed_forward.w3"] == "colwise"
    assert llama["layers.0.feed_forward.w2"] == "rowwise"
    assert llama["tok_embeddings"] == "rowwise"
    assert llama["output"] == "colwise_gather"
    recipe = planned(Recipe(), None, 2)
    assert recipe.styles["blocks.0.qkv"] == "colwise_gather"
    assert recipe.styles["blocks.0.mlp.2"] == "rowwise"
    assert "token" not in recipe.styles
    assert any("reads token.weight directly" in said for said in recipe.left)
    encoder = planned(Encoder(), None, 2)
    assert encoder.styles["encoder.layers.0.linear1"] == "colwise"
    assert any("self_attn" in said for said in encoder.left)
    assert planned(Llama(), None, 2).notes[0].startswith("layers.0.attention: attention: wq colwise")


def test_what_cannot_be_cut_alike_stays_whole() -> None:
    tied = Llama(tied=True)
    assert {planned(tied, None, 2).styles[n] for n in ("tok_embeddings", "output")} == {"rowwise", "colwise_gather"}
    five = nn.ModuleDict({"lm_head": nn.Linear(6, VOCABULARY), "up": nn.Linear(6, 10), "down": nn.Linear(10, 6)})
    assert planned(five, None, 5).left == [f"lm_head: a vocabulary of {VOCABULARY} cannot be cut into 5 equal parts"]
    with pytest.raises(SpecError, match="n_heads 4, which 3 ranks do not divide"):
        planned(tied, None, 3)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "heads": (
        {"model": "llama", "options": {"heads": 1, "key_heads": 1}, "mesh": TENSOR},
        "layers.0.attention has n_heads 1, which 2 ranks do not divide",
    ),
    "nothing": ({"model": "normed_only", "mesh": TENSOR}, "nothing of Sequence can be cut over 2 ranks"),
    "pattern": ({"mesh": {**TENSOR, "tensor_plan": {"*.fc3": "colwise"}}}, "no module matches '*.fc3'"),
    "style": ({"mesh": {**TENSOR, "tensor_plan": {"*.fc1": "columns"}}}, "'columns' for '*.fc1' is no style; allowed: colwise"),
    "kind": ({"mesh": {**TENSOR, "tensor_plan": {"*.norm": "colwise"}}}, "'blocks.0.norm' is a LayerNorm"),
    "size": ({"mesh": {**TENSOR, "tensor_plan": {"head": "colwise_gather"}}}, "'head' [3, 6] by colwise_gather has 3 to cut"),
    "tie": (
        {"model": "llama", "options": {"tied": True}, "mesh": {**TENSOR, "tensor_plan": {"output": "colwise_gather"}}},
        "are one weight, which is not cut alike where it is used",
    ),
    "unnamed norm": (
        {"model": "llama", "mesh": {**TENSOR, "tensor_plan": {"*.w[qkv]": "colwise", "*.wo": "rowwise"}}},
        "is whole on every rank and met values of which each has a part. Add its module to mesh.tensor_plan as `replicate`",
    ),
    "compile": ({"mesh": TENSOR, "middleware": ["compile"]}, "mesh.tensor and compile do not go together"),
    "lbfgs": ({"mesh": TENSOR, "optimizer": "lbfgs"}, "LBFGS takes inner products over all parameters"),
    "strict": ({"mesh": TENSOR, "strict": True, "micro_shards": 2}, "tensor"),
}


class Sequence(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.LayerNorm(6), nn.Linear(6, 3))


MODELS["normed_only"] = Sequence


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_cut_is_refused_on_every_rank(name: str) -> None:
    for _, found in two():
        assert BAD[name][1] in found[name]


# -- with other axes -----------------------------------------------------------------------------------------------------
FOUR = ({"shard": 2, "tensor": 2}, {"replicate": 2, "tensor": 2}, {"tensor": 4})


@cache
def four() -> list[Any]:
    cases = {
        f"{mesh}: {name}": {**case, "mesh": mesh}
        for mesh in FOUR
        for name, case in CASES.items()
        if mesh != {"tensor": 4} or name in ("recipe", "sharp")
    }
    return [found for found, _ in on_ranks(4, both, cases, {}, limit=400)]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", FOUR, ids=str)
def test_four_ranks_of_two_axes_do_what_one_process_does(mesh: dict[str, int]) -> None:
    cut = mesh != {"tensor": 4}
    wanted = {
        name: steps({**case, "micro_shards": 2}) if cut and DROPS.items() <= case.items() else alone(name)
        for name, case in CASES.items()
    }
    for rank, found in enumerate(four()):
        for name in CASES:
            if f"{mesh}: {name}" in found:
                same(found[f"{mesh}: {name}"], wanted[name], name, f"rank {rank}, {name}")


assert attention_models  # registers its models on the ranks too, where this module is imported by its name
