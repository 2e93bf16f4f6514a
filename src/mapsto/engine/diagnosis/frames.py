"""Places in code: the frames that a traceback or a dump of stacks names, and the one to look at."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?:,)? in (?P<function>\S+)')
_LIBRARY = ("site-packages", "dist-packages", sysconfig.get_paths()["stdlib"])
_HOUSE = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True)
class Frame:
    """A line of code within a function."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} (in {self.function})"

    @property
    def own(self) -> bool:
        """Whether it is the user's code: neither a library's, nor mapsto's, nor made at run time."""
        return not self.file.startswith(("<", _HOUSE)) and not any(part in self.file for part in _LIBRARY)


def frames(text: str) -> list[Frame]:
    """The frames a text names, in its order."""
    return [Frame(m["file"], int(m["line"]), m["function"]) for m in _FRAME.finditer(text)]


def of_traceback(text: str) -> list[Frame]:
    """Of a traceback (innermost last) the frame that raised and, where that is a library's, the user's nearest to it."""
    return _telling(list(reversed(frames(text))))


def of_stacks(text: str) -> list[Frame]:
    """Of a dump of all threads (innermost first) the same for the main one, which faulthandler writes last."""
    threads = re.split(r"^(?=(?:Current thread|Thread) 0x)", text, flags=re.M)
    return _telling(frames(threads[-1]))


def _telling(inner_first: Sequence[Frame]) -> list[Frame]:
    found = list(inner_first[:1])
    found += [frame for frame in inner_first[1:] if frame.own][:1] if found and not found[0].own else []
    return found
