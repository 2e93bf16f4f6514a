"""Laws of schedules, step -> learning rate: the formula at every step, resuming anywhere, the ratios of groups."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..core.laws import Laws, Trial
from ..formulas.schedules import Formula
from .drivers import Schedule, ScheduleDriver
from .schedule_inputs import STEPS, arguments, close, metric, sequence, signature, steps

laws = Laws("schedule", driver=ScheduleDriver)


# -- the formula -------------------------------------------------------------------------------------------------------
@laws.law(
    "R1",
    "formula",
    priority=0,
    tolerance="T1",
    why="A schedule that is one step late, or forgets its last step, trains to something slightly worse and never complains.",
    satisfy="State the closed form beside it, mapsto.example(it, formula=lambda t, base, **args: ...), and make it equal at "
    "every t.",
    catches=("pytorch#67586", "pytorch#185872", "a warm-up that is off by one"),
)
def formula(trial: Trial) -> None:
    """The learning rate at every step t, boundaries included, is the closed form f(t), and the schedule tells the same."""
    driver: ScheduleDriver = trial.driver
    driver.build(trial)
    closed: Formula | None = trial.example.more.get("formula")
    if closed is None:
        name = trial.subject.label.rpartition(":")[2].rpartition("/")[2]
        trial.not_stated(f"state its closed form: mapsto.example({name}, formula=lambda t, base, **args: base * ...)")
    for number, variant in enumerate([None, *trial.example.more.get("variants", ())]):
        with trial.case(arguments=_format_arguments(arguments(trial, variant))):
            _every_step(trial, closed, variant, first=number == 0)


def _every_step(trial: Trial, closed: Formula, variant: Mapping[str, Any] | None, *, first: bool) -> None:
    schedule: Schedule = trial.driver.build(trial, variant=variant)
    given = _given(trial, closed, variant)
    count = steps(trial)
    wanted = [[closed(t, base, **given) for base in schedule.bases] for t in range(count)]
    for t in range(count):
        rates = [at["lr"] for at in schedule.settings()]
        for group, want in enumerate(wanted[t]):
            got = rates[group]
            if not close(got, want):
                _off(trial, t, group, got, want, [w[group] for w in wanted])
            trial.exercised("steps")
        if (reported := schedule.reported_rates()) is not None:
            trial.demand(
                reported == rates,
                f"it tells the rates {reported} at t={t}, and the optimizer has {rates}",
                first={"step": t},
                cause="what it tells is not set with the rate",
            )
        if t + 1 < count:
            with trial.component(f"step {t + 1}"):
                schedule.advance(t)
    if first:
        trial.control("the rate changes", len({w[0] for w in wanted}) > 1)


def _given(trial: Trial, closed: Formula, variant: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments that the formula takes, defaults of the schedule included."""
    defaults = {n: p.default for n, p in signature(trial.subject.target).items() if p.default is not p.empty}
    values = {**defaults, **arguments(trial, variant), "metrics": [metric(t) for t in range(STEPS)]}
    takes = inspect.signature(closed).parameters
    if any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        return values if "metrics" in takes else {n: v for n, v in values.items() if n != "metrics"}
    return {n: v for n, v in values.items() if n in takes}


def _off(trial: Trial, t: int, group: int, got: float, want: float, wanted: list[float]) -> None:
    near = {d: wanted[t + d] for d in (-1, 1) if 0 <= t + d < len(wanted)}
    cause = next((f"it is {'one step late' if d < 0 else 'one step early'}" for d, v in near.items() if close(got, v)), None)
    trial.fail(
        f"at t={t} the rate of group {group} is {got:.12g}, and {want:.12g} is due",
        measured=got,
        allowed=want,
        first={"step": t, "group": group},
        cause=cause or (f"a factor of {got / want:.6g}" if want else None),
    )


def _format_arguments(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in args.items()) or "none"


