"""Communication savers on real ranks: what each sends, and what it does to gradients and weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from communication_programs import all_traffic, local_steps, low_rank, ranges, refusals, rounding, several
from communication_runs import all_runs, go_on
from company import on_ranks
from mesh_programs import made, steps

from mapsto import use

SGD = use("sgd", lr=0.1)
TWO = {"mesh": {"replicate": 2}, "optimizer": SGD}


def saver(name: str, **options: Any) -> dict[str, Any]:
    return {**TWO, "middleware": [use(name, **options)]}


def _full() -> list[Any]:
    return [use("powersgd", rank=99, min_compression_rate=0.0)]


def far(found: Any, wanted: Any) -> float:
    """The largest relative distance of weights by name."""
    return max(float(np.linalg.norm(found[n] - wanted[n]) / np.linalg.norm(wanted[n])) for n in wanted)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What two ranks found, all in one group."""
    words = {"model": "words"}
    identities = {
        "dense": {**TWO, **words},
        "fp32": {**saver("compress_gradients", dtype="fp32"), **words},
        "full": {**TWO, **words, "middleware": _full()},
        "thick": {**saver("powersgd", rank=99), **words},
        "accumulated": {**TWO, **words, "middleware": [use("accumulate", steps=2), *_full()]},
        "several": {**saver("local_sgd", every=1), **words, "micro_shards": 5},
        "one": {**saver("local_sgd", every=1), **words},
        "outer": {**saver("diloco", every=1, outer_lr=1.0, outer_momentum=0.0), **words},
        "bf16": {**saver("compress_gradients", dtype="bf16"), **words},
        "thin": {**saver("powersgd", rank=1, min_compression_rate=1.0), **words},
        "three": {**saver("local_sgd", every=3), **words},
    }
    traffic = {
        "dense": TWO,
        "dense float32": {**TWO, "dtype": "float32"},
        "unused": {"model": "gated", "mesh": {"replicate": 2, "unused_parameters": True}},
        "sharded": {"mesh": {"shard": 2}, "middleware": [use("clip_norm", max_norm=0.1)]},
        "bf16": {**saver("compress_gradients", dtype="bf16"), "dtype": "float32"},
        "fp16": {**saver("compress_gradients", dtype="fp16"), "dtype": "float32"},
        "powersgd": {**saver("powersgd", rank=1, min_compression_rate=1.0), "dtype": "float32"},
        "local": {**saver("local_sgd", every=2), "dtype": "float32"},
    }
    values = [[70000.0, 1e-8, 3e30, 0.0], [70000.0, 1e-8, 1e30, 0.0]], [[1.0, float("nan")], [2.0, 1.0]], [[1e30], [1e30]]
    calls = {
        "identities": (_all_steps, (identities,)),
        "traffic": (all_traffic, (traffic,)),
        "rounding": (rounding, (["bf16", "fp16"], {**TWO, **words})),
        "ranges": (_all_ranges, (values,)),
        "low rank": (low_rank, (saver("powersgd", rank=1, min_compression_rate=1.0), 4)),
        "local": (local_steps, (saver("local_sgd", every=3), 7, 1)),
        "diloco": (local_steps, (saver("diloco", every=3), 7, 99)),
        "ema": (local_steps, ({**TWO, "middleware": [use("ema", decay=0.5), use("local_sgd", every=2)]}, 3, 99)),
        "refusals": (refusals, (REFUSED,)),
    }
    told = on_ranks(2, several, calls)
    return {name: [rank[name] for rank in told] for name in calls}


def _all_steps(cases: dict[str, Any]) -> dict[str, Any]:
    return {name: steps(case) for name, case in cases.items()}


def _all_ranges(values: Any) -> Any:
    return [ranges(one) for one in values]


REFUSED = {
    "sharded": {"mesh": {"shard": 2}, "middleware": [use("local_sgd")]},
    "tensor": {"mesh": {"tensor": 2}, "middleware": [use("powersgd")]},
    "strict": {**saver("compress_gradients"), "strict": True, "micro_shards": 2},
    "strict local": {**saver("diloco"), "strict": True, "micro_shards": 2},
}


