"""Laws of losses, (prediction, target) -> (total, weight): parts add up, nothing is no disaster, reductions agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.laws import Laws, Trial
from ..losses import mean_of, stated
from .compare import ATOL, RTOL, differs, max_error, same
from .loss_examples import (
    Seen, build, form, has_reductions, ignoring, inputs, look, parts, records, settle, with_ignored,
)  # fmt: skip

laws = Laws("loss")

CUTS: tuple[tuple[int, ...], ...] = ((1, 2), (7, 6), (1, 3, 9))
"""Records of parts: uneven, since parts of one size hide what a mean divides by."""
SCALES = (20.0, 300.0, 1e4)
HALVES = (torch.float16, torch.bfloat16)


# -- parts add up ------------------------------------------------------------------------------------------------------
@laws.law(
    "C1",
    "additivity",
    priority=0,
    tolerance="T1",
    why="Micro-batches, ranks and last batches are parts of unequal size; a loss that is no sum over them trains on other gradients.",
    satisfy="Return (total, weight): the sum and what a mean divides by; or tags={'across_records'} where records depend on one another.",
    catches=("torchtune#1875", "mlx-lm#1413", "transformers#35203", "a weight that counts ignored targets"),
)
def additivity(trial: Trial) -> None:
    """Totals, weights and gradients of uneven parts add up to those of the whole, as stated (or by its stated weight)."""
    settle(trial)
    if trial.has("across_records"):
        trial.skip("each record's loss depends on the others, as it declares")
    stated_loss = _stated(trial)
    for sizes in CUTS:
        given = _uneven(trial, sizes)
        with trial.case(parts=sizes, dtype="float64"), trial.component("the loss of a part"):
            pieces = parts(trial, given, sizes)
            whole = look(trial, stated_loss, given)
            cut = [look(trial, stated_loss, p) for p in pieces]
            _adds_up(trial, whole, cut, pieces, sizes)
    trial.control("parts of the whole differ from it", differs(cut[0].total, whole.total))


def _stated(trial: Trial) -> Callable[..., Any]:
    """The loss as (total, weight), the way the engine would make it so."""
    example = trial.example
    _, override = ignoring(trial) or (None, {})
    plain = build(trial, **override)
    first = form(plain(*inputs(trial, 2)))
    if first != "scalar":
        return plain if first == "weighted" else _several(plain)
    if has_reductions(trial):
        unreduced = build(trial, reduction="none", **override)
        if form(unreduced(*inputs(trial, 2))) == "unreduced":
            return _several(unreduced)
    weight = example.more.get("weight", example.more.get("known_weight"))
    if weight is None:
        trial.skip("it returns a scalar and its weight is not stated: loss.states_weight tells what that does")
    return _Weighed(plain, weight)


def _several(call: Callable[..., Any]) -> Callable[..., Any]:
    """`stated` for a loss of more inputs than two."""

    def several(prediction: Any, *rest: Any) -> Any:
        def of_two(first: Any, target: Any) -> Any:
            del target
            return call(first, *rest)

        index = getattr(call, "ignore_index", getattr(call, "keywords", {}).get("ignore_index"))
        if index is not None:
            of_two.ignore_index = index  # type: ignore[attr-defined]  # what `stated` asks of a loss
        return stated(of_two)(prediction, rest[0] if rest else None)

    return several


class _Weighed:
    """`mean_of` for a loss of more inputs than two."""

    def __init__(self, call: Callable[..., Any], weight: Any) -> None:
        self.call, self.weight = call, weight

    def __call__(self, prediction: Any, *rest: Any) -> Any:
        index = getattr(self.call, "ignore_index", -100)
        wrapped = mean_of(lambda first, _: self.call(first, *rest), self.weight, ignore_index=index)
        return wrapped(prediction, rest[0] if rest else None)


def _uneven(trial: Trial, sizes: Sequence[int]) -> tuple[Any, ...]:
    """Inputs of all parts, with ignored targets in the last one only, where targets can be ignored."""
    given, found = inputs(trial, sum(sizes)), ignoring(trial)
    if found is None or sizes[-1] < 2:
        return given
    last = range(sum(sizes[:-1]), sum(sizes))
    at = trial.example.more["fixed"][0]
    if given[at].dim() == 1:
        return with_ignored(trial, given, list(last)[: len(last) // 2], found[0])
    target = given[at].clone()
    for record in last:  # of sequences, another number of tokens in each
        target[record].view(-1)[: 1 + record % (target[record].numel() - 1)] = found[0]
    return (*given[:at], target, *given[at + 1 :])


def _adds_up(trial: Trial, whole: Seen, cut: list[Seen], pieces: list[Any], sizes: Sequence[int]) -> None:
    total = torch.stack([p.total for p in cut]).sum()
    if whole.weight is not None:
        weight = sum(p.weight or 0.0 for p in cut)
        agrees = abs(weight - whole.weight) <= 1e-9 * max(1.0, abs(whole.weight))
        trial.demand(agrees, f"the weights of the parts are {[p.weight for p in cut]}, and that of the whole is {whole.weight}",
                     measured=weight, allowed=whole.weight, first={"part": 0},
                     cause=f"a factor of {weight / whole.weight:.6g}" if whole.weight else None)  # fmt: skip
    ratio = float(total / whole.total) if float(whole.total) else float("nan")
    cause = f"the sum over parts of {list(sizes)} is {ratio:.6g} of the whole: a mean was taken somewhere"
    same(trial, "the total of the parts", {"total": total}, {"total": whole.total}, tolerance="T1", cause=cause)
    same(trial, "the gradients of the parts", _together(trial, cut), whole.gradients, tolerance="T1", cause=cause)


def _together(trial: Trial, cut: list[Seen], scales: Sequence[float] = ()) -> dict[str, Tensor]:
    """Gradients of the parts: of inputs side by side, of the loss's own parameters summed."""
    axes = trial.example.more["axes"]
    scales = scales or [1.0] * len(cut)
    made = {}
    for path in cut[0].gradients:
        found = [p.gradients[path] * s for p, s in zip(cut, scales, strict=True)]
        number = int(path.split()[1].partition("[")[0]) if path.startswith("input ") else 0
        axis = axes if isinstance(axes, int) else axes[number]
        made[path] = torch.cat(found, axis) if path.startswith("input ") and found[0].dim() else torch.stack(found).sum(0)
    return made


