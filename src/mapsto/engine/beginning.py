"""The beginning of a fit: what must hold before the first step, and what is written down of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, MapstoError
from ..core.recipes import loaded_recipes
from ..core.trust import trust
from ..data.source import notes_of
from .checkpoints.checkpoint import Checkpoint, Checkpoints, restoring
from .checkpoints.tree import flatten
from .environment import changed_recipes, describe, recipe_hashes, versions
from .fingerprint import digest_of
from .folder import RunFolder
from .initial import lines_of
from .loop import Loop
from .ranks import each, lead
from .resuming import Accepted, compared_data, compared_schedule
from .streams import preserve_rng
from .wing import Wing

log = logging.getLogger("mapsto")


def check_folder(folder: RunFolder, checkpoints: Checkpoints, start: str | int | Path | None) -> None:
    """Raise CheckpointError where a run cannot begin in a folder, or there is none in it to go on with."""
    if start is None and not folder.is_empty():
        path = folder.path
        if not folder.was_begun():
            there = sorted(p.name for p in path.iterdir())
            more = ", ..." if len(there) > 3 else ""
            raise CheckpointError(
                f"{path} is not empty and holds no run (there is {', '.join(there[:3])}{more}): "
                "name a folder that is empty or not there yet"
            )
        how = f"go on with it (mapsto train --resume {path}, or fit(resume=True))"
        if not checkpoints.paths():
            how = f"it ended before its first checkpoint: begin it again (mapsto train SPEC --run {path} --continue)"
        raise CheckpointError(f"{path} holds a run already: {how}, or name another folder")
    if start is not None and folder.is_empty():
        raise CheckpointError(f"there is no run in {folder.path} to go on with")


def alike_on_ranks(identity: Mapping[str, Any], train: Any, wing: Wing) -> dict[str, Any]:
    """What must be the same on all ranks, and is compared before they begin."""
    return {
        "spec": identity,
        "recipe files": {Path(path).name: sha for path, sha in recipe_hashes().items()},
        "versions": versions(wing),
        "data": {
            "records": train.records,
            "batches_per_epoch": train.batches_per_epoch,
            "first batch": digest_of(train.batch(0)),
        },
    }


def compared(loop: Loop, found: Checkpoint, accepted: Accepted) -> tuple[list[str], bool]:
    """Notes on what is not as it was when a checkpoint was written, and whether the rates change with the length."""
    with preserve_rng(loop.wing), restoring(found.path):
        notes = compared_data(found.manifest, loop.data, loop.readers, loop.versions, accepted.data)
    here = {"total_steps": loop.total, "steps_per_epoch": int(loop.per_epoch)}
    was = found.manifest.get("data", {}).get("train", {})
    there = {
        "total_steps": found.manifest["total_steps"],
        "steps_per_epoch": was.get("batches_per_epoch", here["steps_per_epoch"]),
    }
    more, reschedule = compared_schedule(loop.spec, loop.wing, found.manifest["step"], there, here, accepted.schedule)
    return [*notes, *more], reschedule


def begin(
    loop: Loop, found: Checkpoint | None, elsewhere: Sequence[str], notes: Sequence[str], reschedule: bool
) -> dict[str, Any]:
    """Restore, and write down what is run with what; the detail of the `start` event."""
    detail: dict[str, Any] = {}
    if told := [f"data.{name}: {note}" for name, reader in loop.readers.items() for note in notes_of(reader)]:
        detail["data"] = told
    before = loop.folder.environment()
    if found is not None:
        resumed = loop.restore(found, reschedule=reschedule)
        resumed["notes"] += [*notes, *(f"{path} is another place than it was" for path in elsewhere)]
        resumed["notes"] += changed_recipes(before.get("recipes", {}), loop.folder)
        resumed["notes"] += _changed_versions(found.manifest["versions"], loop.versions)
        resumed["set_aside"] = lead(loop.ranks, lambda: loop.checkpoints.set_aside(loop.step))
        resumed["cut"] = lead(loop.ranks, lambda: loop.folder.cut(loop.step))
        detail["resumed"] = resumed
        if not loop.dispatch.active and loop.ranks.leader:  # else the event tells
            for note in resumed["notes"]:
                log.warning("resumed from %s: %s", found.path, note)
        if not any(r["step"] == loop.step for r in loop.folder.records("checkpoint")):  # killed before it was told
            loop.write("checkpoint", {}, {"path": str(found.path), "best": loop.best.is_new(loop.step)})
    elif loop.init is not None:
        detail["init"] = dict(loop.init)
        if not loop.dispatch.active and loop.ranks.leader:
            log.info("starting from %s", "; ".join(lines_of(loop.init)))
    each(loop.ranks, lambda: _check_kept(loop))
    named = loop.folder.write_spec(loop.spec)
    loop.folder.write_recipes(loaded_recipes())
    found_here = describe(loop.spec, loop.identity, loop.wing, loop.view.summary)
    more = {"init": loop.init} if loop.init is not None else {}
    loop.folder.write_environment({**found_here, "resumable_from_folder": named, "data": loop.data, **more})
    if loop.ranks.leader:  # whoever trains has run this code, and so trusts it; that it cannot be told ends no run
        with contextlib.suppress(MapstoError, OSError):
            trust(loop.folder.code())
    return detail


def _check_kept(loop: Loop) -> None:
    """Before the first step: whether files can hold the program's state. Raises CheckpointError naming what they cannot."""
    tensors = flatten(loop.program.state_tree(), loop.wing.is_tensor, "program", loop.ranks.rank)[1]
    if not hasattr(loop.wing, "unsaved"):
        return
    parts = loop.ranks.world > 1 and any(map(loop.wing.is_shard, tensors.values()))
    wrong = [f"{name} is {why}" for name, value in tensors.items() if (why := loop.wing.unsaved(value, parts)) is not None]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise CheckpointError(f"no checkpoint could hold this program: {', '.join(wrong[:4])}{more}")


def _changed_versions(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Sentences on versions and settings that may change the numbers."""
    names = [n for n in {**there, **here} if there.get(n) != here.get(n)]
    return [f"{name} was {there.get(name)} and is {here.get(name)} now" for name in names]
