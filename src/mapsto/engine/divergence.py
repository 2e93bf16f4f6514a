"""Where two runs first differ: in what was said of them, in which step, in which mapping of it, and by how much.

What the folders tell is compared first: specs, environments, figures and the checkpoints that both have. With `replay` both go
on, in a folder of their own, from the last checkpoint in which they are equal (or from their beginning) with a checkpoint
after each step, which exact resuming makes the same runs; the first step that differs is then taken apart: the batch, what
each module gives, the loss, gradients, the update. A difference is measured by what one unit in the last place of the weights
changes, so that rounding is not called a bug, and a bug is not called rounding.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import CheckpointError, SpecError
from ..core.native import native_of
from ..core.spec import CheckpointPlan
from .checkpoints.checkpoint import Checkpoints, checkpoint_paths, step_of
from .folder import RunFolder
from .report.compare import differing
from .run import Run
from .wing import find_wing

QUIET = ("time/", "throughput/", "memory/")
"""Figures that no two runs have in common."""
OWN = ("started", "process", "argv", "spec", "identity", "seeds", "data.", "folder")
"""What an environment says of its run alone, or what the specs say better."""
LONG = 64
"""A list of more plain values is compared as one, such as the state of a generator."""
STATE = ("position", "random", "program")
ROUNDING = 30.0
"""Times the effect of one unit in the last place: a difference up to that is what another order of sums may make."""


@dataclass(frozen=True)
class Found:
    """A difference: what (`the batch`, `a module`, `a gradient`, ...), which, the largest value in the first run, the largest
    absolute difference, and times what one unit in the last place changes there (None where that was not measured)."""

    what: str
    which: str
    size: float
    difference: float
    units: float | None = None


@dataclass
class Divergence:
    """All that was found of two runs. equal_at, differs_at: steps of the last and the first checkpoints compared (None: none);
    step: the first step that differs, where it was found by going on; found: its differences in the order of the mappings."""

    runs: tuple[Path, Path]
    spec: list[tuple[str, list[str]]] = field(default_factory=list)
    environment: list[tuple[str, list[str]]] = field(default_factory=list)
    figure: tuple[int, str, float, float] | None = None
    equal_at: int | None = None
    differs_at: int | None = None
    state: list[Found] = field(default_factory=list)
    step: int | None = None
    found: list[Found] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether nothing that was compared differs in what was trained."""
        return self.figure is None and self.differs_at is None and self.step is None

    @property
    def cause(self) -> str | None:
        """The likely cause, in one sentence."""
        if self.same:
            return None
        first = self.found[0] if self.found else None
        options = ", ".join(path for path, _ in self.spec[:4])
        if first is None:
            return f"their specs differ: {options}" if options else None
        if first.what == "the batch":
            why = "seed, order or contents of the data" if not options else f"{options}"
            return f"the data of that step are not the same: {why}"
        if first.units is not None and first.units <= ROUNDING:
            where = ", ".join(path for path, _ in self.environment[:3])
            return "rounding alone: a kernel or an order of sums is another one" + (f" ({where} differ)" if where else "")
        start = {"the start": "the states that the step begins with", "an update": "the update, after equal gradients"}
        said = start.get(first.what, f"{first.what} ({first.which})")
        return f"{said} is where they part" + (f"; their specs differ in {options}" if options else "")

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = dataclasses.asdict(self)
        return {**plain, "runs": [str(r) for r in self.runs], "same": self.same, "cause": self.cause}


def diverge(one: str | Path, other: str | Path, *, replay: bool = False) -> Divergence:
    """Where the runs of two folders first differ. replay: go on with both from where they are equal (their code is run).

    Raises SpecError or CheckpointError where a folder holds no run.
    """
    folders = RunFolder(one), RunFolder(other)
    made = Divergence(runs=(folders[0].path, folders[1].path))
    made.spec = differing([f.spec_data() for f in folders])
    made.environment = [pair for pair in differing([f.environment() for f in folders]) if not pair[0].startswith(OWN)]
    made.figure = _first_figure(*folders)
    _checkpoints(made, *folders)
    if replay:
        _replay(made, *folders)
    return made


