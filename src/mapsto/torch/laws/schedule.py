"""Laws of schedules, step -> learning rate: the formula at every step, resuming anywhere, wrapping, tensors as rates."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, ReduceLROnPlateau, SequentialLR

from ...core.laws import Laws, Trial
from ...formulas.schedules import Formula
from .schedule_examples import (
    RATES,
    STEPS,
    Made,
    advance,
    arguments,
    build,
    close,
    metric,
    optimizer_for,
    rates_of,
    sequence,
    settings,
    signature,
    steps,
)  # fmt: skip

laws = Laws("schedule")


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
    """The learning rate at every step t, boundaries included, is the closed form f(t), and get_last_lr tells it."""
    build(trial)
    closed: Formula | None = trial.example.more.get("formula")
    if closed is None:
        name = trial.subject.label.rpartition(":")[2].rpartition("/")[2]
        trial.undecided(f"state its closed form: mapsto.example({name}, formula=lambda t, base, **args: base * ...)")
    for number, variant in enumerate([None, *trial.example.more.get("variants", ())]):
        with trial.case(arguments=_say(arguments(trial, variant))):
            _every_step(trial, closed, variant, first=number == 0)


def _every_step(trial: Trial, closed: Formula, variant: Mapping[str, Any] | None, *, first: bool) -> None:
    optimizer, schedule = build(trial, variant=variant)
    given = _given(trial, closed, variant)
    count = steps(trial)
    wanted = [[closed(t, base, **given) for base in RATES] for t in range(count)]
    for t in range(count):
        for group, want in enumerate(wanted[t]):
            got = float(optimizer.param_groups[group]["lr"])
            if not close(got, want):
                _off(trial, t, group, got, want, [w[group] for w in wanted])
            trial.exercised("steps")
        if hasattr(schedule, "get_last_lr"):
            told = [float(x) for x in schedule.get_last_lr()]
            trial.demand(
                told == [float(g["lr"]) for g in optimizer.param_groups],
                f"get_last_lr() says {told} at t={t}, and the optimizer has {settings(optimizer)[0]['lr']}",
                first={"step": t},
                cause="_last_lr is not set with the rate",
            )
        if t + 1 < count:
            with trial.component(f"step {t + 1}"):
                advance(optimizer, schedule, t)
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


def _say(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in args.items()) or "none"


# -- resuming ----------------------------------------------------------------------------------------------------------
@laws.law(
    "R2",
    "resume",
    priority=0,
    tolerance="T0",
    why="A run that was interrupted goes on with another learning rate than it would have had.",
    satisfy="Keep everything the next rate depends on in state_dict() (and not in closures or in the optimizer alone).",
    catches=("pytorch#60265", "lightly-train#301", "a counter that is not in the state_dict"),
)
def resume(trial: Trial) -> None:
    """Restored at any step t, with its optimizer and in either order, it goes on with the bits it would have had."""
    count = steps(trial)
    optimizer, schedule = build(trial)
    whole, saved = [], []
    for t in range(count):
        whole.append(settings(optimizer))
        with trial.component("state_dict"):
            saved.append((copy.deepcopy(optimizer.state_dict()), copy.deepcopy(schedule.state_dict())))
        if t + 1 < count:
            with trial.component(f"step {t + 1}"):
                advance(optimizer, schedule, t)
    for t in range(count):
        for order in ("optimizer first", "schedule first"):
            with trial.case(saved_at=t, order=order):
                _suffix(trial, t, saved[t], order, whole)
    cold = sequence(*build(trial), 0, count)
    constant = all(at == whole[0] for at in whole)
    trial.control("without a restore it differs", any(cold[: count - t] != whole[t:] for t in range(count)) or constant)
    if constant:
        trial.undecided("its rate never changes within the steps that were driven: state arguments with which it does")


def _suffix(trial: Trial, t: int, saved: tuple[Any, Any], order: str, whole: list[list[dict[str, float]]]) -> None:
    optimizer, schedule = build(trial)
    parts = [(optimizer, saved[0]), (schedule, saved[1])]
    with warnings.catch_warnings(), trial.component("load_state_dict"):
        warnings.simplefilter("ignore")
        for part, state in parts if order == "optimizer first" else reversed(parts):
            part.load_state_dict(copy.deepcopy(state))
    for u in range(t, len(whole)):
        got = settings(optimizer)
        if got != whole[u]:
            _diverges(trial, t, u, got, whole)
        if u + 1 < len(whole):
            with trial.component(f"step {u + 1} after a restore"):
                advance(optimizer, schedule, u)
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


# -- wrapping ----------------------------------------------------------------------------------------------------------
@laws.law(
    "R3",
    "wrapping",
    priority=0,
    tolerance="T0",
    why="Put into a sequence or a chain of one, a schedule must be what it was: otherwise longer ones are wrong as well.",
    satisfy="Compute the rate from base_lrs and last_epoch; keep nothing that the constructor of a wrapper would disturb.",
    catches=("pytorch#196243",),
)
def wrapping(trial: Trial) -> None:
    """A SequentialLR of this stage alone and a ChainedScheduler of it alone give its own sequence."""
    bare = build(trial)
    if not isinstance(bare[1], LRScheduler) or isinstance(bare[1], ReduceLROnPlateau):
        trial.skip("it is no LRScheduler that the framework's wrappers accept")
    count = steps(trial)
    want = sequence(*bare, 0, count)
    for name in ("ChainedScheduler", "SequentialLR"):
        with trial.case(wrapper=name):
            optimizer, schedule = build(trial)
            with trial.component(f"wrapping it in {name}"):
                wrapped = (
                    ChainedScheduler([schedule], optimizer)
                    if name == "ChainedScheduler"
                    else SequentialLR(optimizer, [schedule], [])
                )
                got = sequence(optimizer, wrapped, 0, count)
            _identical(trial, name, got, want)
    trial.control("the rate changes", any(at != want[0] for at in want))


def _identical(trial: Trial, name: str, got: list[list[dict[str, float]]], want: list[list[dict[str, float]]]) -> None:
    for t, (mine, theirs) in enumerate(zip(got, want, strict=True)):
        for group, at in enumerate(theirs):
            key = next((k for k, v in at.items() if mine[group].get(k) != v), None)
            if key is not None:
                trial.fail(
                    f"in a {name} of its own its {key} at t={t} is {mine[group].get(key)!r}, and {at[key]!r} bare",
                    measured=str(rates_of(got, group)[:8]),
                    allowed=str(rates_of(want, group)[:8]),
                    first={"step": t, "group": group, "key": key},
                    cause="the wrapper's constructor steps or resets it",
                )
    trial.exercised("steps in a wrapper", len(want))


# -- rates as tensors, groups -------------------------------------------------------------------------------------------
@laws.law(
    "R4",
    "tensor_rates",
    priority=1,
    tolerance="T1",
    why="Compiled and capturable optimizers hold the rate in a tensor; one that is aliased makes the base rate decay with it.",
    satisfy="Change a tensor rate in place (fill_), and keep base rates as copies.",
    catches=("pytorch#162359", "a base rate that is the same tensor as the rate"),
)
def tensor_rates(trial: Trial) -> None:
    """A rate in a tensor follows the sequence of a float, in the same tensor all along, with a base rate of its own."""
    count = steps(trial)
    want = sequence(*build(trial), 0, count)
    tensors = tuple(torch.tensor(rate, dtype=torch.float64) for rate in RATES)
    optimizer, schedule = build(trial, rates=tensors)
    held = [id(group["lr"]) for group in optimizer.param_groups]
    for t in range(count):
        for group, at in zip(optimizer.param_groups, want[t], strict=True):
            rate = group["lr"]
            trial.demand(
                isinstance(rate, torch.Tensor),
                f"at t={t} the rate is a {type(rate).__name__} and no longer a tensor",
                first={"step": t},
                cause="the rate is replaced, where it should be filled",
            )
            trial.demand(
                close(float(rate), at["lr"]),
                f"at t={t} the tensor is {float(rate):.12g}, a float would be {at['lr']:.12g}",
                measured=float(rate),
                allowed=at["lr"],
                first={"step": t},
            )
            base = group.get("initial_lr")
            aliased = isinstance(base, torch.Tensor) and base.data_ptr() == rate.data_ptr()
            trial.demand(
                not aliased,
                f"at t={t} initial_lr and lr are one memory ({rate.data_ptr():#x})",
                first={"step": t},
                measured=f"{rate.data_ptr():#x}",
                cause="the base rate is the same tensor as the rate",
            )
        if t + 1 < count:
            with trial.component(f"step {t + 1} with a tensor as the rate"):
                advance(optimizer, schedule, t)
    trial.demand(
        held == [id(g["lr"]) for g in optimizer.param_groups],
        "the rate is another tensor after the steps",
        cause="the rate is replaced, where it should be filled: a captured graph still reads the first one",
    )
    trial.control("the rate changes", any(at != want[0] for at in want))


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
    """The rates of two groups keep their ratio at every step."""
    optimizer, schedule = build(trial)
    if trial.has("absolute"):
        trial.skip("it sets rates itself and does not scale those of the groups, as it declares")
    if trial.example.args.keys() & {"eta_min", "min_lr"}:
        optimizer, schedule = build(
            trial, variant={k: v for k, v in trial.example.args.items() if k not in ("eta_min", "min_lr")}
        )
    ratio = RATES[1] / RATES[0]
    for t in range(steps(trial)):
        first, second = (float(g["lr"]) for g in optimizer.param_groups)
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
                advance(optimizer, schedule, t)
    single: Made = (optimizer_for(), None)
    trial.control("the groups differ", settings(single[0])[0]["lr"] != settings(single[0])[1]["lr"])
