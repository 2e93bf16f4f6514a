"""What a plan is made from: the spec, one batch of its training data, and what the engine injects into its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import DataError
from ..core.spec import Spec
from .checked import checked
from .run import Run

READ = 64
"""Records that are read for their shapes, at most about."""


@dataclass(frozen=True)
class Subject:
    """A checked spec; records: of a global batch; example: a few of them; injected: values that its parts leave open."""

    spec: Spec
    records: int
    example: Mapping[str, Any]
    injected: Mapping[str, Any]


def subject_of(spec: Spec) -> Subject:
    """Read what a plan needs: no more than the first batch, of which only a part where it is large. Raises DataError."""
    run = Run(spec)
    checked(spec, begins=False)
    reader = run.reader("train")
    records = int(getattr(reader, "batch_size", 0)) or -(-int(reader.records) // int(reader.batches_per_epoch))
    shards = max(records // READ, 1)
    with reader.stream(0, 1, shard=0, shards=shards) as stream:
        _, example = next(iter(stream), (0, {}))
    if not example:
        raise DataError("data.train: the reader gave no batch, so its shapes are not known")
    injected = {"total_steps": run.total_steps, "steps_per_epoch": reader.batches_per_epoch, "seed": spec.seed}
    return Subject(spec, records, example, injected)
