"""What a driver does wrong is no failure of what it drives: unknown, in one line with the driver's method and its place."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.laws import test_neutral_layers as layers
from tests.laws import test_neutral_losses as losses
from tests.laws import test_neutral_schedules as schedules

from mapsto.core.laws import Verdict
from mapsto.laws.drivers import LossValue


def helper(saved: Any) -> Any:
    return saved["nothing of this name"]


class Raises(layers.Driver):
    def load(self, layer: Any, saved: Any) -> None:
        layer.restore(helper(saved))


class Unlike(layers.Driver):
    def see(self, trial: Any, layer: Any) -> Any:  # type: ignore[override]
        return {}


class CannotRestore(layers.Layer):
    def restore(self, state: Any) -> None:
        raise ValueError("no such state")


class HasNoState(layers.Layer):
    state = property(lambda self: self.nowhere)  # type: ignore[assignment]


class OfAFactory(layers.Layer):
    def restore(self, state: Any) -> None:
        state["nothing of this name"]


def factory(rng: Any, rate: float = 0.0) -> layers.Layer:
    return OfAFactory(rng, rate)


def line_of(function: Any, text: str) -> str:
    lines, first = inspect.getsourcelines(function)
    return f"{__file__}:{first + next(i for i, line in enumerate(lines) if text in line)}"


@pytest.mark.parametrize(
    ("driver", "said", "place"),
    [
        (Raises, "Raises.load raised KeyError: 'nothing of this name'", line_of(helper, "return")),
        (Unlike, "Unlike.see raised TypeError: ", line_of(Unlike.see, "def see")),
    ],
)
def test_an_error_of_the_driver_is_told_with_its_place(driver: Any, said: str, place: str) -> None:
    made = layers.judged(layers.Layer, "state", driver=driver)
    assert made.status == "unknown"
    assert made.reason.startswith(f"the driver is at fault: test_drivers_at_fault:{said}"), made.reason
    assert place in made.reason
    assert "\n" not in made.reason


@pytest.mark.parametrize("target", [CannotRestore, HasNoState, factory])
def test_an_error_of_the_component_stays_a_failure(target: Any) -> None:
    made = layers.judged(target, "state")
    assert made.status in ("fail", "unknown")
    assert "the driver is at fault" not in made.reason
    if target is not HasNoState:  # whose state is read where no law says that this must work
        assert made.status == "fail"
        assert made.witness is not None
        assert made.witness.cause == "the component raised"


class BlindLosses(losses.Driver):
    def look(self, trial: Any, loss: Any, given: Any, dtype: str = "float64") -> LossValue:
        if not len(given[1]):
            raise KeyError("there are no records, and the driver forgot them")
        return super().look(trial, loss, given, dtype)


def refuses_nothing(logits: Any, target: Any) -> Any:
    if not len(target):
        raise ValueError("there are no records")
    return losses.cross_entropy(logits, target)


def test_an_error_of_the_driver_is_no_explicit_error_of_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    assert losses.judged(refuses_nothing, "degenerate").status == "pass"
    monkeypatch.setattr(losses, "Driver", BlindLosses)
    made = losses.judged(losses.cross_entropy, "degenerate")
    assert made.status == "unknown"
    assert "BlindLosses.look raised KeyError" in made.reason


def giving(base: type, method: str, value: Any) -> type:
    """A driver whose method gives something else."""
    return type("Gives", (base,), {method: lambda self, *args, **options: value, "__module__": base.__module__})


RIGHT = LossValue("scalar", np.asarray(1.0), None, {"input 0": np.zeros((2, 5))})


@pytest.mark.parametrize(
    ("judge", "base", "law", "method", "value", "said"),
    [
        (layers, layers.Driver, "gradients", "exact", None, "None, and tuple[Any, tuple[Any, ...]] is wanted"),
        (layers, layers.Driver, "gradients", "total", 1.0, "a float, and tuple[float, dict[str, "),
        (layers, layers.Driver, "gradients", "total", (None, {}), "None at [0], and float is wanted"),
        (layers, layers.Driver, "gradients", "total", (1.0, {"input 0": [1.0]}), "a list at [1]['input 0'], and "),
        (layers, layers.Driver, "modes", "differs_by_mode", "no", "a str, and bool is wanted"),
        (layers, layers.Driver, "state", "unsaved", "buffer", "a str, and list[str] is wanted"),
        (layers, layers.Driver, "state", "see", [], "a list, and dict[str, Any] is wanted"),
        (losses, losses.Driver, "additivity", "settle", None, "None, and Example is wanted"),
        (losses, losses.Driver, "additivity", "look", (1.0, 2.0), "a tuple, and LossValue is wanted"),
        (losses, losses.Driver, "additivity", "look", LossValue("mean", RIGHT.total, None, {}), "a str at .form, and "),  # type: ignore[arg-type]
        (losses, losses.Driver, "additivity", "look", LossValue("scalar", 1.0, None, {}), "a float at .total, and "),  # type: ignore[arg-type]
        (schedules, schedules.Driver, "schedule.formula", "build", None, "None, and Schedule is wanted"),
        (schedules, schedules.Driver, "schedule.resume", "build", 3, "a int, and Schedule is wanted"),
    ],
)
def test_what_it_gives_is_what_its_protocol_says(
    judge: Any, base: Any, law: str, method: str, value: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "Driver", giving(base, method, value))
    made: Verdict = _judged(judge, law)
    assert made.status == "unknown"
    assert f"Gives.{method} gave {said}" in made.reason, made.reason


def _judged(judge: Any, law: str) -> Verdict:
    if judge is layers:
        return layers.judged(layers.Layer, law, driver=layers.Driver)
    return (
        losses.judged(losses.cross_entropy, law)
        if judge is losses
        else schedules.judged(schedules.Halving, law, schedules.Driver)
    )


class Silent(schedules.Driven):
    def settings(self) -> Any:
        return None


class Headless(schedules.Driven):
    bases = "0.1"  # type: ignore[assignment]

    def __init__(self, schedule: Any, bases: Any) -> None:
        self.schedule = schedule


class Lacks:
    orders = ("the schedule alone",)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (Silent, "Silent.settings gave None, and list[dict[str, float]] is wanted"),
        (Headless, "Headless.bases is a str, and collections.abc.Sequence[float] is wanted"),
        (None, "Lacks.build is missing, which ScheduleDriver asks for"),
    ],
)
def test_so_is_what_it_builds_and_what_it_lacks(made: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Lacks if made is None else schedules.Driver
    if made is not None:
        monkeypatch.setattr(schedules, "Driven", made)
    found = schedules.judged(schedules.Halving, "schedule.formula", driver)
    assert found.status == "unknown"
    assert said in found.reason


class TellsLess(losses.Driver):
    def settle(self, trial: Any) -> Any:
        return trial.example


class TellsNonsense(losses.Driver):
    def settle(self, trial: Any) -> Any:
        trial.subject = replace(trial.subject, example=replace(trial.example, more={"axes": "nonsense"}))
        return trial.example


@pytest.mark.parametrize("law", ["additivity", "permutation", "extreme", "degenerate"])
def test_what_a_driver_of_losses_does_not_tell_is_as_usual(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "Driver", TellsLess)
    assert losses.judged(losses.cross_entropy, law).status == "pass"


def test_an_error_of_the_law_itself_is_no_failure_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "Driver", TellsNonsense)
    made = losses.judged(losses.cross_entropy, "additivity")
    assert made.status == "unknown"
    assert made.reason.startswith("the check crashed: ValueError: invalid literal for int()")
