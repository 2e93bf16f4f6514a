"""Laws of programs on a mesh of two gloo ranks: replicated and sharded by torch.distributed they do what one process does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...core.errors import SpecError
from ...core.laws import Laws, Trial
from ...core.plan import plan
from ...core.spec import Spec
from ...core.values import Part, use
from ...data.laws.contents import size_of
from ...data.stream import StandIn
from ..mappings import Metrics
from ..mesh.group import patience
from ..mesh.one import whole
from ..program import Program
from .compare import differs, ratio_cause, same
from .program_ranks import RECORDS, STEPS, program_of, read, reader_of, spec_of, sums

laws = Laws("program")
PATIENCE = 20.0
"""Seconds that a rank waits for the other: a pass that one of them leaves out is a finding, and not a hang."""


class Doubled:
    """Middleware: the model in float64, before it is placed."""

    def setup(self, builder: Any) -> None:
        builder.model.double()


def on_mesh(
    trial: Trial, axes: Mapping[str, Any] | None, *, records: int = RECORDS, more: tuple[Any, ...] = ()
) -> tuple[Program, Any]:
    """The program of the spec in float64 on a mesh (None: on this process alone), and its training reader."""
    spec = spec_of(trial)
    saver = next((p.name for p in plan(spec.middleware) if "replica_exchange" in p.declared.provides), None)
    if saver is not None:
        trial.skip(f"middleware {saver!r} lets replicas exchange less than the sum; middleware.bounded_drift judges how near")
    with trial.component("building the program"):
        reader = reader_of(spec, records=records)
        mesh = None if axes is None else Part("ranks", {**options(spec, trial), **axes})
        program = program_of(spec, reader, middleware=[Doubled(), *more, *spec.middleware], mesh=mesh)
    return program, reader


def options(spec: Spec, trial: Trial) -> dict[str, Any]:
    stated = spec.mesh.args if isinstance(spec.mesh, Part) else {}
    unused = bool(stated.get("unused_parameters")) or trial.has("unused_parameters")
    return {"unused_parameters": unused, **({"blocks": stated["blocks"]} if "blocks" in stated else {})}


def _placed(trial: Trial, axes: Mapping[str, Any], **options: Any) -> tuple[Program, Any]:
    try:
        return on_mesh(trial, axes, **options)
    except SpecError as error:
        if "take statistics over a batch" in str(error):
            trial.skip(f"it is refused on several ranks: {error}")
        raise


def _own(program: Program, batches: Mapping[int, Any]) -> Any:
    """This rank's micro-shards; a stand-in where it has no record."""
    last = max(s for s, b in batches.items() if size_of(b))
    return [batches[s] if s >= 0 and size_of(batches[s]) else StandIn(batches[last]) for s in program.state.mesh.own]


def _gradients(program: Program) -> dict[str, Tensor | None]:
    pairs = zip(program.state.names, program.state.parameters, strict=True)
    return {n: None if p.grad is None else whole(p.grad).clone() for n, p in pairs}


def _same_gradients(trial: Trial, got: dict[str, Tensor | None], want: dict[str, Tensor]) -> None:
    kept = {n: g for n, g in got.items() if g is not None}
    zero = {n: g for n, g in want.items() if n not in kept and not bool(g.any())}
    for name in zero:  # without a part in the step
        kept[name] = zero[name]
    lost = sorted(set(want) - set(kept))
    trial.demand(not lost, f"there is no gradient for {', '.join(lost)}", first={"tensor": min(lost, default="")})
    causes = {ratio_cause(kept[n], want[n]) for n in want}
    same(trial, "gradients on the mesh", kept, want, tolerance="T1", cause=next(iter(causes)) if len(causes) == 1 else None)


def _steps(trial: Trial, axes: Mapping[str, Any], *, records: int = RECORDS, steps: int = STEPS) -> None:
    one, reader = on_mesh(trial, None, records=records)
    many, _ = _placed(trial, axes, records=records)
    with patience(PATIENCE):
        _compared(trial, one, many, reader, axes, steps)