# -- no change -----------------------------------------------------------------------------------------------------------
def test_neutral_settings_are_the_dense_sum(found):
    for of_rank in found["identities"]:
        dense = of_rank["dense"]["weights"]
        assert all(np.array_equal(of_rank["fp32"]["weights"][n], w) for n, w in dense.items())
        for name in ("full", "thick", "accumulated", "one", "several", "outer"):
            assert far(of_rank[name]["weights"], dense) < 1e-12, name
        for name in ("bf16", "thin", "three"):  # the control: each of them does something
            assert far(of_rank[name]["weights"], dense) > 1e-7, name


def test_one_process_has_nothing_to_send():
    bare = steps({"optimizer": SGD})["weights"]
    for name in ("compress_gradients", "powersgd", "local_sgd"):
        weights = steps({"optimizer": SGD, "middleware": [use(name)]})["weights"]
        assert all(np.array_equal(weights[n], w) for n, w in bare.items()), name


# -- bytes -----------------------------------------------------------------------------------------------------------------
def test_the_bytes_told_are_those_of_the_collectives(found):
    for of_rank in found["traffic"]:
        for name, rows in of_rank.items():
            assert all(told == seen for told, seen in rows), (name, rows)
            assert sum(told for told, _ in rows) > 0, name


def test_the_bytes_told_are_those_of_the_closed_form(found):
    shapes = [tuple(p.shape) for p in made({})[0].model.parameters()]
    count = sum(int(np.prod(s)) for s in shapes)
    told = {name: [t for t, _ in rows] for name, rows in found["traffic"][0].items()}
    metrics = 3 * 8  # total, weight and the request to stop, in float64
    assert told["dense"] == [8 * count + metrics] * 3
    assert told["dense float32"] == [4 * count + metrics] * 3
    assert told["bf16"] == [2 * count + metrics] * 3
    assert told["fp16"] == [2 * count + 4 + metrics] * 3  # one bucket
    thin = [s for s in shapes if len(s) == 2 and s[0] * s[1] >= s[0] + s[1]]
    sums = sum(4 * (n + m) for n, m in thin) + 4 * (count - sum(n * m for n, m in thin))
    assert told["powersgd"] == [sums + metrics] * 3
    assert told["local"] == [0, 4 * count + metrics, 0]


# -- half precision --------------------------------------------------------------------------------------------------------
def test_rounding_stays_below_its_bound(found):
    for of_rank in found["rounding"]:
        for dtype in ("bf16", "fp16"):
            assert 0.1 < of_rank[dtype]["over bound"] <= 1.0, dtype  # near it: the bound is no idle one
            assert of_rank[dtype]["same on all"]
            assert of_rank[dtype]["differs"]


def test_half_precision_neither_overflows_nor_vanishes(found):
    large, unknown, huge = found["ranges"][0]
    assert large["hook"] == pytest.approx([140000.0, 0.0, 4e30, 0.0], rel=2e-3, abs=1e22)
    assert large["cast"][0] == large["cast"][2] == float("inf")  # the control
    assert np.isnan(unknown["hook"][1])
    assert huge["hook"] == pytest.approx([2e30], rel=2e-3)


# -- low rank --------------------------------------------------------------------------------------------------------------
def test_what_a_low_rank_leaves_out_comes_later(found):
    for of_rank in found["low rank"]:
        assert of_rank["lost"] < 1e-12
        assert of_rank["alike"]
        assert of_rank["far"] > 1e-2  # the control: the sums of single steps are compressed
        blocks = [f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in ("fc1", "fc2")]
        assert of_rank["names"] == [*blocks, "head.weight"]


def test_a_gradient_that_is_not_a_number_reaches_all_and_is_not_kept(found):
    assert all(of_rank["spread"] and of_rank["kept"] for of_rank in found["low rank"])


