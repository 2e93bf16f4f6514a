"""The environment of a run: what besides the spec decides its numbers."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ..core.recipes import loaded_recipes
from ..core.spec import Spec, digest
from .folder import RunFolder, file_hash
from .wing import Wing


def versions(wing: Wing) -> dict[str, str]:
    """Versions and settings, ours and the wing's."""
    own = {"mapsto": metadata.version("mapsto"), "python": platform.python_version(), "numpy": metadata.version("numpy")}
    return {**own, **wing.versions()}


def describe(spec: Spec, identity: Mapping[str, Any], wing: Wing, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is written into environment.json: JSON data."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(wing),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "process": os.getpid(),
        "argv": sys.argv,
        "directory": str(Path.cwd()),
        "commit": _commit(),
        "seeds": {"run": spec.seed},
        "spec": digest(spec.to_data(live=True)),
        "identity": digest(identity),
        "recipes": recipe_hashes(),
        "summary": dict(summary),
    }


def recipe_hashes() -> dict[str, str]:
    """SHA-256 of every recipe file that was imported, and of what those imported from beside them, as it was read."""
    return {recipe.path: recipe.sha256 for recipe in sorted(loaded_recipes(), key=lambda recipe: recipe.path)}


def changed_recipes(before: Mapping[str, str], folder: RunFolder) -> list[str]:
    """Sentences on recipe files that are not what they were: either the run goes on with those it has kept, or with what
    somebody said is to be taken."""
    found, now = [], recipe_hashes()
    for path, told in before.items():
        copy, used = folder.recipe(Path(path), told), now.get(path, told)
        if used != told:
            found.append(f"{path} was changed since, and is taken as it is now; as it was: {copy}")
        elif path in now and not (Path(path).is_file() and file_hash(Path(path)) == told):
            what = "was changed" if Path(path).is_file() else "is gone"
            found.append(f"{path} {what} since, and is taken as the run has kept it: {copy} (otherwise: --recipes-changed)")
    return found


def _commit() -> str | None:
    """The git commit of the working directory, `-dirty` where files were changed; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
