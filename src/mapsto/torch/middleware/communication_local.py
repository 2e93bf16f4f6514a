"""Replicas that take several steps on their own before they average: local SGD and DiLoCo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...core.compose import middleware
from ...core.doors import typed
from ...core.per_rank import PerRank
from ...core.ranges import BelowOne, Count, Positive
from ..mappings import Metrics, Step
from ..mesh.one import local
from ..mesh.sent import sent
from ..saving import placed
from ..state import Builder, State
from .copies import kept

OUTSIDE = ("nonfinite", "mixed_precision", "sam", "ema")


@middleware("local_sgd", provides="replica_exchange", before="mesh", after=OUTSIDE)
class LocalSGD:
    """step -> step of each replica by its own gradients; after every `every`-th their weights are averaged (Stich 2019).

    A replica (of `mesh.replicate`; whole, or in shards) divides by the weight of its own micro-shards, and counts in the
    average by the weight that it saw since the last one, so that with plain SGD and `every` 1 this is the gradient of the
    whole batch. Optimizer state stays each replica's own. Payload: the trainable parameters once every so many steps.
    Metrics of the steps between are told with the average, summed over steps and replicas, exactly; so is a wish to stop,
    which ends a run after an average only. The last step of a run is one (`total_steps`, which a run fills in).
    Evaluation and checkpoints take the average as it would be now, and change no replica; what is each rank's own is kept
    beside it, so that a run goes on bitwise on as many ranks, and from the average on others.
    One process has nothing to average. Raises SpecError.
    """

    @typed
    def __init__(self, every: Count = 8, *, total_steps: int | None = None) -> None:
        self.every, self.total_steps = every, total_steps
        self.window: list[Metrics] = []

    @classmethod
    def _name(cls) -> str:
        return "local_sgd"

    def setup(self, builder: Builder) -> None:
        builder.local_updates = self._name()

    def begin(self, state: State) -> None:
        self.state = state

    @property
    def replicas(self) -> dist.ProcessGroup | None:
        """The ranks that hold the same of other replicas; None for one."""
        found: dist.ProcessGroup | None = self.state.mesh.replicas
        return found

    # -- the step ----------------------------------------------------------------------------------------------------
    def step(self, inner: Step) -> Step:
        def alone(state: State, batch: Any) -> Metrics:
            before = sent.bytes
            metrics = inner(state, batch)
            due = state.step % self.every == 0 or state.step == self.total_steps
            if self.replicas is None:
                if due:
                    self._outer()
                return metrics
            metrics.pop("bytes/step", None)
            self.window.append({n: v if type(v) is tuple else (v, 1.0) for n, v in metrics.items()})
            told = self._together() if due else {}
            return {**told, "bytes/step": float(sent.bytes - before)}

        return alone

    def _together(self) -> Metrics:
        """Average the weights; the metrics of all steps since the last time, over all replicas."""
        told: Metrics = self.state.mesh.together(self.window)
        _apply(self.state.parameters, self._means(told["loss"][1]))
        self.window.clear()
        self._outer()
        return told

    def _outer(self) -> None:
        """What a subclass does with the average of the replicas, such as an outer step; here nothing."""

    def _means(self, total: Tensor | None = None) -> list[Tensor]:
        """The average of every parameter over replicas, of it the part that is here. total: the weight that all saw."""
        assert self.replicas is not None
        own = torch.stack([torch.as_tensor(m["loss"][1], dtype=torch.float64, device=self.state.device) for m in self.window])
        weight = own.sum()
        if total is None:
            total = sent.all_reduce(weight.clone(), group=self.replicas)
        share = torch.where(total > 0, weight / total, 1.0 / dist.get_world_size(self.replicas))
        return summed([local(p.detach()) for p in self.state.parameters], share, self.replicas)

    # -- what others see ---------------------------------------------------------------------------------------------
    @contextmanager
    def evaluation_weights(self, state: State) -> Iterator[None]:
        """Evaluation and prediction run with the average, on every replica.

        Just after an average replicas have the same weights, but what others evaluate (such as averages over steps)
        may differ: that of the first is taken.
        """
        if self.replicas is None:
            yield
            return
        with kept(state.parameters):
            _apply(state.parameters, self._means() if self.window else self._of_the_first())
            yield

    def _of_the_first(self) -> list[Tensor]:
        found = [local(p.detach()).contiguous() for p in self.state.parameters]
        for tensor in found:
            sent.count(tensor)
            dist.broadcast(tensor, group=self.replicas, group_src=0)
        return found

    def canonical(self) -> list[Tensor]:
        """The weights of the run, one a parameter, where those of replicas differ; else none. All ranks must ask."""
        if not self.window or self.replicas is None:
            return []
        return [_like(mean, p) for mean, p in zip(self._means(), self.state.parameters, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """What each rank has of its own: its optimizer's state and, between two averages, its weights and metrics."""
        if self.replicas is None:
            return {}
        state = self.state
        named = dict(zip(state.names, state.parameters, strict=True))
        return {
            "optimizer": {n: _own(state.optimizer.state.get(p, {})) for n, p in named.items()},
            "weights": _own(named) if self.window else {},
            "metrics": {n: PerRank(pair, afresh=True) for n, pair in self._window_sums().items()},
        }

    def _window_sums(self) -> dict[str, Tensor]:
        """The (sum, weight) pairs of the window, added up."""
        found: dict[str, Tensor] = {}
        for metrics in self.window:
            for name, pair in metrics.items():
                value = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=self.state.device).detach() for v in pair])
                found[name] = found[name] + value if name in found else value
        return found

    def load_state_dict(self, tree: Mapping[str, Any]) -> None:
        if self.replicas is None or not tree:
            return
        state = self.state
        for name, parameter in zip(state.names, state.parameters, strict=True):
            _take(state.optimizer.state.get(parameter, {}), tree["optimizer"].get(name, {}))
        _take(dict(zip(state.names, state.parameters, strict=True)), tree["weights"])
        held = {n: (p.value[0], p.value[1]) for n, p in tree["metrics"].items() if p.value is not None}
        self.window = [held] if held else []


