"""Laws of programs over two ranks: by micro-shards they have the gradient of one, and evaluate each record once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.laws import Laws, Trial
from ..core.spec import Spec
from ..data.laws.contents import keys_of
from ..data.stream import size
from .compare import Array, differs, leaves, max_error, ratio_cause, same
from .drivers import ProgramDriver, RankedProgram, Sums
from .program_inputs import STEPS, divided, micro_shard, reader_of, spec_of, turns_of

laws = Laws("program", driver=ProgramDriver)


def _made(trial: Trial, spec: Spec, reader: Any, **options: Any) -> RankedProgram:
    """The program of the spec in float64."""
    driver: ProgramDriver = trial.driver
    with trial.component("building the program"):
        return driver.build(trial, spec, reader, **options)


def _reader(trial: Trial, spec: Spec, *names: str) -> Any:
    """The first reader of those names with batches of 13 records."""
    with trial.component("building the program"):
        return reader_of(spec, next(n for n in names if n in spec.data))


def _together(driver: ProgramDriver, sums: Sums, like: Mapping[str, Array]) -> tuple[dict[str, Array], float, float]:
    """Gradients, total and weight of all ranks: the gradients of the mean."""
    told: list[Sums] = driver.gather(sums)
    total, weight = sum(t.total for t in told), sum(t.weight for t in told)
    every = [divided(t.gradients, 1.0, like) for t in told]
    return divided({n: np.asarray(np.sum([g[n] for g in every], axis=0)) for n in every[0]}, weight, like), total, weight


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
    spec = spec_of(trial)
    reader = _reader(trial, spec, "train")
    one, two = _made(trial, spec, reader), _made(trial, spec, reader)
    if size(reader.batch(0)) < 2:
        trial.skip("its batches hold one record, which two ranks cannot share")
    for step in range(STEPS):
        with trial.case(step=step, records=size(reader.batch(step)), world=2, dtype="float64"):
            batches = {s: micro_shard(reader, step, s, 2) for s in range(2)}
            for alone, company in zip(turns_of(one), turns_of(two), strict=True):
                _turn(trial, alone, company, batches, step)
            if step == 0:
                _whole(trial, spec, reader, batches)


def _turn(trial: Trial, one: RankedProgram, two: RankedProgram, batches: Mapping[int, Any], step: int) -> None:
    """One update, of a whole step or of a turn of it."""
    driver: ProgramDriver = trial.driver
    like = one.parameters()
    with trial.component("a step of one rank"):
        mean = _mean_of_means(one, batches) if step == 0 else None
        sums = one.sums(batches)
        wanted = divided(sums.gradients, sums.weight, like)
    with trial.component("a step of two ranks"):
        got, total, weight = _together(driver, two.sums({trial.rank: batches[trial.rank]}), like)
    same(trial, "gradients of two ranks", got, wanted, tolerance="T1", cause=_ratio(got, wanted))
    if mean is not None:
        trial.control("a mean of means differs", differs(mean, wanted) and _far(mean, wanted))
    with trial.component("the update"):
        one.put(wanted, sums.total, sums.weight)
        two.put(got, total, weight)
        one.update()
        two.update()
    same(trial, "weights of two ranks", two.parameters(), one.parameters(), tolerance="T1")


def _mean_of_means(program: RankedProgram, batches: Mapping[int, Any]) -> dict[str, Array]:
    """What dividing on each rank and averaging over ranks would give."""
    like, told = program.parameters(), [program.sums({shard: batch}) for shard, batch in batches.items()]
    every = [divided(t.gradients, t.weight, like) for t in told]
    return {n: np.asarray(np.mean([g[n] for g in every], axis=0)) for n in every[0]}


def _far(got: dict[str, Array], want: dict[str, Array]) -> bool:
    return any(max_error(got[n], want[n]) > 1e-7 * float(np.abs(want[n]).max()) for n in want)


def _ratio(got: dict[str, Array], want: dict[str, Array]) -> str | None:
    found = {ratio_cause(got[n], want[n]) for n in want}
    return next(iter(found)) if len(found) == 1 else None


def _whole(trial: Trial, spec: Spec, reader: Any, batches: Mapping[int, Any]) -> None:
    """Without dropout, batch statistics and middleware a batch has the gradient of its micro-shards."""
    joined = _joined(list(batches.values()))
    if trial.has("per_batch") or joined is None:
        return
    pair = [turns_of(_made(trial, spec, reader, middleware=(), evaluating=True)) for _ in range(2)]
    for programs in zip(*pair, strict=True):
        gradients = []
        for made, parts in zip(programs, (batches, {0: joined}), strict=True):
            with trial.component("a pass over the batch"):
                sums = made.sums(parts)
            gradients.append(divided(sums.gradients, sums.weight, made.parameters()))
        with trial.case(mode="evaluation"):
            cause = _ratio(*gradients) or "the task looks at the records of a batch together, or divides by their number"
            same(trial, "micro-shards and the whole batch", gradients[0], gradients[1], tolerance="T1", cause=cause)


def _joined(batches: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Batches one after another; None where their records differ in shape (padded to the longest of each)."""
    found: dict[str, Any] = {}
    for name, first in batches[0].items():
        values = [b[name] for b in batches]
        if not hasattr(first, "shape") or any(v.shape[1:] != first.shape[1:] for v in values):
            return None
        found[name] = np.concatenate([np.asarray(v) for v in values])
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
    driver: ProgramDriver = trial.driver
    spec = spec_of(trial)
    reader = _reader(trial, spec, "test", "valid", "train")
    program = _made(trial, spec, reader)
    plain = reader.sequential() if hasattr(reader, "sequential") else reader
    keys: list[str] = []
    due: list[str] = []
    sums, whole = np.zeros(2), np.zeros(2)
    with trial.component("evaluating"):
        for position in range(min(int(plain.batches_per_epoch), 4)):
            told_by = _alike([micro_shard(plain, position, s, n) for s, n in ((0, 1), (0, 2), (1, 2))])
            for shard, shards in ((trial.rank, 2), (0, 1)):
                batch = micro_shard(plain, position, shard, shards)
                told = [str(k) for k in keys_of({f: v for f, v in batch.items() if f in told_by} or [0] * size(batch))]
                if not told:
                    continue
                pair = np.asarray(program.loss(batch))
                if shards == 2:
                    keys, sums = keys + told, sums + pair
                else:
                    due, whole = due + told, whole + pair
    gathered = driver.gather((keys, sums))
    sums = gathered[0][1] + gathered[1][1]
    found, wanted = Counter(k for part, _ in gathered for k in part), Counter(due)
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
    trial.control("a rank alone has not all records", Counter(gathered[0][0]) != wanted)


def _alike(batches: list[dict[str, Any]]) -> set[str]:
    """The fields whose records have one shape in all batches; others are padded to the longest record of each batch, so that
    one record does not look the same in two of them."""
    there = [batch for batch in batches if size(batch)]
    return {f for f in there[0] if len({np.shape(b[f])[1:] if hasattr(b[f], "shape") else () for b in there}) == 1}
