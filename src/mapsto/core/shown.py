"""Text as a terminal shows it: what would move its cursor, change its colours or turn its lines round is spelt out."""

from __future__ import annotations

import re

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Control characters but tab and line break, marks of direction, separators of lines, halves of surrogate pairs."""


def shown(text: str) -> str:
    """The text with control characters as escapes, such as `\\x1b[31m`. Lines stay lines.

    Names of runs, metrics, layers and the words of errors come from files that anybody may have written.
    """
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown_in_line(text: str) -> str:
    """The same for a name or a cell of a table, which has one line: a break is an escape too."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")