@middleware("diloco", provides="replica_exchange", before="mesh", after=OUTSIDE)
class DiLoCo(LocalSGD):
    """step -> local steps by the program's optimizer; every `every`-th, an outer one on what they did (Douillard et al. 2023).

    The outer gradient is the weights of the last time minus the average of the replicas' (weighted, as `local_sgd` does);
    the outer optimizer is SGD with Nesterov momentum, from whose weights all replicas go on. `outer_lr` 1 and
    `outer_momentum` 0 is `local_sgd`. Costs a copy of the trainable weights, and one of the momentum. One process takes the
    outer steps too, and sends nothing. The rest is as with `local_sgd`. Raises SpecError.
    """

    @typed
    def __init__(
        self, every: Count = 50, *, outer_lr: Positive = 0.7, outer_momentum: BelowOne = 0.9, total_steps: int | None = None
    ) -> None:
        super().__init__(every, total_steps=total_steps)
        self.outer_lr, self.outer_momentum = outer_lr, outer_momentum

    @classmethod
    def _name(cls) -> str:
        return "diloco"

    def begin(self, state: State) -> None:
        super().begin(state)
        self.start = [nn.Parameter(p.detach().clone()) for p in state.parameters]
        nesterov = self.outer_momentum > 0
        self.averages = self.outer_lr == 1 and self.outer_momentum == 0
        self.outer = torch.optim.SGD(self.start, lr=self.outer_lr, momentum=self.outer_momentum, nesterov=nesterov)

    @torch.no_grad()
    def _outer(self) -> None:
        if self.averages:  # what the outer step would come to but for rounding
            _apply(self.start, [local(p) for p in self.state.parameters])
            return
        for start, parameter in zip(self.start, self.state.parameters, strict=True):
            start.grad = start - parameter
        self.outer.step()
        _apply(self.state.parameters, [local(s.detach()) for s in self.start])
        self.outer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        names = self.state.names
        momentum = [self.outer.state.get(s, {}).get("momentum_buffer") for s in self.start]
        return {
            **super().state_dict(),
            "start": {n: s.detach() for n, s in zip(names, self.start, strict=True)},
            "momentum": {n: m for n, m in zip(names, momentum, strict=True) if m is not None},
        }

    def load_state_dict(self, tree: Mapping[str, Any]) -> None:
        super().load_state_dict({n: v for n, v in tree.items() if n in ("optimizer", "weights", "metrics")})
        for name, start in zip(self.state.names, self.start, strict=True):
            local(start.detach()).copy_(local(tree["start"][name]))
            if (momentum := tree["momentum"].get(name)) is not None:
                self.outer.state[start]["momentum_buffer"] = placed(momentum, start.detach()).to(start.device).clone()


def summed(tensors: Sequence[Tensor], share: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    """The sum over a group of each rank's tensors times its share: one all-reduce a dtype."""
    found: list[Tensor] = list(tensors)
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        places = [i for i, t in enumerate(tensors) if t.dtype == dtype]
        flat = torch.cat([tensors[i].reshape(-1) for i in places]).mul_(share.to(tensors[places[0]].device, dtype))
        sent.all_reduce(flat, group=group)
        for i, part in zip(places, torch.split(flat, [tensors[i].numel() for i in places]), strict=True):
            found[i] = part.view(tensors[i].shape)
    return found


def _apply(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    torch._foreach_copy_([local(p.detach()) for p in parameters], list(values))


def _like(part: Tensor, parameter: Any) -> Tensor:
    """A value as the parameter lies on ranks, of which this rank has a part."""
    if not hasattr(parameter, "device_mesh"):
        return part
    from torch.distributed.tensor import DTensor

    where = (parameter.device_mesh, parameter.placements)
    return DTensor.from_local(part, *where, run_check=False, shape=parameter.shape, stride=parameter.stride())


def _own(tensors: Mapping[str, Any]) -> dict[str, PerRank]:
    return {n: PerRank(local(t.detach()), afresh=True) for n, t in tensors.items() if isinstance(t, Tensor)}


def _take(tensors: Mapping[str, Any], own: Mapping[str, PerRank]) -> None:
    """Put each rank's own values back, where there are such."""
    for name, kept_ in own.items():
        if kept_.value is not None and isinstance(tensors.get(name), Tensor):
            local(tensors[name].detach()).copy_(kept_.value)
