"""Planted bugs, modelled on real ones: for every law at least one that it must catch, and a correct near-twin it must pass.

Each file here holds components and a list `MUTANTS`. `python -m tests.mutants` (or `make mutants`) prints what was caught.
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mapsto.check.process import Server
from mapsto.core.laws import Example, Law, Subject, Trial, Verdict, find_law, verdict
from mapsto.core.wings import DEFAULT


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A planted bug in `bug` and its correct near-twin; `law` must fail the one and pass the other.

    models: the real bug it is modelled on. The two share `example` (arguments, inputs, tags), unless each has its own
    (`mapsto.example`). `status`: what the bug must be called, where that is not a failure (a control that cannot differ).
    """

    law: str
    name: str
    bug: Any
    twin: Any
    models: str
    example: Example = field(default_factory=Example)
    kind: str | None = None
    status: str = "fail"


def verdicts(mutant: Mutant, seed: int) -> tuple[Verdict, Verdict]:
    """What the law says of the bug and of its twin, in this process."""
    return judged(mutant, mutant.bug, seed), judged(mutant, mutant.twin, seed)


def judged(mutant: Mutant, target: Any, seed: int) -> Verdict:
    """The law's verdict on one target."""
    from mapsto.check.targets import complete
    from mapsto.core.laws import example_of

    law = find_law(mutant.law)
    if law.ranks > 1:
        return _judged_by_ranks(mutant, law, target, seed)
    instance = not callable(target) or (hasattr(target, "state_dict") and not isinstance(target, type))
    subject = Subject(
        kind=mutant.kind or law.kinds[0],
        label=getattr(target, "__name__", type(target).__name__),
        reference="",
        target=target,
        example=example_of(target) or mutant.example,
        make=_copier(target) if instance else None,
        wing=law.wing or DEFAULT,
    )
    return verdict(Trial(complete(subject), law, seed=seed))


def _judged_by_ranks(mutant: Mutant, law: Law, target: Any, seed: int) -> Verdict:
    """The same by a group of rank workers, which find the target (and its `mapsto.example`) by its import path."""
    from mapsto.check.runner import check

    reference = f"{target.__module__}:{target.__qualname__}"
    kind, wing = mutant.kind or law.kinds[0], law.wing or DEFAULT
    subject = Subject(kind=kind, label=target.__name__, reference=reference, target=target, wing=wing)
    return check([subject], only=[law.name], seed=seed, served=_server())[0]


@functools.cache
def _server() -> Server:
    """One fork server for all of them."""
    from mapsto.check.runner import server

    made = server(2)
    atexit.register(made.close)
    return made


def _copier(target: Any) -> Callable[[], Any]:
    import copy

    return lambda: copy.deepcopy(target)


def every() -> Mapping[str, list[Mutant]]:
    """All mutants by file."""
    import importlib
    import pkgutil

    found: dict[str, list[Mutant]] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_") or module.name.startswith("test_"):
            continue
        found[module.name] = list(importlib.import_module(f"{__name__}.{module.name}").MUTANTS)
    return found