def _compared(trial: Trial, one: Program, many: Program, reader: Any, axes: Mapping[str, Any], steps: int) -> None:
    for step in range(steps):
        with trial.case(step=step, records=size_of(reader.batch(step)), world=2, dtype="float64", mesh=_said(axes)):
            batches = {s: read(one, reader, step, s, 2) for s in range(2)}
            with trial.component("a step of one process"):
                wanted, pair = _one_step(one, batches)
            with trial.component("a step on the mesh"):
                for parameter in many.state.parameters:
                    parameter.grad = None
                many.state.skip = None
                metrics = many.grad(many.state, _own(many, batches))
            _same_gradients(trial, _gradients(many), wanted)
            if step == 0:
                trial.control("a rank alone has another gradient", _alone_differs(one, batches, wanted))
                with trial.component("a step of one process"):  # the control left its own gradients
                    _one_step(one, batches)
            with trial.component("the update"):
                for program, found in ((one, {"loss": pair}), (many, metrics)):
                    program.update(program.state, found)
                    program.state.step += 1
            weights = [{n: whole(p).clone() for n, p in made.model.named_parameters()} for made in (many, one)]
            same(trial, "weights on the mesh", weights[0], weights[1], tolerance="T1")


def _one_step(program: Program, batches: Mapping[int, Any]) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Gradients of the micro-shards together, divided once, left in .grad; and the summed pair."""
    pair: tuple[Tensor, Tensor] = sums(program, dict(batches))["loss"]
    for parameter in program.state.parameters:
        if parameter.grad is not None:
            parameter.grad.div_(pair[1] if float(pair[1]) else 1.0)
    named = zip(program.state.names, program.state.parameters, strict=True)
    return {n: p.grad.clone() for n, p in named if p.grad is not None}, pair


def _alone_differs(program: Program, batches: Mapping[int, Any], wanted: dict[str, Tensor]) -> bool:
    own = {s: b for s, b in batches.items() if size_of(b)}
    if len(own) < 2:
        return True  # the other rank has nothing: its stand-in would be seen in the gradient
    found, _ = _one_step(program, {0: own[min(own)]})
    return differs(found, {n: wanted[n] for n in found})


def _said(axes: Mapping[str, Any]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in axes.items())


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
    many, reader = _placed(trial, {"replicate": 2})
    first: dict[str, Tensor] = {n: p.detach().clone() for n, p in many.model.named_parameters()}
    for step in range(STEPS):
        batches = {s: read(many, reader, step, s, 2) for s in range(2)}
        with trial.component("a step on the mesh"):
            many.step(_own(many, batches))
    own = _state(many)
    told: list[Any] = [None, None]
    dist.all_gather_object(told, own)
    with trial.case(world=2, steps=STEPS):
        same(trial, "the state of rank 1 and of rank 0", told[1], told[0], tolerance="T0", cause=None)
    trial.control("training changed the weights", differs({n: p.detach() for n, p in many.model.named_parameters()}, first))


def _state(program: Program) -> dict[str, Tensor]:
    model = {f"model.{n}": t.detach().clone() for n, t in program.model.state_dict().items() if isinstance(t, Tensor)}
    held = {
        f"optimizer.{name}.{key}": value.detach().clone()
        for name, parameter in zip(program.state.names, program.state.parameters, strict=True)
        for key, value in program.optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }
    return {**model, **held}


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
    many, _ = _placed(trial, {"shard": 2}, more=clip)
    batches = {s: read(one, reader, 0, s, 2) for s in range(2)}
    with trial.case(world=2, records=size_of(reader.batch(0))):
        with trial.component("a step"):
            gradients, pair = _one_step(one, batches)
            alone = one.update(one.state, {"loss": pair})
            sharded_metrics: Metrics = many.update(many.state, many.grad(many.state, _own(many, batches)))
        norms = [{"norm": torch.as_tensor(m["grad_norm"]).double()} for m in (sharded_metrics, alone)]
        same(trial, "the norm before clipping", norms[0], norms[1], tolerance="T1")
        kept = {n: g for n, g in _gradients(many).items() if g is not None}
        clipped = {n: p.grad for n, p in zip(one.state.names, one.state.parameters, strict=True) if p.grad is not None}
        same(trial, "gradients after clipping", kept, {n: clipped[n] for n in kept}, tolerance="T1")
    trial.control("there is something to clip", differs(gradients, clipped))
