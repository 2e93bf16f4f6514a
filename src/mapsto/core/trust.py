"""Trust: which code a spec names, and whether whoever runs it has trusted that code.

A spec is data, but what it names is imported and called: a file of `imports`, and any `module:attribute`. What is registered
was installed by the user and is trusted. The rest is known by digests in `trusted_file()`: of the content of each imported
file, and of each section of a spec (`model`, `data`, ...) that names a reference, with all arguments in it, since `os:system`
is whatever its argument is.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SpecError

REGISTERED_ONLY = "MAPSTO_REGISTERED_ONLY"
"""The environment variable under which only registered names are built."""
REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""`package.module:attribute`."""


@dataclass(frozen=True)
class Code:
    """What a section of a spec names that is not registered, and the digest by which it is trusted."""

    section: str
    names: tuple[str, ...]
    digest: str

    def __str__(self) -> str:
        more = f" and {len(self.names) - 3} more" if len(self.names) > 3 else ""
        return f"{', '.join(self.names[:3])}{more} ({self.section})"


def code_of(data: Mapping[str, Any], base: Path, kept: Mapping[str, bytes] | None = None) -> list[Code]:
    """The code that the plain data of a spec name; nothing is imported. base: what `imports` are relative to; kept: what is
    read in the place of files, by their paths, of which all count. Raises SpecError where recipes import too many files.

    Any text that has the form of a reference counts: which argument wants one is known to its target alone.
    """
    found = []
    listed = data.get("imports")
    files = [(base / str(file)).resolve() for file in listed] if isinstance(listed, (list, tuple)) else []
    for path, source in _sources(files, dict(kept or {})).items():
        found.append(Code("imports", (path,), hashlib.sha256(b"file\0" + source).hexdigest()))
    for section, value in data.items():
        if section == "imports":
            continue
        if names := tuple(dict.fromkeys(_references(value))):
            text = json.dumps([str(section), value], sort_keys=True, default=str, skipkeys=True)
            found.append(Code(str(section), names, hashlib.sha256(text.encode()).hexdigest()))
    return found


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if REFERENCE.fullmatch(value):
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _references(item)


MOST_FILES = 20_000
"""Files of recipes, and of what stands beside them, that are looked at."""


def _sources(files: Iterable[Path], kept: dict[str, bytes]) -> dict[str, bytes]:
    """The files of recipes and of the modules beside them that they may import, by path; `kept` in any case."""
    found = dict(kept)
    waiting = [(file, file.parent) for file in files] + [(Path(path), Path(path).parent) for path in kept]
    seen: set[tuple[Path, Path]] = set()
    while waiting:
        file, folder = at = waiting.pop()
        if at in seen or (str(file) not in found and not file.is_file()):
            continue
        seen.add(at)
        if len(seen) > MOST_FILES:
            raise SpecError(f"{file}: the recipes import more than {MOST_FILES} files from beside them")
        source = found[str(file)] if str(file) in found else file.read_bytes()
        found[str(file)] = source
        for top in _imported_names(source):
            waiting += [(folder / f"{top}.py", folder)]
            waiting += [(inside, folder) for inside in (folder / top).rglob("*.py")]
    return found


def _imported_names(source: bytes) -> set[str]:
    """The first parts of all names that a source imports from elsewhere than its own package; none of one that is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {name.partition(".")[0] for name in names if name} - sys.stdlib_module_names


# -- what has been trusted -----------------------------------------------------------------------------------------------
def trusted_file() -> Path:
    """Where digests of trusted code are kept: `mapsto/trusted` in the user's configuration directory."""
    said = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(said) if os.path.isabs(said) else Path.home() / ".config"
    return base / "mapsto" / "trusted"


def untrusted(codes: Iterable[Code]) -> list[Code]:
    """Those of the named pieces of code that the user has not trusted yet."""
    try:
        known = set(trusted_file().read_text(encoding="ascii", errors="replace").split())
    except (OSError, RuntimeError):  # none yet, or no home directory
        known = set()
    return [code for code in codes if code.digest not in known]


def trust(codes: Iterable[Code]) -> None:
    """Trust code from now on. Where nothing can be kept, nothing is: it is asked for again, and no run fails for it."""
    new = untrusted(codes)
    if not new:
        return
    with contextlib.suppress(OSError, RuntimeError):
        file = trusted_file()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(file, flags, 0o600)
        with open(handle, "a", encoding="ascii") as opened:
            os.chmod(file, 0o600)
            opened.write("".join(f"{code.digest}\n" for code in new))


# -- registered names only -------------------------------------------------------------------------------------------------
def registered_only() -> bool:
    """Whether nothing but registered names may be built."""
    return os.environ.get(REGISTERED_ONLY, "0") not in ("", "0")


@contextlib.contextmanager
def only_registered() -> Iterator[None]:
    """Within it, and in processes started within it, nothing but registered names is built."""
    before = os.environ.get(REGISTERED_ONLY)
    os.environ[REGISTERED_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[REGISTERED_ONLY]
        else:
            os.environ[REGISTERED_ONLY] = before


def must_be_registered(name: str) -> None:
    """Raises SpecError for code that is named and not registered, where only registered names are allowed."""
    if registered_only():
        raise SpecError(
            f"{name!r} is code that is not registered, and --registered-only ({REGISTERED_ONLY}) allows names alone"
        )
