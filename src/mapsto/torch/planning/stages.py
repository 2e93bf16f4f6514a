"""Stages of a pipeline that are stepped one after another: what each would have been told by its neighbours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Hashable, Iterator
from fractions import Fraction
from typing import Any
from unittest import mock

from torch import nn
from torch.distributed.pipelining import PipelineStage, schedules

from ..mesh.pipeline import sections, stages
from ..mesh.pipeline.schedule import Pipeline
from .alike import kinds
from .repeats import Repeats

_READY: Any = (
    (schedules.PipelineScheduleSingle, "_initialize_stage"),
    (schedules.PipelineScheduleMulti, "_initialize_stages"),
)
"""Where a schedule is made ready for shapes."""


class Mail:
    """What stages say of their outputs, by stage, so that the next one, which is stepped later, knows its inputs.

    What the stage behind says of gradients is not known yet: they are like the outputs that they are gradients of. A
    number of records that a stage was not stepped with scales the first axis.
    """

    def __init__(self) -> None:
        self.records = 1
        self._said: dict[int, tuple[int, Any]] = {}
        self._kinds: list[Hashable] = []
        self.preparing: Callable[[], Callable[[], None]] = lambda: lambda: None
        """Called before a schedule is made ready for new shapes; what it gives, after."""
        self.repeats: Repeats | None = None
        """Of the rank that is stepped, where later micro-batches may repeat the second."""

    def same(self, stage: int, ranks: int) -> bool:
        """Whether a stage between the first and the last needs no more than one before it, which was stepped: it computes the
        same, from what has the same shapes, with at most as many micro-batches under way. Then its outputs are known too."""
        if len(self._kinds) != ranks or not 0 < stage < ranks - 1:  # several stages a rank are told apart by none
            return False
        for other in range(1, stage):
            before, earlier = self._said.get(stage - 1), self._said.get(other - 1)
            if before is None or earlier is None or other not in self._said:
                continue
            if self._kinds[stage] == self._kinds[other] and _alike(before, earlier):
                self._said[stage] = self._said[other]
                return True
        return False

    def patches(self) -> Iterator[Any]:
        """In the place of objects that are sent, which have no data in a world of fake tensors."""
        if not hasattr(PipelineStage, "_recv_meta"):  # before torch 2.13: such a mesh is refused by what torch says
            return
        mail = self

        def send(stage: Any, meta: Any, to: int) -> None:
            if to > stage.stage_index:
                mail._said[stage.stage_index] = (mail.records, meta)

        def receive(stage: Any, source: int) -> Any:
            if source > stage.stage_index:
                return _gradients(stage)
            return mail._read(source)

        yield mock.patch.object(PipelineStage, "_send_meta", send)
        yield mock.patch.object(PipelineStage, "_recv_meta", receive)

        def cut(model: Any, *how: Any) -> Any:
            found = sections.sections(model, *how)
            mail._kinds = kinds(model, found)
            if mail.repeats is not None:
                found = [dataclasses.replace(s, call=mail.repeats.section(s.call, _modules(model, s.uses))) for s in found]
            return found

        yield mock.patch.object(stages, "sections", cut)
        for kind, name in _READY:
            yield mock.patch.object(kind, name, self._prepared(getattr(kind, name)))
        yield mock.patch.object(stages, "_limit", return_value=None)
        yield mock.patch.object(Pipeline, "take_random", _take_random(Pipeline.take_random))

    def _prepared(self, prepare: Any) -> Any:
        def prepared(*args: Any, **kwargs: Any) -> Any:
            done = self.preparing()
            try:
                return prepare(*args, **kwargs)
            finally:
                done()

        return prepared

    def _read(self, source: int) -> Any:
        # with several stages a rank a round comes back to the first rank: its last word stands for those before it
        records, meta = self._said.get(source) or self._said[max(self._said)]
        if records == self.records:
            return meta
        scaled = tuple(
            dataclasses.replace(m, shape=type(m.shape)((m.shape[0] * self.records // records, *m.shape[1:])))
            for m in meta.forward_metas
        )
        return dataclasses.replace(meta, forward_metas=scaled)


def _modules(model: nn.Module, uses: Collection[str]) -> list[nn.Module]:
    """Those of a section."""
    return [module for name, module in model.named_modules() if name in uses]


def _alike(one: tuple[int, Any], other: tuple[int, Any]) -> bool:
    """Whether two said the same of their outputs, for each record."""
    return _each(*one) == _each(*other)


def _each(records: int, said: Any) -> list[Any]:
    return [
        (Fraction(m.shape[0], records) if m.shape else 1, m.shape[1:], m.stride, m.dtype, m.requires_grad)
        for m in said.forward_metas
    ]


def _gradients(stage: Any) -> Any:
    from torch.distributed.pipelining._utils import _derive_grad_metas, _StageBackwardMeta

    return _StageBackwardMeta(backward_metas=_derive_grad_metas(stage._stage_meta.outputs))


def _take_random(take: Any) -> Any:
    """It is received, and nothing is set: there is no data."""

    def taken(pipeline: Any, index: int, micro: Any) -> None:
        own = [_Deaf(generator) for generator in pipeline.state._generators]
        pipeline.state._generators, before = own, pipeline.state._generators
        try:
            take(pipeline, index, micro)
        finally:
            pipeline.state._generators = before

    return taken


class _Deaf:
    """A generator whose state cannot be set, so that a stepped stage leaves the run's random stream alone."""

    def __init__(self, generator: Any) -> None:
        self.get_state = generator.get_state

    def set_state(self, state: Any) -> None:
        """Leave the state as it is."""
