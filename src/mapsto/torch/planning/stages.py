"""Stages of a pipeline that are rehearsed one after another: what each would have been told by its neighbours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any
from unittest import mock

from torch.distributed.pipelining import PipelineStage

from ..mesh.pipeline import stages
from ..mesh.pipeline.schedule import Pipeline


class Mail:
    """What stages say of their outputs, by stage, so that the next one, which is rehearsed later, knows its inputs.

    What the stage behind says of gradients is not known yet: they are like the outputs that they are gradients of. A
    number of records that a stage was not rehearsed with scales the first axis.
    """

    def __init__(self) -> None:
        self.records = 1
        self._said: dict[int, tuple[int, Any]] = {}

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
        yield mock.patch.object(stages, "_limit", return_value=None)
        yield mock.patch.object(Pipeline, "take_random", _take_random(Pipeline.take_random))

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
    """A generator that keeps its state."""

    def __init__(self, generator: Any) -> None:
        self.get_state = generator.get_state

    def set_state(self, state: Any) -> None:
        """Nothing is set."""