@laws.law(
    "C1b",
    "states_weight",
    priority=0,
    tolerance="T1",
    why="A mean forgets what it divided by, so a mean over ranks or micro-batches of unequal size is another loss.",
    satisfy="Return (total, weight) or unreduced losses; or state what it divides by: mapsto.example(it, weight='records'), and use "
    "it through mean_of.",
    catches=("transformers#35203", "transformers#34242", "ms-swift#10081"),
)
def states_weight(trial: Trial) -> None:
    """What it returns says how much it weighs: a sum, unreduced losses, (total, weight), or a mean whose weight is stated."""
    settle(trial)
    call = build(trial)
    kind = form(call(*inputs(trial, 2)))
    if kind != "scalar" or trial.has("across_records"):
        trial.exercised(f"its results are {kind}" if kind != "scalar" else "it depends on the batch, as it declares")
        return
    sizes = (7, 6)
    given = _uneven(trial, sizes)
    pieces = parts(trial, given, sizes)
    with trial.case(parts=sizes, dtype="float64"), trial.component("the loss of a part"):
        whole, cut = look(trial, build(trial), given), [look(trial, build(trial), p) for p in pieces]
        if _close(torch.stack([p.total for p in cut]).sum(), whole.total):
            trial.exercised("it is a sum")
            return
        weights = _candidates(trial, pieces)
        divides = {n: w for n, w in weights.items() if _close(_weighed(cut, w), whole.total)}
        if "weight" in trial.example.more:
            trial.demand("stated" in divides, f"its mean is not over the stated weight {trial.example.more['weight']!r}",
                         measured=float(_weighed(cut, weights["stated"])), allowed=float(whole.total),
                         cause=f"it divides by {', '.join(divides) or 'something else'}")  # fmt: skip
            return
        mean = _together(trial, cut, [0.5, 0.5])
        path = next(iter(whole.gradients))
        n = pieces[0][0].shape[0] if not isinstance(trial.example.more["axes"], tuple) else sizes[0]
        ratios = [_ratio(m, w) for m, w in zip(*(_halves(trial, path, x, n) for x in (mean[path], whole.gradients[path])), strict=True)]
        trial.fail(
            f"it returns a mean that does not say its weight: averaged over parts of {sizes[0]} and {sizes[1]} records the gradients "
            f"are {ratios[0]:.4g} and {ratios[1]:.4g} of what they are for the whole",
            measured=max(abs(r - 1) for r in ratios), allowed=RTOL, first={"tensor": path},
            cause=f"a mean of means; it divides by {', '.join(k for k in divides if k != 'stated')}: say weight={next(iter(divides))!r}"
            if divides else "a mean of means; what it divides by is none of records, elements and targets",
        )  # fmt: skip


