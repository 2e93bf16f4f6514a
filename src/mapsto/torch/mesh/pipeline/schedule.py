"""The axis `pipeline`: ranks that hold consecutive stages of a model (torch.distributed.pipelining; Huang et al. 2019, GPipe;
Narayanan et al. 2021, 1F1B).

Every rank has the batch. A stage computes its part of the model within the program's own loss, so that autocast, mixing of
records or a teacher are where they are in one process: before the model everything is drawn again, at the model the stage
takes the values and the state of the random generators from the stage before; the last stage goes on to the loss.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.distributed.pipelining.schedules import ScheduleLoopedBFS

from ....core.errors import ComposeError, SpecError
from ...mappings import Batch, Grad, Loss, Metrics
from ...state import State
from .. import norms
from .stages import LocalStages, keep
from .staging import Staging
from .values import shared

KEPT_SCHEDULES = 8
"""Schedules that are kept for shapes of micro-batches seen before; a new one costs one more pass of one micro-batch."""


@dataclass
class MicroBatch:
    """A micro-batch of a step: its place among them, its number in the global batch, whether it weighs nothing, its fields."""

    place: int
    number: int
    absent: bool
    batch: Batch

    @property
    def shapes(self) -> tuple[Any, ...]:
        return tuple((n, v.shape, v.dtype) for n, v in self.batch.items() if isinstance(v, Tensor))


class _Left(BaseException):
    """Ends a stage's pass through the loss where its part of the model ends; no middleware's `except Exception` is meant."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values


