"""Checkpoints that are damaged, missing or half written."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import CheckpointError
from ..checkpoints.checkpoint import checkpoint_paths
from ..checkpoints.manifest import MANIFEST, read_manifest, verify
from . import thresholds
from .evidence import Evidence
from .finding import Finding, Gravity


def damaged(folder: Path) -> list[tuple[Path, str]]:
    """(checkpoint, what is wrong with it), newest first; of older ones than VERIFIED_BYTES cover, only sizes are compared."""
    found, read = [], 0.0
    for path in reversed(checkpoint_paths(folder)):
        try:
            files = read_manifest(path)["files"]
            read += sum(float(told["size"]) for told in files.values())
            if read <= thresholds.VERIFIED_BYTES:
                verify(path)
            for name, told in files.items():
                there = (path / name).lstat().st_size if (path / name).is_file() else None
                if there != told["size"]:
                    raise CheckpointError(f"{path / name} is {'missing' if there is None else f'{there} bytes'}, "
                                          f"and {told['size']} were written")  # fmt: skip
        except CheckpointError as error:
            found.append((path, str(error)))
    return found


def files_damaged(evidence: Evidence) -> list[Finding]:
    """Files besides the checkpoints of which something could not be read."""
    said = evidence.record.damaged
    if not said:
        return []
    return [
        Finding(
            "files_damaged",
            Gravity.WRONG,
            f"what the folder tells is not whole: {said[0]}",
            evidence=said[1:],
            advice=("a disk that fails or was full, a copy that was cut off, or a file that something else has written",),
            values={"damaged": list(said)},
        )
    ]


def checkpoints_damaged(evidence: Evidence) -> list[Finding]:
    """Checkpoints that are not what was written, or are told of and not there."""
    folder = evidence.record.folder / "checkpoints"
    bad = damaged(folder)
    there = {path.name for path in checkpoint_paths(folder)}
    intact = sorted(there - {path.name for path, _ in bad})
    told = [
        Path(e["detail"]["path"]).name
        for e in evidence.record.events
        if e.get("name") == "checkpoint" and (e.get("detail") or {}).get("path")
    ]
    lost = told[-1:] if told and told[-1] not in there else []  # the newest is never pruned
    torn = sorted(p.name for p in folder.glob(".step-*.tmp")) if folder.is_dir() and not evidence.alive else []
    if not bad and not lost:
        return []
    names = [*(path.name for path, _ in bad), *lost]
    said = [why for _, why in bad] + [f"{name} was written and is not there" for name in lost]
    if torn:
        said.append(f"half written and left behind by a killed process: {', '.join(torn)} (the next session removes it)")
    return [
        Finding(
            "checkpoints_damaged",
            Gravity.WRONG if intact else Gravity.FATAL,
            f"{len(names)} checkpoint{'s are' if len(names) > 1 else ' is'} damaged or missing: {', '.join(names[:4])}",
            evidence=tuple(said),
            where=tuple(str(path / MANIFEST) for path, _ in bad) or (evidence.at(evidence.record.steps, "checkpoint"),),
            advice=(
                f"go on from an intact one: mapsto train --resume {folder / intact[-1]}" if intact else "no intact one is left",
                "a disk that fails or was full, a copy that was cut off: compare it with the place it was copied from",
            ),
            values={"damaged": names, "intact": intact},
        )
    ]
