"""Laws of programs over two gloo ranks: by micro-shards they have the gradient of one, and evaluate each record once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...core.errors import MapstoError
from ...core.kinds import parameters_of
from ...core.laws import Laws, Trial
from ...core.parts import build, resolve
from ...core.spec import Spec
from ...core.values import Part
from ...data.laws.contents import keys_of, size_of
from ..build import build_program
from ..mappings import Metrics
from ..mesh.one import OneProcess
from ..placement import place
from ..program import Program
from .compare import differs, leaves, max_error, ratio_cause, same

laws = Laws("program")
RECORDS = 13
"""Records of the global batch: 7 and 6 for two ranks, since even shards hide a mean of means."""
STEPS = 3


def _made(trial: Trial, names: tuple[str, ...] = ("train",), *, middleware: bool = True) -> tuple[Program, Any]:
    """The program of the spec in float64, and its first reader of those names with batches of 13 records."""
    spec = spec_of(trial)
    with trial.component("building the program"):
        name = next(n for n in names if n in spec.data)
        reader = reader_of(spec, name)
        program = program_of(spec, reader, middleware=spec.middleware if middleware else ())
    program.model.double()
    for parameter in program.state.parameters:
        parameter.data = parameter.data.double()
    return program, reader


def spec_of(trial: Trial) -> Spec:
    """The spec that is checked."""
    target = trial.subject.target
    spec = target if isinstance(target, Spec) else target(**trial.example.args)
    if not isinstance(spec, Spec):
        trial.undecided(f"a program is checked from a mapsto.Spec, and {trial.subject.label} gave a {type(spec).__name__}")
    return spec


def reader_of(spec: Spec, name: str = "train", records: int = RECORDS) -> Any:
    """A reader of the spec with batches of so many records."""
    return build(thirteen(spec.data[name], records), "reader", path=f"data.{name}", offers={"seed": spec.seed})


def program_of(spec: Spec, reader: Any, *, middleware: Sequence[Any] | None = None, mesh: Any = None, **more: Any) -> Program:
    """The program of the spec on the CPU for a few steps of the reader; middleware, mesh: others than none and one process.

    more: what else `build_program` takes.
    """
    return build_program(
        spec.model,
        spec.task,
        spec.optimizer,
        spec.schedule,
        spec.middleware if middleware is None else middleware,
        seed=spec.seed,
        device="cpu",
        mesh=OneProcess() if mesh is None else mesh,
        offers=offers(spec, reader),
        **more,
    )


def offers(spec: Spec, reader: Any) -> dict[str, Any]:
    """What parts of the spec that leave it open are told of these steps."""
    return {"total_steps": STEPS, "steps_per_epoch": max(int(reader.batches_per_epoch), 1), "seed": spec.seed}


def thirteen(reader: Any, records: int = RECORDS) -> Any:
    """The reader's part with batches of so many records."""
    if not isinstance(reader, Part):
        return reader
    try:
        takes = {p.name for p in parameters_of(resolve(reader, "reader", "data.train")[0]) or []}
    except MapstoError:
        return reader
    return Part(reader.use, {**reader.args, **{n: v for n, v in {"batch_size": records, "workers": 0}.items() if n in takes}})


def read(program: Program, reader: Any, step: int, shard: int, shards: int) -> dict[str, Any]:
    """A micro-shard as tensors, those of floating point in float64."""
    batch = place(reader.batch(step, shard, shards) if shards > 1 else reader.batch(step), program.state.device)
    return {n: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in batch.items()}


def sums(program: Program, batches: dict[int, dict[str, Any]]) -> Metrics:
    """Gradients of the summed loss over the numbered micro-shards, left in .grad; the summed pair (total, weight)."""
    state = program.state
    state.clear()
    state.skip = None
    total, weight = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    metrics: Metrics = {}
    with state.sums():
        for shard, batch in batches.items():
            if size_of(batch):
                state.shard = shard
                metrics = program.grad(state, batch)
                value, counted = metrics["loss"]
                total, weight = total + value, weight + counted
    state.shard = 0
    return {**metrics, "loss": (total, weight)}


def _divided(program: Program, weight: Tensor) -> dict[str, Tensor]:
    for parameter in program.state.parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.div_(weight)
    return {n: p.grad.clone() for n, p in zip(program.state.names, program.state.parameters, strict=True) if p.grad is not None}


