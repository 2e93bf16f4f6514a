"""Micro-batches of a pipeline that do what the second of them did: their stage's part of the model is not computed again.

The first makes gradients, the second adds to them, and so does every later one. What the second made, freed and communicated
within its stage's section, forward and backward, is noted, and done again for later ones: values that leave the section are
tensors of their own, of everything else only the bytes count. The schedule, the loss and all that is around are carried out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ...planning.timeline import LABELS, settled
from ...planning.traffic import Traffic
from ..mesh.pipeline.schedule import Pipeline
from .meter import Meter

_Call = Callable[[dict[str, Any], tuple[Any, ...]], tuple[Any, ...]]
LAST = "the last micro-batch is not like the second"
_LEAF = torch.zeros((), requires_grad=True)
"""What makes a repeated section's output require gradients; it gets none."""


@dataclass(frozen=True)
class Shape:
    """How to make a tensor that fills a storage of its own."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    trained: bool

    def make(self) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=self.device)


@dataclass
class Span:
    """What happened from one moment to another: changes of storages, of which those from `first` on were made in it."""

    first: int
    events: list[tuple[int, int]]
    traffic: list[Traffic]
    until: int


@dataclass
class Pass:
    """A section's pass of one micro-batch: its inputs, and what was seen of it.

    outputs: (storage number, tensor without memory like it) of what it gave; gradients: storage numbers of what came back;
    returned: of the gradients of its inputs, likewise.
    """

    values: tuple[Any, ...]
    like: Any
    forward: Span
    outputs: list[tuple[int, Shape]]
    gradients: dict[int, int] = field(default_factory=dict)
    mark: tuple[int, int, int] | None = None
    backward: Span | None = None
    returned: list[tuple[int, Shape] | None] = field(default_factory=list)


class Repeats:
    """The sections of a rank, and what was found of them.

    control: whether the last micro-batch of a step is computed too and compared with the second. unlike: why what was told of a
    step is not to be trusted, empty where it is.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.control, self.unlike, self.paused = True, "", False
        self.count = 0
        self._sections: weakref.WeakSet[_Repeated] = weakref.WeakSet()  # a rank keeps its own

    def patches(self) -> Iterator[Any]:
        """Where a step's micro-batches begin, and where a backward pass ends."""
        run, backward = Pipeline._run, torch.autograd.backward

        def begun(pipeline: Pipeline, micro_batches: list[Any]) -> None:
            self.count = len(micro_batches)
            for section in self._sections:
                section.begin()
            run(pipeline, micro_batches)

        def ended(*args: Any, **kwargs: Any) -> None:
            backward(*args, **kwargs)
            for section in self._sections:
                section.end()

        yield mock.patch.object(Pipeline, "_run", begun)
        yield mock.patch.object(torch.autograd, "backward", ended)

    def compare(self) -> None:
        """Whether the last micro-batch did what the second did: when a step ends, and all is known of what it made."""
        for section in self._sections:
            if section.last is not None and not _same(self.meter, section.second, section.last):
                self.unlike = LAST

    def section(self, call: _Call, modules: Sequence[nn.Module]) -> _Call:
        """The same section, of which later micro-batches repeat the second; modules: those that it calls."""
        made = _Repeated(self, call, modules)
        self._sections.add(made)
        return made


