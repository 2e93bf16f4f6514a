"""Public component libraries (benchmarks/libraries.py) under the laws of their kinds.

`pip install --no-deps $(python benchmarks/sweep_libraries.py --packages)`, then `python benchmarks/sweep_libraries.py [--gate]
[--out FILE] [NAME...]`. A name is `module:Class`, or a module alone. `--counts FILE` tells of such a file, library by library,
how many were judged and with what verdicts.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from libraries import COMPONENTS, FALSE_ALARMS, LEFT_OUT, OPTIMIZERS, PACKAGES, STATED
from sweeping import options, sweep

import mapsto
from mapsto.check.targets import of_reference
from mapsto.core.errors import MissingExtra
from mapsto.core.laws import Subject


def find(module: str, name: str) -> Any:
    """A component of a library; `inner:Class` is one of its module `inner`."""
    inner, _, own = name.rpartition(":")
    return getattr(importlib.import_module(f"{module}.{inner}" if inner else module), own)


def components() -> dict[str, tuple[str, dict[str, Any]]]:
    """`module:Class` -> (kind, what is stated), of all that are installed."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for module in (*COMPONENTS, *OPTIMIZERS):
        try:
            loaded = importlib.import_module(module)
        except ImportError as error:
            print(f"{module} is not there: {error}", file=sys.stderr)
            continue
        for name, (kind, stated) in COMPONENTS.get(module, {}).items():
            try:
                find(module, name)
            except (AttributeError, ImportError):
                print(f"{module} has no {name}", file=sys.stderr)
                continue
            found[f"{module}:{name}"] = kind, {k: v for k, v in stated.items() if v or (k == "inputs" and v is not None)}
        for name in sorted(dir(loaded)) if module in OPTIMIZERS else ():
            one = getattr(loaded, name)
            mine = inspect.isclass(one) and issubclass(one, torch.optim.Optimizer) and not one.__module__.startswith("torch.")
            if mine and name not in LEFT_OUT:
                found[f"{module}:{name}"] = "optimizer", STATED.get(f"{module}:{name}", {})
    return found


SUBJECTS: dict[str, tuple[str, str]] = {}
for _name, (_kind, _stated) in components().items():  # the checker's workers find them here, with their examples
    _own = _name.replace(".", "_").replace(":", "__")
    _module, _, _rest = _name.partition(":")
    globals()[_own] = find(_module, _rest)
    if _stated:
        mapsto.example(globals()[_own], **_stated)
    SUBJECTS[_name] = (_own, _kind)


def subjects(chosen: list[str]) -> list[Subject]:
    """The subjects that were asked for."""
    found = [(k, v) for k, v in SUBJECTS.items() if not chosen or k in chosen or k.partition(":")[0] in chosen]
    if not found:
        raise MissingExtra(f"nothing to sweep: pip install --no-deps {' '.join(PACKAGES)}")
    return [of_reference(f"{__file__}:{own}", kind) for _, (own, kind) in found]


def counts(file: str) -> None:
    """A row a library: components, verdicts, and how many of each are pass, fail (and among these false), unknown, vacuous."""
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
    names = {own: name for name, (own, _) in SUBJECTS.items()}
    of = [(names[row["subject"].rpartition(":")[2]], row["status"]) for row in rows]
    false = Counter(
        name.partition(":")[0]
        for (name, status), row in zip(of, rows, strict=True)
        if status == "fail" and (name, row["law"]) in FALSE_ALARMS
    )
    print(
        "| module | components | verdicts | pass | not applicable | fail | of these false | unknown | vacuous |\n"
        + "|---" * 9
        + "|"
    )
    for module in [*dict.fromkeys(name.partition(":")[0] for name, _ in of), "all"]:
        mine = [(name, status) for name, status in of if module in ("all", name.partition(":")[0])]
        each = Counter(status for _, status in mine)
        told = [each[s] for s in ("pass", "not applicable", "fail", "unknown", "vacuous")]
        told.insert(3, false.total() if module == "all" else false[module])
        print(f"| {module} | {len({name for name, _ in mine})} | {len(mine)} | {' | '.join(map(str, told))} |")


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--packages", action="store_true", help="what to install")
    parser.add_argument("--counts", metavar="FILE", help="tell of the records that --out wrote")
    chosen = parser.parse_args()
    if chosen.packages:
        print(*PACKAGES)
        return 0
    if chosen.counts:
        counts(chosen.counts)
        return 0
    return sweep(subjects(chosen.names), chosen)


if __name__ == "__main__":
    sys.exit(main())
