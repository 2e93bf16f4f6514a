"""Laws of programs on a mesh: replicated, sharded and on the one that their spec states they do what one process does."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from ..core.axes import AXES
from ..core.laws import Laws, Trial
from ..core.plan import plan
from ..core.values import Part, use
from ..data.stream import size
from .compare import Array, differs, ratio_cause, same
from .drivers import ProgramDriver, RankedProgram, Sums
from .program_inputs import RECORDS, STEPS, micro_shard, own, reader_of, spec_of, turns_of

laws = Laws("program", driver=ProgramDriver)
PATIENCE = 20.0
"""Seconds that a rank waits for the other: a pass that one of them leaves out is a finding, and not a hang."""


def on_mesh(
    trial: Trial,
    axes: Mapping[str, int] | None,
    *,
    records: int = RECORDS,
    more: tuple[Any, ...] = (),
    stated: bool = False,
) -> tuple[RankedProgram, Any]:
    """The program of the spec in float64 on a mesh (None: on this process alone), and its training reader."""
    driver: ProgramDriver = trial.driver
    spec = spec_of(trial)
    saver = next((p.name for p in plan(spec.middleware) if "replica_exchange" in p.declared.provides), None)
    if saver is not None:
        trial.skip(f"middleware {saver!r} lets replicas exchange less than the sum; middleware.bounded_drift judges how near")
    with trial.component("building the program"):
        reader = reader_of(spec, records=records)
        return driver.build(trial, spec, reader, axes=axes, middleware=[*more, *spec.middleware], stated=stated), reader


def _same_gradients(trial: Trial, got: dict[str, Array | None], want: dict[str, Array]) -> None:
    kept = {n: g for n, g in got.items() if g is not None}
    kept |= {n: g for n, g in want.items() if n not in kept and not g.any()}  # without a part in the step
    lost = sorted(set(want) - set(kept))
    trial.demand(not lost, f"there is no gradient for {', '.join(lost)}", first={"tensor": min(lost, default="")})
    causes = {ratio_cause(kept[n], want[n]) for n in want}
    same(trial, "gradients on the mesh", kept, want, tolerance="T1", cause=next(iter(causes)) if len(causes) == 1 else None)


def _steps(trial: Trial, axes: Mapping[str, int], *, records: int = RECORDS, steps: int = STEPS, stated: bool = False) -> None:
    driver: ProgramDriver = trial.driver
    one, reader = on_mesh(trial, None, records=records)
    many, _ = on_mesh(trial, axes, records=records, stated=stated)
    with driver.patience(PATIENCE):
        _compared(trial, one, many, reader, axes, steps)


def _compared(trial: Trial, one: RankedProgram, many: RankedProgram, reader: Any, axes: Mapping[str, int], steps: int) -> None:
    driver: ProgramDriver = trial.driver
    shards = many.reader_args.get("shards", 1)
    with trial.case(mesh=_said(axes)):
        _still_tied(trial, one.names(), driver.gather(many.names()))
    for step in range(steps):
        records = size(reader.batch(step))
        with trial.case(step=step, records=records, world=trial.world, dtype="float64", mesh=_said(axes)):
            for alone, company in zip(turns_of(one), turns_of(many), strict=True):
                _turn(trial, alone, company, reader, step, shards)


def _turn(trial: Trial, one: RankedProgram, many: RankedProgram, reader: Any, step: int, shards: int) -> None:
    """One update, of a whole step or of a turn of it."""
    batches = {s: micro_shard(reader, step, s, shards) for s in range(shards)}
    with trial.component("a step of one process"):
        sums = one.sums(batches)
        wanted = _mean(sums)
    with trial.component("a step on the mesh"):
        many.grad(own(many, reader, step))
    for rank, got in _of_ranks(trial, many.gradients(), wanted):
        with trial.case(rank=rank):
            _same_gradients(trial, got, {n: wanted[n] for n in got if n in wanted})
    if step == 0:
        trial.control("a rank alone has another gradient", _alone_differs(one, batches, wanted))
    with trial.component("the update"):
        one.put(wanted, sums.total, sums.weight)
        losses = [{"loss": np.asarray(program.update()["loss"])} for program in (many, one)]
    same(trial, "the loss on the mesh", *losses, tolerance="T1")
    weights = one.holds()
    for rank, got in _of_ranks(trial, many.holds(), weights):
        with trial.case(rank=rank):
            same(trial, "weights on the mesh", got, {n: weights[n] for n in got if n in weights}, tolerance="T1")


def _of_ranks(trial: Trial, own: dict[str, Any], every: Mapping[str, Array]) -> list[tuple[int, dict[str, Any]]]:
    """What each rank holds of something, which together must be all that one process has."""
    driver: ProgramDriver = trial.driver
    told = driver.gather(own)
    lost = sorted(set(every).difference(*told))
    trial.demand(not lost, f"no rank holds {', '.join(lost)}", first={"tensor": min(lost, default="")})
    return list(enumerate(told))


def _still_tied(trial: Trial, one: list[list[str]], ranks: list[list[list[str]]]) -> None:
    """Of names that one process has for one parameter, those that a rank holds are of one parameter there."""
    for rank, groups in enumerate(ranks):
        owner = {name: i for i, group in enumerate(groups) for name in group}
        for tied in one:
            here = [name for name in tied if name in owner]
            trial.demand(
                len({owner[name] for name in here}) < 2,
                f"{' and '.join(here)} are one parameter on one process, and several on rank {rank}",
                first={"tensor": min(here, default="")},
                cause="the mesh gave each module a parameter of its own",
            )


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
    satisfy="Let no part of a loss depend on the rank; state mesh: {unused_parameters: true} where parameters may take no "
    "part in a step. A task may call the model, parts of it (`model.encoder(x)`) or its methods.",
    catches=("transformers#34242", "a loss that one rank computes in another way", "parameters that one rank does not use"),
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


def _stated_axes(trial: Trial) -> list[str] | None:
    """The axes of the spec's mesh with more ranks than one; None for a mesh of one's own that has none of ours."""
    mesh = spec_of(trial).mesh
    if not isinstance(mesh, Part) or mesh.use == "servers":
        trial.skip("its spec states no mesh of ranks; program.replicated and program.sharded judge those that it may be given")
    found = [axis for axis in AXES if mesh.args.get(axis, 1) != 1]
    return found if mesh.use == "ranks" or found else None


def _own_mesh(trial: Trial) -> None:
    """The spec's mesh of one axis, with as many ranks as judge."""
    axes = _stated_axes(trial)
    if axes == [] or (axes is not None and len(axes) > 1):
        trial.skip(f"its mesh has {len(axes)} axes of several ranks" + ("; program.own_axes judges it" if axes else ""))
    if trial.world == 2 and axes in (["replicate"], ["shard"]) and spec_of(trial).mesh.use == "ranks":
        trial.skip(f"program.{axes[0]}{'d' if axes[0] == 'replicate' else 'ed'} judges it on two ranks")
    _steps(trial, dict.fromkeys(axes or (), trial.world), stated=True)


