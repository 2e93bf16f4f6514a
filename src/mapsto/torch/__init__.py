"""The torch wing: programs, tasks, losses, optimizers, schedules and middleware that are native to PyTorch."""

from ..core.errors import require

require("torch", "torch", "mapsto.torch")

from .build import build_program  # noqa: E402
from .loader import Loader  # noqa: E402
from .losses import mean_of  # noqa: E402
from .program import Program  # noqa: E402
from .state import Builder, State  # noqa: E402
from .tasks import Task  # noqa: E402

__all__ = ["Builder", "Loader", "Program", "State", "Task", "build_program", "mean_of"]
