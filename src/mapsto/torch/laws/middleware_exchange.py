"""Laws of middleware that exchange less between replicas: exact where it should be, near otherwise, and fewer bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...core.laws import Laws, Trial
from ...core.values import Part, use
from ...laws.middleware_inputs import item, provides
from ..build import build_program
from ..drivers.middleware_examples import batch_of, classify, parameters, plain_model
from ..mesh.group import patience
from ..mesh.one import OneProcess
from ..program import Program
from .compare import differs, same

laws = Laws("middleware")
STEPS = 12
PATIENCE = 20.0
"""Seconds that a rank waits for the other."""


def _required(trial: Trial) -> None:
    if "replica_exchange" not in provides(trial):
        trial.skip("it does not exchange anything between replicas (it provides no 'replica_exchange')")


def _single_model() -> torch.nn.Module:
    return plain_model().float()


def _program(trial: Trial, middleware: Sequence[Any], dtype: torch.dtype, *, alone: bool = False) -> Program:
    """SGD on two replicas, or on this process alone."""
    with trial.component("building a program with it on {replicate: 2}"):
        return build_program(
            use(plain_model if dtype == torch.float64 else _single_model),
            classify,
            use("sgd", lr=0.1),
            None,
            middleware,
            seed=trial.seed,
            device="cpu",
            mesh=OneProcess() if alone else Part("ranks", {"replicate": 2}),
            injected={"total_steps": STEPS},
        )


def _own(trial: Trial, step: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """This replica's records of the step: 6 or 7 of 13, two of which count for nothing."""
    cut = slice(0, 6) if trial.rank == 0 else slice(6, 13)
    return {n: v[cut] for n, v in batch_of(trial, step, 13, dtype).items()}


def _run(trial: Trial, made: Program, dtype: torch.dtype) -> list[float]:
    """The steps, the last of which brings replicas together; the bytes that this rank sent in each."""
    told = []
    with patience(PATIENCE), trial.component("a step"):
        for step in range(STEPS):
            batch = _own(trial, step, dtype)
            given: Any = [batch] if made.reader_args else batch
            told.append(float(made.step(given).get("bytes/step", 0.0)))
    return told


def _distance(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The distance of weights, its mean over both replicas."""
    away = torch.stack([(found[n] - wanted[n]).norm() for n in wanted]).norm()
    dist.all_reduce(away)
    return float(away) / 2


@laws.law(
    "M8",
    "exact_exchange",
    priority=2,
    tolerance="T1",
    ranks=2,
    seconds=120,
    why="Replicas with unequal weights (tokens) that are averaged as equals train on another loss, whatever is saved.",
    satisfy="Weigh each replica by the weight of its records; state the setting in which nothing is lost: "
    "mapsto.example(it, exact={...}).",
    catches=("a mean of means over replicas",),
)
def exact_exchange(trial: Trial) -> None:
    """In the setting that loses nothing, SGD on two replicas of unequal weight does what it does with a dense sum."""
    _required(trial)
    settings = trial.example.more.get("exact", trial.example.more.get("neutral"))
    if settings is None:
        trial.undecided("state the arguments with which nothing is lost: mapsto.example(..., exact={...})")
    dense, made, alone = (
        _program(trial, [], torch.float64),
        _program(trial, [item(trial, settings)], torch.float64),
        _program(trial, [], torch.float64, alone=True),
    )
    for program in (dense, made, alone):
        _run(trial, program, torch.float64)
    with trial.case(setting=str(settings), world=2, steps=STEPS, dtype="float64"):
        same(trial, "weights", parameters(made), parameters(dense), tolerance="T1", cause="replicas do not count by weight")
    trial.control("a replica alone differs", differs(parameters(alone), parameters(dense)))


@laws.law(
    "M9",
    "bounded_drift",
    priority=2,
    ranks=2,
    seconds=120,
    why="What is left out must come later: a compressor that forgets, or replicas that are not brought together, drift away.",
    satisfy="Keep what was not sent for the next step; leave the same on all replicas; state the bound that you promise: "
    "mapsto.example(it, drift=0.1), a share of the drift of replicas that exchange nothing.",
    catches=("powerSGD without error feedback", "replicas that end apart"),
)
def bounded_drift(trial: Trial) -> None:
    """After twelve steps replicas hold the same weights, as near to those of a dense float32 sum as its author states."""
    _required(trial)
    bound = trial.example.more.get("drift")
    if bound is None:
        trial.undecided("state how far it may drift, as a share of the drift of replicas alone: mapsto.example(..., drift=0.1)")
    dense, made, alone = (
        _program(trial, [], torch.float32),
        _program(trial, [item(trial)], torch.float32),
        _program(trial, [], torch.float32, alone=True),
    )
    for program in (dense, made, alone):
        _run(trial, program, torch.float32)
    found, wanted = parameters(made), parameters(dense)
    theirs = {n: t.clone() for n, t in found.items()}
    for tensor in theirs.values():
        dist.broadcast(tensor, 0)
    with trial.case(world=2, steps=STEPS, dtype="float32"):
        same(trial, "weights of the replicas", found, theirs, cause="replicas end apart")
        drift = _distance(found, wanted) / max(_distance(parameters(alone), wanted), 1e-12)
        trial.demand(drift <= bound < 1, "it drifts away from the dense sum", measured=drift, allowed=bound)
    trial.control("it is not the dense sum", differs(found, wanted))
    trial.control("a replica alone drifts", differs(parameters(alone), wanted))


@laws.law(
    "M10",
    "sends_less",
    priority=2,
    ranks=2,
    seconds=120,
    why="A cast after the sum, or a factor that is gathered from all, saves nothing, and the loss curve is as good as any.",
    satisfy="Cast before the collective; count what you hand to it with mapsto.torch.mesh.sent.",
    catches=("compression after the all-reduce",),
)
def sends_less(trial: Trial) -> None:
    """With its arguments twelve steps hand fewer bytes to collectives than the dense sum in float32 does."""
    _required(trial)
    dense, made = _program(trial, [], torch.float32), _program(trial, [item(trial)], torch.float32)
    whole, told = sum(_run(trial, dense, torch.float32)), sum(_run(trial, made, torch.float32))
    size = sum(p.numel() for p in dense.state.parameters)
    trial.control("the dense sum sends every gradient", whole >= 4 * size * STEPS)
    with trial.case(world=2, steps=STEPS):
        trial.demand(0 < told < whole, "it saves nothing", measured=told, allowed=whole)
