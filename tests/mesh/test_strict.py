"""Strict mode: one hash of weights and optimizer state, step by step, on any number of ranks, replicated or sharded."""

from __future__ import annotations

import re
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from company import RankFailed, on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from strict_programs import CLIP, EMA, LENGTH, USUAL, WORDS, Langevin, all_hashes, hashes, made, train
from torch import nn

from mapsto import use
from mapsto.core.errors import ComposeError, SpecError
from mapsto.core.parts import build
from mapsto.data.stream import PaddingBatch
from mapsto.torch.mesh.ranks import Ranks
from mapsto.torch.mesh.strict.elementwise import refuse_rule
from mapsto.torch.mesh.strict.mode import ALIGNMENT, aligned, refuse, repeatable
from mapsto.torch.mesh.strict.rows import norm
from mapsto.torch.mesh.strict.rows import rows as rows_of

pytestmark = pytest.mark.bits

SLOW = pytest.mark.slow
SGD = use("sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
CASES: dict[str, dict[str, Any]] = {
    "usual": USUAL,
    "sharp": {
        "optimizer": SGD,
        "middleware": [use("sam", rho=0.1, adaptive=True), use("clip_norm", max_norm=0.3, norm_type=1.5)],
    },
    "half": {"middleware": [use("nonfinite"), use("mixed_precision", dtype="bf16"), use("gradient_noise", eta=1e-3), CLIP]},
    "unused": {"model": "wide", "middleware": [CLIP]},
    "recomputed": {"middleware": [use("activation_checkpointing", modules=["blocks.*"]), EMA], "schedule": use("plateau")},
    "seven": {"micro_shards": 7, "optimizer": use("nadam", lr=1e-2)},  # no power of two
    "few": {"batch": 3},  # micro-shards without a record, and ranks too
    "compiled": {"middleware": [use("compile", backend="aot_eager"), CLIP]},
    "drawn": {"optimizer": use(Langevin)},  # from the framework's generator, which the ranks' own passes leave anywhere
}
MESHES: dict[int, list[dict[str, int]]] = {
    2: [{"replicate": 2}, {"shard": 2}],
    3: [{"replicate": 3}, {"shard": 3}],
    4: [{"replicate": 4}, {"shard": 4}, {"replicate": 2, "shard": 2}],
    8: [{"replicate": 8}, {"shard": 8}, {"replicate": 2, "shard": 4}],
}
QUICK = {  # a sharded case costs a second a rank; the others are slow tests
    2: {"replicate 2": {*CASES} - {"compiled"}, "shard 2": {"usual", "sharp", "unused"}},
    4: {"replicate 4": {"usual", "unused", "few"}, "shard 4": {"usual"}, "replicate 2 x shard 2": {"seven"}},
}


def said(mesh: dict[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in mesh.items())


ALL = [
    (world, said(mesh), name)
    for world, meshes in MESHES.items()
    for mesh in meshes
    for name in CASES
    if name != "drawn" or "shard" not in mesh
]


@cache
def alone(name: str) -> dict[str, Any]:
    return hashes(CASES[name])


@cache
def company(world: int, quick: bool) -> list[dict[str, Any]]:
    meshes = {said(mesh): mesh for mesh in MESHES[world]}
    cases = {}
    for of, mesh, name in ALL:
        if of == world and (name in QUICK.get(world, {}).get(mesh, ())) is quick:
            more = {"unused_parameters": True} if name == "unused" else {}
            cases[f"{mesh}: {name}"] = {**CASES[name], "mesh": {**meshes[mesh], **more}}
    return on_ranks(world, all_hashes, cases, limit=300)


def check(world: int, mesh: str, name: str, quick: bool) -> None:
    wanted = alone(name)
    assert len({*wanted["weights"]}) == len(wanted["weights"]), "training changes something at each step"
    for rank, found in enumerate(company(world, quick)):
        for what in ("weights", "state", "metrics"):
            assert found[f"{mesh}: {name}"][what] == wanted[what], f"rank {rank} of {mesh}: {what}"


@pytest.mark.parametrize(("world", "mesh", "name"), [c for c in ALL if c[2] in QUICK.get(c[0], {}).get(c[1], ())])
def test_ranks_do_not_change_a_bit(world: int, mesh: str, name: str) -> None:
    check(world, mesh, name, quick=True)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "mesh", "name"), [c for c in ALL if c[2] not in QUICK.get(c[0], {}).get(c[1], ())])
