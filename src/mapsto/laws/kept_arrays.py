"""Files of arrays that laws keep beside a component: arrays alone, no pickle."""

from __future__ import annotations

import inspect
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..core.calls import maker_of
from ..core.laws import Trial
from .compare import Array


def beside(trial: Trial, folder: str, *, stated: object = None) -> Path | None:
    """`FOLDER/NAME.KIND.npz` beside the file of a component, or the path that its author stated; None where it has no file."""
    owner = maker_of(trial.subject.target)
    try:
        source = Path(inspect.getfile(owner))
    except (TypeError, OSError):
        return None
    own = f"{folder}/{getattr(owner, '__qualname__', owner.__name__)}.{trial.subject.kind}.npz"
    return source.parent / str(own if stated is None else stated)


def read_arrays(trial: Trial, path: Path) -> dict[str, Array]:
    """The arrays in a file by name; undecided where it cannot be read."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:  # closed whatever it is
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        trial.undecided(f"{path} cannot be read: {error}")


def write_arrays(trial: Trial, path: Path, arrays: Mapping[str, Array]) -> None:
    """The whole file or none; undecided where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            np.savez_compressed(file, **dict(arrays))  # type: ignore[arg-type]  # the stub takes a keyword for another
        Path(file.name).replace(path)
        os.chmod(path, 0o644)  # a temporary file is its owner's alone
    except OSError as error:
        trial.undecided(f"values cannot be kept in {path}: {error.strerror or error}")
