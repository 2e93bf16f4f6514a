"""Blame: which layer refused a batch, read from the traceback, so that nothing is run again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import nn

from ..core.errors import DataError, MapstoError, first_line
from .placement import describe
from .state import State


@contextmanager
def error_context(state: State, batch: Any) -> Iterator[None]:
    """Within it errors of layers and shapes come with the module that raised them and the batch."""
    try:
        yield
    except DataError as error:
        note_batch(error, state, batch)
        raise
    except (MapstoError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise explain(error, state, batch) from error


def note_batch(error: DataError, state: State, batch: Any) -> None:
    """Add the step and the batch to an error that says itself what does not fit."""
    if isinstance(batch, (Mapping, tuple)):  # else that it is no batch is what the error says
        error.add_note(f"at step {state.step}; the batch holds {describe(batch)}")


def explain(error: Exception, state: State, batch: Any) -> Exception:
    """A DataError naming the step, the innermost module that raised and the batch; the error itself where no module did."""
    frame = _innermost(error.__traceback__, state.model)
    said = first_line(error)
    if frame is None:
        error.add_note(f"at step {state.step}; the batch holds {describe(batch)}")
        return error
    module, inputs = frame
    names = {id(m): n for n, m in state.model.named_modules()}
    name = names.get(id(module)) or "the model"
    where = f"{name!r} ({type(module).__name__})" if name != "the model" else f"the model ({type(module).__name__})"
    given = describe({f"argument {i}": value for i, value in enumerate(inputs)}) if inputs else "no arguments"
    return DataError(f"step {state.step}: {where} does not accept {given}: {said}; the batch holds {describe(batch)}")


def _innermost(trace: TracebackType | None, model: nn.Module) -> tuple[nn.Module, tuple[Any, ...]] | None:
    own = set(map(id, model.modules()))
    found = None
    while trace is not None:
        local = trace.tb_frame.f_locals
        module = local.get("self")
        if trace.tb_frame.f_code.co_name == "_call_impl" and isinstance(module, nn.Module) and id(module) in own:
            found = (module, tuple(local.get("args", ())))
        trace = trace.tb_next
    return found