# -- what the folders tell -------------------------------------------------------------------------------------------------
def _first_figure(one: RunFolder, other: RunFolder) -> tuple[int, str, float, float] | None:
    """The first figure of training or evaluation that both have, and that differs: step, name and both values."""
    mine, theirs = (_figures(f) for f in (one, other))
    shared = [key for key in mine if key in theirs]
    return next(((*key, mine[key], theirs[key]) for key in shared if not _equal(mine[key], theirs[key])), None)


def _figures(folder: RunFolder) -> dict[tuple[int, str], float]:
    found: dict[tuple[int, str], float] = {}
    for record in folder.records("log", "evaluate"):
        for name, value in (record.get("metrics") or {}).items():
            if not any(word in name for word in QUIET) and isinstance(value, (int, float)):
                found[int(record["step"]), name] = float(value)
    return found


def _equal(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _checkpoints(made: Divergence, one: RunFolder, other: RunFolder) -> None:
    mine, theirs = ({step_of(p): p for p in checkpoint_paths(f.checkpoints)} for f in (one, other))
    shared = sorted(mine.keys() & theirs.keys())
    if not shared:
        made.notes.append("they have no checkpoint of the same step")
    for step in shared:
        trees = [_tree(f, path[step]) for f, path in ((one, mine), (other, theirs))]
        if found := list(_compared(*trees)):
            made.differs_at, made.state = step, found
            return
        made.equal_at = step


def _tree(folder: RunFolder, path: Path) -> dict[str, Any]:
    return _decisive(Checkpoints(folder.checkpoints, find_wing(folder.spec().wing)).load(path, looking=True).tree)


def _decisive(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Of a state what was trained; a schedule keeps its options there, and what it does shows in the weights."""
    found = {name: tree[name] for name in STATE if name in tree}
    program = {name: value for name, value in found.get("program", {}).items() if name != "schedule"}
    return {**found, "program": program}


def _compared(one: Any, other: Any) -> Iterator[Found]:
    """Differences of two trees, the largest by its size first."""
    mine, theirs = dict(_leaves(one, "")), dict(_leaves(other, ""))
    found = [f for path in {**mine, **theirs} if (f := _leaf(path, mine.get(path), theirs.get(path))) is not None]
    yield from sorted(found, key=lambda f: -(f.difference / (f.size or 1.0)))


def _leaf(path: str, a: Any, b: Any) -> Found | None:
    x, y = _array(a), _array(b)
    if x is not None and y is not None and x.shape == y.shape and x.dtype.kind in "fciub" and y.dtype.kind in "fciub":
        if x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind in "fc"):
            return None
        wide = np.complex128 if x.dtype.kind == "c" else np.float64
        with np.errstate(all="ignore"):
            apart = np.abs(x.astype(wide) - y.astype(wide))
        apart = np.where(np.isnan(apart), np.inf, apart)
        return Found("the state", path, float(np.nanmax(np.abs(x.astype(wide)), initial=0.0)), float(apart.max(initial=0.0)))
    if x is None and y is None and a == b:
        return None
    return Found("the state", path, math.nan, math.inf)


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, (list, tuple)) and len(tree) <= LONG:
        for i, value in enumerate(tree):
            yield from _leaves(value, f"{path}[{i}]")
    else:
        yield path, tree


def _array(value: Any) -> Any:
    """A NumPy array of an array of any loaded framework, of a number, or None."""
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    framework = native_of(value)
    if framework is None:
        return np.asarray(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    try:
        return np.asarray(framework.to_numpy(framework.detached(value)))
    except (TypeError, RuntimeError):
        return None


# -- going on ----------------------------------------------------------------------------------------------------------------
class _StopAt:
    """Ends a run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: Any) -> None:
        if event.step >= self.step:
            event.run.ask_to_stop("both runs are compared up to here")


def _replay(made: Divergence, one: RunFolder, other: RunFolder) -> None:
    """Find the first step that differs, and where in it."""
    if made.differs_at is None and made.figure is None:
        made.notes.append("nothing that they wrote differs: there is nothing to go on from")
        return
    start = made.equal_at
    until = min(x for x in (made.differs_at, made.figure[0] if made.figure else None) if x is not None)
    if start is not None and start >= until:
        until = start + 1
    with tempfile.TemporaryDirectory(prefix="mapsto-diff-") as name:
        runs = [_again(folder, Path(name) / side, start, until) for folder, side in ((one, "one"), (other, "other"))]
        before = _step_of_both(made, runs, start or 0, until)
        if made.step is not None:
            made.found = list(_within(made.step, runs, before)) or made.found  # the state alone: a rate of the next step


def _again(folder: RunFolder, where: Path, start: int | None, until: int) -> Run:
    """The run gone on with in a folder of its own, a checkpoint after each step. Raises SpecError, CheckpointError."""
    spec = folder.spec()
    spec.load_imports(folder.kept_recipes())
    shutil.copytree(folder.path, where, ignore=lambda path, names: [n for n in names if _left_out(path, n, folder, start)])
    plan = CheckpointPlan(every=1, keep=None, best=0, metric=spec.checkpoint.metric, mode=spec.checkpoint.mode)
    spec = dataclasses.replace(spec, checkpoint=plan, observers=(), log_every=1)
    if start is None:
        shutil.rmtree(where)
    run = Run(spec, where, observers=(_StopAt(until),))
    run.fit(resume=start is not None)
    return run


def _left_out(path: str, name: str, folder: RunFolder, start: int | None) -> bool:
    """Whether a file of a run is not copied: checkpoints, but the one to go on from."""
    return Path(path) == folder.checkpoints and name != f"step-{start or 0:08d}"


def _step_of_both(made: Divergence, runs: list[Run], start: int, until: int) -> list[Any]:
    """Set the first step whose states differ; the states before it."""
    before: list[Any] = []
    for step in range(max(start, 1), until + 1):
        trees = []
        for run in runs:
            path = run.checkpoints.path(step)
            if not path.is_dir():
                made.notes.append(f"one of them ended before step {step}")
                return []
            trees.append(run.checkpoints.load(path, looking=True).tree)
        if found := list(_compared(*map(_decisive, trees))):
            made.step, made.found = step, found
            return before
        before = trees
    made.notes.append(
        f"gone on with here they are equal up to step {until}: the difference is of the machines that they ran on"
    )
    return []


def _within(step: int, runs: list[Run], before: list[Any]) -> Iterator[Found]:
    """The differences within a step, in the order of its mappings; each with the effect of one unit in the last place."""
    fresh = [Run(run.spec, run.folder.path) for run in runs]
    for run, tree in zip(fresh, before, strict=False):
        run.program.restore(tree["program"])
    batches = [run.reader("train").batch(step - 1) for run in fresh]
    for found in _compared(*({"batch": b} for b in batches)):
        yield dataclasses.replace(found, what="the batch", which=found.which.removeprefix("batch."))
    if not hasattr(fresh[0].wing, "probe") or not hasattr(fresh[1].wing, "probe"):
        return
    nudged = Run(runs[0].spec, runs[0].folder.path)
    if before:
        nudged.program.restore(before[0]["program"])
    seen = [
        run.wing.probe(run.program, batch, nudge=nudge)
        for run, batch, nudge in zip([*fresh, nudged], [*batches, batches[0]], (False, False, True), strict=True)
    ]
    for key in seen[0].keys() | seen[1].keys():
        if key not in seen[0] or key not in seen[1]:
            yield Found(key[0], key[1], math.nan, math.inf)
    for key, mine in seen[0].items():
        apart = _leaf(key[1], mine, seen[1][key]) if key in seen[1] else None
        if apart is not None:
            effect = _leaf(key[1], mine, seen[2].get(key, mine))
            least = float(np.finfo(mine.dtype).eps) * apart.size if mine.dtype.kind == "f" else 1.0
            unit = max(effect.difference if effect is not None else 0.0, least)
            yield dataclasses.replace(apart, what=key[0], units=apart.difference / unit if unit else None)


def check_runs(paths: tuple[str, str]) -> None:
    """Raises SpecError where one of two paths is no run's folder, or both are one."""
    for path in paths:
        if not RunFolder(path).was_begun():
            raise SpecError(f"{path} is no folder of a run: it holds no spec.yaml")
    if Path(paths[0]).resolve() == Path(paths[1]).resolve():
        raise SpecError(f"{paths[0]} is compared with itself: name two runs")


__all__ = ["CheckpointError", "Divergence", "Found", "check_runs", "diverge"]