def test_ranks_do_not_change_a_bit_in_all_cases(world: int, mesh: str, name: str) -> None:
    check(world, mesh, name, quick=False)


# -- controls --------------------------------------------------------------------------------------------------------------
def test_another_order_has_other_bits() -> None:
    """What makes the equalities above mean something: the same sums in another order differ, and so does native reduction."""
    wanted = alone("usual")
    in_a_row = hashes({**CASES["usual"], "strict": False, "optimizer": use("adamw", lr=1e-2, foreach=True)})
    assert in_a_row["weights"][-1] != wanted["weights"][-1]
    fast = {"fast": {**CASES["usual"], "strict": False, "mesh": {"replicate": -1}}}
    two, four = (on_ranks(world, all_hashes, fast)[0]["fast"]["weights"] for world in (2, 4))
    assert two[-1] != four[-1]


def test_micro_shards_decide_the_bits() -> None:
    assert hashes({**CASES["usual"], "micro_shards": 4})["weights"] != alone("usual")["weights"]


# -- another number of ranks -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "meshes",
    [
        [(4, "replicate", 2), (3, "replicate", 3), (1, "replicate", 4), (2, "replicate", 5)],
        pytest.param([(2, "replicate", 1), (4, "shard", 2), (3, "shard", 3), (1, "replicate", 4), (2, "shard", 5)], marks=SLOW),
    ],
    ids=["replicated", "sharded"],
)
def test_a_run_that_grows_and_shrinks_ends_with_the_same_bits(tmp_path: Path, meshes: list[tuple[int, str, int]]) -> None:
    (wanted,) = on_ranks(1, train, str(tmp_path / "one"), [], 5)
    folder = str(tmp_path / "several")
    for world, axis, until in meshes:
        found = on_ranks(world, train, folder, [{axis: -1}], until)
    assert found == [wanted, wanted]


# -- what decides bits without being asked -----------------------------------------------------------------------------------
def test_batches_are_computed_at_aligned_addresses() -> None:
    """Matrix products on memory that lies askew may have other bits, and where NumPy's memory lies is chance."""
    room = torch.zeros(400)
    astray = room[1:301].view(3, 100).copy_(torch.randn(3, 100))
    batch = PaddingBatch({"input": astray, "target": room[:3], "text": ["a"], "number": 3})
    found = aligned(batch)
    assert isinstance(found, PaddingBatch)
    assert found["input"].data_ptr() % ALIGNMENT == 0
    assert found["input"].equal(astray)
    assert found["target"] is batch["target"]


def test_one_thread_is_taken_and_told(caplog: pytest.LogCaptureFixture) -> None:
    torch.set_num_threads(2)
    try:
        repeatable(torch.device("cpu"))
        assert torch.get_num_threads() == 1
        assert "one thread a rank (there were 2)" in caplog.text
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("p", [0.7, 1.0, 1.5, 2.0, 3.0, float("inf")])
def test_norms_are_those_of_torch(p: float) -> None:
    tensors = [torch.randn(5, 7, 3), torch.randn(11), torch.randn(()), torch.randn(0, 4), torch.randn(2, 3).half()]
    wanted = torch.nn.utils.get_total_norm([t.double() for t in tensors if t.numel()], p)
    assert norm(tensors, p) == pytest.approx(wanted.item(), rel=1e-6)
    assert norm(tensors, p).dtype == torch.float32


