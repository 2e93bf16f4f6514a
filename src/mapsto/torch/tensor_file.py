"""Safetensors files that others may read as far as they may read the files beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors of the host into a new file, each with storage of its own. Raises OSError, SafetensorError.

    safetensors makes files that are their owner's alone, whatever the process' umask is; this one has the mode of any new file.
    """
    path.touch()
    try:
        mode = path.stat().st_mode & 0o777
        save_file(dict(tensors), path, None if metadata is None else dict(metadata))
        path.chmod(mode)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