# -- resuming ----------------------------------------------------------------------------------------------------------
@laws.law(
    "R2",
    "resume",
    priority=0,
    tolerance="T0",
    why="A run that was interrupted goes on with another learning rate than it would have had.",
    satisfy="Save everything the next rate depends on (and keep none of it in closures or in the optimizer alone).",
    catches=("pytorch#60265", "lightly-train#301", "a counter that is not in the state_dict"),
)
def resume(trial: Trial) -> None:
    """Restored at any step t, with its optimizer and in either order, it goes on with the bits it would have had."""
    count = steps(trial)
    driver: ScheduleDriver = trial.driver
    schedule = driver.build(trial)
    whole, saved = [], []
    for t in range(count):
        whole.append(schedule.settings())
        with trial.component("saving its state"):
            saved.append(schedule.save())
        if t + 1 < count:
            with trial.component(f"step {t + 1}"):
                schedule.advance(t)
    for t in range(count):
        for order in driver.orders:
            with trial.case(saved_at=t, order=order):
                _suffix(trial, t, saved[t], order, whole)
    cold = sequence(driver.build(trial), count)
    constant = all(at == whole[0] for at in whole)
    trial.control("without a restore it differs", any(cold[: count - t] != whole[t:] for t in range(count)) or constant)
    if constant:
        trial.undecided("its rate never changes within the steps that were driven: state arguments with which it does")


def _suffix(trial: Trial, t: int, saved: Any, order: str, whole: list[list[dict[str, float]]]) -> None:
    schedule: Schedule = trial.driver.build(trial)
    with trial.component("restoring its state"):
        schedule.load(saved, order)
    for u in range(t, len(whole)):
        got = schedule.settings()
        if got != whole[u]:
            _diverges(trial, t, u, got, whole)
        if u + 1 < len(whole):
            with trial.component(f"step {u + 1} after a restore"):
                schedule.advance(u)
    trial.exercised("steps after a restore", len(whole) - t)


def _diverges(trial: Trial, t: int, u: int, got: list[dict[str, float]], whole: list[list[dict[str, float]]]) -> None:
    group, key = next((i, k) for i, at in enumerate(whole[u]) for k in at if got[i].get(k) != at[k])
    value, want = got[group].get(key), whole[u][group][key]
    late = {d: whole[u + d][group].get(key) for d in (-1, 1, -t) if 0 <= u + d < len(whole) and d}
    found = next((d for d, v in late.items() if v == value), None)
    said = {-1: "one step late after the restore", 1: "one step early after the restore"}
    trial.fail(
        f"saved at t={t}, its {key} at t={u} is {value!r}, and {want!r} without the interruption",
        measured=str(value),
        allowed=str(want),
        first={"step": u, "group": group, "key": key},
        cause=None if found is None else said.get(found, "it starts again from the beginning"),
    )


@laws.law(
    "R4b",
    "group_ratios",
    priority=1,
    tolerance="T1",
    why="Groups with rates of their own (a backbone at a tenth) lose them where a schedule writes one rate into all.",
    satisfy="Scale each group's own base rate; or declare tags={'absolute'} where the schedule sets rates itself.",
    catches=("a schedule that writes the first group's rate into all",),
)
def group_ratios(trial: Trial) -> None:
    """The rates of two groups keep their ratio at every step, and are not those that the groups began with."""
    driver: ScheduleDriver = trial.driver
    schedule = driver.build(trial)
    if trial.has("absolute"):
        trial.skip("it sets rates itself and does not scale those of the groups, as it declares")
    if len(schedule.bases) < 2:
        trial.skip("its framework's schedules know no groups of parameters")
    if trial.example.args.keys() & {"eta_min", "min_lr"}:
        schedule = driver.build(trial, variant={k: v for k, v in trial.example.args.items() if k not in ("eta_min", "min_lr")})
    ratio, changed = schedule.bases[1] / schedule.bases[0], False
    for t in range(steps(trial)):
        first, second = (at["lr"] for at in schedule.settings())
        changed |= not close(first, schedule.bases[0]) and abs(first) > 1e-12
        trial.demand(
            close(second, first * ratio) or abs(first) < 1e-12,
            f"at t={t} the rates are {first:.9g} and {second:.9g}: not 1 to {ratio}",
            measured=second / first if first else second,
            allowed=ratio,
            first={"step": t},
            cause="one rate is written into every group" if close(first, second) else None,
        )
        if t + 1 < steps(trial):
            with trial.component(f"step {t + 1}"):
                schedule.advance(t)
    trial.control("the rates are set at all", changed)