SATISFY = (
    "Reduce over ranks once, by sums that are divided once by the summed weight; mask what lies in another rank's part of a "
    "table; let tied parameters be one again after each is cut. On a mesh of one's own, whole(tensor) gives the full value."
)


@laws.law(
    "S1g",
    "own_mesh",
    priority=1,
    tolerance="T1",
    ranks=2,
    seconds=180,
    why="A plan of cuts or stages, or a mesh of one's own, can be wrong by a sum that is left out, made twice or divided by "
    "ranks, and by rows that no rank masks: training goes on, to another model.",
    satisfy=SATISFY,
    catches=("torchtitan#2206", "Megatron-LM#1754", "Megatron-LM#1446", "horovod#2654", "lingua#75"),
)
def own_mesh(trial: Trial) -> None:
    """On the spec's own mesh, cut to two ranks, gradients, loss and weights in three updates are those of one process."""
    _own_mesh(trial)


@laws.law(
    "S1h",
    "own_mesh_of_three",
    priority=1,
    tolerance="T1",
    ranks=3,
    seconds=180,
    why="Two ranks hide what three show: neighbours on both sides, a stage that is neither first nor last, parts that are "
    "uneven, a divisor that happens to be right.",
    satisfy=SATISFY,
    catches=("Megatron-LM#1304", "pytorch#36516"),
)
def own_mesh_of_three(trial: Trial) -> None:
    """On the spec's own mesh, cut to three ranks where its axis allows them, all is as on one process."""
    _own_mesh(trial)


@laws.law(
    "S1i",
    "own_axes",
    priority=1,
    tolerance="T1",
    ranks=4,
    seconds=240,
    why="Axes that are right alone are wrong together where one reduces over the ranks of another.",
    satisfy=SATISFY,
    catches=("Megatron-LM#6500", "NeMo-RL#3716"),
)
def own_axes(trial: Trial) -> None:
    """On each two of the axes of the spec's own mesh, 2 x 2 ranks, all is as on one process."""
    axes = _stated_axes(trial)
    if axes is None or len(axes) < 2:
        trial.skip("its mesh has no two axes of several ranks")
    for pair in combinations(axes, 2):
        _steps(trial, {**dict.fromkeys(axes, 1), **dict.fromkeys(pair, 2)}, stated=True, steps=2)


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
        for alone, company in zip(turns_of(one), turns_of(many), strict=True):
            _clipped(trial, alone, company, batches, own(many, reader, 0))


def _clipped(trial: Trial, one: RankedProgram, many: RankedProgram, batches: Mapping[int, Any], part: Any) -> None:
    with trial.component("a step"):
        sums = one.sums(batches)
        gradients = _mean(sums)
        one.put(gradients, sums.total, sums.weight)
        many.grad(part)
        alone, sharded_metrics = one.update(), many.update()
    norms = [{"norm": np.asarray(m["grad_norm"])} for m in (sharded_metrics, alone)]
    same(trial, "the norm before clipping", norms[0], norms[1], tolerance="T1")
    kept = {n: g for n, g in many.gradients().items() if g is not None}
    clipped = {n: g for n, g in one.gradients().items() if g is not None}
    same(trial, "gradients after clipping", kept, {n: clipped[n] for n in kept}, tolerance="T1")
    trial.control("there is something to clip", differs(gradients, clipped))
