"""Whose code a command runs: a run folder's only where it is trusted; a file's after it was said."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import SpecError
from ..core.spec import read_yaml
from ..core.trust import REGISTERED_ONLY, Code, code_of, registered_only, trust, untrusted
from .console import note


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that builds from a spec."""
    group = parser.add_argument_group("trust")
    group.add_argument("--trust", action="store_true", help="run the code that the run folder names, now and from now on")
    group.add_argument(
        "--registered-only",
        action="store_true",
        help=f"build registered names alone, and import no other code ({REGISTERED_ONLY}=1)",
    )


def admit(options: argparse.Namespace, what: str, *, quiet: bool = False) -> None:
    """Let pass what a command is to build from: a run folder, where its code is trusted or `--trust` is said (which is
    remembered); a YAML file, of which is said what code it names; anything else, for it is code that the user named.

    Raises SpecError for a folder whose code has not been trusted.
    """
    if Path(what).is_dir():
        folder, codes = of_folder(what)
        if options.trust:
            trust(codes)
        elif not registered_only() and (new := untrusted(codes)):
            raise SpecError(
                f"{folder} names code that you have not trusted: {listed(new)}; see mapsto show {folder}, and say --trust"
            )
    elif Path(what).suffix in (".yaml", ".yml") and not quiet and not registered_only() and (codes := _of_file(Path(what))):
        note(f"{what} names code that is not registered and is run: {listed(codes)}")


def of_folder(what: str) -> tuple[Path, list[Code]]:
    """The run folder that a path names (or that of a checkpoint), and the code that its spec names."""
    from ..engine.checkpoints.manifest import MANIFEST
    from ..engine.folder import RunFolder

    path = Path(what)
    folder = path.parent.parent if (path / MANIFEST).is_file() else path
    return folder, RunFolder(folder).code()


def _of_file(file: Path) -> list[Code]:
    """The code that a YAML file names; what is wrong with the file is told when it is loaded."""
    try:
        data = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return code_of(data, file.parent) if isinstance(data, dict) else []


def listed(codes: Sequence[Code]) -> str:
    """Pieces of code (imports, references) as a part of a sentence."""
    return ", ".join(map(str, codes))
