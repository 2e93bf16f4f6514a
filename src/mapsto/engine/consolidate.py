"""The weights of a checkpoint as one plain safetensors file, whatever mesh wrote it; no ranks are needed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.durable import sync
from ..core.errors import CheckpointError
from ..core.wings import DEFAULT
from .checkpoints.checkpoint import Checkpoints
from .checkpoints.manifest import MANIFEST, PARTS, TENSORS, read_state, verify, why
from .checkpoints.tree import references
from .folder import RunFolder
from .ranks import Alone
from .wing import Wing, find_wing

WEIGHTS = "program.model."
"""Where the weights and buffers of the model stand in the state tree."""


@dataclass(frozen=True)
class Consolidated:
    """The file that was written, the checkpoint it was made from, how many tensors and bytes it holds."""

    path: Path
    checkpoint: Path
    tensors: int
    size: int


def consolidate(run: str | Path, checkpoint: str | int | Path = "last", output: str | Path | None = None) -> Consolidated:
    """Write the canonical weights and buffers of a run's checkpoint, by their names in the model, to one safetensors file.

    run: the folder of a run, or of a checkpoint; output: by default `RUN/step-00000120.safetensors`. Every byte that is read
    is verified. Raises CheckpointError where there is no such checkpoint, a part is lost or corrupt, or it cannot be written.
    """
    folder = Path(run)
    if (folder / MANIFEST).is_file():
        folder, checkpoint = folder.parent.parent, folder.name
    wing = find_wing(str(RunFolder(folder).spec_data().get("wing", DEFAULT)))
    path = Checkpoints(RunFolder(folder).checkpoints, wing).find(checkpoint)
    return consolidated(path, wing, Path(output) if output is not None else folder / f"{path.name}.safetensors")


def consolidated(path: Path, wing: Wing, target: Path) -> Consolidated:
    """The weights of the checkpoint at a path, written to a file (see `consolidate`)."""
    weights = weights_of(path, wing)
    _write(wing, weights, target)
    return Consolidated(target, path, len(weights), target.stat().st_size)


def weights_of(path: Path, wing: Wing) -> dict[str, Any]:
    """The whole canonical weights and buffers in the checkpoint at a path, by name, on the CPU. Raises CheckpointError."""
    manifest = verify(path)
    names = [n for n in references(read_state(path), path)[0] if n.startswith(WEIGHTS)]
    if not names:
        raise CheckpointError(f"{path} holds no weights under {WEIGHTS.rstrip('.')}")
    try:
        parts = manifest["format"] == PARTS
        found = wing.load_shards(path, names, None, Alone()) if parts else wing.load_tensors(path / TENSORS)
        return {name.removeprefix(WEIGHTS): found[name] for name in names}
    except CheckpointError:
        raise
    except Exception as error:  # the bytes are those that were written, and yet they are no tensors
        said = " ".join(str(error).split())[:500]
        raise CheckpointError(f"{path}: its tensors cannot be read: {type(error).__name__}: {said}") from error


def _write(wing: Wing, weights: Mapping[str, object], target: Path) -> None:
    """Under a temporary name first: the file is there whole, or as it was."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        wing.save_tensors(weights, temporary)
        sync(temporary)
        os.replace(temporary, target)
        sync(target.parent)
    except Exception as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{target} cannot be written: {why(error, target.parent)}") from error
