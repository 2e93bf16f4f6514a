"""The dry run: a spec's own program, built and stepped on one rank of a world that is not there."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

from ...core.errors import DataError, PlanError
from ...core.parts import Part, as_part, build
from ...core.spec import Spec
from ...planning.estimate import Measured
from ..build import build_program
from ..program import Program
from .meter import Meter
from .repeats import Repeats
from .stages import Mail
from .updates import Updates
from .world import FakeMeter, fake_world

UNREAL = (
    DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException, UnsupportedOperatorException,
)  # fmt: skip


class DryRun:
    """A program that is stepped on batches of any number of records, each step measured."""

    def __init__(self, program: Program, meter: Meter, example: Mapping[str, Any], rank: int, mail: Mail) -> None:
        self.program, self.meter, self.example, self.rank, self.mail = program, meter, example, rank, mail
        self._moment, self._stepped = 0, False
        mail.preparing = self._preparing
        state = program.state
        if getattr(state.mesh, "pipeline", None) is not None:
            gc.collect()  # what the stages of a pipeline left out is held in cycles
        self.held = {
            "parameters": meter.label(state.model.parameters(), "parameters"),
            "buffers": meter.label(state.model.buffers(), "buffers"),
        }
        meter.label_the_rest("buffers")
        self.held["buffers"] = meter.alive("buffers")
        self._updates = Updates(state.optimizer, meter, self._gradients)
        self.passes = len(program.reader_args.get("shard", (0,)))

    def step(self, records: int) -> Measured:
        """One step of micro-shards of so many records each. Raises PlanError, DataError."""
        state, meter = self.program.state, self.meter
        batches = [sized(self.example, records) for _ in range(self.passes)]
        given: Any = batches if self.program.reader_args else batches[0]
        self.mail.records = records
        if (repeats := self.mail.repeats) is not None:
            repeats.control = not self._stepped
        self._stepped = True
        self._forget()
        self._moment, issued = meter.now, len(meter.traffic)
        with explained("the step"):
            self.program.step(given)
        held = dict(self.held)
        held["optimizer"] = meter.label((v for s in state.optimizer.state.values() for v in s.values()), "optimizer")
        if repeats is not None:
            repeats.compare()
        self._updates.ended()
        timeline = meter.timeline(self._moment)
        peak, at_peak = timeline.peak()
        return Measured(self.rank, records, self.passes, held, peak, at_peak, tuple(meter.traffic[issued:]), timeline)

    @property
    def unlike(self) -> str:
        """Which micro-batch was not like others whose steps were taken from it; empty where all were."""
        return "" if self.mail.repeats is None else self.mail.repeats.unlike

    def _forget(self) -> None:
        """What steps before left, which would make this one unlike the first: requests to stop, schedules of other shapes."""
        mesh: Any = self.program.state.mesh
        if hasattr(mesh, "_attention"):
            mesh._attention = []
        if getattr(mesh, "pipeline", None) is not None:
            mesh.pipeline._schedules.clear()
            gc.collect()

    def _preparing(self) -> Callable[[], None]:
        """A pipeline's schedule is made ready once for each shape, with a pass of its own: no part of an ordinary step."""
        issued, repeats = len(self.meter.traffic), self.mail.repeats
        if repeats is not None:
            repeats.paused = True

        def done() -> None:
            if repeats is not None:
                repeats.paused = False
            del self.meter.traffic[issued:]
            self._moment = self.meter.now

        return done

    def _gradients(self) -> None:
        self.held["gradients"] = self.meter.label(self.program.state.gradients(), "gradients")