@given(
    rows=st.integers(1, 40), inner=st.integers(1, 40), start=st.integers(0, 39), p=st.sampled_from([1.0, 1.5, 2.0, 2.7, inf])
)
@settings(max_examples=60, deadline=None)
def test_the_rows_of_a_part_have_the_bits_of_the_whole(rows: int, inner: int, start: int, p: float) -> None:
    whole = torch.randn(rows, inner, generator=torch.Generator().manual_seed(rows * 41 + inner))
    assert rows_of(whole[start:], p).equal(rows_of(whole, p)[start:])


# -- what strict mode refuses ------------------------------------------------------------------------------------------------
REFUSED = {
    "tensor": ({"tensor": 2}, "strict: mesh.tensor cuts products into sums over ranks"),
    "pipeline": ({"pipeline": 2}, "strict: mesh.pipeline cuts batches anew"),
    "precision": ({"shard": 2, "precision": "bf16"}, "strict: mesh.precision casts where parameters are sharded only"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mesh_that_cannot_hold_it_is_refused(name: str) -> None:
    options, said = REFUSED[name]
    mesh = Ranks(**options)
    with pytest.raises(SpecError, match=re.escape(said)):
        refuse(mesh.stated, mesh, torch.device("cpu"))


def test_an_offload_to_another_device_is_refused() -> None:
    with pytest.raises(SpecError, match="mesh.offload moves the update to the CPU"):
        refuse(Ranks(shard=2).stated, Ranks(shard=2, offload=True), torch.device("cuda"))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("filled", torch.zeros(()))
        self.head = nn.Linear(LENGTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += x.sum()
            self.filled.fill_(1.0)  # a cache: the same after every pass
        return self.head(x.float())


@pytest.mark.parametrize("micro_shards", [1, 8])
def test_a_buffer_that_passes_change_is_refused(micro_shards: int) -> None:
    with pytest.raises(SpecError, match=r"strict: the buffer 'seen' changes in every training pass of 'the model'"):
        hashes({"model": Counting, "micro_shards": micro_shards, "steps": 3})


def test_sparse_gradients_and_compilers_are_refused() -> None:
    with pytest.raises(SpecError, match=r"strict: 'token' has sparse gradients.*sparse=False"):
        made({"model": Sparse})
    with pytest.raises(ComposeError, match=r"compile: what 'inductor' makes depends on the shapes.*eager, aot_eager"):
        made({"middleware": [use("compile")]})
    made({"middleware": [use("compile", backend="aot_eager")]})


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Embedding(WORDS, 4, sparse=True), nn.Linear(4, 5)


@pytest.mark.parametrize("name", ["adafactor", "muon", "lbfgs"])
def test_rules_that_look_beyond_an_element_are_refused_for_shards(name: str) -> None:
    with pytest.raises(SpecError, match=r"strict: (Adafactor|Muon) gives a part|LBFGS evaluates a closure"):
        refuse_rule(lambda p: build(use(name), "optimizer", p, path="optimizer"), torch.device("cpu"))


@pytest.mark.parametrize("fused", [True, False])
def test_a_fused_kernel_is_refused_for_shards_and_not_taken_by_itself(fused: bool) -> None:
    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-2, fused=fused, foreach=not fused)

    if fused:
        with pytest.raises(SpecError, match=r"its fused kernel computes the ends of a tensor by other code \(fused: false\)"):
            refuse_rule(make, torch.device("cpu"))
    else:
        refuse_rule(make, torch.device("cpu"))
    assert made({})[0].optimizer.param_groups[0]["fused"] is False


@pytest.mark.slow
def test_a_part_of_the_model_that_some_passes_leave_out_is_told() -> None:
    with pytest.raises(RankFailed, match=re.escape("state mesh: {unused_parameters: true}")):
        on_ranks(2, all_hashes, {"x": {"model": "wide", "mesh": {"shard": 2}}}, limit=60)
