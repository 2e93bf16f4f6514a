"""What the checker asks of the wing (`mapsto.core.law_wings.LawWing`): drivers, and the kinds of what is not registered."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from mapsto.core.laws import Subject

from .drivers import Layers, Schedules
from .framework import Layer, Schedule

DRIVERS: dict[str, Any] = {"layer": Layers(), "model": Layers(), "schedule": Schedules()}
"""Kind -> its driver; of a kind that stands not here the verdicts are unknown, and say so."""
BASES: dict[type, str] = {Layer: "layer", Schedule: "schedule"}


def complete(subject: Subject) -> Subject:
    """The subject with its driver."""
    return replace(subject, driver=DRIVERS.get(subject.kind))


def infer_kind(target: Any) -> str | None:
    """The kind of a class or an instance of the framework, None where it is none."""
    cls = target if inspect.isclass(target) else type(target)
    return next((kind for base, kind in BASES.items() if issubclass(cls, base)), None)


def words() -> dict[str, str]:
    """Law -> how to satisfy it in this framework's words, beside what the law says for all."""
    return {"layer.state": "hold arrays in self.weights"}
