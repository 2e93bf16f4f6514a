"""mapsto: everything is a mapping. Extend a deep-learning framework without forking it.

The one door: every public name stands here. Importing this loads no framework; `Run` and `build_program` load when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core.compose import middleware
from .core.errors import (
    CheckpointError,
    ComposeError,
    DataError,
    ExportError,
    LossError,
    MapstoError,
    MissingExtra,
    RegistryError,
    SpecError,
    UnknownName,
)
from .core.kinds import Kind, add_kind
from .core.laws import example
from .core.parts import Part, use
from .core.random import derive, generator
from .core.registry import decorator, registry
from .core.spec import CheckpointPlan, Spec, load_spec

if TYPE_CHECKING:
    from .engine.run import Run
    from .torch import build_program

__version__ = "0.1.0"

source = decorator("source")
order = decorator("order")
transform = decorator("transform")
reader = decorator("reader")
model = decorator("model")
layer = decorator("layer")
loss = decorator("loss")
task = decorator("task")
optimizer = decorator("optimizer")
schedule = decorator("schedule")
observer = decorator("observer")
surgery = decorator("surgery")
export = decorator("export")
mesh = decorator("mesh")

_LAZY = {"Run": "mapsto.engine.run", "build_program": "mapsto.torch"}

__all__ = [
    "CheckpointError",
    "CheckpointPlan",
    "ComposeError",
    "DataError",
    "ExportError",
    "Kind",
    "LossError",
    "MapstoError",
    "MissingExtra",
    "Part",
    "RegistryError",
    "Run",
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
    "transform",
    "use",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mapsto' has no attribute {name!r}")
