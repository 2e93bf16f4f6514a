"""The parts of a parameter server in one process: what lies where, sparse tables, what is dealt, values that all know."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import server_toys as toys
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mapsto.core.errors import DataError
from mapsto.servers import partition
from mapsto.servers.dealing import Deal, blocks
from mapsto.servers.exchange import ServerLost
from mapsto.torch.servers import trees, wire
from mapsto.torch.servers.exchange import Exchange
from mapsto.torch.servers.mesh import Servers
from mapsto.torch.servers.tables import Tables, sparse_tables, split_by_rows

INJECTED = {"total_steps": 9, "steps_per_epoch": 5, "seed": 0}
SHAPES = st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(1, 5), st.booleans())
def test_every_row_of_every_parameter_lies_on_one_server(shapes: list[list[int]], servers: int, split: bool) -> None:
    parameters = {f"layer.{i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    shards = partition.partition(parameters, servers, split=split)
    assert len(shards) == servers
    for name, parameter in parameters.items():
        held = [row for rows in shards for row in rows[name]]
        assert held == list(range(partition.rows_of(parameter)))
        assert split or not partition.is_split(name, shards)


def test_shards_are_balanced_by_bytes_and_large_tables_split() -> None:
    parameters = {"table": torch.zeros(1000, 8), "wide": torch.zeros(3, 100), **{f"b{i}": torch.zeros(40) for i in range(20)}}
    shards = partition.partition(parameters, 3)
    load = [sum(parameters[n][rows.start : rows.stop].numel() for n, rows in shard.items()) for shard in shards]
    assert max(load) - min(load) <= 300
    assert partition.is_split("table", shards)
    assert not partition.is_split("b0", shards)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(1, 4))
def test_a_state_tree_that_is_cut_and_joined_is_what_it_was(shapes: list[list[int]], servers: int) -> None:
    parameters = {f"layer.{i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    shards = partition.partition(parameters, servers)
    full = {n: p.shape for n, p in parameters.items()}
    state = {
        n: {"step": torch.tensor(3.0), "average": p * 2, "list": [p, 4, "five"]}
        for n, p in parameters.items()
        if len(p.view(-1))
    }
    tree = {
        "model": {**parameters, "buffer": torch.arange(3)},
        "optimizer": {"state": state, "groups": [{"lr": 0.1}]},
        "step": 7,
    }
    cut = [trees.cut(tree, full, shards, k) for k in range(servers)]
    joined = trees.join([wire.unpack_tree(wire.pack_tree(part)) for part in cut], full, shards)
    _same(tree, joined)


def _same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            _same(one[key], other[key])
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, list):
        for a, b in zip(one, other, strict=True):
            _same(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.complex64])
def test_tensors_travel_bitwise(dtype: torch.dtype) -> None:
    tensor = torch.randn(3, 5).mul(10).to(dtype)
    packed = wire.pack(tensor)
    packed.array.flags.writeable = False  # as Ray hands it out
    assert torch.equal(wire.unpack(packed), tensor)
    assert packed.nbytes == tensor.numel() * tensor.element_size()
    there = torch.zeros_like(tensor)
    wire.write(packed, there)
    assert torch.equal(there, tensor)


def _gradients(sparse: bool, checkpointed: bool) -> tuple[dict[str, Tensor], Tensor, list[int]]:
    """Dense gradients by name, and the loss, of one batch with whole tables or with fetched rows; the rows fetched."""
    torch.manual_seed(1)
    model, batch = toys.WideNet(), {n: torch.from_numpy(v) for n, v in toys.Numbers()[np.arange(30)].items()}
    tables = {n: m.weight.detach().clone() for n, m in sparse_tables(model).items()}
    fetched: list[int] = []
    kept: Tables | None = None
    if sparse:

        def fetch(name: str, ids: Tensor) -> Tensor:
            fetched.append(len(ids))
            return tables[name][ids]

        kept = Tables(model, fetch)
        kept.begin()
    run = model
    if checkpointed:

        def run(*fields: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(model, *fields, use_reentrant=False)

    total, weight, _ = toys.weighted(run, batch, ("ids", "item"))
    (total / weight).backward()
    found = {n: p.grad.to_dense() for n, p in model.named_parameters() if p.grad is not None}
    if kept is not None:
        for name, ids, values in kept.gradients():
            assert (ids.diff() > 0).all(), "sorted, each row once"
            found[name] = torch.zeros_like(tables[name]).index_add_(0, ids, values)
    return found, total.detach(), fetched


@pytest.mark.parametrize("checkpointed", [False, True])
def test_fetched_rows_give_the_gradients_of_whole_tables(checkpointed: bool) -> None:
    wanted, loss, _ = _gradients(sparse=False, checkpointed=False)
    found, same, fetched = _gradients(sparse=True, checkpointed=checkpointed)
    assert set(found) == set(wanted) == {"bag.weight", "items.weight", "ids.weight", "head.weight", "head.bias"}
    torch.testing.assert_close(same, loss, rtol=1e-14, atol=0)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-15)
    assert not wanted["ids.weight"][0].any(), "padding has no gradient"
    assert max(fetched) <= 40, "a table is asked for the rows that are looked up, not for all"


def test_a_row_that_a_table_does_not_have_is_an_error() -> None:
    model = nn.Sequential(nn.Embedding(10, 2, sparse=True))
    Tables(model, lambda name, ids: torch.zeros(len(ids), 2))
    with pytest.raises(DataError, match="0.weight: row 10 was looked up, and the table has rows 0 to 9"):
        model(torch.tensor([3, 10]))


@pytest.mark.parametrize(("staleness", "ahead"), [(0, "in step"), (3, "up to 3 steps ahead")])
def test_a_run_says_what_lies_where(staleness: int, ahead: str) -> None:
    spec = toys.spec()
    summary = Servers(servers=2, workers=3, staleness=staleness).program(spec, INJECTED).summary()
    first, *held = summary["mesh"]
    assert first == f"3 workers, {ahead}"
    assert [line.split(" holds ")[0] for line in held] == ["server 0", "server 1"]
    sizes = [int(line.split()[3].replace(",", "")) for line in held]
    assert sum(sizes) == summary["parameters"]


def test_sorted_ids_are_split_by_the_rows_that_servers_hold() -> None:
    ids = torch.tensor([1, 4, 5, 9])
    assert split_by_rows(ids, {0: range(0, 5), 1: range(5, 8), 2: range(8, 12), 3: range(0)}) == {
        0: slice(0, 2), 1: slice(2, 3), 2: slice(3, 4),
    }  # fmt: skip


def test_blocks_go_to_their_own_workers_and_to_others_when_these_are_gone() -> None:
    assert blocks(7, 3) == [range(0, 2), range(2, 4), range(4, 7)]
    deal = Deal(blocks(4, 4))
    for w in range(4):
        deal.arrived(w)
    deal.gone(1)
    deal.gone(3)
    assert deal.holder == {0: 0, 2: 2, 1: 0, 3: 2}, "evenly"
    deal.arrived(3)
    assert deal.holder == {0: 0, 1: 0, 2: 2, 3: 3}


def _among(servers: int, ask: Any, timeout: float = 5.0) -> list[Any]:
    """What each of several servers, a thread each, gets to know."""
    every = [Exchange(k, servers, timeout) for k in range(servers)]
    for k, one in enumerate(every):
        one.connect([other.receive for j, other in enumerate(every) if j != k], 1)
    found: list[Any] = [None] * servers

    def run(k: int) -> None:
        try:
            found[k] = ask(every[k], k)
        except ServerLost as error:
            found[k] = error

    threads = [threading.Thread(target=run, args=(k,)) for k in range(servers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
def test_the_norm_over_servers_is_that_of_all_gradients(p: float) -> None:
    parts = [[torch.randn(4, 3).double(), torch.randn(2).double()], [torch.zeros(0).double()], [torch.randn(7).double()]]
    wanted = torch.nn.utils.get_total_norm([t for part in parts for t in part if t.numel()], p)
    for norm in _among(3, lambda mesh, k: mesh.norm(parts[k], p)):
        torch.testing.assert_close(norm, wanted, rtol=1e-14, atol=0)


def test_a_flag_of_one_server_is_the_flag_of_all_and_nan_is_not_lost() -> None:
    flags = _among(3, lambda mesh, k: mesh.agree(torch.tensor(1.0 if k == 2 else 0.0)))
    assert [float(f) for f in flags] == [1.0, 1.0, 1.0]
    norms = _among(2, lambda mesh, k: mesh.norm([torch.tensor([float("nan") if k else 1.0])], float("inf")))
    assert all(torch.isnan(n) for n in norms)


def test_a_server_that_is_silent_is_named_within_the_time() -> None:
    found = _among(3, lambda mesh, k: mesh.gather(1.0) if k < 2 else None, timeout=0.2)
    assert "server 0 waited 0.2 s for a value of server 2" in str(found[0])
