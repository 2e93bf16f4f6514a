"""Training and evaluation mode of a model's modules, put back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards every module of the model is in the mode that it was in.

    It is put back by the module's own `train`, which may do more than set a flag: adapters that are folded into a weight for
    evaluation are taken out of it there, and would be counted twice if only the flag were set.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in before:  # parents first, whose `train` reaches what they hold
            if module.training != mode:
                module.train(mode)
                module.training = mode