def _halves(trial: Trial, path: str, value: Tensor, n: int) -> tuple[Tensor, Tensor]:
    axes = trial.example.more["axes"]
    axis = axes if isinstance(axes, int) else axes[int(path.split()[1].partition("[")[0])] if path.startswith("input ") else 0
    return value.narrow(axis, 0, n), value.narrow(axis, n, value.shape[axis] - n)


def _ratio(got: Tensor, want: Tensor) -> float:
    kept = want.abs() > 1e-12
    return float((got[kept] / want[kept]).median()) if bool(kept.any()) else 1.0


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs() <= ATOL + RTOL * b.abs())


def _weighed(cut: list[Seen], weights: Sequence[float]) -> Tensor:
    return sum((p.total * w for p, w in zip(cut, weights, strict=True)), torch.zeros(())) / sum(weights)


def _candidates(trial: Trial, pieces: list[tuple[Any, ...]]) -> dict[str, list[float]]:
    """What a mean may divide by, for each part."""
    target = next((i for i in trial.example.more["fixed"]), 0)
    index = (ignoring(trial) or (None, {}))[0]
    axes = trial.example.more["axes"]
    axis = axes if isinstance(axes, int) else axes[0]
    made: dict[str, list[float]] = {}
    if "weight" in trial.example.more and not isinstance(trial.example.more["weight"], str):
        weigh = trial.example.more["weight"]
        made["stated"] = [float(weigh(p[0], p[1] if len(p) > 1 else None)) for p in pieces]
    made["records"] = [float(p[0].shape[axis]) for p in pieces]
    made["elements"] = [float(p[target].numel()) for p in pieces]
    if index is not None:
        made["targets"] = [float((p[target] != index).sum()) for p in pieces]
    if isinstance(trial.example.more.get("weight"), str):
        made["stated"] = made.get(trial.example.more["weight"], made["elements"])
    return made


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
                    trial.fail(f"{said}: {type(error).__name__}: {str(error)[:100]} does not say why", measured=str(error)[:100])
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
        trial.demand(not bool(bad.any()), f"{said}: its {name} is {float(value[bad].flatten()[0]) if bool(bad.any()) else 0}",
                     measured="not finite", allowed="finite", first={"tensor": name}, cause="0 / 0: a mean over nothing")  # fmt: skip


# -- reductions and ignored targets -------------------------------------------------------------------------------------
@laws.law(
    "C3",
    "reductions",
    priority=0,
    tolerance="T1",
    why="reduction='sum' divided by the count must be the mean, and an ignored target must be as if it were not there.",
    satisfy="Compute unreduced losses once, mask them, and derive sum and mean from them; count only what is kept.",
    catches=("unsloth-zoo#1023", "a mean that divides twice", "label smoothing that reaches ignored targets"),
)
def reductions(trial: Trial) -> None:
    """`none`, `sum` and `mean` agree, and ignored targets change nothing: neither value, nor weight, nor any gradient."""
    settle(trial)
    found = ignoring(trial)
    if not has_reductions(trial) and found is None:
        trial.skip("it has neither reductions nor ignored targets")
    if has_reductions(trial):
        _reductions(trial)
    if found is not None and not trial.has("across_records"):
        _ignored(trial, *found)


