"""Numbers in text: a cell -> the number that it is, or the text."""

from __future__ import annotations

import math
import re
from typing import Any

WHOLE_TEXT = r"[ \t]*-?(?:0|[1-9][0-9]*)[ \t]*"
REAL_TEXT = r"[ \t]*-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[ \t]*"
WORD_TEXT = r"[ \t]*[+-]?(?:[nN][aA][nN]|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?)[ \t]*"
"""What is a number in text, as patterns of both Python and RE2. `+1`, `1_0`, `0x10` and `007` are none: no writer of numbers
writes them, and ids, telephone numbers and postcodes look so. `nan` and `inf` are numbers beside others, else words."""
_whole, _real, _word = (re.compile(p).fullmatch for p in (WHOLE_TEXT, REAL_TEXT, WORD_TEXT))


def number_of(text: str | None) -> Any:
    """The number that a text is, None for an empty one, else the text."""
    if text is None or not text.strip(" \t"):
        return None
    if _whole(text):
        return int(text) if len(text) < 4000 else 10**4000
    if not _real(text):
        return float(text) if _word(text) else text
    found = float(text)
    return found if math.isfinite(found) else 10**4000  # beyond float64, and no infinity


def is_word(text: str | None) -> bool:
    """Whether a text is the word for a number that is not finite."""
    return text is not None and _word(text) is not None


def number_said(text: str | None) -> Any:
    """The number or truth value that a text is where it was said that it is one (so that `007` and `+1` are), else the text."""
    stripped = (text or "").strip(" \t")
    if not stripped:
        return None
    if (lowered := stripped.lower()) in ("true", "false"):
        return lowered == "true"
    for kind in (int, float):
        try:
            found = kind(stripped)
            return text if "_" in stripped or (found in (math.inf, -math.inf) and not _word(stripped)) else found
        except ValueError:
            pass
    return text
