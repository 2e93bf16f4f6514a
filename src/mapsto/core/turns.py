"""Turns: the updates of which a step is made, where it is made of several, each with a task, an optimizer and parameters of
its own. In a spec they are frozen mappings by name, in the order in which they are taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import SpecError
from .typed import from_mapping, shortened, validate
from .values import Frozen, Part, listed, slot

SLOTS = ("task", "optimizer", "schedule")
"""Parts of a turn that are the spec's own where the turn says none."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a turn says. parameters: patterns of the names of those that it updates (`generator` means `generator.*` too);
    task: its loss; optimizer, schedule, middleware: of this turn alone; times: updates that it makes on a batch, in a row;
    every: it comes at each step whose number, from 1, this divides; shared: other turns that say so may update its parameters.
    """

    parameters: tuple[str, ...]
    task: Any = None
    optimizer: Any = None
    schedule: Any = None
    middleware: tuple[Any, ...] = ()
    times: int = 1
    every: int = 1
    shared: bool = False

    def updates(self, steps: int) -> int:
        """How many updates it makes in so many steps."""
        return steps // self.every * self.times


def frozen(turns: Any) -> Frozen | None:
    """The slot `turns` of a spec, checked; None where there are none. Raises SpecError naming the path."""
    if turns is None:
        return None
    if not isinstance(turns, Mapping) or "use" in turns or not turns:
        raise SpecError(
            "turns: a mapping of turns by name is wanted, such as {generator: {parameters: [generator], task: ...}, ...}, "
            f"not {shortened(turns)}"
        )
    found = {}
    for name, turn in turns.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise SpecError(
                f"turns: {shortened(name)} names no turn: its metrics are NAME/loss, so letters and digits are wanted"
            )
        found[name] = _frozen(turn, f"turns.{name}")
    return Frozen(found)


def _frozen(turn: Any, path: str) -> Frozen:
    if not isinstance(turn, Mapping):
        raise SpecError(f"{path}: a mapping is wanted, such as {{parameters: [...], task: ...}}, not {shortened(turn)}")
    said = dict(turn)
    if isinstance(said.get("parameters"), str):
        said["parameters"] = (said["parameters"],)
    made = from_mapping(Turn, said, f"{path}.")
    validate(made, ("parameters", "times", "every", "shared"), least={"times": 1, "every": 1}, prefix=f"{path}.")
    if not made.parameters:
        raise SpecError(f"{path}.parameters: empty, and patterns of names are wanted, such as [{path.partition('.')[2]}]")
    said |= {name: slot(said[name], f"{path}.{name}") for name in SLOTS if name in said}
    if "middleware" in said:
        parts = listed(said["middleware"], f"{path}.middleware", "outermost first")
        said["middleware"] = tuple(slot(v, f"{path}.middleware.{i}") for i, v in enumerate(parts))
    return Frozen({**said, "parameters": made.parameters})


def turns_of(value: Mapping[str, Any] | None, **usual: Any) -> dict[str, Turn]:
    """The turns of a spec's slot in order. usual: parts that those take which say none."""
    found = {}
    for name, said in (frozen(value) or {}).items():
        missing = {slot: part for slot, part in usual.items() if said.get(slot) is None}
        found[name] = Turn(**{**said, **missing})
    return found


def parts(turns: Mapping[str, Any] | None) -> Iterator[tuple[str, str, Any]]:
    """(path, kind, part) of every part that turns say themselves."""
    for name, turn in (turns or {}).items():
        for kind in SLOTS:
            if turn.get(kind) is not None:
                yield f"turns.{name}.{kind}", kind, turn[kind]
        for i, part in enumerate(turn.get("middleware", ())):
            yield f"turns.{name}.middleware.{part.name if isinstance(part, Part) else i}", "middleware", part
