"""Averaging of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.compose import middleware
from ...core.doors import typed
from ...core.errors import CheckpointError
from ...core.ranges import Count, Share, Whole
from ..mappings import Metrics, Update
from ..mesh.one import local, whole
from ..saving import same_keys, weights
from ..state import State
from .copies import kept


@middleware("ema", provides="averaged_weights", before=("clip_norm", "clip_value", "gradient_noise"))
class EMA:
    """update -> update, after which averages of the trained weights follow: a <- d a + (1 - d) w (Polyak & Juditsky 1992).

    Evaluation and prediction run with the averages, and the weights come back after it; checkpoints hold the canonical weights
    and, beside them, the averages. They start as the initial weights and are kept in float32 or wider.
    warmup: at the t-th update, from 0, the decay is min(decay, (1 + t) / (warmup + t)) (10 is usual; 0 and 1 are none);
    every: average at every so many updates; buffers: `copy` evaluates with the model's own (such as batch statistics),
    `average` averages those of floating point too. A skipped step does not move the averages.
    `weights()` takes them out. Raises SpecError.
    """

    @typed
    def __init__(
        self, decay: Share = 0.999, *, warmup: Whole = 0, every: Count = 1, buffers: Literal["copy", "average"] = "copy"
    ) -> None:
        self.decay, self.warmup, self.every, self.buffers = decay, warmup, every, buffers
        self.updates = 0

    def begin(self, state: State) -> None:
        self.model, self.state = state.model, state
        live: dict[str, Tensor] = dict(zip(state.names, state.parameters, strict=True))
        if self.buffers == "average":
            live |= {n: b for n, b in state.model.named_buffers() if b.is_floating_point()}
        self.live = live
        self.averages = {
            n: t.detach().to(torch.promote_types(t.dtype, torch.float32), copy=True, memory_format=torch.preserve_format)
            for n, t in live.items()
        }

    def update(self, inner: Update) -> Update:
        def averaged(state: State, metrics: Metrics) -> Metrics:
            metrics = inner(state, metrics)
            if (self.updates + 1) % self.every == 0:
                self._average(state.skip)
            self.updates += 1
            return metrics

        return averaged

    def _average(self, skip: Tensor | None) -> None:
        t = self.updates // self.every
        decay = min(self.decay, (1 + t) / (self.warmup + t)) if self.warmup else self.decay
        averages = list(self.averages.values())
        live = [local(t.detach()).to(a.dtype) for t, a in zip(self.live.values(), averages, strict=True)]
        averages = [local(a) for a in averages]
        if skip is None:
            torch._foreach_lerp_(averages, live, 1 - decay)
        else:
            share = torch.where(skip > 0, 0.0, 1 - decay)
            torch._foreach_lerp_(averages, live, [share.to(a.device, a.dtype) for a in averages])

    @contextmanager
    def evaluation_weights(self, state: State) -> Iterator[None]:  # noqa: ARG002
        """Within it the model holds the averages; its own weights are put back bitwise, after an exception too."""
        live = [local(t.detach()) for t in self.live.values()]
        with kept(live):
            torch._foreach_copy_(live, [local(a) for a in self.averages.values()])
            yield

    def weights(self) -> dict[str, Any]:
        """The model's state with the averages in place, as copies on the host (see `Program.weights`)."""
        found = weights(self.model)
        averages = {id(self.live[name]): average for name, average in self.averages.items()}
        for name, tensor in self.model.state_dict(keep_vars=True).items():  # a tied weight stands there under each name
            if id(tensor) in averages:
                found[name] = whole(averages[id(tensor)]).cpu().numpy().copy()
        return self.state.mesh.gathered(found)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "averages": dict(self.averages)}

    def load_state_dict(self, tree: Mapping[str, Any]) -> None:
        same_keys("ema", tree, ("updates", "averages"))
        same_keys("ema average", tree["averages"], self.averages)
        for name, average in self.averages.items():
            if tree["averages"][name].shape != average.shape:
                raise CheckpointError(
                    f"ema: {name} is {list(tree['averages'][name].shape)} in the checkpoint, {list(average.shape)} here"
                )
        self.updates = int(tree["updates"])
        for name, average in self.averages.items():
            average.copy_(tree["averages"][name])
