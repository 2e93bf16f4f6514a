"""What a git diff touches: the files of a project that changed, and what imports them, directly or through others.

Imports are read from the text of files and nothing is imported, so those within functions count too; a name that a program
puts together (`importlib.import_module(name)`) is not seen, nor is anything but Python.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import SpecError

MAIN = ("origin/HEAD", "origin/main", "origin/master", "main", "master")
"""With which of these a branch is compared where nothing is said: the first that there is."""


@dataclass
class Changes:
    """What changed in a git work tree since a commit: in commits, uncommitted, and in files that git does not know yet.

    root: of the work tree; since: the commit in words; files: those that changed, deleted ones too; project: all files.
    """

    root: Path
    since: str
    files: frozenset[Path]
    project: frozenset[Path]
    _imports: dict[Path, frozenset[Path]] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        """Whether anything changed by which a mapping may be defined: Python, or a spec in YAML."""
        return any(file.suffix in (".py", ".yaml", ".yml") for file in self.files)

    def touch(self, files: Iterable[str]) -> bool:
        """Whether one of the files changed, or a file of the project that they import, however indirectly."""
        waiting, seen = [Path(file).resolve() for file in files], set[Path]()
        while waiting:
            file = waiting.pop()
            if file in self.files:
                return True
            if file in self.project and file not in seen:
                seen.add(file)
                waiting += self._imported(file)
        return False

    def _imported(self, file: Path) -> frozenset[Path]:
        """The files of the project that a file imports by its own text."""
        if file not in self._imports:
            self._imports[file] = frozenset(_find(file, self.root, self.project | self.files))
        return self._imports[file]


def changes(since: str | None = None) -> Changes:
    """What changed in the work tree around the working folder since it and a commit had a common ancestor.

    since: a commit, branch or tag; None: the main branch, the remote's where there is one. Raises SpecError where there is no
    git repository, no such commit, or no common ancestor (as in a shallow clone).
    """
    root = Path(_git("rev-parse", "--show-toplevel", error="--changed: this is no work tree of git")[:-1]).resolve()
    if not _commit("HEAD"):
        all_ = _paths(root, _git("ls-files", "--cached", "--others", "--exclude-standard", "--full-name", "-z", "--", ":/"))
        return Changes(root=root, since="the beginning, as nothing is committed", files=all_, project=all_)
    name = since if since is not None else next((n for n in MAIN if _commit(n)), None)
    if name is None:
        raise SpecError(f"--changed: none of {', '.join(MAIN)} is there to compare with: say a commit, --changed=REF")
    if not (commit := _commit(name)):
        raise SpecError(f"--changed: {name!r} is no commit here (targets stand before --changed, or it is --changed=REF)")
    error = f"--changed: {name} and HEAD have no common ancestor here; in a shallow clone, fetch the whole history"
    base = _git("merge-base", commit, "HEAD", error=error).strip()
    changed = _git("diff", "--name-only", "--no-renames", "-z", base, "--", ":/")
    unknown = _git("ls-files", "--others", "--exclude-standard", "--full-name", "-z", "--", ":/")
    known = _git("ls-files", "--full-name", "-z", "--", ":/")
    return Changes(
        root=root,
        since=f"{base[:9]} ({name})",
        files=_paths(root, changed + unknown),
        project=_paths(root, known + unknown),
    )


def _commit(name: str) -> str:
    if name.startswith("-"):
        return ""
    return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", error="").strip()


def _paths(root: Path, names: str) -> frozenset[Path]:
    return frozenset(root / name for name in names.split("\0") if name)


def _git(*words: str, error: str | None = None) -> str:
    """What git says. Raises SpecError where it fails: with `error`, or git's own words; an empty error is nothing said."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, errors="surrogateescape", check=False)  # noqa: S603, S607
    except OSError:
        raise SpecError("--changed: git is not installed") from None
    if done.returncode and error != "":
        said = next(iter(done.stderr.strip().splitlines()), "").removeprefix("fatal: ")
        raise SpecError(f"{error or '--changed: git ' + words[0]}: {said}" if said else str(error))
    return "" if done.returncode else done.stdout


# -- imports -----------------------------------------------------------------------------------------------------------
def _find(file: Path, root: Path, there: frozenset[Path]) -> Iterator[Path]:
    if file.suffix != ".py":
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):  # whoever imports it tells
        return
    package = file.parent
    tops = [package]
    while tops[-1] / "__init__.py" in there:
        tops.append(tops[-1].parent)
    places = dict.fromkeys([tops[-1], package, root, root / "src", *(Path(p or os.curdir).resolve() for p in sys.path)])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules(list(places), alias.name.split("."), there)
        elif isinstance(node, ast.ImportFrom):
            above = [[package, *package.parents][min(node.level, len(package.parents)) - 1]] if node.level else list(places)
            start = node.module.split(".") if node.module else []
            if node.level:
                yield from (f for f in [above[0] / "__init__.py"] if f in there)
            for alias in node.names:
                yield from _modules(above, [*start, alias.name], there)


def _modules(places: Sequence[Path], names: Sequence[str], there: frozenset[Path]) -> Iterator[Path]:
    """The files of `a`, `a.b`, `a.b.c` below each of the places; a last name may be of a thing in the module before it."""
    for place in places:
        for name in names:
            place /= name
            yield from (f for f in (place / "__init__.py", place.parent / f"{name}.py") if f in there)
