"""The run folder: what was run, with what, and what came of it, as files that outlive the process."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ..core.durable import replace
from ..core.errors import CheckpointError, SpecError
from ..core.json_text import write_json
from ..core.recipes import Kept, Recipe
from ..core.spec import Spec, read_yaml
from ..core.trust import Code, code_of
from .checkpoints.manifest import why
from .reading import opened, read_bytes, read_lines, read_shaped, read_text, shaped
from .shapes import Environment, Event

SPEC, ENVIRONMENT, METRICS, PANELS, SURVEY, LEARNED, RECIPES, LOCK, LOGS, SECRET = (
    "spec.yaml",
    "environment.json",
    "metrics.jsonl",
    "panels.json",
    "data.json",
    "learned.json",
    "recipes",
    ".lock",
    "logs",
    ".secret",
)


class RunFolder:
    """The files of one run. Reading needs no framework; writing is the run's own."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._metrics: io.FileIO | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def is_empty(self) -> bool:
        """Whether nothing of a run is here; a launcher's nodes and ranks leave a secret and logs before it begins."""
        return not self.path.is_dir() or all(p.name in (LOCK, LOGS, SECRET) for p in self.path.iterdir())

    def was_begun(self) -> bool:
        """Whether a run was begun here: it takes the lock before it writes anything, and the lock's file stays."""
        return (self.path / LOCK).is_file()

    def _put(self, file: Path, data: bytes) -> None:
        """Write a file whole or leave it as it is. Raises CheckpointError saying why it cannot be written."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            replace(file, data)
        except OSError as error:
            raise CheckpointError(f"{file} cannot be written: {why(error, self.path)}") from error

    # -- spec and environment ----------------------------------------------------------------------------------------
    def write_spec(self, spec: Spec) -> bool:
        """Write spec.yaml; False where it holds live objects, which are then only described."""
        spec = dataclasses.replace(spec, imports=tuple(str(Path(p).resolve()) for p in spec.imports))
        try:
            text, whole = spec.to_yaml(), True
        except SpecError:
            text, whole = spec.to_yaml(live=True), False
        self._put(self.path / SPEC, text.encode())
        return whole

    def spec_text(self) -> str:
        """spec.yaml as it stands. Raises SpecError where there is none, or it is no text."""
        try:
            return read_text(self.path / SPEC)
        except FileNotFoundError:
            nearby = _runs_nearby(self.path)
            raise SpecError(f"{self.path} is not the folder of a run: it has no {SPEC}{nearby}") from None
        except CheckpointError as error:
            raise SpecError(str(error)) from None

    def spec_data(self) -> dict[str, Any]:
        """What spec.yaml holds, as plain data. Raises SpecError where that is no mapping."""
        try:
            data = read_yaml(self.spec_text())
        except SpecError as error:
            raise SpecError(f"{self.path / SPEC}: {error}" if str(self.path) not in str(error) else str(error)) from None
        if not isinstance(data, dict):
            raise SpecError(f"{self.path / SPEC}: a spec is a mapping, not a {type(data).__name__}")
        return data

    def spec(self) -> Spec:
        """The spec that was run. Raises SpecError where there is none, or it holds what a file cannot."""
        text = self.spec_text()
        file = self.path / SPEC
        try:
            return Spec.from_yaml(text, base=self.path)
        except SpecError as error:
            hint = f"\nGo on from Python: Run(spec, {str(self.path)!r}).fit(resume=True)" if "live object" in str(error) else ""
            raise SpecError(f"{file}: {error}{hint}") from None

    def write_recipes(self, recipes: Iterable[Recipe]) -> None:
        """Keep a copy of each recipe file as it was read, named by its content: the originals may change."""
        for recipe in recipes:
            kept = self.recipe(Path(recipe.path), recipe.sha256)
            if not kept.exists():
                self._put(kept, recipe.source)

    def kept_recipes(self) -> Kept:
        """The recipe files of the latest session as they were then, by their paths; an older folder may lack some.

        Raises CheckpointError where a copy is not what was kept.
        """
        found = {}
        for path, told in dict(self.environment().get("recipes", {})).items():
            copy = self.recipe(Path(path), told)
            if os.path.lexists(copy):
                source = read_bytes(copy)
                if hashlib.sha256(source).hexdigest() != told:
                    raise CheckpointError(f"{copy} is corrupt: its SHA-256 is not that of the recipe that was kept")
                found[path] = Recipe("", path, source, str(copy))
        return found

    def code(self) -> list[Code]:
        """The code that going on with the run would import: what its spec names, and what its recipes import from beside
        them, as it was kept. Raises SpecError and CheckpointError where the folder is damaged."""
        kept = {path: recipe.source for path, recipe in self.kept_recipes().items()}
        return code_of(self.spec_data(), self.path, kept)

    def recipe(self, file: Path, sha256: str) -> Path:
        """Where the copy of a recipe file of that hash is kept."""
        return self.path / RECIPES / f"{file.stem}-{sha256[:8]}.py"

    def write_environment(self, found: Mapping[str, Any]) -> None:
        """Keep an environment; those of the sessions before stay under `earlier`, oldest first."""
        before = self.environment()
        earlier = [*before.pop("earlier", []), before] if before else []
        data = {**found, "earlier": earlier}
        self._put(self.path / ENVIRONMENT, write_json(data, indent=1).encode())

    def environment(self) -> dict[str, Any]:
        """The environment of the latest session, or nothing. Raises CheckpointError where the file is damaged."""
        return dict(self._read(ENVIRONMENT, Environment, {}))

    def _read(self, name: str, shape: Any, absent: Any) -> Any:
        try:
            return read_shaped(self.path / name, shape)
        except FileNotFoundError:
            return absent

    # -- metrics -----------------------------------------------------------------------------------------------------
    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line of metrics.jsonl at once, or none of it. Raises CheckpointError where the device is full."""
        line = (write_json(record) + "\n").encode()
        try:
            if self._metrics is None:
                self._metrics = opened(self.path / METRICS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)  # held for the run
            size = os.fstat(self._metrics.fileno()).st_size
            try:
                if self._metrics.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self._metrics.truncate(size)
                raise
        except OSError as error:
            raise CheckpointError(f"{self.path / METRICS} cannot be written: {why(error, self.path)}") from error

    def sync(self) -> None:
        """Force the metrics to the device: a checkpoint never knows more steps than they do."""
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())

    def close(self) -> None:
        """Let go of metrics.jsonl; a later `append` opens it again."""
        held, self._metrics = self._metrics, None
        if held is not None:
            held.close()

    def records(self, *names: str) -> Iterator[dict[str, Any]]:
        """The events that were written (only those of these names, if any are given); a torn last line is left out."""
        for _, _, record in self.lines():
            if isinstance(record, dict) and (not names or record.get("name") in names):
                yield record

    def lines(self) -> Iterator[tuple[int, bytes, dict[str, Any] | str]]:
        """(number from 1, the line, the event or why it is none) of metrics.jsonl. Raises CheckpointError where that is no
        regular file."""
        try:
            for number, line in enumerate(read_lines(self.path / METRICS), 1):
                try:
                    yield number, line, shaped(line, Event)
                except ValueError as error:
                    yield number, line, str(error)
        except FileNotFoundError:
            return

    def cut(self, step: int) -> int:
        """Keep only the events up to `step`, in one rename; how many were cut."""
        self.close()
        lines = list(self.lines())
        kept = [line.rstrip(b"\n") for _, line, record in lines if isinstance(record, dict) and record["step"] <= step]
        if len(kept) < len(lines):
            self._put(self.path / METRICS, b"".join(line + b"\n" for line in kept))
        return len(lines) - len(kept)

    # -- panels ------------------------------------------------------------------------------------------------------
    def write_panels(self, panels: list[dict[str, Any]]) -> None:
        """Keep what the task shows in a report."""
        self._put(self.path / PANELS, write_json(panels, default=_listed).encode())

    def panels(self) -> list[dict[str, Any]]:
        """What the task shows in a report, or nothing. Raises CheckpointError where the file is damaged."""
        return list(self._read(PANELS, list[Any], []))

    # -- the data ------------------------------------------------------------------------------------------------------
    def write_survey(self, found: Mapping[str, Any]) -> None:
        """Keep what the data were like (see `survey`)."""
        self._put(self.path / SURVEY, write_json(found).encode())

    def survey(self) -> dict[str, Any]:
        """What the data were like, or nothing. Raises CheckpointError where the file is damaged."""
        return dict(self._read(SURVEY, dict[str, Any], {}))

    def write_learned(self, found: Mapping[str, Any]) -> None:
        """Keep what transforms learned from the training records: place among those of data.train -> JSON data."""
        self._put(self.path / LEARNED, write_json(found).encode())

    def learned(self) -> dict[str, dict[str, Any]]:
        """What transforms learned. Raises CheckpointError where the file is missing or damaged."""
        found = self._read(LEARNED, dict[str, dict[str, Any]], None)
        if found is None:
            raise CheckpointError(
                f"{self.path} has lost {LEARNED}, which holds what its transforms learned from the training data"
            )
        return dict(found)

    # -- one writer --------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that trains here; the lock dies with its process. Raises CheckpointError where one is.

        What is written and removed, such as checkpoints too many, lies in this folder: links that stand in the place
        of the lock or of a folder of the run are not followed.
        """
        for own in (self.checkpoints, self.path / RECIPES):
            if own.is_symlink():
                raise CheckpointError(
                    f"a run cannot be kept in {self.path}: {own.name} is a link, and what it leads to is left alone: "
                    "make the run's folder a link instead"
                )
        made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = open(self.path / LOCK, "a+", opener=_own_file)  # noqa: SIM115  # closed just below
        except OSError as error:
            is_link = error.errno == errno.ELOOP
            told = f"{LOCK} is a link or no regular file, and is left alone: remove it" if is_link else error.strerror
            raise CheckpointError(f"a run cannot be kept in {self.path}: {told}") from error
        with held as file:
            _take(file, self.path)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield
            except BaseException:
                self._forget(made)
                raise

    def _forget(self, made: bool) -> None:
        """Leave nothing of a run that was refused before it wrote anything. made: nor the folder."""
        if self.is_empty():
            (self.path / LOCK).unlink(missing_ok=True)
            if made:
                with contextlib.suppress(OSError):  # of a launcher there are logs in it
                    self.path.rmdir()


class Onlooker(RunFolder):
    """The folder as ranks see it that do not lead: they read, and what they would write is left to the leader."""

    def _put(self, file: Path, data: bytes) -> None:
        pass

    def append(self, record: Mapping[str, Any]) -> None:
        pass


def file_hash(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def default_folder(name: str, root: Path | None = None) -> Path:
    """`runs/NAME-TIME`, numbered where that exists."""
    first = (root or Path("runs")) / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, number = first, 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def _own_file(path: str, flags: int) -> int:
    """Open a regular file of this name alone. Raises OSError for a link, or for anything else in its place."""
    handle = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        os.close(handle)
        raise OSError(errno.ELOOP, "no regular file, or one of several names")
    return handle


def _take(file: IO[str], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such locks on this platform
        return
    try:  # POSIX locks: forked reader processes do not inherit them and so cannot outlive the run with them
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        other = file.read().strip() or "?"
        raise CheckpointError(f"process {other} is training in {folder} already: wait for it or end it") from None
    if not os.fstat(file.fileno()).st_nlink:
        raise CheckpointError(f"another process was refused in {folder} just now, and took its lock away: start this one again")


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _runs_nearby(path: Path) -> str:
    parent = path.parent
    found = sorted(p.parent for p in parent.glob(f"*/{SPEC}")) if parent.is_dir() else []
    return f"; runs beside it: {', '.join(str(p) for p in found[-5:])}" if found else ""
