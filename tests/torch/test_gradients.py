"""Gradients against one big batch in float64: micro-batches, tokens with ignored targets, class weights."""

from __future__ import annotations

import pytest
import torch
from programs import batch, plain
from torch import nn

import mapsto
from mapsto import DataError, use
from mapsto.torch import build_program

EXACT = 1e-12


def mean_of_means(inner, *, steps: int):
    """What people write by hand: the mean over micro-batches of the mean loss's gradient."""

    def grad(state, batch):
        size = -(-len(batch["input"]) // steps)
        starts = range(0, len(batch["input"]), size)
        for start in starts:
            metrics = inner(state, {n: v[start : start + size] for n, v in batch.items()})
        torch._foreach_div_(state.gradients(), len(starts))
        return metrics

    return grad


mean_of_means.__mapsto__ = mapsto.core.compose.Declared(wraps=("grad",))


def gradients(model, task, data, *middleware):
    """The gradients that reach the update, by name."""
    seen = {}

    class Look:
        def update(self, inner):
            def update(state, metrics):
                seen.update(
                    {n: p.grad.clone() for n, p in zip(state.names, state.parameters, strict=True) if p.grad is not None}
                )
                return inner(state, metrics)

            return update

    made = build_program(model, task, use("sgd", lr=0.0), middleware=[*middleware, Look()], device="cpu")
    metrics = made.step(data)
    return seen, made.fetch([metrics])["loss"]


def error(model, task, data, *middleware):
    """Largest difference of a gradient from that of the one big batch, relative to the largest element; and of the loss."""
    wanted, loss = gradients(model, task, data)
    got, other = gradients(model, task, data, *middleware)
    assert wanted.keys() == got.keys()
    scale = max(float(g.abs().max()) for g in wanted.values())
    assert scale > 1e-6, "a gradient of nothing compares nothing"
    return max(float((wanted[n] - got[n]).abs().max()) for n in wanted) / scale, abs(loss - other) / abs(loss)


class Tokens(nn.Module):
    def __init__(self, words=11):
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(words, 6), nn.Linear(6, 6), nn.Linear(6, words)

    def forward(self, ids):
        return self.out(torch.tanh(self.mix(self.embed(ids).cumsum(1))))


def tokens():
    return Tokens().double()


def token_batch(records=11, length=9):
    """Sentences of 0 to 9 tokens, the rest ignored; the first three are ignored altogether."""
    g = torch.Generator().manual_seed(7)
    ids = torch.randint(0, 11, (records, length), generator=g)
    target = torch.randint(0, 11, (records, length), generator=g)
    lengths = torch.tensor([0, 0, 0, 9, 1, 2, 9, 4, 1, 7, 3])[:records]
    return {"input": ids, "target": target.where(torch.arange(length) < lengths[:, None], -100)}


def mean_over_targets(prediction, target):
    return nn.functional.cross_entropy(prediction.flatten(0, 1), target.flatten())


CASES = {
    "records": (plain, "classification", batch(records=23, dtype=torch.float64)),
    "class weights": (
        plain,
        use("classification", loss=use("cross_entropy", class_weights=[0.1, 1.0, 7.0])),
        batch(records=23, dtype=torch.float64),
    ),
    "tokens": (tokens, "language_model", token_batch()),
    "mean stated": (
        plain,
        use("classification", loss=use("mean_of", loss=nn.CrossEntropyLoss(), weight="records")),
        batch(records=23, dtype=torch.float64),
    ),
    "mean over targets": (
        tokens,
        use("language_model", loss=use("mean_of", loss=mean_over_targets, weight="targets")),
        token_batch(),
    ),
}


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("case", CASES)
def test_accumulation_gives_the_gradient_of_the_big_batch(case, steps):
    gradient, loss = error(*CASES[case], use("accumulate", steps=steps))
    assert gradient < EXACT
    assert loss < EXACT


@pytest.mark.parametrize("steps", [2, 3, 7])
@pytest.mark.parametrize("case", CASES)
def test_the_comparison_catches_a_mean_of_means(case, steps):
    if case in ("records", "mean stated") and 23 % steps == 0:
        pytest.skip("even micro-batches of equal weight: a mean of means is right there")
    gradient, _ = error(*CASES[case], use(mean_of_means, steps=steps))
    assert gradient > 1e-3


def test_a_micro_batch_in_which_everything_is_ignored_adds_nothing():
    data = token_batch()
    assert bool((data["target"][:2] == -100).all())  # the first of 5 micro-batches is records 0 and 1
    gradient, _ = error(tokens, "language_model", data, use("accumulate", steps=5))
    assert gradient < EXACT
    nothing = {"input": data["input"], "target": torch.full_like(data["target"], -100)}
    for middleware in ((), (use("accumulate", steps=3),)):
        found, loss = gradients(tokens, "language_model", nothing, *middleware)
        assert loss != loss
        assert all(not g.any() for g in found.values()), "nothing to learn from is a zero gradient"


def test_fewer_records_than_steps():
    data = batch(records=3, dtype=torch.float64)
    gradient, _ = error(plain, "classification", data, use("accumulate", steps=7))
    assert gradient < EXACT


def test_fields_that_are_not_per_record_are_passed_whole():
    seen = []

    def task(model, data):
        seen.append({n: (len(v) if getattr(v, "ndim", 1) else "scalar") for n, v in data.items()})
        prediction = model(data["input"]) * data["scale"] + data["prior"]
        total = nn.functional.cross_entropy(prediction, data["target"], reduction="sum")
        return total, len(data["target"]), prediction

    data = {
        **batch(records=9, dtype=torch.float64),
        "scale": torch.tensor(2.0),
        "prior": torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64),
        "text": [str(i) for i in range(9)],
    }
    gradient, _ = error(plain, task, data, use("accumulate", steps=2))
    assert gradient < EXACT
    assert seen[-2:] == [
        {"input": 4, "target": 4, "scale": "scalar", "prior": 3, "text": 4},
        {"input": 5, "target": 5, "scale": "scalar", "prior": 3, "text": 5},
    ]


