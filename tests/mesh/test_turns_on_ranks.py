"""Turns on several ranks are those of one: weights, averages, metrics, evaluation; bitwise in strict mode; or one refusal."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from company import on_ranks
from tests.mesh.errors import error
from tests.torch.gans import careless, gan, reader, train, turns

from mapsto import use
from mapsto.core.errors import MapstoError
from mapsto.core.parts import Part

STEPS = 5
ADAM = {"optimizer": use("adamw", lr=0.02)}
ACCUMULATED = {"middleware": [use("clip_norm", max_norm=0.3), use("accumulate", steps=2)]}
SHARED = {"parameters": ["*"], "shared": True, **ADAM}
NOISY = {"middleware": [use("nonfinite"), use("gradient_noise", eta=1e-3)]}
CASES: dict[str, dict[str, Any]] = {
    "turns": {},
    "uneven": {"batch": 1},  # a rank without a record
    "several": {"turns": turns(discriminator={"times": 2}, generator={"every": 2})},
    "accumulated": {"turns": turns(discriminator=ACCUMULATED)},
    "noisy": {"turns": turns(generator=NOISY)},
    "adamw": {"turns": turns(generator=ADAM, discriminator=ADAM)},
    "shared": {"turns": turns(discriminator={**SHARED, "task": careless}, generator=SHARED)},
    "micro-shards": {"micro_shards": 4},
}
MESHES: dict[str, dict[str, int]] = {"replicate": {"replicate": 2}, "shard": {"shard": 2}}
WEIGHTS = {"adamw": 1e-9, "shared": 1e-9}


def trained(case: dict[str, Any]) -> dict[str, Any]:
    options = {n: v for n, v in case.items() if n not in ("batch", "mesh")}
    program = gan(mesh=None if "mesh" not in case else Part("ranks", case["mesh"]), **options)
    window = train(program, 0, STEPS, case.get("batch", 9))
    metrics = program.fetch(window)
    sent = metrics.pop("bytes/step", 0.0)
    plain = reader(case.get("batch", 9)).sequential()
    with plain.stream(0, plain.batches_per_epoch, **program.reader_args) as stream:
        evaluation = program.evaluate(batch for _, batch in stream)
    averages = program.middleware.get("generator.ema")
    return {
        "weights": program.weights(),
        "metrics": metrics,
        "evaluation": evaluation,
        "averages": {} if averages is None else averages.weights(),
        "sent": sent,
    }


def all_trained(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: trained(case) for name, case in cases.items()}


def refused(case: dict[str, Any]) -> str:
    try:
        trained(case)
    except MapstoError as found:
        return str(found)
    return "nothing"


@cache
def company(world: int) -> list[dict[str, Any]]:
    meshes = MESHES if world == 2 else {"hybrid": {"replicate": 2, "shard": 2}}
    cases = {f"{mesh} {name}": {**case, "mesh": axes} for mesh, axes in meshes.items() for name, case in CASES.items()}
    strict = {"strict": True, "micro_shards": 4}
    cases |= {f"strict {mesh} {n}": {**CASES[n], **strict, "mesh": axes} for mesh, axes in meshes.items() for n in STRICT}
    return on_ranks(world, all_trained, cases)


STRICT = ("turns", "several")


def close(found: dict[str, Any], wanted: dict[str, Any], exact: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert error(np.asarray(found[name]), np.asarray(value)) < exact, name


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("world", "mesh"), [(2, "replicate"), (2, "shard"), (4, "hybrid")])
def test_turns_on_ranks_are_those_of_one(world: int, mesh: str, name: str) -> None:
    wanted = trained(CASES[name])
    for found in company(world):
        got, exact = found[f"{mesh} {name}"], WEIGHTS.get(name, 1e-12)
        close(got["weights"], wanted["weights"], exact)
        close(got["averages"], wanted["averages"], exact)
        assert got["metrics"] == pytest.approx(wanted["metrics"], rel=max(exact, 1e-11))
        assert got["evaluation"] == pytest.approx(wanted["evaluation"], rel=max(exact, 1e-11))


@pytest.mark.parametrize("name", STRICT)
@pytest.mark.parametrize(("world", "mesh"), [(2, "replicate"), (2, "shard"), (4, "hybrid")])
def test_in_strict_mode_they_are_bitwise_those_of_one(world: int, mesh: str, name: str) -> None:
    wanted = trained({**CASES[name], "strict": True, "micro_shards": 4})
    for found in company(world):
        got = found[f"strict {mesh} {name}"]
        assert all(np.array_equal(got["weights"][n], w) for n, w in wanted["weights"].items())


def test_a_turn_exchanges_the_gradients_of_its_own_parameters_only() -> None:
    found = company(2)[0]["replicate turns"]
    parameters = sum(w.nbytes for w in found["weights"].values())
    assert parameters < found["sent"] < parameters + 200  # each gradient once, and the sums of two turns


@pytest.mark.parametrize("axis", ["tensor", "pipeline"])
def test_other_axes_refuse_turns_before_a_step(axis: str) -> None:
    said = on_ranks(2, refused, {"mesh": {axis: 2}})
    assert all(f"mesh.{axis} and turns do not go together" in text for text in said)


def test_replicas_that_step_by_themselves_refuse_turns_before_a_step() -> None:
    local = turns(generator={"middleware": [use("local_sgd", every=2)]})
    said = on_ranks(2, refused, {"mesh": {"replicate": 2}, "turns": local})
    assert all("turns.generator.middleware" in text and "exchanges gradients itself" in text for text in said)
