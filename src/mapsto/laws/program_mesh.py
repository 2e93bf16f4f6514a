"""Laws of programs on a mesh of two ranks: replicated and sharded they do what one process does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.laws import Laws, Trial
from ..core.plan import plan
from ..core.values import use
from ..data.stream import size
from .compare import Array, differs, ratio_cause, same
from .drivers import ProgramDriver, RankedProgram, Sums
from .program_inputs import RECORDS, STEPS, micro_shard, own, reader_of, spec_of

laws = Laws("program", driver=ProgramDriver)
PATIENCE = 20.0
"""Seconds that a rank waits for the other: a pass that one of them leaves out is a finding, and not a hang."""


def on_mesh(
    trial: Trial, axes: Mapping[str, int] | None, *, records: int = RECORDS, more: tuple[Any, ...] = ()
) -> tuple[RankedProgram, Any]:
    """The program of the spec in float64 on a mesh (None: on this process alone), and its training reader."""
    driver: ProgramDriver = trial.driver
    spec = spec_of(trial)
    saver = next((p.name for p in plan(spec.middleware) if "replica_exchange" in p.declared.provides), None)
    if saver is not None:
        trial.skip(f"middleware {saver!r} lets replicas exchange less than the sum; middleware.bounded_drift judges how near")
    with trial.component("building the program"):
        reader = reader_of(spec, records=records)
        return driver.build(trial, spec, reader, axes=axes, middleware=[*more, *spec.middleware]), reader


def _same_gradients(trial: Trial, got: dict[str, Array | None], want: dict[str, Array]) -> None:
    kept = {n: g for n, g in got.items() if g is not None}
    kept |= {n: g for n, g in want.items() if n not in kept and not g.any()}  # without a part in the step
    lost = sorted(set(want) - set(kept))
    trial.demand(not lost, f"there is no gradient for {', '.join(lost)}", first={"tensor": min(lost, default="")})
    causes = {ratio_cause(kept[n], want[n]) for n in want}
    same(trial, "gradients on the mesh", kept, want, tolerance="T1", cause=next(iter(causes)) if len(causes) == 1 else None)


def _steps(trial: Trial, axes: Mapping[str, int], *, records: int = RECORDS, steps: int = STEPS) -> None:
    driver: ProgramDriver = trial.driver
    one, reader = on_mesh(trial, None, records=records)
    many, _ = on_mesh(trial, axes, records=records)
    with driver.patience(PATIENCE):
        _compared(trial, one, many, reader, axes, steps)


def _compared(trial: Trial, one: RankedProgram, many: RankedProgram, reader: Any, axes: Mapping[str, int], steps: int) -> None:
    for step in range(steps):
        with trial.case(step=step, records=size(reader.batch(step)), world=2, dtype="float64", mesh=_said(axes)):
            batches = {s: micro_shard(reader, step, s, 2) for s in range(2)}
            with trial.component("a step of one process"):
                sums = one.sums(batches)
                wanted = _mean(sums)
            with trial.component("a step on the mesh"):
                many.grad(own(many, reader, step))
            _same_gradients(trial, many.gradients(), wanted)
            if step == 0:
                trial.control("a rank alone has another gradient", _alone_differs(one, batches, wanted))
            with trial.component("the update"):
                one.put(wanted, sums.total, sums.weight)
                one.update()
                many.update()
            same(trial, "weights on the mesh", many.parameters(), one.parameters(), tolerance="T1")


def _mean(sums: Sums) -> dict[str, Array]:
    """Gradients of the micro-shards together, divided once."""
    return {n: np.asarray(g / (sums.weight or 1.0)) for n, g in sums.gradients.items() if g is not None}


def _alone_differs(program: RankedProgram, batches: Mapping[int, Any], wanted: dict[str, Array]) -> bool:
    there = {s: b for s, b in batches.items() if size(b)}
    if len(there) < 2:
        return True  # the other rank has nothing: its stand-in would be seen in the gradient
    found = _mean(program.sums({0: there[min(there)]}))
    return differs(found, {n: wanted[n] for n in found})


def _said(axes: Mapping[str, Any]) -> str:
    return " x ".join(f"{axis} {count}" for axis, count in axes.items())


@laws.law(
    "S1b",
    "replicated",
    priority=1,
    tolerance="T1",
    ranks=2,
    seconds=180,
    why="A spec that trains another model on two ranks than on one cannot be scaled: every figure of it is of one machine.",
    satisfy="Call parts of the model from the task as `model(...)`, so that DDP sees the pass; state "
    "mesh: {unused_parameters: true} where parameters may take no part in a step.",
    catches=("transformers#34242", "a forward pass that goes around the model's own", "parameters that one rank does not use"),
)
def replicated(trial: Trial) -> None:
    """On the mesh {replicate: 2}, gradients and weights after three updates are those of one process in float64."""
    _steps(trial, {"replicate": 2})


@laws.law(
    "S1c",
    "sharded",
    priority=1,
    tolerance="T1",
    ranks=2,
    seconds=180,
    why="Models that do not fit one device are sharded; an optimizer or middleware that takes a shard for the whole trains "
    "another model there.",
    satisfy="Elementwise work on parts is right as it is; ask state.mesh.norm for norms and state.mesh.whole for full values.",
    catches=("fairscale#767", "Megatron-LM#6489", "a norm of the local shard"),
)
def sharded(trial: Trial) -> None:
    """On the mesh {shard: 2}, gradients and weights after three updates are those of one process in float64."""
    _steps(trial, {"shard": 2})


@laws.law(
    "S3",
    "idle_rank",
    priority=1,
    tolerance="T1",
    ranks=2,
    seconds=120,
    why="The last batch of an epoch may have fewer records than there are ranks; a rank that leaves the pass out lets the "
    "others wait for ever.",
    satisfy="Make the same passes whatever the number of records; divide by no count of records of your own.",
    catches=("a hang at the end of an epoch", "0/0 on a rank without records"),
)
def idle_rank(trial: Trial) -> None:
    """With one record for two ranks, one of which then has nothing, a step ends and is that of one process, both ways."""
    for axes in ({"replicate": 2}, {"shard": 2}):
        _steps(trial, axes, records=1, steps=2)


@laws.law(
    "S2",
    "agreement",
    priority=1,
    tolerance="T0",
    ranks=2,
    seconds=120,
    why="Replicas that drift apart by a bit drift apart by a model; nothing says so until a "
    "checkpoint of one is read on another.",
    satisfy="Draw from the seeded generators only; keep no state that depends on a rank's own records outside the gradient.",
    catches=("SkyRL#1709", "buffers of a rank's own batches", "a middleware that draws from the clock"),
)
def agreement(trial: Trial) -> None:
    """After three steps on {replicate: 2}, parameters, buffers and optimizer state are bitwise equal on both ranks."""
    driver: ProgramDriver = trial.driver
    many, reader = on_mesh(trial, {"replicate": 2})
    first = many.parameters()
    for step in range(STEPS):
        with trial.component("a step on the mesh"):
            many.step(own(many, reader, step))
    told = driver.gather(many.state())
    with trial.case(world=2, steps=STEPS):
        same(trial, "the state of rank 1 and of rank 0", told[1], told[0])
    trial.control("training changed the weights", differs(many.parameters(), first))


@laws.law(
    "S4",
    "global_norm",
    priority=1,
    tolerance="T1",
    ranks=2,
    seconds=120,
    why="Clipping by the norm of a rank's own shard lets the gradient through twice as large on four ranks.",
    satisfy="Ask state.mesh.norm(gradients) for the norm; elementwise scaling of the local parts is then right.",
    catches=("Megatron-LM#6489", "fairscale#767"),
)
def global_norm(trial: Trial) -> None:
    """On {shard: 2} the norm that clip_norm sees, and what it leaves, are those of one process."""
    clip = (
        () if "clip_norm" in {getattr(m, "name", "") for m in spec_of(trial).middleware} else (use("clip_norm", max_norm=1e-3),)
    )
    one, reader = on_mesh(trial, None, more=clip)
    many, _ = on_mesh(trial, {"shard": 2}, more=clip)
    batches = {s: micro_shard(reader, 0, s, 2) for s in range(2)}
    with trial.case(world=2, records=size(reader.batch(0))):
        with trial.component("a step"):
            sums = one.sums(batches)
            gradients = _mean(sums)
            one.put(gradients, sums.total, sums.weight)
            many.grad(own(many, reader, 0))
            alone, sharded_metrics = one.update(), many.update()
        norms = [{"norm": np.asarray(m["grad_norm"])} for m in (sharded_metrics, alone)]
        same(trial, "the norm before clipping", norms[0], norms[1], tolerance="T1")
        kept = {n: g for n, g in many.gradients().items() if g is not None}
        clipped = {n: g for n, g in one.gradients().items() if g is not None}
        same(trial, "gradients after clipping", kept, {n: clipped[n] for n in kept}, tolerance="T1")
    trial.control("there is something to clip", differs(gradients, clipped))