class Pipeline:
    """A model of which this rank keeps its stages, in place; the parameters it has keep their names.

    notes: what each stage computes. Raises SpecError where the model cannot be cut.
    """

    def __init__(self, model: nn.Module, mesh: DeviceMesh, device: torch.device, staging: Staging) -> None:
        if getattr(model, "_compiled_call_impl", None) is not None:
            raise ComposeError(
                "compile compiles the whole model, which mesh.pipeline cuts: name its blocks in compile.modules (['blocks.*'])"
            )
        self.model, self.device, self.kind = model, device, staging.schedule
        self.group = mesh.get_group()
        self.rank, self.ranks = mesh.get_local_rank(), mesh.size()
        self.total = self.ranks * staging.stages
        self.local_stages: LocalStages = keep(model, self.total, range(self.rank, self.total, self.ranks), mesh, staging.split)
        self.notes = [
            f"stage {i} of {self.total} on pipeline rank {i % self.ranks}: {w}" for i, w in enumerate(self.local_stages.words)
        ]
        self.signature = inspect.signature(type(model).forward)
        model.forward = self.evaluate
        self._schedules: dict[Any, Any] = {}
        self._sent: list[dist.Work] = []
        self._found: dict[int, tuple[Tensor, Any]] = {}

    @property
    def last(self) -> bool:
        """Whether this rank has the last stage, which alone knows the loss."""
        return self.rank == (self.total - 1) % self.ranks

    # -- training ----------------------------------------------------------------------------------------------------
    def passes(self, inner: Grad, state: State, numbered: Sequence[tuple[int, bool, Batch]]) -> list[Metrics]:
        """Forward and backward of all micro-batches of a step, which leave gradients of summed losses; metrics of each.

        What `inner` would compute, such as the micro-batches of an accumulation, is collected first.
        """
        waiting: list[MicroBatch] = []

        def pipeline_forward(state: State, batch: Batch, loss: Loss) -> Metrics:
            waiting.append(MicroBatch(len(waiting), state.shard, state.mesh.absent, batch))
            self.loss = loss
            return {"loss": (0.0, 0.0)}

        mesh: Any = state.mesh
        mesh.pipeline_forward, self.state = pipeline_forward, state
        try:
            with state.sums():
                for number, absent, batch in numbered:
                    state.shard, mesh.absent = number, absent
                    inner(state, batch)
        finally:
            mesh.pipeline_forward = None
            state.shard, mesh.absent = 0, False
        self._found.clear()
        for alike in _alike(waiting):
            self._run(alike)
        none = [{"loss": (0.0, 0.0)}]
        return [{"loss": self._found[m.place]} for m in waiting] if self.last else none

    def _run(self, micro_batches: list[MicroBatch]) -> None:
        key = (micro_batches[0].shapes, len(micro_batches))
        schedule = self._schedules.pop(key, None) or self._schedule(len(micro_batches))
        self._schedules[key] = schedule
        if len(self._schedules) > KEPT_SCHEDULES:  # the one that was used longest ago; the same on all ranks
            del self._schedules[next(iter(self._schedules))]
        schedule._split_inputs = lambda *_: ([()] * len(micro_batches), [{"micro_batch": m} for m in micro_batches])
        try:
            schedule.step(target=torch.zeros(len(micro_batches), device=self.device))
        except RuntimeError as error:  # a stage wraps what its forward raised
            cause = error.__cause__
            raise (cause if isinstance(cause, Exception) else error) from None
        for work in self._sent:
            work.wait()
        self._sent.clear()

    def _schedule(self, count: int) -> Any:
        stages: list[Any] = [
            PipelineStage(_Stage(self, index), index, self.total, self.device, group=self.group)
            for index in self.local_stages.sections
        ]
        given: dict[str, Any] = {"n_microbatches": count, "loss_fn": _loss, "scale_grads": False}
        if len(stages) == 1:
            return (Schedule1F1B if self.kind == "1f1b" and count >= self.total else ScheduleGPipe)(stages[0], **given)
        whole_rounds = count % max(1, count // self.ranks) == 0
        return (ScheduleInterleaved1F1B if whole_rounds else ScheduleLoopedBFS)(stages, **given)

    def stage(self, index: int, values: tuple[Any, ...], micro: MicroBatch) -> Any:
        """One stage's forward of one micro-batch: values for the next stage, or the summed loss."""
        state, mesh = self.state, self.state.mesh
        entry = _Entry(self, index, values, micro)
        model, state.model = state.model, entry  # type: ignore[assignment]
        state.shard, mesh.absent = micro.number, micro.absent
        try:
            state.reseed()
            total, weight, _ = self.loss(state, micro.batch)
        except _Left as left:
            return left.values
        finally:
            state.model = model
            state.shard, mesh.absent = 0, False
        if not entry.called:
            raise ComposeError("mesh.pipeline: the task did not call the model, whose stages only compute when it does")
        if micro.absent:
            total, weight = total * 0, weight * 0
        self._found[micro.place] = (total.detach(), weight)
        return total.reshape(1)

    def inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The model's arguments by name. Raises ComposeError where one is given that was taken to have its default."""
        given = self.signature.bind(self.model, *args, **kwargs).arguments
        given.pop(next(iter(given)))
        for name in given:
            default = self.signature.parameters[name].default
            if self.local_stages.followed and default is not inspect.Parameter.empty and given[name] is not default:
                raise ComposeError(
                    f"mesh.pipeline: the task gives the model {name!r}, and its forward was followed with the default: declare "
                    f"pipeline_plan in {type(self.model).__name__}, whose first piece takes it"
                )
        return dict(given)

    # -- the random generators' state, which goes along with the values ----------------------------------------------
    def send_random(self, index: int, micro: MicroBatch) -> None:
        states = torch.cat([g.get_state() for g in self.state._generators])
        self._sent.append(dist.isend(states, self._peer(index + 1), self.group, tag=_tag(index, micro)))  # type: ignore[arg-type]

    def take_random(self, index: int, micro: MicroBatch) -> None:
        own = [g.get_state() for g in self.state._generators]
        states = torch.cat(own)
        dist.recv(states, self._peer(index - 1), self.group, tag=_tag(index - 1, micro))
        for generator, state in zip(self.state._generators, torch.split(states, [s.numel() for s in own]), strict=True):
            generator.set_state(state)

    def _peer(self, index: int) -> int:
        return dist.get_global_rank(self.group, index % self.ranks)

    # -- what lies on other stages -----------------------------------------------------------------------------------
    def norm(self, tensors: Sequence[Tensor], p: float, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The norm over all stages; a tied parameter counts once. tensors: one for each parameter with a gradient."""
        with_gradient = [q for q in parameters if q.grad is not None]
        own = {
            self.local_stages.names[id(q)]: t
            for t, q in zip(tensors, with_gradient, strict=True)
            if id(q) not in self.local_stages.copies
        }
        found = dict(zip(own, norms.each(list(own.values()), p), strict=True))
        dtypes = {name: self.local_stages.dtypes[name] for name in self.local_stages.order}
        return norms.over_stages(found, dtypes, p, self.group, self.device)

    def gathered(self, values: dict[str, Any]) -> dict[str, Any]:
        """Values by name of all stages, on each."""
        found: list[Any] = [None] * self.ranks
        host = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in values.items()}
        dist.all_gather_object(found, host, group=self.group)
        return {name: value for each in found for name, value in each.items()}

    # -- evaluating --------------------------------------------------------------------------------------------------
    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward without gradients: stage after stage, the output on every rank."""
        if torch.is_grad_enabled():
            raise ComposeError(
                "the model is cut into stages, which train within program.step: call it under torch.no_grad() or in evaluation"
            )
        inputs, values = self.inputs(args, kwargs), ()
        for index in range(self.total):
            if index in self.local_stages.sections:
                values = self.local_stages.sections[index].call(inputs, values)
            values = shared(values, self._peer(index), self.group, self.device)
        return values[0] if len(values) == 1 else values


def _alike(waiting: Sequence[MicroBatch]) -> list[list[MicroBatch]]:
    """Groups of micro-batches of one shape, which travel through one schedule."""
    groups: dict[Any, list[MicroBatch]] = {}
    for micro in waiting:
        groups.setdefault(micro.shapes, []).append(micro)
    return list(groups.values())


def _loss(output: Tensor, target: Tensor) -> Tensor:  # noqa: ARG001
    """The last stage has computed the summed loss."""
    return output.sum()


def _tag(index: int, micro: MicroBatch) -> int:
    return 1 + index * 65536 + micro.place


class _Stage(nn.Module):
    """What a schedule calls: it holds no parameters of its own, which stay the model's."""

    def __init__(self, pipeline: Pipeline, index: int) -> None:
        super().__init__()
        self._compute: list[Callable[..., Any]] = [pipeline.stage]
        self.index = index

    def forward(self, *values: Any, micro_batch: MicroBatch) -> Any:
        return self._compute[0](self.index, values, micro_batch)


class _Entry:
    """Stands for the model while a stage passes through the loss."""

    def __init__(self, pipeline: Pipeline, index: int, values: tuple[Any, ...], micro: MicroBatch) -> None:
        self._pipeline, self._index, self._values, self._micro = pipeline, index, values, micro
        self.called = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        pipeline, index = self._pipeline, self._index
        if self.called:
            raise ComposeError("mesh.pipeline: the task calls the model twice for a batch, and its stages compute it once")
        self.called = True
        if index:
            pipeline.take_random(index, self._micro)
        values = pipeline.local_stages.sections[index].call(pipeline.inputs(args, kwargs), self._values)
        if index == pipeline.total - 1:
            return values[0] if len(values) == 1 else values
        if wrong := [type(v).__name__ for v in values if not isinstance(v, Tensor)]:
            raise SpecError(f"mesh.pipeline: stage {index} leaves a {wrong[0]}, and tensors travel between stages")
        pipeline.send_random(index, self._micro)
        raise _Left(values)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._pipeline.model, name)
        if isinstance(value, (nn.Module, Tensor)) or callable(value):
            raise ComposeError(
                f"mesh.pipeline: the task uses {name!r} of the model, whose parts lie on several ranks; it can only call it"
            )
        return value