def test_a_table_as_long_as_the_batch_is_named():
    def task(model, data):
        prediction = model(data["input"]) + data["table"].sum(0).sin()
        return nn.functional.cross_entropy(prediction, data["target"], reduction="sum"), len(data["target"]), prediction

    data = {**batch(records=6, dtype=torch.float64), "table": torch.arange(18, dtype=torch.float64).reshape(6, 3) / 9}
    assert error(plain, task, data, use("accumulate", steps=2, whole=["table"]))[0] < EXACT
    assert error(plain, task, data, use("accumulate", steps=2))[0] > 1e-3


def test_summing_outside_accumulation_leaves_the_sum():
    """An outer mapping that sums too (such as a mesh) divides itself, by the weight it sums."""

    class Outer:
        def grad(self, inner):
            def grad(state, batch):
                with state.sums():
                    parts = [inner(state, {n: v[rows] for n, v in batch.items()}) for rows in (slice(0, 5), slice(5, None))]
                weight = sum(float(p["loss"][1]) for p in parts)
                torch._foreach_div_(state.gradients(), weight)
                return {"loss": (sum(p["loss"][0] for p in parts), weight)}

            return grad

    scaler = use("mixed_precision", dtype="fp16", init_scale=8.0)  # float64 stays float64: only the scaling is at work
    for inner in ([use("accumulate", steps=3)], [scaler], [scaler, use("accumulate", steps=2)]):
        assert error(*CASES["tokens"], Outer(), *inner)[0] < EXACT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_on_the_device_divide_in_the_gradient_s_own_precision(dtype):
    made = build_program(
        lambda: nn.Linear(1, 1, bias=False).to(dtype),
        lambda model, b: ((model(b["input"])).sum(), torch.tensor(3), None),
        use("sgd", lr=0.0),
        device="cpu",
    )
    seen = {}
    made.optimizer.register_step_pre_hook(lambda *_: seen.update(g=made.state.parameters[0].grad.clone()))
    made.step({"input": torch.ones(1, 1, dtype=dtype)})
    assert seen["g"].item() == torch.tensor(1, dtype=dtype).div(3).item()


def test_which_field_counts_the_records_is_said_or_seen():
    def task(model, data):
        prediction = model(data["x"])
        return nn.functional.cross_entropy(prediction, data["y"], reduction="sum"), len(data["y"]), prediction

    x, y = batch(records=9, dtype=torch.float64).values()
    for data, options in [
        ({"scale": torch.tensor(1.0), "x": x, "y": y}, {}),
        ({"odd": torch.zeros(4), "x": x, "y": y}, {"count": "x"}),
    ]:
        assert error(plain, task, data, use("accumulate", steps=2, **options))[0] < EXACT
    made = build_program(plain, task, middleware=[use("accumulate", steps=2, count="z")], device="cpu")
    with pytest.raises(DataError, match="accumulate.count: the batch has no field 'z'; allowed: x, y"):
        made.step({"x": x, "y": y})
    made = build_program(plain, task, middleware=[use("accumulate", steps=2)], device="cpu")
    with pytest.raises(DataError, match=r"no field of the batch \(x, name\) has a first axis to cut it by"):
        made.step({"x": torch.tensor(1.0), "name": "one"})


def test_an_empty_batch_is_passed_on():
    gradient, loss = gradients(plain, "classification", batch(records=0, dtype=torch.float64), use("accumulate", steps=3))
    assert loss != loss
    assert all(not g.any() for g in gradient.values())


def test_scalars_that_a_mapping_within_reports_are_averaged():
    class Report:
        def grad(self, inner):
            return lambda state, data: {**inner(state, data), "shard": torch.tensor(float(state.shard))}

    made = build_program(plain, middleware=[use("accumulate", steps=3), Report()], device="cpu")
    assert made.fetch([made.step(batch(records=9, dtype=torch.float64))])["shard"] == 1.0