def _reductions(trial: Trial) -> None:
    index, override = ignoring(trial) or (None, dict[str, Any]())
    given = inputs(trial, 7)
    if index is not None:
        given = with_ignored(trial, given, [1, 5], index)
    with trial.case(size=7, dtype="float64"), trial.component("its reductions"):
        plain = look(trial, build(trial, reduction="none", **override), given)
        total = look(trial, build(trial, reduction="sum", **override), given)
        if plain.losses is None:
            trial.fail("with reduction='none' it returns a scalar", measured=plain.form, allowed="unreduced")
        same(trial, "the sum against none", _values(total), _values(plain), tolerance="T1", cause="another reduction")
        mean = look(trial, build(trial, reduction="mean", **override), given)
        if (stated_mean := trial.example.more.get("mean")) is not None:
            same(trial, "the mean", {"total": mean.total}, {"total": stated_mean(plain.losses, given)}, tolerance="T1")
            return
        weights = {k: w[0] for k, w in _candidates(trial, [given]).items()} | {"losses": float(plain.losses.numel())}
        if index is not None:
            weights = {k: w for k, w in weights.items() if k in ("targets", "stated")}
        ratio = float(total.total / mean.total) if float(mean.total) else float("nan")
        near = [k for k, w in weights.items() if abs(ratio - w) <= 1e-9 * w]
        trial.demand(bool(near), f"the sum is {ratio:.9g} times the mean, and {_said(weights)} are due", measured=ratio,
                     allowed=_said(weights), first={"tensor": "total"}, cause=_twice(ratio, weights))  # fmt: skip
        scaled = {k: g * ratio for k, g in mean.gradients.items()}
        same(trial, "gradients of the mean, times its weight", scaled, total.gradients, tolerance="T1")


def _said(weights: dict[str, float]) -> str:
    return " or ".join(f"{w:g} ({k})" for k, w in weights.items())


def _twice(ratio: float, weights: dict[str, float]) -> str | None:
    hit = next((k for k, w in weights.items() if abs(ratio - w * w) < 1e-6 * w * w), None)
    return f"it divides twice by {hit}" if hit else f"{ratio / next(iter(weights.values())):.6g} of the weight"


def _values(seen: Seen) -> dict[str, Any]:
    return {"total": seen.total, **seen.gradients}


