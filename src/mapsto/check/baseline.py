"""A baseline: failures that are known, so that a check tells of new ones alone.

A YAML file, sorted: what is checked -> law -> what it was found to be. An entry is of a mapping and a law and of nothing
else: that the reason of a failure changes, or a fail becomes unknown, makes it no new one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..core.errors import MapstoError, SpecError
from ..core.laws import BAD, Law, Subject, Verdict
from ..core.yaml_text import read_yaml, write_yaml
from .results import UNUSABLE

HEAD = "# Known failures, which `mapsto check --baseline` lets pass: what is checked, the law, what it was found to be.\n"

Key = tuple[str, str]


class Baseline:
    """The known failures of a file, and what a check found of them. every: whatever fails is known, as it is to be written.

    Files in it are named from the folder of the file, so that it holds in every working folder and on every machine.
    """

    def __init__(self, path: Path, *, every: bool = False) -> None:
        """Read the file; with `every` it need not be there. Raises SpecError where it is none."""
        self.path, self.every = path, every
        self.known: dict[Key, str] = {} if every else _read(path)
        self.found: dict[Key, Verdict] = {}

    def against_known(self, made: Verdict) -> Verdict:
        """The verdict, a known failure where it is one. A target that cannot be used is never known: nothing was judged."""
        key = self.name(made.reference or made.subject), made.law
        self.found[key] = made
        if made.status not in BAD or made.law == UNUSABLE or not (self.every or key in self.known):
            return made
        return replace(made, status="known failure", reason=f"{made.status}: {made.reason}")

    def name(self, reference: str) -> str:
        """What is checked, with its file as it is named from the folder of the baseline."""
        path = reference.partition("#")[0].partition(":")[0]
        if Path(path).suffix not in (".py", ".yaml", ".yml") and not ("#" in reference and Path(path).is_dir()):
            return reference
        relative = os.path.relpath(os.path.abspath(path), os.path.abspath(self.path.parent))
        return Path(relative).as_posix() + reference[len(path) :]

    def remarks(self, subjects: Iterable[Subject], laws: Iterable[Law]) -> list[str]:
        """What should be taken out of the file: entries that no longer fail, and those that match nothing that was named."""
        laws = list(laws)
        owed = {(self.name(s.reference), w.name) for s in subjects for w in laws if w.judges(s)}
        owed |= {(self.name(s.reference), law) for s in subjects for law in s.example.expect}
        unusable = {name for name, law in self.found if law == UNUSABLE}
        said = []
        for (name, law), _ in sorted(self.known.items()):
            made = self.found.get((name, law))
            if made is not None and made.status not in BAD:
                said.append(f"{self.path}: {law} of {name} fails no more ({made.status}): take it out")
            elif made is None and (name, law) not in owed and name not in unusable:
                there = any(other == name for other, _ in owed)
                why = f"no law {law} of it" if there else "nothing of that name was to be checked"
                said.append(f"{self.path}: {law} of {name} matches nothing: {why}")
        return said

    def text(self) -> str:
        """What failed, as the new text of the file."""
        entries: dict[str, dict[str, str]] = {}
        for (name, law), made in sorted(self.found.items()):
            if made.status in BAD and law != UNUSABLE:
                entries.setdefault(name, {})[law] = made.status
        return HEAD + (write_yaml(entries) if entries else "{}\n")


def _read(path: Path) -> dict[Key, str]:
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"there is no baseline {path}; --write-baseline {path} writes it") from None
    except (OSError, UnicodeDecodeError, MapstoError) as error:
        raise SpecError(f"the baseline {path} cannot be read: {error}") from None
    if data is None:
        return {}
    found: dict[Key, str] = {}
    for name, laws in data.items() if isinstance(data, dict) else [(None, None)]:
        for law, status in laws.items() if isinstance(laws, dict) else [(None, None)]:
            if not isinstance(name, str) or not isinstance(law, str) or status not in BAD:
                raise SpecError(
                    f"the baseline {path}: {name!r}: {law!r}: {status!r} is no entry; "
                    f"what is checked -> law -> one of {', '.join(BAD)} is wanted"
                )
            found[name, law] = status
    return found