@contextmanager
def dry_run(
    spec: Spec,
    axes: Mapping[str, int],
    rank: int,
    example: Mapping[str, Any],
    injected: Mapping[str, Any],
    mail: Mail | None = None,
    change: Callable[[nn.Module], None] | None = None,
    repeating: bool = False,
) -> Iterator[DryRun]:
    """The program of a spec on one rank of a mesh with these axes, in fake tensors.

    example: a batch, of which shapes and types are read; mail: of the stages of a pipeline, stepped in order;
    change: what is done to the model when it is made; repeating: whether later micro-batches of a pipeline repeat the second.
    Raises what building the program raises, and PlanError.
    """
    world = 1
    for size in axes.values():
        world *= size
    mail = mail or Mail()
    with fake_world(rank, world, mail) as mode, FakeMeter(mode) as meter, ExitStack() as stack:
        mail.repeats = Repeats(meter) if repeating else None
        for patch in mail.repeats.patches() if mail.repeats is not None else ():
            stack.enter_context(patch)
        with explained("building the model"):
            model = spec.model
            if change is not None:
                model = build(as_part(model), "model", path="model", injected={"seed": spec.seed, **injected})
                change(model)
            program = build_program(
                model,
                spec.task,
                spec.optimizer,
                spec.schedule,
                spec.middleware,
                seed=spec.seed,
                device=spec.device,
                mesh=meshed(spec, axes),
                micro_shards=spec.micro_shards,
                strict=spec.strict,
                injected=injected,
            )
        yield DryRun(program, meter, example, rank, mail)


def meshed(spec: Spec, axes: Mapping[str, int]) -> Part:
    """The spec's mesh with other axes; its options stay. Raises PlanError for one that is no mesh of ranks."""
    mesh = spec.mesh
    if mesh is None:
        return Part("ranks", dict(axes))
    if not isinstance(mesh, Part) or mesh.name != "ranks":
        said = mesh.name if isinstance(mesh, Part) else type(mesh).__name__
        raise PlanError(f"mesh: {said!r} is not planned; a plan is for meshes of ranks: replicate, shard, tensor, pipeline")
    return Part(mesh.use, {**mesh.args, **axes})


def sized(example: Mapping[str, Any], records: int) -> dict[str, Any]:
    """A batch like the example with so many records: arrays without data, lists by repetition."""
    length = next((len(v) for v in example.values() if _counts(v)), 0)
    if not length:
        raise DataError("data.train: the batch that was read has no record, so its shapes are not known")
    return {name: _sized(value, length, records) for name, value in example.items()}


def _counts(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes, dict)) and getattr(value, "ndim", 1) > 0


def _sized(value: Any, length: int, records: int) -> Any:
    if not _counts(value):
        return value
    if getattr(value, "dtype", None) is None or getattr(value.dtype, "kind", "f") not in "biufc":
        whole = list(value) * -(-records // max(len(value), 1)) if len(value) == length else value
        return whole[:records] if len(value) == length else value
    dtype = value.dtype if isinstance(value, Tensor) else getattr(torch, str(value.dtype))
    shape = (records, *value.shape[1:]) if len(value) == length else tuple(value.shape)
    return torch.empty(shape, dtype=dtype)


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Errors of tensors without data as a PlanError: which operator, at which line of the user's, and why."""
    try:
        yield
    except Exception as error:
        found = [cause for cause in _causes(error) if isinstance(cause, UNREAL) or "no fake impl registered" in str(cause)]
        if not found:
            raise
        said = getattr(found[-1], "func", None) or " ".join(str(found[-1]).split()).partition(". ")[0]
        raise PlanError(f"{doing} cannot be planned: {said} {_why(found[-1])}{_where(found[-1])}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it; one that leads to itself ends."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _why(cause: BaseException) -> str:
    if isinstance(cause, DataDependentOutputException):
        return "reads a value, and a plan is made without data"
    if isinstance(cause, DynamicOutputShapeException):
        return "has an output whose shape depends on the data"
    return "(an operator without an implementation for fake tensors: give it one with torch.library.register_fake)"


def _where(error: BaseException) -> str:
    """The innermost line that is neither torch's nor ours."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _internal(f.filename)]
    return f" ({frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line})" if frames else ""


def _internal(path: str) -> bool:
    return "/torch/" in path or path.startswith("<")
