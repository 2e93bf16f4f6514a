"""Sizes in bytes, as people write them: `80GB`, `80GiB`, `1.5TB`, and per second `10GB/s`."""

from __future__ import annotations

import math
import re

from .errors import SpecError

UNITS = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGTP", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", 1)},
}
_KNOWN = {name.lower(): size for name, size in UNITS.items()}


def parse_size(text: str, what: str = "size") -> int:
    """Bytes that a text says; capitals do not matter. Raises SpecError with what is allowed."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]+)\s*", text)
    size = float(found[1]) * _KNOWN[found[2].lower()] if found and found[2].lower() in _KNOWN else 0.0
    if not 1 <= size < math.inf:
        near = f"; did you mean '{text.strip()}GB'?" if re.fullmatch(r"\s*\d+(\.\d*)?\s*", text) else ""
        raise SpecError(
            f"{what}: {text!r} is no size above 0; write a number and a unit such as 80GB (1000^3 bytes) or 80GiB (1024^3), "
            f"units being {', '.join(UNITS)}{near}"
        )
    return int(size)


def parse_rate(text: str, what: str = "bandwidth") -> int:
    """Bytes a second that a text such as `10GB/s` or `10GB` says. Raises SpecError."""
    return parse_size(re.sub(r"/s(ec)?\s*$", "", text), what)


def format_size(size: float) -> str:
    """A number of bytes in three digits: `79.9 GB`."""
    units = [(name, number) for name, number in UNITS.items() if "i" not in name]
    name, number = next((pair for pair in reversed(units) if abs(size) >= 0.9995 * pair[1]), units[0])
    value = size / number
    return f"{value:.0f} {name}" if number == 1 or abs(value) >= 99.95 else f"{value:.3g} {name}"
