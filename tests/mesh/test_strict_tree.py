"""The tree of sums: one order of addition for numbered leaves, whoever holds which."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.torch.mesh.strict.exchange import nothing, plus, plus_parts
from mapsto.torch.mesh.strict.tree import Tree, block, cover, owned, root

pytestmark = pytest.mark.bits


def reference(start: int, stop: int, leaves: int) -> str:
    """The sum of the leaves from start to before stop, of a width that is a power of two, as a text with brackets."""
    if stop - start == 1:
        return str(start) if start < leaves else ""
    middle = (start + stop) // 2
    left, right = reference(start, middle, leaves), reference(middle, stop, leaves)
    return f"({left}+{right})" if left and right else left or right


def joined(left: str, right: str) -> str:
    return f"({left}+{right})"


@given(leaves=st.integers(1, 70), parts=st.integers(1, 12))
@settings(deadline=None)
def test_blocks_of_any_ranks_add_up_in_the_order_of_the_tree(leaves: int, parts: int) -> None:
    nodes = []
    for part in range(parts):
        own: Tree[str] = Tree(leaves, joined)
        span = block(leaves, part, parts)
        for leaf in span:
            own.push((0, leaf), str(leaf))
        assert len(own.pending) <= 2 * leaves.bit_length()
        places = [node for node, _ in own.pending]
        assert places == cover(leaves, span.start, span.stop)
        nodes += list(zip(places, own.take(), strict=True))
    width = 1 << (leaves - 1).bit_length()
    assert root(leaves, nodes, joined) == reference(0, width, leaves)


@given(leaves=st.integers(1, 40), replicas=st.integers(1, 5), shards=st.integers(1, 5))
@settings(deadline=None)
def test_every_leaf_is_one_ranks_and_the_shards_of_a_pass_hold_neighbours(leaves: int, replicas: int, shards: int) -> None:
    dealt = owned(leaves, replicas, shards)
    assert len(dealt) == replicas * shards
    assert len({len(own) for own in dealt}) == 1
    assert sorted(leaf for own in dealt for leaf in own if leaf >= 0) == list(range(leaves))
    for replica in range(replicas):
        ranks = dealt[replica * shards : (replica + 1) * shards]
        order = [own[place] for place in range(len(ranks[0])) for own in ranks if own[place] >= 0]
        assert order == list(block(leaves, replica, replicas))


def test_a_sum_in_another_order_has_other_bits() -> None:
    values = torch.randn(8, 1000, generator=torch.Generator().manual_seed(0))
    tree = root(8, [((0, i), values[i].clone()) for i in range(8)], plus)
    in_a_row = values[0].clone()
    for value in values[1:]:
        in_a_row += value
    assert not tree.equal(in_a_row)
    torch.testing.assert_close(tree.double(), values.double().sum(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_nothing_changes_no_bit_of_what_it_is_added_to(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -1e-30, float("inf"), 3e38], dtype=torch.float32).to(dtype)
    if dtype.is_complex:
        values = torch.complex(values.real, values.real.flip(0))
    empty = torch.empty_like(values).fill_(nothing(dtype))

    def bits(tensor: torch.Tensor) -> np.ndarray:
        return tensor.view(torch.uint8).numpy()

    assert (bits(plus(values.clone(), empty)) == bits(values)).all()
    assert (bits(plus(empty.clone(), values)) == bits(values)).all()
    zeros = torch.zeros_like(values)
    assert not (bits(plus(values.clone(), zeros)) == bits(values)).all()  # -0.0 + 0.0 is 0.0


def test_what_is_missing_on_one_side_is_the_others() -> None:
    one, two = torch.ones(2), torch.full((3,), 2.0)
    found = plus_parts([one.clone(), None, None, two.clone()], [one, two, None, None])
    assert found[0] is not None
    assert found[0].tolist() == [2.0, 2.0]
    assert found[1] is two
    assert found[2] is None
    assert found[3] is not None
    assert found[3].equal(two)