class _Repeated:
    """A section, and what was seen of it in this step."""

    def __init__(self, repeats: Repeats, call: _Call, modules: Sequence[nn.Module]) -> None:
        self.repeats, self.meter, self.call, self.modules = repeats, repeats.meter, call, modules
        self.begin()

    def begin(self) -> None:
        self.place = 0
        self.open: list[Pass] = []
        self.second: Pass | None = None
        self.last: Pass | None = None
        self.steps: tuple[list[Any], list[Any]] | None = None
        self.waiting: list[_Replay] = []

    def __call__(self, inputs: dict[str, Any], values: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.repeats.paused or not torch.is_grad_enabled():
            return self.call(inputs, values)
        place, last = self.place, self.repeats.count - 1
        self.place += 1
        second, control = self.second is not None, self.repeats.control
        if (place == 1 and last > 1 + control) or (place == last and second and control):
            return self._seen(inputs, values)
        if place > 1 and self.second is not None and _like(inputs, values) == self.second.like:
            replay = _Replay(self, values)
            outputs: tuple[Any, ...] = _Again.apply(_LEAF, replay)  # type: ignore[no-untyped-call]
            return outputs
        return self.call(inputs, values)

    # -- seeing ------------------------------------------------------------------------------------------------------
    def _seen(self, inputs: dict[str, Any], values: tuple[Any, ...]) -> tuple[Any, ...]:
        like, mark, before = _like(inputs, values), self._mark(), self._attributes()
        results = self.call(inputs, values)
        forward, after = self._span(mark), self._attributes()
        outputs = [self._own(result, forward) for result in results]
        kept = [output for output in outputs if output is not None]
        sound = (
            before.keys() == after.keys()  # a count of its calls is an object that was not there
            and len(kept) == len(results) == len({number for number, _ in kept})
            and any(shape.trained for _, shape in kept)
            and all(number >= forward.first for number, _ in forward.events)
        )
        if not sound:
            if self.second is not None:
                self.repeats.unlike = LAST
            return results
        seen = Pass(values, like, forward, kept)
        if self.second is None:
            self.second = seen
        self.open.append(seen)
        for place, result in enumerate(results):
            if result.requires_grad:
                result.register_hook(_noting(self, seen, place))
        return results

    def came_back(self, seen: Pass, place: int, gradient: Tensor) -> None:
        """A gradient of an output is there: the section's backward pass begins, where it is the first."""
        seen.mark = seen.mark or self._mark()
        known = self.meter.number_of(gradient)
        if known is not None:
            seen.gradients[known] = place

    def end(self) -> None:
        """The backward pass has ended."""
        for seen in [one for one in self.open if one.mark is not None]:
            self.open.remove(seen)
            assert seen.mark is not None
            seen.backward = self._span(seen.mark)
            gradients = [getattr(value, "grad", None) for value in seen.values]
            seen.returned = [None if g is None else self._own(g, seen.backward) for g in gradients]
            whole = all((g is None) == (r is None) for g, r in zip(gradients, seen.returned, strict=True))
            steps = _steps(seen) if whole else None
            seen.values = ()
            if seen is self.second:
                self.steps = steps
                if steps is None and not self.waiting:
                    self.second = None  # none of those to come repeats it
                self._release()
            else:
                self.last, self.repeats.unlike = seen, self.repeats.unlike or ("" if steps else LAST)

    def _release(self) -> None:
        """Micro-batches that wait hold of their outputs what the second one's graph held."""
        ended = {key for role, key, _ in (self.steps or ((), ()))[1] if role == "output"}
        for replay in self.waiting:
            replay.held = {place: storage for place, storage in replay.held.items() if place in ended}

    def _attributes(self) -> dict[tuple[int, str, int], Any]:
        """What the section's modules hold."""
        every = {id(one): one for module in self.modules for one in module.modules()}
        return {(place, name, id(value)): value for place, one in every.items() for name, value in vars(one).items()}

    def _mark(self) -> tuple[int, int, int]:
        return self.meter.now, len(self.meter.traffic), self.meter.made

    def _span(self, mark: tuple[int, int, int]) -> Span:
        return Span(mark[2], self.meter.events(mark[0]), self.meter.traffic[mark[1] :], self.meter.made)

    def _own(self, tensor: Any, span: Span) -> tuple[int, Shape] | None:
        """A tensor that alone fills a storage made in this span."""
        if type(tensor) is not FakeTensor or tensor.layout is not torch.strided or tensor.storage_offset():
            return None
        number = self.meter.number_of(tensor)
        last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        if number is None or number < span.first or tensor.untyped_storage().nbytes() != (last + 1) * tensor.element_size():
            return None
        shape = Shape(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.fake_device, tensor.requires_grad)
        return number, shape


def _noting(section: _Repeated, seen: Pass, place: int) -> Callable[[Tensor], None]:
    return lambda gradient: section.came_back(seen, place, gradient)


def _like(inputs: dict[str, Any], values: Sequence[Any]) -> Any:
    return [
        (v.shape, v.stride(), v.dtype, v.requires_grad) if isinstance(v, Tensor) else (type(v), repr(v))
        for v in (*inputs.values(), *values)
    ]


def _steps(seen: Pass) -> tuple[list[Any], list[Any]] | None:
    """(role, which, change) of a pass forward and backward; None where something of it lasts or ends outside.

    roles: `forward` and `backward`, storages made in it; `output`; `gradient`, what came back; `returned`; `around`, what was
    made after the section and ends by itself when the backward pass has ended.
    """
    forward, backward = seen.forward, seen.backward
    assert backward is not None
    named = {number: ("output", place) for place, (number, _) in enumerate(seen.outputs)}
    named |= {one[0]: ("returned", place) for place, one in enumerate(seen.returned) if one is not None}
    sums: dict[int, int] = {}
    found: tuple[list[Any], list[Any]] = [], []
    for steps, span in zip(found, (forward, backward), strict=True):
        last = max((place for place, (_, change) in enumerate(span.events) if change > 0), default=-1)
        for place, (number, change) in enumerate(span.events):
            role = named.get(number)
            if role is None and forward.first <= number < forward.until:
                role = "forward", number - forward.first
            elif role is None and number >= backward.first:
                role = "backward", number - backward.first
            elif role is None and number in seen.gradients and change < 0:
                role = "gradient", seen.gradients[number]
            elif role is None and number >= forward.until and place > last:
                role = "around", number - forward.until
            if role is None:
                return None
            if role[0] in ("forward", "backward"):
                sums[number] = sums.get(number, 0) + change
            steps.append((*role, change))
    made = [step[:2] for steps in found for step in steps if step[0] in ("output", "returned") and step[2] > 0]
    return found if not any(sums.values()) and len(made) == len({*made}) == len(named) else None


def _same(meter: Meter, one: Pass | None, other: Pass) -> bool:
    """Whether two passes made, freed and moved the same."""
    if one is None:
        return False
    pairs = (one.forward, other.forward), (one.backward, other.backward)
    return all(
        a is not None and b is not None and a.traffic == b.traffic and np.array_equal(_changes(meter, a), _changes(meter, b))
        for a, b in pairs
    )


def _changes(meter: Meter, span: Span) -> Any:
    rows = [(LABELS.index(meter.label_of(number)), change) for number, change in span.events]
    return settled(np.array(rows, np.int64).reshape(-1, 2))


# -- repeating -----------------------------------------------------------------------------------------------------------
class _Again(torch.autograd.Function):
    """A section that is not computed."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, replay: _Replay) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.replay = replay
        outputs = replay.forward()
        untrained = (o for o, (_, shape) in zip(outputs, replay.second.outputs, strict=True) if not shape.trained)
        ctx.mark_non_differentiable(*untrained)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        ctx.replay.backward(gradients)
        return None, None


class _Replay:
    """One micro-batch that repeats the second."""

    def __init__(self, section: _Repeated, values: tuple[Any, ...]) -> None:
        assert section.second is not None
        self.section, self.values, self.second, self.meter = section, values, section.second, section.meter
        self.held: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}

    def forward(self) -> tuple[Tensor, ...]:
        second = self.second
        places = {number: place for place, (number, _) in enumerate(second.outputs)}
        outputs: dict[int, Tensor] = {}
        for number, change in second.forward.events:
            if (place := places.get(number)) is None:
                self._repeat(number, change)
            elif place not in outputs:
                outputs[place] = second.outputs[place][1].make()
        self.meter.traffic.extend(second.forward.traffic)
        known = self.section.steps is not None
        alive = {place for place, (number, _) in enumerate(second.outputs) if known or self.meter.alive_now(number)}
        self.held = {place: output.untyped_storage() for place, output in outputs.items() if place in alive}
        self.section.waiting.append(self)
        if known:
            self.section._release()
        return tuple(outputs[place] for place in range(len(outputs)))

    def backward(self, gradients: Sequence[Tensor | None]) -> None:
        self.section.waiting.remove(self)
        second, steps = self.second, self.section.steps
        if steps is None or second.backward is None:
            self.section.repeats.unlike = "a micro-batch ended before the second"
            return
        for (role, key, change), (number, _) in zip(steps[1], second.backward.events, strict=True):
            gradient = gradients[key] if role == "gradient" else None
            if role == "output":
                self.held.pop(key, None)
            elif role == "gradient":
                if gradient is not None:
                    self.meter.end(gradient)
            elif role == "returned":
                if (own := second.returned[key]) is not None and change > 0:
                    self.values[key].grad = own[1].make()
            elif role != "around":
                self._repeat(number, change)
        self.meter.traffic.extend(second.backward.traffic)
        self.values, self.held = (), {}

    def _repeat(self, number: int, change: int) -> None:
        """The same change of a storage like that of the second micro-batch."""
        self._numbers[number] = self.meter.repeat(self._numbers.get(number), change, number)
