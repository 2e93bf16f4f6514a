"""The norm of tensors on several ranks: every element once, and on stages the bits of one process."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from company import on_ranks
from torch import Tensor

from mapsto.torch.mesh import norms
from mapsto.torch.mesh.one import OneProcess

CASES, P = 60, (1.0, 2.0, 3.5, math.inf)
Named = dict[str, Tensor | None]


def gradients(case: int) -> Named:
    """Of a model with up to 40 parameters of several dtypes, some of which have none."""
    rng = torch.Generator().manual_seed(case)
    draw = lambda most: int(torch.randint(1, most, (), generator=rng))  # noqa: E731
    dtypes = [torch.float64] if case % 2 else [torch.float32, torch.float64, torch.bfloat16, torch.float32]
    found: Named = {}
    for i in range(draw(40)):
        value = torch.randn(draw(9), draw(70), generator=rng).to(dtypes[i % len(dtypes)])
        found[f"p{i}"] = None if draw(8) == 1 else value
    return found


def dtypes(every: Named) -> dict[str, torch.dtype]:
    return {n: torch.float32 if t is None else t.dtype for n, t in every.items()}


def on_stages() -> list[list[tuple[Tensor, Tensor]]]:
    """For each case and p: the norm over stages, and the root of the stages' powers."""
    dist.init_process_group("gloo")
    rank, found = dist.get_rank(), []
    for case in range(CASES):
        every = gradients(case)
        own = {n: t for i, (n, t) in enumerate(every.items()) if t is not None and i * 2 // len(every) == rank}
        here = []
        for p in P:
            each = dict(zip(own, norms.each(list(own.values()), p), strict=True))
            powers = sum((v.double() ** p for v in each.values()), torch.zeros((), dtype=torch.float64))
            dist.all_reduce(powers)
            here.append((norms.over_stages(each, dtypes(every), p, dist.group.WORLD, "cpu"), powers ** (1 / p)))
        found.append(here)
    return found


@pytest.mark.bits
def test_on_stages_it_has_the_bits_of_one_process_and_another_order_of_sums_has_others() -> None:
    found = on_ranks(2, on_stages)
    others = 0
    for case in range(CASES):
        held = [t for t in gradients(case).values() if t is not None]
        for k, p in enumerate(P):
            wanted = OneProcess().norm(held, p) if held else torch.zeros(())
            for rank in found:
                assert torch.equal(rank[case][k][0], wanted.to(rank[case][k][0].dtype)), (case, p)
                if held:
                    assert rank[case][k][0].dtype == wanted.dtype
            others += p == 2.0 and not torch.equal(found[0][case][k][1], wanted.double())
    assert others > CASES // 10


@pytest.mark.parametrize("p", P)
def test_in_one_process_it_is_that_of_all_elements_in_a_row(p: float) -> None:
    held = [torch.randn(7, 9).double(), torch.zeros(0).double(), torch.randn(()).double(), torch.randn(40).double()]
    wanted = torch.linalg.vector_norm(torch.cat([t.reshape(-1) for t in held]), p)
    torch.testing.assert_close(OneProcess().norm(held, p), wanted, rtol=1e-14, atol=0)
    assert torch.equal(OneProcess().norm(held[2:], p), torch.nn.utils.get_total_norm(held[2:], p))  # torch's own, bit for bit
