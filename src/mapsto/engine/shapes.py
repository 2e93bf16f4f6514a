"""The shapes of a run folder's JSON files: the keys that readers rely on, and what may stand there.

Other keys may stand beside them and are anything; of those that are listed only the `Required` ones must be there.
"""

from __future__ import annotations

from typing import (
    Annotated,
    Any,
    Literal,
    Required,  # pydantic takes the one of `typing` from Python 3.12 on
)

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

STRICT = ConfigDict(strict=True, extra="allow")

Step = Annotated[int, Field(ge=0, lt=1 << 53)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Seconds = Annotated[float, Field(ge=0, le=253402300799)]
"""Since 1970, up to the year 9999."""
Names = list[str]


class Resumed(TypedDict, total=False):
    """Of a `start` that goes on: from where."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    step: Required[Step]
    path: Required[str]
    notes: Names


class Health(TypedDict, total=False):
    """Of a `log`: which parameters are not trained."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    parameters: Step
    no_gradient: Names
    zero_gradient: Names
    unchanged: Names


class Detail(TypedDict, total=False):
    """What an event tells besides its metrics."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    resumed: Resumed | None
    health: Health | None
    first: dict[str, Any] | None
    ranks: dict[str, list[Any]] | None
    data: Names
    path: str
    reason: str
    why: str
    traceback: str
    go_on: str
    detached: dict[str, str]


class Event(TypedDict, total=False):
    """A line of metrics.jsonl."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    name: str
    step: Required[Step]
    epoch: float
    metrics: dict[str, float | bool | str | None]
    detail: Detail | None
    time: Seconds


class Summary(TypedDict, total=False):
    """The part of environment.json that says what was built."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    parameters: Count
    trainable: Count
    middleware: Names


class Environment(TypedDict, total=False):
    """environment.json."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    summary: Summary
    recipes: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    earlier: list[dict[str, Any]]
    resumable_from_folder: bool


class File(TypedDict):
    """A file of a checkpoint as it was written."""

    size: Count
    sha256: str


class Entry(TypedDict):
    """One of the best checkpoints."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    step: Step
    value: float | Literal["Infinity", "-Infinity"]


class Best(TypedDict, total=False):
    """The best checkpoints by a metric."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    metric: str
    mode: str
    entries: Required[list[Entry]]


class Fingerprint(TypedDict, total=False):
    """What a reader's data were."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    records: Required[Count]
    batches_per_epoch: Required[Count]
    contents: dict[str, str | None]
    batches: dict[str, str | None]
    fields: dict[str, Any]


class Manifest(TypedDict, total=False):
    """manifest.json of a checkpoint."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    format: Required[Any]
    digest: Required[str]
    step: Step
    created: str
    versions: dict[str, str]
    identity: dict[str, Any]
    total_steps: Step
    data: dict[str, Fingerprint]
    ranks: Annotated[int, Field(ge=1, lt=1 << 31)]
    best: Best
    files: Required[dict[str, File]]


class Error(TypedDict, total=False):
    """logs/errors/rank-N.json: what a rank failed with."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    rank: Count
    host: str | None
    step: Step | None
    time: Seconds
    type: str
    message: str
    traceback: str


class Launch(TypedDict, total=False):
    """A line of logs/launch.jsonl."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    event: Required[str]
    time: Seconds
    kind: str | None
    sentence: str
    ranks: list[int] | None
    attempt: Count


class Beat(TypedDict):
    """The first line of logs/stalls/rank-N.txt: a rank's last sign of life."""

    __pydantic_config__ = STRICT  # type: ignore[misc]
    rank: Count
    host: str
    pid: Count
    step: Step
    time: Seconds
    limit: Annotated[float, Field(ge=0, le=1e12)]
