"""Laws of the values of losses: nothing is no disaster, large logits stay finite, order is chance, bounds hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.laws import Laws, Trial
from .compare import differs, max_error, same
from .loss_examples import Seen, build, ignoring, inputs, look, records, settle, with_ignored

laws = Laws("loss")

SCALES = (20.0, 300.0, 1e4)
"""Times a normal: logits in ordinary, careless and broken training."""
HALVES = (torch.float16, torch.bfloat16)


# -- nothing -----------------------------------------------------------------------------------------------------------
@laws.law(
    "C2",
    "degenerate",
    priority=0,
    tolerance="T0",
    why="A batch whose targets are all ignored, or an empty shard, makes 0 / 0: one NaN gradient ends the run.",
    satisfy="Return (total, weight), both zero; or divide by max(count, 1); or raise an error that says so.",
    catches=("Automodel#3796", "pytorch#70348", "a mean over a mask that is empty"),
)
def degenerate(trial: Trial) -> None:
    """No records, one record, and targets that are all ignored give finite values and gradients, or an error that says why."""
    settle(trial)
    found = ignoring(trial)
    cases: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    whole = inputs(trial, 3)
    if found is not None:
        index, override = found
        cases.append(("all targets ignored", with_ignored(trial, whole, range(3), index), override))
        cases.append(("all but one ignored", with_ignored(trial, whole, range(1, 3), index), override))
    if not trial.has("across_records"):
        cases.append(("one record", records(trial, whole, torch.tensor([0])), {}))
    cases.append(("no records", records(trial, whole, torch.arange(0)), {}))
    for said, given, override in cases:
        with trial.case(targets=said, dtype="float64"):
            call = build(trial, **override)
            try:
                seen = look(trial, call, given)
            except Exception as error:  # noqa: BLE001  # an explicit error is one way to keep the law
                if len(str(error).strip()) < 10 or isinstance(error, ZeroDivisionError):
                    trial.fail(
                        f"{said}: {type(error).__name__}: {str(error)[:100]} does not say why", measured=str(error)[:100]
                    )
                trial.exercised("explicit errors")
                continue
            _finite(trial, said, seen)
    trial.control("ordinary targets give a loss", bool(look(trial, build(trial), whole).total != 0))


def _finite(trial: Trial, said: str, seen: Seen) -> None:
    values = {"total": seen.total, **{f"gradient of {k}": g for k, g in seen.gradients.items()}}
    if seen.weight is not None:
        values["weight"] = torch.tensor(seen.weight)
    for name, value in values.items():
        bad = ~value.isfinite()
        trial.demand(
            not bool(bad.any()),
            f"{said}: its {name} is {float(value[bad].flatten()[0]) if bool(bad.any()) else 0}",
            measured="not finite",
            allowed="finite",
            first={"tensor": name},
            cause="0 / 0: a mean over nothing",
        )


# -- extreme values ----------------------------------------------------------------------------------------------------
@laws.law(
    "C4",
    "extreme",
    priority=1,
    tolerance="T2",
    why="Logits of 100 are ordinary in half precision, and exp(12) is no float16: one overflow ends the run.",
    satisfy="Work from logits with log_softmax, logsigmoid, logsumexp or softplus; never take the log of an exp.",
    catches=("exp overflow", "the log of a softmax that underflowed", "a square in float16"),
)
def extreme(trial: Trial) -> None:
    """Wherever the float64 value is finite and in range, so is that in float16, bfloat16 and float32, with its gradients."""
    settle(trial)
    exercised = sum([_extreme(trial, dtype, scale) for dtype in (torch.float32, *HALVES) for scale in SCALES])
    if not exercised:
        trial.skip("PyTorch has no kernels of it in these dtypes, or its domain has no extreme values")


def _extreme(trial: Trial, dtype: torch.dtype, scale: float) -> bool:
    fixed, domain = trial.example.more["fixed"], trial.example.more["domain"]
    given = inputs(trial, 4, torch.float32, stream="extreme")
    given = tuple(
        x if i in fixed or not isinstance(x, Tensor) or not x.is_floating_point() else _pushed(x, domain, scale).to(dtype)
        for i, x in enumerate(given)
    )
    given = tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in given)
    wide = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given)
    name = str(dtype).removeprefix("torch.")
    try:
        true = look(trial, build(trial), wide)
    except Exception:  # noqa: BLE001  # outside its domain
        return False
    with trial.case(size=4, dtype=name, scale=scale):
        try:
            got = look(trial, build(trial, dtype), given)
        except (RuntimeError, NotImplementedError) as error:
            if "not implemented for" in str(error) or "expected scalar type" in str(error):
                return False
            trial.fail(f"predictions {scale:g} times a normal in {name} raised {type(error).__name__}: {str(error)[:200]}")
        _in_range(trial, dtype, got, true, wide)
    return True


def _pushed(x: Tensor, domain: str, scale: float) -> Tensor:
    """Values as far out as the domain goes."""
    if domain == "probability":
        return torch.sigmoid(torch.logit(x) * scale)
    if domain == "log_probability":
        return torch.log_softmax(x * scale, -1)
    return x * scale


def _in_range(trial: Trial, dtype: torch.dtype, got: Seen, true: Seen, wide: tuple[Any, ...]) -> None:
    top, eps = torch.finfo(dtype).max / 4, torch.finfo(dtype).eps
    size = sum(float(x.abs().sum()) for x in wide if isinstance(x, Tensor) and x.is_floating_point())
    pairs = {
        "losses" if true.losses is not None else "total": (
            got.losses if got.losses is not None else got.total,
            true.losses if true.losses is not None else true.total,
        )
    }
    pairs |= {f"gradient of {k}": (got.gradients[k], g) for k, g in true.gradients.items()}
    for what, (mine, theirs) in pairs.items():
        kept = theirs.isfinite() & (theirs.abs() < top)
        bad = kept & ~mine.isfinite()
        trial.demand(
            not bool(bad.any()),
            f"its {what} is {_first(mine, bad)}, and {_first(theirs, bad)} in float64",
            measured=_first(mine, bad),
            allowed=_first(theirs, bad),
            first={"tensor": what},
            cause="overflow, or the log of zero",
        )
        if what.startswith("gradient") or not bool(kept.any()):
            continue
        allowed = 0.05 * theirs.abs() + 8 * eps * size
        off = kept & ((mine.double() - theirs).abs() > allowed)
        trial.demand(
            not bool(off.any()),
            f"its {what} is {_first(mine, off)}, and {_first(theirs, off)} in float64",
            measured=max_error(mine, theirs),
            allowed=float(allowed.max()),
            first={"tensor": what},
            cause="saturation: a probability that was rounded to 0 or 1",
        )


def _first(x: Tensor, where: Tensor) -> str:
    return f"{float(x[where].flatten()[0]):.6g}" if bool(where.any()) else ""


# -- permutation and bounds ---------------------------------------------------------------------------------------------
@laws.law(
    "C5",
    "permutation",
    priority=1,
    tolerance="T1",
    why="The order of records in a batch is chance; a loss that depends on it compares predictions with others' targets.",
    satisfy="Index predictions and targets alike; take no statistics along the records by position.",
    catches=("index misalignment", "a position that weighs more"),
)
def permutation(trial: Trial) -> None:
    """Records in another order give the same total and weight, and gradients (and unreduced losses) in that order."""
    settle(trial)
    if trial.has("ordered"):
        trial.skip("the order of records matters, as it declares")
    size = 6
    given = inputs(trial, size)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with trial.case(size=size, dtype="float64", permutation=order.tolist()), trial.component("its value in another order"):
        want, got = look(trial, build(trial), given), look(trial, build(trial), records(trial, given, order))
        same(
            trial,
            "the total in another order",
            {"total": got.total},
            {"total": want.total},
            tolerance="T1",
            cause="index misalignment",
        )
        trial.demand(got.weight == want.weight, f"the weight is {got.weight} in another order, and was {want.weight}")
        numbers = {k: int(k.split()[1].partition("[")[0]) for k in want.gradients if k.startswith("input ")}
        axes = trial.example.more["axes"]
        permuted = {
            k: want.gradients[k].index_select(axes if isinstance(axes, int) else axes[n], order) for k, n in numbers.items()
        }
        same(
            trial,
            "gradients in another order",
            {k: got.gradients[k] for k in numbers},
            permuted,
            tolerance="T1",
            cause="index misalignment",
        )
        if want.losses is not None and got.losses is not None and want.losses.shape[0] == size:
            same(trial, "losses in another order", {"losses": got.losses}, {"losses": want.losses[order]}, tolerance="T1")
    crossed = tuple(
        x if i in trial.example.more["fixed"] else y
        for i, (x, y) in enumerate(zip(given, records(trial, given, order), strict=True))
    )
    if trial.example.more["fixed"]:
        trial.control(
            "predictions in another order than targets differ", differs(look(trial, build(trial), crossed).total, want.total)
        )


@laws.law(
    "C5b",
    "bounds",
    priority=1,
    tolerance="T4",
    why="A loss below its minimum, or above what it can be, is another formula.",
    satisfy="State mapsto.example(it, bounds=(0.0, None)) and, where there is one, minimum=lambda size, generator: inputs of "
    "the least loss.",
    catches=("a sign error in one term", "a minimum that is not at the target"),
)
def bounds(trial: Trial) -> None:
    """Values stay within the declared `bounds`, and none near the inputs of the declared `minimum` is below it."""
    example = settle(trial)
    if "bounds" not in example.more and "minimum" not in example.more:
        trial.skip("it declares neither `bounds` nor a `minimum`")
    low, high = example.more.get("bounds", (None, None))
    for number in range(8):
        with trial.case(draw=number, size=5, dtype="float64"):
            value = _per_weight(look(trial, build(trial), inputs(trial, 5, stream=f"bounds {number}")))
            inside = (low is None or value >= low - 1e-12) and (high is None or value <= high + 1e-12)
            trial.demand(
                inside, f"a value of {value:.6g} is not within {low} and {high}", measured=value, allowed=f"[{low}, {high}]"
            )
    if "minimum" in example.more:
        best = tuple(
            x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
            for x in example.more["minimum"](4, torch.Generator().manual_seed(trial.seed))
        )
        at_best = look(trial, build(trial), best)
        least = _per_weight(at_best)
        for number in range(8):  # down the gradient first, then anywhere
            generator = torch.Generator().manual_seed(number)
            moved = tuple(
                x
                if i in example.more["fixed"]
                else x
                + (
                    0.1 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
                    if number
                    else -1e-3 * at_best.gradients[f"input {i}"]
                )
                for i, x in enumerate(best)
            )
            value = _per_weight(look(trial, build(trial), moved))
            trial.demand(
                value >= least - 1e-9, f"near its minimum of {least:.6g} it is {value:.6g}", measured=value, allowed=least
            )


def _per_weight(seen: Seen) -> float:
    return float(seen.total) / (seen.weight or (seen.losses.numel() if seen.losses is not None else 1.0))