# -- local steps -----------------------------------------------------------------------------------------------------------
class ByHand:
    """Two replicas as two programs of one process each, averaged by hand."""

    def __init__(self, every: int, outer_lr: float, outer_momentum: float) -> None:
        self.every, self.outer_lr, self.outer_momentum = every, outer_lr, outer_momentum
        (first, self.reader), (second, _) = made({"optimizer": SGD}), made({"optimizer": SGD})
        self.programs = first, second
        self.start = self._weights()[0]
        self.momentum = [np.zeros_like(w) for w in self.start]
        self.seen = [0.0, 0.0]
        self.pair = np.zeros(2)

    def _weights(self) -> list[list[np.ndarray]]:
        return [[p.detach().numpy().copy() for p in made_.model.parameters()] for made_ in self.programs]

    def mean(self) -> list[np.ndarray]:
        share = [s / sum(self.seen) if sum(self.seen) else 0.5 for s in self.seen]
        return [share[0] * a + share[1] * b for a, b in zip(*self._weights(), strict=True)]

    def step(self, number: int) -> dict[str, Any]:
        for rank, program in enumerate(self.programs):
            total, weight = program.step(self.reader.batch(number, rank, 2))["loss"]
            self.seen[rank] += float(weight)
            self.pair += [float(total), float(weight)]
        mean, told = self.mean(), None
        if (number + 1) % self.every == 0:
            told = tuple(self.pair)
            self.pair[:] = 0
            self.seen = [0.0, 0.0]
            for i, (start, average) in enumerate(zip(self.start, mean, strict=True)):
                gradient = start - average
                self.momentum[i] = self.outer_momentum * self.momentum[i] + gradient
                nesterov = gradient + self.outer_momentum * self.momentum[i] if self.outer_momentum else gradient
                self.start[i] = mean[i] = start - self.outer_lr * nesterov
            for program in self.programs:
                for parameter, value in zip(program.model.parameters(), mean, strict=True):
                    parameter.data.copy_(torch.from_numpy(value))
        return {"weights": self._weights(), "canonical": mean, "told": told}


@pytest.mark.parametrize(("name", "outer"), [("local", (1.0, 0.0)), ("diloco", (0.7, 0.9))])
def test_local_steps_are_those_done_by_hand(found, name, outer):
    by_hand = ByHand(3, *outer)
    for number in range(7):
        wanted = by_hand.step(number)
        for rank, of_rank in enumerate(found[name]):
            own, canonical = of_rank["weights"][number], of_rank["canonical"][number]
            for key, mine, mean in zip(own, wanted["weights"][rank], wanted["canonical"], strict=True):
                np.testing.assert_allclose(own[key], mine, rtol=1e-11, atol=1e-14)
                np.testing.assert_allclose(canonical[key], mean, rtol=1e-11, atol=1e-14)
            told = of_rank["told"][number]
            assert (told == {}) if wanted["told"] is None else told["loss"] == pytest.approx(wanted["told"], rel=1e-12)
    first, second = (rank["weights"][1] for rank in found[name])
    assert far(first, second) > 1e-3  # the control: between two averages replicas are apart


def test_evaluation_takes_the_average_and_changes_no_replica(found):
    for name in ("local", "diloco", "ema"):
        assert all(all(of_rank["evaluated"]) for of_rank in found[name]), name
    for name in ("local", "diloco"):
        for of_rank in found[name]:
            assert all(of_rank["kept"])
            program, reader = made({"optimizer": SGD})
            plain = reader.sequential()
            for number in (1, 2):
                for key, parameter in program.model.named_parameters():
                    parameter.data.copy_(torch.from_numpy(of_rank["canonical"][number][key]))
                with plain.stream(0, plain.batches_per_epoch) as stream:
                    wanted = program.evaluate(batch for _, batch in stream)
                assert of_rank["evaluation"][number] == pytest.approx(wanted, rel=1e-12)


def test_a_request_to_stop_reaches_all_with_the_next_average(found):
    for of_rank in found["local"]:
        assert of_rank["asked"] == [False, False, True, False, False, True, False]
    assert not any(found["diloco"][0]["asked"])


def test_local_steps_send_nothing(found):
    for of_rank in found["local"]:
        assert all(told == seen for told, seen in of_rank["bytes"])
        assert [told > 0 for told, _ in of_rank["bytes"]] == [False, False, True] * 2 + [False]


