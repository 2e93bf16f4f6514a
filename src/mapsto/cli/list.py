"""List what is registered: name, kind, wing (none: for all), where it comes from.

Nothing that is listed is imported: the names are read from the metadata of installed distributions. Of wings what they say
of themselves is read, which loads no framework: one that cannot be used is told."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from typing import Any

from ..core.errors import MapstoError
from ..core.kinds import BUILT_IN
from ..core.recipes import load_file
from ..core.registry import DISABLE, Entry, registry
from .console import note, table, write_json

EPILOG = """\
examples:
  mapsto list                              everything
  mapsto list middleware                   one kind
  mapsto list --import recipes/digits.py   with what a recipe file registers
  mapsto list --kinds                      the kinds, and what a mapping of each maps
  mapsto list --json | jq -r '.[].name'    for scripts"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", metavar="KIND", help="only this kind, such as loss or middleware")
    parser.add_argument("--wing", help="only what specs of this wing (torch, ...) can name")
    parser.add_argument("--kinds", action="store_true", help="list the kinds themselves, with their signatures")
    parser.add_argument("--import", dest="files", metavar="FILE", action="append", default=[], help="load a recipe file first")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    for file in options.files:
        load_file(file)
    found = kinds() if options.kinds else mappings(options.kind, options.wing)
    if options.json:
        write_json(found)
    elif options.kinds:
        table(("kind", "maps", "what it is", "names"), [(k["kind"], k["maps"], k["summary"], str(k["names"])) for k in found])
    elif not found:
        note(f"no {options.kind} is registered yet; write one with: mapsto new {options.kind} NAME")
    else:
        table(("name", "wing", "maps", "from", "defined in"), [_row(entry) for entry in found])
        for key in sorted({entry["key"] for entry in found if entry["claimed"] > 1}):
            note(
                f"{key} is claimed more than once and cannot be used before one of its distributions is uninstalled or disabled"
            )
    if not os.environ.get(DISABLE):  # else they are told before
        for said in registry.misnamed():
            note(f"left out: {said}")
    for said in registry.unusable():
        note(said)
    return 0


def mappings(kind: str | None, wing: str | None = None) -> list[dict[str, Any]]:
    """Every registered name as plain data, what is disabled behind the others; `claimed` counts the distributions (or files)
    that claim it."""
    if wing is not None:
        registry.wing(wing)  # explains itself where there is none
    entries = registry.entries(kind, wing)
    off = [entry for entry in registry.disabled() if kind in (None, entry.kind)]
    signatures = {family: _signature(family) for family in {entry.kind for entry in entries}}
    alike: dict[str, list[Entry]] = {}
    for entry in entries:
        alike.setdefault(entry.key, []).append(entry)
    found = [_described(e, signatures[e.kind], sum(map(e.meets, alike[e.key]))) for e in entries]
    return found + [{**_described(entry, "", 0), "disabled": True} for entry in off]


def kinds() -> list[dict[str, Any]]:
    """Every kind as plain data. A kind that a plugin declares is imported for its signature; an error takes its place."""
    names = Counter(entry.kind for entry in registry.entries())
    found = []
    for name in registry.kinds():
        try:
            kind = registry.kind(name)
            maps, summary = kind.signature, kind.summary
        except MapstoError as error:
            maps, summary = "?", str(error)
        found.append({"kind": name, "maps": maps, "summary": summary, "built_in": name in BUILT_IN, "names": names[name]})
    return found


def _signature(kind: str) -> str:
    """The kind's signature where it is known without importing a plugin."""
    return registry.kind(kind).signature if kind in BUILT_IN else "?"


def _described(entry: Entry, signature: str, claimed: int) -> dict[str, Any]:
    return {
        "key": entry.key,
        "kind": entry.kind,
        "name": entry.name,
        "wing": entry.wing,
        "maps": signature,
        "origin": entry.origin,
        "reference": entry.reference,
        "claimed": claimed,
        "disabled": False,
    }


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    maps = f"disabled by {DISABLE}" if entry["disabled"] else entry["maps"]
    return entry["key"], entry["wing"] or "all", maps, entry["origin"], entry["reference"]
