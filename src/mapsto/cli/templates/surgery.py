"""A surgery maps a model to a model. Installed, it is `surgery/my_name`."""

from __future__ import annotations

from torch import nn


# A function of the model; what follows it are the options that a spec states. Replace parts by setting them on their
# parent, so that the weights that stay keep their names: checkpoints and name patterns go by those.
def my_name(model: nn.Module, *, slope: float = 0.01) -> nn.Module:
    """Replace every ReLU by a LeakyReLU of this slope for negative values."""
    if isinstance(model, nn.ReLU):
        return nn.LeakyReLU(slope)
    for name, child in model.named_children():
        setattr(model, name, my_name(child, slope=slope))
    return model
