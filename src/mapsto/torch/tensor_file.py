"""Safetensors files that others may read as far as they may read the files beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors.torch import save_file
from torch import Tensor

PAIRS = "complex128"
"""The key of a file's metadata that names the tensors which are complex, in double precision, and held as pairs of float64."""


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


def unsaved(tensor: Any, parts: bool) -> str | None:
    """What a tensor is that no file can hold, or None."""
    if tensor.is_quantized or tensor.layout is not torch.strided or tensor.dtype == torch.complex32:
        return f"a tensor of {tensor.dtype}" + ("" if tensor.layout is torch.strided else f" in the layout {tensor.layout}")
    if parts and tensor.dtype == torch.complex128:
        return "a tensor of torch.complex128, which files of parts cannot hold: use complex64, or a mesh that only replicates"
    return None


def save_tensors(tensors: Mapping[str, Any], path: Path) -> None:
    """Write named tensors of the host to a safetensors file, each with storage of its own."""
    pairs = [name for name, tensor in tensors.items() if tensor.dtype == torch.complex128]
    plain = {name: torch.view_as_real(t).contiguous() if name in pairs else t for name, t in tensors.items()}
    write(plain, path, {PAIRS: json.dumps(pairs)} if pairs else None)


def load_tensors(path: Path) -> dict[str, Any]:
    """Read the named tensors of a file that `save_tensors` wrote, on the CPU, bitwise."""
    found: dict[str, Any] = safetensors.torch.load_file(path, device="cpu")
    with safetensors.safe_open(path, "pt") as file:
        pairs = json.loads((file.metadata() or {}).get(PAIRS, "[]"))
    # Copied, since a file aligns by 8 bytes, and a kernel that copies 16 at once ends the process on an odd address.
    return {**found, **{name: torch.view_as_complex(found[name].clone()) for name in pairs}}