def _together(program: Program, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """All-reduce gradients, total and weight."""
    for parameter in program.state.parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
    summed = torch.stack([x.detach().double() for x in pair])
    dist.all_reduce(summed)
    return summed[0], summed[1]


@laws.law(
    "S1",
    "ranks",
    priority=0,
    tolerance="T1",
    ranks=2,
    seconds=180,
    why="Where the gradient depends on the number of ranks, more machines train another model, and the loss curve hides it.",
    satisfy="Return a summed loss and its weight; look at no statistic of a local batch; do not divide within state.sums().",
    catches=("transformers#34242", "Automodel#3830", "ms-swift#10081"),
)
def ranks(trial: Trial) -> None:
    """Two ranks with micro-shards of 7 and 6 records, sums and weights all-reduced, have the gradients and weights of one."""
    one, reader = _made(trial)
    two, _ = _made(trial)
    if size_of(reader.batch(0)) < 2:
        trial.skip("its batches hold one record, which two ranks cannot share")
    for step in range(STEPS):
        with trial.case(step=step, records=size_of(reader.batch(step)), world=2, dtype="float64"):
            with trial.component("a step of one rank"):
                batches = {s: read(one, reader, step, s, 2) for s in range(2)}
                pair = sums(one, batches)["loss"]
                mean = _mean_of_means(one, batches) if step == 0 else None
                pair = sums(one, batches)["loss"]
                wanted = _divided(one, pair[1])
            with trial.component("a step of two ranks"):
                found = sums(two, {trial.rank: batches[trial.rank]})
                total, weight = _together(two, found["loss"])
                got = _divided(two, weight)
            same(trial, "gradients of two ranks", got, wanted, tolerance="T1", cause=_ratio(got, wanted))
            if mean is not None:
                trial.control("a mean of means differs", differs(mean, wanted) and _far(mean, wanted))
                _whole(trial, batches)
            with trial.component("the update"):
                for program, metrics in ((one, {"loss": pair}), (two, {**found, "loss": (total, weight)})):
                    program.update(program.state, metrics)
                    program.state.step += 1
            weights = [{n: p.detach().clone() for n, p in made.model.named_parameters()} for made in (two, one)]
            same(trial, "weights of two ranks", weights[0], weights[1], tolerance="T1")


def _mean_of_means(program: Program, batches: dict[int, dict[str, Any]]) -> dict[str, Tensor]:
    """What dividing on each rank and averaging over ranks would give."""
    found: dict[str, Tensor] = {}
    for shard, batch in batches.items():
        pair = sums(program, {shard: batch})["loss"]
        for name, gradient in _divided(program, pair[1]).items():
            found[name] = found.get(name, torch.zeros_like(gradient)) + gradient / len(batches)
    return found


def _far(got: dict[str, Tensor], want: dict[str, Tensor]) -> bool:
    return any(max_error(got[n], want[n]) > 1e-7 * float(want[n].abs().max()) for n in want)


def _ratio(got: dict[str, Tensor], want: dict[str, Tensor]) -> str | None:
    found = {ratio_cause(got[n], want[n]) for n in want}
    return next(iter(found)) if len(found) == 1 else None


def _whole(trial: Trial, batches: dict[int, dict[str, Any]]) -> None:
    """Without dropout, batch statistics and middleware a batch has the gradient of its micro-shards."""
    joined = _joined(list(batches.values()))
    if trial.has("per_batch") or joined is None:
        return
    gradients = []
    for parts in (batches, {0: joined}):
        made, _ = _made(trial, middleware=False)
        made.model.eval()
        with trial.component("a pass over the batch"):
            pair = sums(made, parts)["loss"]
        gradients.append(_divided(made, pair[1]))
    with trial.case(mode="evaluation"):
        cause = _ratio(*gradients) or "the task looks at the records of a batch together, or divides by their number"
        same(trial, "micro-shards and the whole batch", gradients[0], gradients[1], tolerance="T1", cause=cause)


def _joined(batches: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Batches one after another; None where their records differ in shape (padded to the longest of each)."""
    found: dict[str, Any] = {}
    for name, first in batches[0].items():
        values = [b[name] for b in batches]
        if not isinstance(first, Tensor) or any(v.shape[1:] != first.shape[1:] for v in values):
            return None
        found[name] = torch.cat(values)
    return found


@laws.law(
    "S6",
    "exact_evaluation",
    priority=1,
    tolerance="T1",
    ranks=2,
    seconds=120,
    why="Padding that makes ranks even counts some records twice: a metric that is better or worse by a share nobody sees.",
    satisfy="Evaluate reader.sequential() by micro-shards, sum totals and weights, and divide once.",
    catches=("composer#2218",),
)
def exact_evaluation(trial: Trial) -> None:
    """Evaluated by two ranks each record counts once: the same records, and the mean loss of one rank."""
    program, reader = _made(trial, ("test", "valid", "train"))
    plain = reader.sequential() if hasattr(reader, "sequential") else reader
    keys: list[Any] = []
    sums = torch.zeros(2, dtype=torch.float64)
    whole = torch.zeros(2, dtype=torch.float64)
    due: list[str] = []
    with program.evaluating() as state, trial.component("evaluating"):
        for position in range(min(int(plain.batches_per_epoch), 4)):
            for shard, shards in ((trial.rank, 2), (0, 1)):
                batch = read(program, plain, position, shard, shards)
                told = [str(k) for k in keys_of(batch)]
                if not told:
                    continue
                total, weight, _ = program.loss(state, batch)
                pair = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in (total, weight)])
                if shards == 2:
                    keys, sums = keys + told, sums + pair
                else:
                    due, whole = due + told, whole + pair
    gathered: list[Any] = [None, None]
    dist.all_gather_object(gathered, keys)
    dist.all_reduce(sums)
    found, wanted = Counter(k for part in gathered for k in part), Counter(due)
    twice, missing = list((found - wanted).elements()), list((wanted - found).elements())
    with trial.case(records=len(due), world=2):
        trial.demand(
            not twice and not missing,
            f"{len(twice)} records are counted too often, and {len(missing)} are missing",
            measured=len(twice) + len(missing),
            allowed=0,
            first={"record": (twice + missing or [""])[0]},
            cause="shards are padded to be even" if twice and not missing else None,
        )
        same(trial, "the mean loss", leaves(sums[0] / sums[1]), leaves(whole[0] / whole[1]), tolerance="T1")
    trial.control("a rank alone has not all records", Counter(gathered[0]) != wanted)
