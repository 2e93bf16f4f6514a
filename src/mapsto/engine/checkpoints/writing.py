"""One checkpoint being written: what is kept is copied to the host first, and then written by all ranks as one.

Where every rank holds the same, the leader writes it all; where ranks hold parts (sharded, tensor, pipeline, or state that
is each rank's own), each writes its part into the same directory. It has a temporary name until every file of every rank is
forced to the device and measured; then the leader writes the manifest and renames it: all of it is there, or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...core.durable import sync, write
from ...core.errors import CheckpointError
from ...core.json_text import write_json
from ..ranks import Ranks, each, lead
from ..wing import Wing
from .manifest import MANIFEST, PARTS, STATE, TENSORS, WHOLE, digest, measure, why
from .tree import flatten, merged, unlike

SEEN = 20.0
"""Seconds within which a directory that the leader made is to be seen by every rank (network file systems are late)."""


class Writing:
    """The state after `step`, copied when this is made; a call writes it. All ranks make it, and all of them call it.

    ranks: on a line of their own, since a call may be in another thread than the run's collectives. Raises CheckpointError
    on all ranks: what no file can hold is told when it is made.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        tree: Mapping[str, Any],
        about: Mapping[str, Any],
        *,
        wing: Wing,
        ranks: Ranks,
        cached: dict[str, Any] | None = None,
    ) -> None:
        self.final = folder / f"step-{step:08d}"
        self.step, self.about, self.wing, self.ranks = step, about, wing, ranks
        self.holds = sorted(tree)
        self.plain, tensors = self._flat(tree)
        mine = self.parts or ranks.leader
        self.tensors: dict[str, Any] = wing.host(tensors, cached or {}) if mine else {}

    def _flat(self, tree: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The tree as plain data and tensors; whether ranks hold parts of it, which they agree on."""
        found: list[Any] = []

        def flat() -> tuple[bool, str]:
            if self.ranks.leader and self.final.exists():
                raise CheckpointError(f"{self.final} exists already: a checkpoint is never overwritten")
            found.extend(flatten(tree, self.wing.is_tensor, rank=self.ranks.rank))
            names = hashlib.sha256("\0".join(sorted(found[1])).encode()).hexdigest()
            return self.ranks.world > 1 and any(map(self.wing.is_shard, found[1].values())), names

        told = each(self.ranks, flat)
        differ = len({names for _, names in told}) > 1
        self.parts = differ or any(part for part, _ in told)
        plain, tensors = found
        if not differ:
            return plain, tensors
        plains = self.ranks.gather(plain)
        middleware = [one["program"]["middleware"] for one in plains if "middleware" in one.get("program", {})]
        if middleware and (path := next(unlike(middleware, "middleware"), None)) is not None:
            raise CheckpointError(
                f"step {self.step}: ranks hold other values as {path}, of which a checkpoint holds one: name what goes with a "
                "parameter after it (state.names), or keep a tensor as a PerRank"
            )
        return merged(plains), tensors

    # -- writing -----------------------------------------------------------------------------------------------------
    def __call__(self) -> Path:
        temporary = self.final.with_name(f".{self.final.name}.{os.getpid()}.tmp")
        try:
            temporary = lead(self.ranks, lambda: self._make(temporary))
            files = self._write_shards(temporary) if self.parts else {}
            lead(self.ranks, lambda: self._publish(temporary, files))
        except BaseException as error:
            if self.ranks.leader:
                with contextlib.suppress(OSError):
                    shutil.rmtree(temporary)
            if not isinstance(error, CheckpointError):
                raise
            newest = max(self.final.parent.glob("step-*"), key=lambda p: (len(p.name), p.name), default=None)
            kept = f"the newest good one is {newest}" if newest else "there is no earlier one"
            raise CheckpointError(f"the checkpoint of step {self.step} could not be written: {error}; {kept}") from error
        return self.final

    def _make(self, temporary: Path) -> Path:
        with self._explained():
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
        return temporary

    def _write_shards(self, folder: Path) -> dict[str, Any]:
        """Size and SHA-256 of all files that the ranks wrote, by name."""

        def own() -> dict[str, Any]:
            with self._explained():
                names = self.wing.save_shards(self.tensors, folder, self.ranks)
                for name in names:
                    sync(folder / name)
                return {name: measure(folder / name) for name in names}

        each(self.ranks, lambda: seen(folder))
        return {name: told for files in each(self.ranks, own) for name, told in files.items()}

    def _publish(self, temporary: Path, files: Mapping[str, Any]) -> None:
        with self._explained():
            self.fill(temporary, files)
            os.rename(temporary, self.final)
            sync(self.final.parent)

    def fill(self, folder: Path, files: Mapping[str, Any] | None = None) -> None:
        """Write the leader's files, the manifest last; `files` are those of parts that are there already."""
        more = dict(files or {})
        if not self.parts:
            self.wing.save_tensors(self.tensors, folder / TENSORS)
            sync(folder / TENSORS)
            more[TENSORS] = measure(folder / TENSORS)
        write(folder / STATE, json.dumps(self.plain, allow_nan=False, separators=(",", ":")).encode())
        made = {
            "format": PARTS if self.parts else WHOLE,
            "step": self.step,
            "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **self.about,
            "holds": self.holds,
            "tensors": len(self.tensors),
            **({"ranks": self.ranks.world} if self.parts else {}),
            "files": {STATE: measure(folder / STATE), **more},
        }
        manifest = json.loads(write_json(made))  # as it is read: the digest is of words for numbers that are not finite
        write(folder / MANIFEST, json.dumps({**manifest, "digest": digest(manifest)}, indent=1).encode())
        sync(folder)

    @contextlib.contextmanager
    def _explained(self) -> Any:
        """Within it, what goes wrong is told in words."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(why(error, self.final.parent)) from error


def seen(folder: Path) -> None:
    """Wait until this rank sees a directory that another one made. Raises CheckpointError where it does not share it."""
    until = time.monotonic() + SEEN
    while not folder.is_dir():
        if time.monotonic() > until:
            raise CheckpointError(
                f"{folder} was made by the leading rank and is not there on {os.uname().nodename}: "
                "the run folder must lie on a file system that all ranks share"
            )
        time.sleep(0.05)
