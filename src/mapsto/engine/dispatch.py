"""Dispatch: events to observers, so that nothing an observer does can change the run."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..core.errors import SpecError
from ..core.parts import as_part, build
from ..core.plan import distinct
from ..core.values import name_of
from .checkpoints.tree import flatten
from .events import Event
from .streams import preserve_rng
from .wing import Wing

log = logging.getLogger("mapsto")


class Dispatch:
    """The observers of a run by name. One that raises is reported once with its traceback and called no more.

    A SpecError is the user's to mend (such as a metric that no evaluation gives) and ends the run.
    """

    def __init__(self, observers: Iterable[tuple[str, Any]], wing: Wing) -> None:
        self.wing = wing
        listed = list(observers)
        self.active = dict(zip(distinct(name for name, _ in listed), (made for _, made in listed), strict=True))
        self.detached: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        """Hand an event to each in turn; the global random streams are as before afterwards."""
        if self.active:
            self._each("event " + repr(event.name), lambda made: made(event))

    def state(self) -> dict[str, Any]:
        """The states of those that have one and whose state a file can hold."""
        states: dict[str, Any] = {}

        def ask(name: str, made: Any) -> None:
            state = made.state_dict()
            flatten(state, lambda _: False, name)
            states[name] = state

        self._each("state_dict", ask, "state_dict")
        return states

    def restore(self, states: Mapping[str, Any]) -> list[str]:
        """Put the observers' states back; sentences on states without an observer and on observers without a state."""
        stateful = [n for n, made in self.active.items() if hasattr(made, "load_state_dict")]
        notes = [f"observer {n} starts afresh: the checkpoint holds no state of it" for n in stateful if n not in states]
        notes += [f"the state of observer {n} is left out: this run has none" for n in states if n not in self.active]

        def give(name: str, made: Any) -> None:
            if name in states:
                made.load_state_dict(states[name])

        self._each("load_state_dict", give, "load_state_dict")
        return notes

    def close(self) -> None:
        """Close all of them; those that were detached are closed already."""
        self._each("close", lambda made: made.close(), "close")

    def _each(self, what: str, call: Callable[..., None], method: str | None = None) -> None:
        chosen = [(n, made) for n, made in self.active.items() if method is None or hasattr(made, method)]
        if not chosen:
            return
        named = method in ("state_dict", "load_state_dict")
        with preserve_rng(self.wing):
            for name, made in chosen:
                try:
                    call(name, made) if named else call(made)
                except SpecError:
                    raise
                except Exception as error:  # noqa: BLE001  # whatever it is, the run is not its business
                    self._detach(name, made, what, error)

    def _detach(self, name: str, made: Any, what: str, error: Exception) -> None:
        self.active.pop(name)
        self.detached[name] = f"{type(error).__name__}: {error} (at {what})"
        log.warning("observer %s raised at %s and is called no more; the run goes on", name, what, exc_info=error)
        if what != "close" and hasattr(made, "close"):
            with contextlib.suppress(Exception):
                made.close()


def build_observers(parts: Iterable[Any], extra: Iterable[Any], wing: str) -> list[tuple[str, Any]]:
    """(name, observer) of a spec's parts and of those that the caller adds: parts, classes, functions or objects.

    Raises SpecError where one cannot be called.
    """
    made: list[tuple[str, Any]] = []
    for index, item in enumerate([*parts, *extra]):
        part = as_part(item)
        found = build(part, "observer", path=f"observers.{index}", wing=wing)
        if not callable(found) or inspect.isclass(found):
            raise SpecError(f"observers.{index}: a {type(found).__name__} is no observer, which is called with an event")
        made.append((name_of(part), found))
    return made