def _ignored(trial: Trial, index: int, override: dict[str, Any]) -> None:
    whole = inputs(trial, 7)
    kept = torch.tensor([0, 2, 3, 4, 6])
    for reduction in ("none", "sum", "mean") if has_reductions(trial) else (None,):
        chosen = {**override, **({"reduction": reduction} if reduction else {})}
        with trial.case(size=7, ignored=[1, 5], dtype="float64", reduction=reduction), trial.component("its value with ignored targets"):
            got = look(trial, build(trial, **chosen), with_ignored(trial, whole, [1, 5], index))
            want = look(trial, build(trial, **chosen), records(trial, whole, kept))
            left = {k: g[1] for k, g in got.gradients.items() if k.startswith("input ")}
            trial.demand(not any(bool(g.any()) for g in left.values()), "the gradient of an ignored target is not zero",
                         measured=max(float(g.abs().max()) for g in left.values()), allowed=0.0,
                         first={"tensor": "input 0", "index": [1]}, cause="the mask comes after a reduction or is left out")  # fmt: skip
            cause = f"the value is {float(got.total / want.total):.6g} of what it is without them" if float(want.total) else None
            same(trial, "the value with ignored targets", {"total": got.total}, {"total": want.total}, tolerance="T1", cause=cause)
            if got.weight is not None and want.weight is not None:
                trial.demand(abs(got.weight - want.weight) < 1e-9 * max(1.0, want.weight),
                             f"the weight is {got.weight} with two records ignored, and {want.weight} without them",
                             measured=got.weight, allowed=want.weight, cause="ignored targets are counted")  # fmt: skip
    full = look(trial, build(trial, **override), whole)
    trial.control("those targets matter where they are not ignored", differs(full.total, got.total))


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
    given = tuple(x if i in fixed or not isinstance(x, Tensor) or not x.is_floating_point() else _pushed(x, domain, scale).to(dtype)
                  for i, x in enumerate(given))  # fmt: skip
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
    pairs = {"losses" if true.losses is not None else "total": (got.losses if got.losses is not None else got.total,
             true.losses if true.losses is not None else true.total)}  # fmt: skip
    pairs |= {f"gradient of {k}": (got.gradients[k], g) for k, g in true.gradients.items()}
    for what, (mine, theirs) in pairs.items():
        kept = theirs.isfinite() & (theirs.abs() < top)
        bad = kept & ~mine.isfinite()
        trial.demand(not bool(bad.any()), f"its {what} is {_first(mine, bad)}, and {_first(theirs, bad)} in float64",
                     measured=_first(mine, bad), allowed=_first(theirs, bad), first={"tensor": what}, cause="overflow, or the log of zero")  # fmt: skip
        if what.startswith("gradient") or not bool(kept.any()):
            continue
        allowed = 0.05 * theirs.abs() + 8 * eps * size
        off = kept & ((mine.double() - theirs).abs() > allowed)
        trial.demand(not bool(off.any()), f"its {what} is {_first(mine, off)}, and {_first(theirs, off)} in float64",
                     measured=max_error(mine, theirs), allowed=float(allowed.max()), first={"tensor": what},
                     cause="saturation: a probability that was rounded to 0 or 1")  # fmt: skip


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
        same(trial, "the total in another order", {"total": got.total}, {"total": want.total}, tolerance="T1", cause="index misalignment")
        trial.demand(got.weight == want.weight, f"the weight is {got.weight} in another order, and was {want.weight}")
        numbers = {k: int(k.split()[1].partition("[")[0]) for k in want.gradients if k.startswith("input ")}
        axes = trial.example.more["axes"]
        permuted = {k: want.gradients[k].index_select(axes if isinstance(axes, int) else axes[n], order) for k, n in numbers.items()}
        same(trial, "gradients in another order", {k: got.gradients[k] for k in numbers}, permuted, tolerance="T1",
             cause="index misalignment")  # fmt: skip
        if want.losses is not None and got.losses is not None and want.losses.shape[0] == size:
            same(trial, "losses in another order", {"losses": got.losses}, {"losses": want.losses[order]}, tolerance="T1")
    crossed = tuple(x if i in trial.example.more["fixed"] else y for i, (x, y) in enumerate(zip(given, records(trial, given, order), strict=True)))
    if trial.example.more["fixed"]:
        trial.control("predictions in another order than targets differ", differs(look(trial, build(trial), crossed).total, want.total))


@laws.law(
    "C5b",
    "bounds",
    priority=1,
    tolerance="T4",
    why="A loss below its minimum, or above what it can be, is another formula.",
    satisfy="State mapsto.example(it, bounds=(0.0, None)) and, where there is one, minimum=lambda size, generator: inputs of the least loss.",
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
            trial.demand(inside, f"a value of {value:.6g} is not within {low} and {high}", measured=value, allowed=f"[{low}, {high}]")
    if "minimum" in example.more:
        best = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
                     for x in example.more["minimum"](4, torch.Generator().manual_seed(trial.seed)))  # fmt: skip
        least = _per_weight(look(trial, build(trial), best))
        for number in range(8):
            generator = torch.Generator().manual_seed(number)
            moved = tuple(x if i in example.more["fixed"] else x + 0.1 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
                          for i, x in enumerate(best))  # fmt: skip
            value = _per_weight(look(trial, build(trial), moved))
            trial.demand(value >= least - 1e-9, f"near its minimum of {least:.6g} it is {value:.6g}", measured=value, allowed=least)


def _per_weight(seen: Seen) -> float:
    return float(seen.total) / (seen.weight or (seen.losses.numel() if seen.losses is not None else 1.0))
