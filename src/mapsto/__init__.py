"""mapsto: everything is a mapping. Extend a deep-learning framework without forking it.

The one door: every public name stands here. Importing this loads no framework; `Run` and `build_program` load when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core.compose import middleware
from .core.errors import (
    CheckpointError,
    ClusterError,
    ComposeError,
    DataError,
    DivergenceError,
    ExportError,
    LaunchError,
    LossError,
    MapstoError,
    MissingExtra,
    PlanError,
    RegistryError,
    SpecError,
    UnknownName,
)
from .core.kinds import Kind, add_kind
from .core.laws import example
from .core.load_spec import load_spec
from .core.parts import Part, use
from .core.random import derive, generator
from .core.registry import decorator, registry
from .core.spec import CheckpointPlan, Spec
from .engine.events import Event, RunView

if TYPE_CHECKING:
    from .engine.run import Run as _Run
    from .torch import Program, build_program

    class Run(_Run[Program]):
        """The run as torch users see it: `run.program.model` is an `nn.Module`. Of another wing: `mapsto.engine.run.Run`."""


__version__ = "0.1.0"

source = decorator("source")
order = decorator("order")
transform = decorator("transform")
reader = decorator("reader")
model = decorator("model")
layer = decorator("layer")
loss = decorator("loss")
task = decorator("task")
metric = decorator("metric")
optimizer = decorator("optimizer")
schedule = decorator("schedule")
observer = decorator("observer")
surgery = decorator("surgery")
export = decorator("export")
mesh = decorator("mesh")
training = decorator("training")

_LAZY = {"Run": "mapsto.engine.run", "build_program": "mapsto.engine.wing"}

__all__ = [
    "CheckpointError",
    "CheckpointPlan",
    "ClusterError",
    "ComposeError",
    "DataError",
    "DivergenceError",
    "Event",
    "ExportError",
    "Kind",
    "LaunchError",
    "LossError",
    "MapstoError",
    "MissingExtra",
    "Part",
    "PlanError",
    "RegistryError",
    "Run",
    "RunView",
    "Spec",
    "SpecError",
    "UnknownName",
    "add_kind",
    "build_program",
    "derive",
    "example",
    "export",
    "generator",
    "layer",
    "load_spec",
    "loss",
    "mesh",
    "metric",
    "middleware",
    "model",
    "observer",
    "optimizer",
    "order",
    "reader",
    "registry",
    "schedule",
    "source",
    "surgery",
    "task",
    "training",
    "transform",
    "use",
]


if not TYPE_CHECKING:  # a type checker that saw this would take any name

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            import importlib

            return getattr(importlib.import_module(_LAZY[name]), name)
        from .core.errors import nearest

        hint = nearest(name, __all__).partition("; ")[2]
        raise AttributeError(f"module 'mapsto' has no attribute {name!r}" + (f"; {hint}" if hint else ""))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