# -- checkpoints -----------------------------------------------------------------------------------------------------------
RESUMED = {
    "local_sgd": use("local_sgd", every=3),
    "diloco": use("diloco", every=3),
    "powersgd": use("powersgd", rank=1, min_compression_rate=1.0),
}


@pytest.mark.bits
def test_a_run_goes_on_bitwise_between_two_averages(tmp_path):
    for of_rank in on_ranks(2, all_runs, str(tmp_path), RESUMED, 7, 4):  # the averages are after 3, 6 and 7
        for name, weights in of_rank.items():
            assert all(np.array_equal(weights["resumed"][n], w) for n, w in weights["straight"].items()), name
            assert far(weights["careless"], weights["straight"]) > 1e-5, name  # the control
    for name, made_by in RESUMED.items():  # one process goes on from the average
        alone = go_on(str(tmp_path / name), {"replicate": 1}, made_by, 7, 4)
        assert all(np.isfinite(w).all() for w in alone.values()), name


# -- shards ----------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_replicas_may_be_sharded():
    hybrid = {"mesh": {"replicate": 2, "shard": 2}, "optimizer": SGD, "model": "words"}
    by_hand = {
        "dense": hybrid,
        "full": {**hybrid, "middleware": [use("powersgd", rank=99, min_compression_rate=0.0)]},
        "one": {**hybrid, "middleware": [use("local_sgd", every=1)]},
        "outer": {**hybrid, "middleware": [use("diloco", every=1, outer_lr=1.0, outer_momentum=0.0)]},
        "clipped": {**hybrid, "middleware": [use("local_sgd", every=1), use("clip_norm", max_norm=1e9)]},
        "two": {**hybrid, "middleware": [use("diloco", every=2)]},
        "thin": {**hybrid, "middleware": [use("powersgd", rank=1, min_compression_rate=1.0)]},
    }
    calls = {"steps": (_all_steps, (by_hand,)), "refusals": (refusals, ({"half": {**hybrid, **_half()}},))}
    alone = steps({"optimizer": SGD, "model": "words", "micro_shards": 4, "mesh": {"replicate": 1}})["weights"]
    for of_rank in on_ranks(4, several, calls):
        weights = {name: told["weights"] for name, told in of_rank["steps"].items()}
        for name in ("dense", "full", "one", "outer", "clipped"):
            assert far(weights[name], alone) < 1e-12, name
        for name in ("two", "thin"):
            assert 1e-7 < far(weights[name], alone) < 0.5, name
        assert "whole copies, and mesh.shard is 2; mesh: {precision: bf16} makes shards" in of_rank["refusals"]["half"]


def _half() -> dict[str, Any]:
    return {"middleware": [use("compress_gradients")]}


# -- refused ---------------------------------------------------------------------------------------------------------------
def test_meshes_on_which_they_cannot_are_refused(found):
    for told in found["refusals"]:
        assert told["sharded"].startswith(
            "SpecError: middleware 'local_sgd' sends less between replicas, and there is one: mesh.shard"
        )
        assert "mesh.tensor exchanges at every step what the products need" in told["tensor"]
        assert told["strict"] == (
            "SpecError: strict: its sums have one order, and middleware 'compress_gradients' sums in another way: "
            "leave one of them out"
        )
        assert "middleware 'diloco' sums in another way" in told["strict local"]


def test_two_savers_cannot_both_exchange():
    from mapsto.core.errors import ComposeError, SpecError
    from mapsto.core.plan import plan

    with pytest.raises(ComposeError, match="'powersgd' and 'local_sgd' both provide 'replica_exchange': keep one"):
        plan([use("powersgd"), use("local_sgd")])
    for bad, said in (
        (use("compress_gradients", dtype="fp8"), "fp8"),
        (use("powersgd", rank=0), "rank: 0 is out of range: int of at least 1"),
        (use("local_sgd", every=0), "every: 0 is out of range"),
        (use("diloco", every=0), "every: 0 is out of range"),
        (use("diloco", outer_momentum=1.0), "outer_momentum: 1.0 is out of range"),
    ):
        with pytest.raises(SpecError, match=said):
            made({"middleware": [bad]})
