"""How long a rank works before it meets the others: what tells a slow rank from those that wait for it.

The steps of ranks that train together take equally long on all of them. What differs is when each has finished its own
passes and begins to wait for gradients, and that is measured here.
"""

from __future__ import annotations

import time

from torch import Tensor, nn
from torch.autograd import Variable


class Busy:
    """Seconds of a rank's own forward and backward passes, without the wait for gradients at their end.

    Only where gradients are reduced by hooks at the end of backward (DDP) can the wait be told apart; where passes exchange
    something in between (sharded parameters) it is contained, and the processor's time is what tells. On a GPU it is the time
    of the host, which runs ahead of the device.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0
        self._done: float | None = None

    def watch(self, parameter: nn.Parameter) -> None:
        """Be told of the end of every backward pass that reaches the parameter: before the callback in which DDP waits."""
        parameter.register_hook(self._reached)  # type: ignore[no-untyped-call]

    def _reached(self, gradient: Tensor) -> None:  # noqa: ARG002
        Variable._execution_engine.queue_callback(self._passed)

    def _passed(self) -> None:
        self._done = time.perf_counter()

    def begin(self) -> None:
        self._began, self._done = time.perf_counter(), None

    def end(self) -> None:
        self.seconds += (self._done if self._done is not None else time.perf_counter()) - self._began

    def since(self) -> float:
        """The seconds since this was asked last."""
        found, self.seconds = self.seconds, 0.0
        return found
