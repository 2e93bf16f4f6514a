"""What an operator made once is made again without being worked out, and is what it would have been."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mapsto import Spec, use
from mapsto.planning import plan as planning
from mapsto.torch.planning import world
from mapsto.torch.planning.memo import Memo
from mapsto.torch.planning.meter import Meter

aten: Any = torch.ops.aten


class Remembering(Meter):
    """A meter with a memo of its own; worked: the operators that were worked out."""

    def __init__(self, mode: FakeTensorMode, memo: Memo) -> None:
        super().__init__(mode)
        self.memo, self.worked = memo, list[str]()

    def carry_out(self, operator: Any, args: Any, kwargs: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if operator.namespace == "aten":
                self.worked.append(operator.name())
            return operator(*args, **kwargs)

        return self.memo.carry_out(self.mode, _Named(operator, counted), args, kwargs)  # type: ignore[arg-type]


class _Named:
    """An operator that is equal to itself under each wrapper."""

    def __init__(self, operator: Any, call: Callable[..., Any]) -> None:
        self.operator, self.call = operator, call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    def __hash__(self) -> int:
        return hash(self.operator)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Named) and other.operator is self.operator


def described(result: Any, *given: Tensor) -> Any:
    """All that tells tensors apart, and which of those given they share memory with."""
    if isinstance(result, (tuple, list)):
        return type(result), [described(one, *given) for one in result]
    if not isinstance(result, Tensor):
        return result
    storages = [id(one.untyped_storage()) for one in given]
    own = id(result.untyped_storage())
    return (
        type(result), result.shape, result.stride(), result.dtype, result.device, result.storage_offset(),
        result.untyped_storage().nbytes(), result.requires_grad, own in storages and storages.index(own),
    )  # fmt: skip


def _grown(x: Tensor) -> Tensor:
    return x.clone().resize_(99)


CASES: dict[str, tuple[Callable[[Tensor, Tensor], Any], bool]] = {
    "new": (lambda x, y: aten.add.Tensor(x, y), True),
    "several": (lambda x, _: aten.native_layer_norm(x, [6], None, None, 1e-5), True),
    "made of nothing": (lambda _, y: aten.zeros([3], dtype=y.dtype, device="cpu"), True),
    "in place": (lambda x, y: aten.mul_.Tensor(x, y), True),
    "a list in place": (lambda x, y: aten._foreach_add_.List([x, y], [y, y]), True),
    "view": (lambda x, _: aten.transpose.int(x, 0, 1), True),
    "views": (lambda x, _: aten.split.Tensor(x, 3, 1), True),
    "view of a view": (lambda x, _: aten.slice.Tensor(aten.select.int(x, 0, 1), 0, 2, 4), True),
    "a hole": (lambda x, _: aten.sum.dim_IntList(x, [1], True), True),
    "resized": (lambda x, _: _grown(x), False),
    "one of two": (lambda x, y: aten.expand_as(x, y), True),
    "a constant": (lambda x, _: torch.tensor([1.0, 2.0]).add(1), False),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_made_again_is_like_what_is_worked_out(name: str) -> None:
    call, remembered = CASES[name]
    memo, found = Memo(), []
    for turn in range(3):  # the last in a world of its own
        with FakeTensorMode() as mode:
            x, y = torch.empty(4, 6), torch.empty(4, 6)
            expected = described(call(x, y), x, y)
            x, y = torch.empty(4, 6), torch.empty(4, 6)
            with Remembering(mode, memo) as meter:
                found.append(described(call(x, y), x, y))
            assert found[-1] == expected
        assert bool(meter.worked) == (turn == 0 or not remembered), meter.worked


def test_what_is_not_alike_is_worked_out() -> None:
    memo = Memo()
    with FakeTensorMode() as mode, Remembering(mode, memo):
        whole = torch.zeros(4, dtype=torch.int64)
        assert [(whole + number).dtype for number in (1, 1.0, True)] == [torch.int64, torch.float32, torch.int64]
        assert [torch.zeros(n, 2).t().sum(0).shape[0] for n in (3, 5)] == [3, 5]
        assert torch.zeros(2).add(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64
        torch.set_default_dtype(torch.float64)
        try:
            assert (whole + 1.0).dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)
        one, other = torch.zeros(3), torch.zeros(3)
        assert one.view(3).untyped_storage() is not other.view(3).untyped_storage()


# -- plans ---------------------------------------------------------------------------------------------------------------
class Image(nn.Module):
    """Convolutions, of which one is used twice, a view that is written to, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.head, self.dropout = nn.GroupNorm(2, 8), nn.Linear(8 * 36, 8), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.view(-1, 1, 6, 6))
        x = self.twice(self.norm(self.twice(x).relu()))
        x[:, 0].mul_(0.5)
        return self.head(self.dropout(x).flatten(1))


EXAMPLE = {"input": np.zeros((4, 36), np.float32), "target": np.zeros(4, np.int64)}


def estimates(mesh: str, middleware: list[Any]) -> list[Any]:
    spec = Spec(
        model=use(Image), task="classification", optimizer=use("adamw", lr=0.1), device="cpu", middleware=middleware,
        data={"train": {"source": use("arrays", **EXAMPLE), "batch_size": 4}},
    )  # fmt: skip
    injected = {"total_steps": 10, "steps_per_epoch": 5, "seed": 0}
    found = planning.plan(spec, EXAMPLE, 64, injected, meshes=[mesh], memory=400_000)
    return [one.to_data() for one in found]


@pytest.mark.parametrize("mesh", ["replicate=1", "replicate=4", "shard=3", "shard=2,replicate=2"])
@pytest.mark.parametrize(
    "middleware",
    [[], [use("mixed_precision", dtype="bf16"), use("clip_norm", max_norm=1.0), "ema", use("accumulate", steps=2)]],
    ids=["plain", "much"],
)
def test_a_plan_is_the_same_without_a_memo(mesh: str, middleware: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "MEMO", Memo())
    first = estimates(mesh, middleware)
    assert estimates(mesh, middleware) == first, "what is known from another world"

    def work_out(_: Any, mode: Any, operator: Any, args: Any, kwargs: Any) -> Any:
        return operator(*args, **kwargs)

    monkeypatch.setattr(Memo, "carry_out", work_out)
    assert estimates(mesh, middleware) == first
    assert first[0]["largest_micro_batch"] > 0
