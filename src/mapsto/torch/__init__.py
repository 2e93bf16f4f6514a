"""The torch wing: programs, tasks, losses, optimizers, schedules and middleware that are native to PyTorch."""

from ..core.errors import require

require("torch", "torch", "mapsto.torch")

from .build import build_program  # noqa: E402
from .loader import Loader  # noqa: E402
from .losses import mean_of  # noqa: E402
from .mappings import Batch, Grad, Loss, Metrics, Step, Update  # noqa: E402
from .mesh.one import OneProcess  # noqa: E402
from .program import Program  # noqa: E402
from .state import Builder, State  # noqa: E402
from .tasks import Task  # noqa: E402

__all__ = [
    "Batch",
    "Builder",
    "Grad",
    "Loader",
    "Loss",
    "Metrics",
    "OneProcess",
    "Program",
    "State",
    "Step",
    "Task",
    "Update",
    "build_program",
    "mean_of",
]
