"""Laws of PyTorch's schedulers beyond those of every wing: wrapping, and rates that are tensors."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, ReduceLROnPlateau, SequentialLR

from ...core.laws import Laws, Trial
from ...laws.schedule_inputs import RATES, close, sequence, steps
from ..drivers.schedule import DRIVER

laws = Laws("schedule")


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
    bare = DRIVER.build(trial)
    if not isinstance(bare.schedule, LRScheduler) or isinstance(bare.schedule, ReduceLROnPlateau):
        trial.skip("it is no LRScheduler that the framework's wrappers accept")
    count = steps(trial)
    want = sequence(bare, count)
    for name in ("ChainedScheduler", "SequentialLR"):
        with trial.case(wrapper=name):
            made = DRIVER.build(trial)
            with trial.component(f"wrapping it in {name}"):
                made.schedule = (
                    ChainedScheduler([made.schedule], made.optimizer)
                    if name == "ChainedScheduler"
                    else SequentialLR(made.optimizer, [made.schedule], [])
                )
                got = sequence(made, count)
            _identical(trial, name, got, want)
    trial.control("the rate changes", any(at != want[0] for at in want))


def _identical(trial: Trial, name: str, got: list[list[dict[str, float]]], want: list[list[dict[str, float]]]) -> None:
    for t, (mine, theirs) in enumerate(zip(got, want, strict=True)):
        for group, at in enumerate(theirs):
            key = next((k for k, v in at.items() if mine[group].get(k) != v), None)
            if key is not None:
                trial.fail(
                    f"in a {name} of its own its {key} at t={t} is {mine[group].get(key)!r}, and {at[key]!r} bare",
                    measured=str([at[group]["lr"] for at in got[:8]]),
                    allowed=str([at[group]["lr"] for at in want[:8]]),
                    first={"step": t, "group": group, "key": key},
                    cause="the wrapper's constructor steps or resets it",
                )
    trial.exercised("steps in a wrapper", len(want))


# -- rates as tensors ---------------------------------------------------------------------------------------------------
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
    want = sequence(DRIVER.build(trial), count)
    tensors = tuple(torch.tensor(rate, dtype=torch.float64) for rate in RATES)
    made = DRIVER.build(trial, rates=tensors)
    optimizer = made.optimizer
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
                made.advance(t)
    trial.demand(
        held == [id(g["lr"]) for g in optimizer.param_groups],
        "the rate is another tensor after the steps",
        cause="the rate is replaced, where it should be filled: a captured graph still reads the first one",
    )
    trial.control("the rate changes", any(at != want[0] for at in want))
