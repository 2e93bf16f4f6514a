"""Diagnosis: the module in which something finite became something that is not, by watching one pass with hooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ...core.errors import LossError
from ..mappings import Batch, Grad
from ..mesh.one import local
from ..placement import describe
from ..state import State


class NonfiniteError(LossError):
    """A loss or gradient that is not finite, at `step`, first in `module` (a dotted name, or None) on `rank`, on `batch`."""

    def __init__(self, message: str, *, step: int, module: str | None, batch: Batch, rank: int = 0) -> None:
        super().__init__(message)
        self.step, self.module, self.batch, self.rank = step, module, batch, rank


@dataclass
class Call:
    """One call of a module: what went in and came out, and when, if ever, its gradients stopped being finite."""

    name: str
    module: nn.Module
    shard: int
    inputs: str
    clean: bool
    output: str = ""
    own: str = ""
    dirty_after: bool = False
    dirty: int | None = None

    def said(self) -> str:
        name = repr(self.name) if self.name else "the model"
        return f"{name} ({type(self.module).__name__}): given {self.inputs}, it returned {self.output}{self.own}"


class Watch:
    """Hooks on every module of a model for one forward and backward pass."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.calls: list[Call] = []
        self.first: Call | None = None
        self.fed = False  # the model itself was given something that is not finite, before any module made it
        self._open: list[Call] = []
        self._clock = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles: list[Any] = []
        try:
            for name, module in self.state.model.named_modules():
                handles.append(module.register_forward_pre_hook(self._enter(name), with_kwargs=True))
                handles.append(module.register_forward_hook(self._leave, with_kwargs=True, always_call=True))
                for parameter in module.parameters(recurse=False):
                    if parameter.requires_grad:
                        handles.append(parameter.register_hook(self._parameter_gradient(module)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def blamed(self) -> tuple[Call, str] | None:
        """The call to blame and what happened there: the first in forward order, else the first in backward order."""
        if self.first is not None:
            return self.first, "the first module whose output is not finite while its inputs are"
        turned = [] if self.fed else [c for c in self.calls if c.dirty is not None and not c.dirty_after]
        if not turned:
            return None
        found = min(turned, key=lambda c: c.dirty or 0)
        return found, "the first module on the way back whose gradient is not finite while the one it was given is"

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            call = Call(name, module, self.state.shard, "", True)
            if torch.is_grad_enabled():  # an own view for each consumer, so that gradients are told apart
                args, kwargs = tree_map_only(Tensor, lambda t: self._watched_input(call, t), (args, kwargs))
            tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            call.inputs, call.clean = ", ".join(map(stats, tensors)) or "nothing", finite(tensors)
            if not call.clean and self.first is None and not self.fed:
                self._blame(self._open[-1] if self._open else None)  # made between the modules within an enclosing one
            self._open.append(call)
            self.calls.append(call)
            return args, kwargs

        return enter

    def _blame(self, call: Call | None) -> None:
        """Note the first call that turned something finite into something that is not; None: nobody within the model."""
        if any(c.dirty is not None for c in self.calls):
            return  # a gradient of an earlier pass was not finite: what follows follows from it
        self.first, self.fed = call, call is None
        if call is not None:
            broken = [(n, p) for n, p in call.module.named_parameters(recurse=False) if not finite([p])]
            call.own = "".join(f"; its parameter {name} is {stats(p)}" for name, p in broken)

    def _watched_input(self, call: Call, tensor: Tensor) -> Tensor:
        if not tensor.requires_grad or isinstance(tensor, nn.Parameter):
            return tensor
        view = tensor.view_as(tensor)

        def seen(gradient: Tensor) -> None:
            self._clock += 1
            if call.dirty is None and not finite([gradient]):
                call.dirty = self._clock

        view.register_hook(seen)  # type: ignore[no-untyped-call]
        return view

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:  # noqa: ARG002
        call = self._open.pop()
        tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
        call.output = ", ".join(map(stats, tensors)) or "nothing"
        if self.first is None and not self.fed and call.clean and not finite(tensors):
            self._blame(call)

        def seen(gradient: Tensor) -> None:
            call.dirty_after |= not finite([gradient])

        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(seen)  # type: ignore[no-untyped-call]

    def _parameter_gradient(self, module: nn.Module) -> Any:
        def seen(gradient: Tensor) -> None:
            self._clock += 1
            if not finite([gradient]):
                for call in self.calls:
                    if call.module is module and call.dirty is None:
                        call.dirty = self._clock

        return seen


def diagnose(grad: Grad, state: State, batch: Batch) -> NonfiniteError:
    """Run `grad` once more, watched, and say where the first value that is not finite came from."""
    watch, step = Watch(state), state.step
    lines: list[str] = []
    try:
        with watch.watching():
            total = grad(state, batch)["loss"][0]
        what = "a gradient" if finite([total]) else f"the loss ({float(total)})"
        again = not finite([total, *state.gradients()])
    except Exception as error:  # noqa: BLE001  # the diagnosis must not hide what it was called for
        what, again = "the loss or a gradient", True
        lines.append(f"running the step again ended in {type(error).__name__}: {error}")
    own = _origin(watch, batch)
    rank, origin = next(((r, o) for r, o in enumerate(state.mesh.gather(own)) if o is not None), (0, None))
    place = f", rank {rank}" if state.mesh.world > 1 and origin is not None else ""
    if origin is not None:
        place += f", micro-batch {origin.shard}" if origin.shard else ""
        lines.insert(0, origin.said)
    elif not again:
        lines.insert(0, "run again, the step was finite: arithmetic is not deterministic, or compiled code differs from eager")
    else:
        lines.insert(0, "every module's output is finite: it arose in the task or the loss, between the outputs and the total")
    broken = [n for n, p in state.model.named_parameters() if not finite([local(p)])]
    if broken:
        shown = ", ".join(broken[:5]) + (" ..." if len(broken) > 5 else "")
        lines.append(f"parameters that were not finite before this step: {shown}")
    lines.append(f"the batch holds {describe(batch)}; no weight was changed by this step")
    text = f"step {step}{place}: {what} is not finite;\n  " + "\n  ".join(lines)
    return NonfiniteError(text, step=step, module=None if origin is None else origin.module, batch=batch, rank=rank)


@dataclass(frozen=True)
class _Origin:
    """Where, on one rank, the first value that is not finite came from."""

    said: str
    module: str | None
    shard: int


def _origin(watch: Watch, batch: Any) -> _Origin | None:
    """What this rank saw; None where everything it computed itself was finite."""
    found = watch.blamed()
    if found is not None:
        call, why = found
        return _Origin(f"{why} is {call.said()}", call.name, call.shard)
    parts = batch if isinstance(batch, list) else [batch]
    fields = [(name, value) for part in parts for name, value in part.items() if isinstance(value, Tensor)]
    given = [f"{name} ({stats(value)})" for name, value in fields if not finite([value])]
    if given:
        return _Origin(f"it was in the batch already, in {', '.join(given)}", None, 0)
    if watch.fed:
        return _Origin("the model was given what is not finite: it arose between the batch and the model", None, 0)
    return None


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every element of the tensors of floating point is."""
    return all(bool(torch.isfinite(_dense(local(t))).all()) for t in tensors if t.is_floating_point() or t.is_complex())


def _dense(tensor: Tensor) -> Tensor:
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def stats(tensor: Tensor) -> str:
    """A tensor in a few words: `float32[64, 8] in [-2.1, 3.4], mean 0.02` or `... with 3 nan, 1 inf`."""
    name = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return name
    wide = _dense(local(tensor.detach())).double()
    nan, inf = int(wide.isnan().sum()), int(wide.isinf().sum())
    if nan or inf:
        return f"{name} with {nan} nan, {inf} inf"
    return f"{name} in [{float(wide.min()):.4g}, {float(wide.max()):.4g}], mean {float(wide.mean()):.4g}"
