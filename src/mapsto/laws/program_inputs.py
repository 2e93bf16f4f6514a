"""What programs are judged on: the spec, its reader cut into batches of 13 records, and the micro-shards of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import MapstoError
from ..core.kinds import parameters_of
from ..core.laws import Trial
from ..core.parts import build, resolve
from ..core.spec import Spec
from ..core.values import Part
from ..data.fitted import fit
from ..data.stream import read
from .compare import Array
from .drivers import RankedProgram

RECORDS = 13
"""Records of the global batch: 7 and 6 for two ranks, since even shards hide a mean of means."""
STEPS = 3


def turns_of(program: RankedProgram) -> Sequence[RankedProgram]:
    """The program of each turn of a step, or the program itself."""
    found: Sequence[RankedProgram] = getattr(program, "turns", None) or [program]
    return found


def spec_of(trial: Trial) -> Spec:
    """The spec that is checked."""
    target = trial.subject.target
    spec = target if isinstance(target, Spec) else target(**trial.example.args)
    if not isinstance(spec, Spec):
        trial.undecided(f"a program is checked from a mapsto.Spec, and {trial.subject.label} gave a {type(spec).__name__}")
    return spec


def reader_of(spec: Spec, name: str = "train", records: int = RECORDS) -> Any:
    """A reader of the spec with batches of so many records."""
    return fit(build(thirteen(spec.data[name], records), "reader", path=f"data.{name}", injected={"seed": spec.seed}))


def thirteen(reader: Any, records: int = RECORDS) -> Any:
    """The reader's part with batches of so many records."""
    if not isinstance(reader, Part):
        return reader
    try:
        takes = {p.name for p in parameters_of(resolve(reader, "reader", "data.train")[0]) or []}
    except MapstoError:
        return reader
    return Part(reader.use, {**reader.args, **{n: v for n, v in {"batch_size": records, "workers": 0}.items() if n in takes}})


def first_batch(spec: Spec, size: int) -> dict[str, Any]:
    """So many records of the recipe's training data, as its reader gives them: the fields of its first batches."""
    found = micro_shard(reader_of(spec, records=size), 0, 0, 1)
    return {f: v[:size] for f, v in found.items()}


def injected(spec: Spec, reader: Any) -> dict[str, Any]:
    """What parts of the spec that leave it open are told of these steps."""
    return {"total_steps": STEPS, "steps_per_epoch": max(int(reader.batches_per_epoch), 1), "seed": spec.seed}


def micro_shard(reader: Any, step: int, shard: int, shards: int) -> dict[str, Any]:
    """The fields of a micro-shard of a batch; of a pair, `input` and `target`."""
    batch = reader.batch(step, shard, shards) if shards > 1 else reader.batch(step)
    return dict(batch) if isinstance(batch, Mapping) else dict(zip(("input", "target"), batch, strict=True))


def own(program: RankedProgram, reader: Any, step: int) -> Any:
    """What this rank is given in a step: its micro-shards, or the batch."""
    return read(reader, step, program.reader_args.get("shard", 0), program.reader_args.get("shards", 1))


def divided(gradients: Mapping[str, Array | None], weight: float, like: Mapping[str, Array]) -> dict[str, Array]:
    """Gradients of a sum over its weight; of a parameter that has none they are zero."""
    return {n: np.zeros_like(like[n]) if g is None else np.asarray(g / weight) for n, g in gradients.items()}
