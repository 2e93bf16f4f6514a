"""An export maps a model to a deployable artefact. Installed, it is `export/my_name`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from torch import nn


# A function of the model; what follows it are the options that a spec states. Return what was made.
def my_name(model: nn.Module, *, path: str = "model.npz") -> Path:
    """Write weights and buffers to a NumPy archive, for programs without torch: `numpy.load(path)["layer.weight"]`."""
    arrays = {name: tensor.detach().cpu().float().numpy() for name, tensor in model.state_dict().items()}
    file = Path(path)
    temporary = file.with_name(f".{file.name}.tmp.npz")
    np.savez(temporary, **arrays)
    os.replace(temporary, file)  # whole or not at all
    return file
