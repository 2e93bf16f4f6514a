"""Small runs that the laws drive: one with everything that draws and counts, and a spec cut down to a few small steps."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import MapstoError, MissingExtra
from ...core.kinds import parameters_of
from ...core.law_wings import law_wing
from ...core.laws import Trial
from ...core.parts import resolve
from ...core.registry import registry
from ...core.spec import CheckpointPlan, Spec
from ...core.values import Part
from ...core.wings import DEFAULT
from ...data.laws.contents import digest
from ...data.source import Indices
from ..checkpoints.checkpoint import Checkpoints
from ..run import Result, Run

STEPS = 6


class Blobs:
    """Points around three centres: `input` [n, 8] float32, `target` [n]."""

    vectorised = True

    def __init__(self, records: int = 23, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.target = np.arange(records) % 3
        self.input = (rng.standard_normal((records, 8)) + self.target[:, None]).astype(np.float32)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, indices: Indices) -> dict[str, Any]:
        return {"input": self.input[indices], "target": self.target[indices]}


def jitter(batch: dict[str, Any], *, rng: np.random.Generator) -> dict[str, Any]:
    """A little noise on the inputs."""
    return {**batch, "input": batch["input"] + 0.1 * rng.standard_normal(batch["input"].shape).astype(np.float32)}


def usual(seed: int = 0, wing: str = DEFAULT, **changes: Any) -> Spec:
    """6 steps of 8 records, 3 an epoch: dropout, shuffling, augmentation, averages, AdamW, a schedule, evaluations."""
    here, parts = __name__, law_wing(wing)
    if parts is None:
        raise MissingExtra(f"a small run of the wing {wing} is wanted, and its framework is not installed")
    train = {"source": {"use": f"{here}:Blobs"}, "batch_size": 8, "shuffle": True, "transforms": [{"use": f"{here}:jitter"}]}
    fields: dict[str, Any] = {
        "name": "law",
        **parts.run_parts(),
        "wing": wing,
        "data": {"train": train, "valid": {"source": {"use": f"{here}:Blobs", "records": 9, "seed": 1}, "batch_size": 4}},
        "steps": STEPS,
        "seed": seed,
        "device": "cpu",
        "log_every": 1,
        "evaluate_every": 2,
        "checkpoint": {"every": 1, "keep": None, "best": 0},
    }
    return Spec(**{**fields, **changes})


def spec_of(trial: Trial) -> Spec:
    """The spec of a program's trial (or what its function returns), cut down to a few small steps."""
    target = trial.subject.target
    if not isinstance(target, Spec):
        with trial.component("making the spec"):
            target = target(**trial.example.args)
    if not isinstance(target, Spec):
        trial.undecided(f"a program is checked from a mapsto.Spec, and {trial.subject.label} gave a {type(target).__name__}")
    return shortened(target)


def shortened(spec: Spec, steps: int = 5) -> Spec:
    """The spec with at most so many steps of small batches, three an epoch, where its readers let themselves be cut down.

    A mesh of ranks is left out: these runs are of one process, and other laws judge the spec on ranks.
    """
    data = {name: _small(part) for name, part in spec.data.items()}
    total = spec.steps if spec.steps is not None else steps
    plan = CheckpointPlan(every=1, keep=None, best=0, metric=spec.checkpoint.metric, mode=spec.checkpoint.mode)
    return dataclasses.replace(
        spec,
        data=data,
        steps=min(total, steps),
        epochs=None,
        log_every=2,
        evaluate_every=3,
        checkpoint=plan,
        observers=(),
        device="cpu",
        mesh=None if isinstance(spec.mesh, Part) and spec.mesh.use == "ranks" else spec.mesh,
    )


def _small(reader: Any) -> Any:
    if not isinstance(reader, Part):
        return reader
    try:
        target, _ = resolve(reader, registry.kind("reader"), "data")
    except MapstoError:
        return reader
    takes = {p.name for p in parameters_of(target) or []}
    size = min(int(reader.args.get("batch_size", 8)), 8)
    wanted = {"batch_size": size, "limit": 3 * size - 1, "workers": 0}
    if "order" in reader.args:
        wanted.pop("limit")
    changed = {n: v for n, v in wanted.items() if n in takes and not (n == "limit" and reader.args.get(n, v) < v)}
    return Part(reader.use, {**reader.args, **changed})


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for runs, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="mapsto-law-") as name:
        yield Path(name)


def fit(trial: Trial, spec: Spec, where: Path, *, resume: bool = False, observers: tuple[Any, ...] = ()) -> tuple[Run, Result]:
    """A run carried out."""
    run = Run(spec, where, observers=observers)
    if store := trial.example.more.get("checkpoints"):
        run.__dict__["checkpoints"] = store(run.folder.checkpoints, run.wing)
    with trial.component("going on with the run" if resume else "the run"):
        return run, run.fit(resume=resume)


def saved(run: Run, step: int) -> dict[str, Any]:
    """What decides the trajectory after a step, of that step's checkpoint."""
    store = Checkpoints(run.folder.checkpoints, run.wing)
    tree = store.load(store.path(step)).tree
    return {name: tree[name] for name in ("program", "position", "random")}


def leaves(tree: Any, path: str = "") -> dict[str, str]:
    """Digests of the leaves of nested dicts, lists and tuples, by path."""
    if isinstance(tree, Mapping):
        found = {k: v for key, value in tree.items() for k, v in leaves(value, f"{path}.{key}" if path else str(key)).items()}
        return found or {path: "{}"}
    if isinstance(tree, (list, tuple)) and len(tree) < 64:
        return {k: v for i, value in enumerate(tree) for k, v in leaves(value, f"{path}[{i}]").items()} or {path: "[]"}
    return {path: digest(tree)}


def first_difference(got: Any, want: Any) -> str | None:
    """The path at which two trees first differ in a bit, a dtype or a key."""
    return differing(leaves(got), leaves(want))


def differing(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """The path at which two trees of which these are the leaves first differ."""
    return next((p for p in {**theirs, **mine} if mine.get(p) != theirs.get(p)), None)
