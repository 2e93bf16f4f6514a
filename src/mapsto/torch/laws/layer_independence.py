"""Laws of what depends on what: rows, masked positions, the future; and of a layer under vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...core.laws import Laws, Trial
from ...core.random import derive
from .compare import differs, leaves, same
from .layer_examples import build, inputs, settle
from .layer_passes import cotangents, double, draws, with_gradient

laws = Laws("layer", "model")

ROWS = 4


def _call(module: nn.Module, given: tuple[Any, ...], seed: int) -> dict[str, Any]:
    torch.manual_seed(seed % (1 << 63))
    with torch.no_grad():
        return leaves(module(*given))


def _watched(output: dict[str, Any], pick: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {k: pick(y) for k, y in output.items() if isinstance(y, Tensor)}


# -- rows --------------------------------------------------------------------------------------------------------------
@laws.law(
    "L7",
    "row_independence",
    priority=0,
    tolerance="T1",
    why="A record whose result depends on its neighbours in the batch gives other answers when served alone.",
    satisfy="Compute statistics over the axes of one record, and never over the batch (or do not declare `row_independent`).",
    catches=("a softmax over the batch axis", "a mean over the batch in a normalisation", "a view that mixes rows"),
)
def row_independence(trial: Trial) -> None:
    """Declared `row_independent`: other records in the batch, or none, change nothing of a record's outputs."""
    settle(trial)
    if not trial.has("row_independent"):
        trial.skip("it does not declare `row_independent`")
    axis = int(trial.example.more.get("record_axis", 0))
    for training in (False, True):
        mode = "training" if training else "evaluation"
        module, given = double(trial, ROWS, training=training)
        other, seed = inputs(trial, ROWS, torch.float64, stream="others"), derive(trial.seed, "rows")
        random = draws(build(trial, torch.float64).train(training), given)
        if training and random:
            continue  # how many numbers it draws for one record may depend on the others (as in RReLU)
        base = _call(module, given, seed)
        for row in (0, ROWS - 1):
            with trial.case(size=ROWS, dtype="float64", mode=mode, kept=row):
                mixed = tuple(_rows(x, y, row, axis) for x, y in zip(given, other, strict=True))
                got = _call(build(trial, torch.float64).train(training), mixed, seed)
                kept = _row(row, axis)
                same(trial, f"record {row} among others", _watched(got, kept), _watched(base, kept), tolerance="T1",
                     cause="a reduction or a view over the record axis")  # fmt: skip
                trial.control("other records change their own outputs", differs(got, base))
            if not random and not training:
                with trial.case(size=1, dtype="float64", mode=mode, kept=row), trial.component("calling it with one record"):
                    alone = tuple(_row(row, axis)(x) if isinstance(x, Tensor) and x.dim() > axis else x for x in given)
                    got = _call(build(trial, torch.float64).eval(), alone, seed)
                    same(trial, f"record {row} alone", _watched(got, lambda y: y), _watched(base, kept), tolerance="T1",
                         cause="a reduction over the record axis")  # fmt: skip


def _row(row: int, axis: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.narrow(axis, row, 1) if x.dim() > axis and x.shape[axis] > row else x


def _rows(x: Any, other: Any, row: int, axis: int) -> Any:
    """The other values everywhere but in one row."""
    if not isinstance(x, Tensor) or x.dim() <= axis or x.shape[axis] != ROWS:
        return x
    mixed = other.clone()
    mixed.select(axis, row).copy_(x.select(axis, row))
    return mixed


# -- masks and time ----------------------------------------------------------------------------------------------------
@laws.law(
    "L7b",
    "mask_independence",
    priority=0,
    tolerance="T1",
    why="Padding that leaks into results makes them depend on the longest record of the batch.",
    satisfy="Apply the mask before every reduction over time, with -inf in softmax and a count of kept positions in means.",
    catches=("keras#23038", "transformers#31673", "a mean over padded positions", "a mask used upside down"),
)
def mask_independence(trial: Trial) -> None:
    """Declared `masked`: what stands at masked positions changes nothing at kept positions, nor in pooled outputs."""
    example = settle(trial)
    if not trial.has("masked"):
        trial.skip("it does not declare `masked`")
    if "mask" not in example.more:
        trial.undecided("say which input is the mask and what True means: mapsto.example(..., mask=1, mask_keeps=True)")
    index, keeps = int(example.more["mask"]), bool(example.more.get("mask_keeps", True))
    axis, time = int(example.more.get("record_axis", 0)), int(example.more.get("time_axis", 1))
    module, given = double(trial, ROWS)
    other, seed = list(inputs(trial, ROWS, torch.float64, stream="others")), derive(trial.seed, "mask")
    mask = given[index]
    kept = lengths(mask)
    stated = kept if keeps else ~kept
    arguments = [*given]
    arguments[index] = stated.to(mask.dtype)
    base = _call(module, tuple(arguments), seed)
    positions = kept if axis == 0 else kept.T

    def replaced(x: Any, y: Any, where: Tensor) -> Any:
        if not isinstance(x, Tensor) or x.dim() < 2 or (x.shape[axis], x.shape[time]) != (ROWS, kept.shape[1]):
            return x
        return torch.where(where.view(*where.shape, *[1] * (x.dim() - 2)), x, y)

    def watched(y: Tensor) -> Tensor:
        long = y.dim() > 1 and y.shape[:2] == positions.shape
        return y[positions] if long else y

    def calling(where: Tensor) -> dict[str, Any]:
        changed = [x if i == index else replaced(x, y, where) for i, (x, y) in enumerate(zip(arguments, other, strict=True))]
        return _call(build(trial, torch.float64).eval(), tuple(changed), seed)

    with trial.case(size=ROWS, dtype="float64", masked=f"lengths {kept.sum(1).tolist()}"):
        same(trial, "outputs at kept positions", _watched(calling(positions), watched), _watched(base, watched), tolerance="T1",
             cause="masked positions enter a reduction or an attention")  # fmt: skip
        trial.control(
            "kept positions change the outputs", differs(_watched(calling(~positions), watched), _watched(base, watched))
        )


def lengths(mask: Tensor) -> Tensor:
    """Kept positions of records of falling lengths: the whole, one less, ..., at least one."""
    rows, long = mask.shape
    ends = torch.tensor([max(1, long - i) for i in range(rows)])
    return torch.arange(long)[None, :] < ends[:, None]


@laws.law(
    "L7c",
    "causality",
    priority=0,
    tolerance="T1",
    why="A model that sees the future learns to copy it, and knows nothing when it has to generate.",
    satisfy="Mask attention above the diagonal, pad convolutions on the left only, take no statistics over time.",
    catches=("an off-by-one causal mask", "a convolution padded on both sides", "a mean over all of time"),
)
def causality(trial: Trial) -> None:
    """Declared `causal`: what comes after a position changes nothing up to it."""
    settle(trial)
    if not trial.has("causal"):
        trial.skip("it does not declare `causal`")
    time = int(trial.example.more.get("time_axis", 1))
    module, given = double(trial, 2)
    other, seed = inputs(trial, 2, torch.float64, stream="others"), derive(trial.seed, "causal")
    base = _call(module, given, seed)
    long = next((x.shape[time] for x in given if isinstance(x, Tensor) and x.dim() > time), 0)
    if long < 2:
        trial.undecided(
            f"its inputs have no time in axis {time}: say where, as mapsto.example(..., time_axis=1), with 3 or more steps"
        )
    for at in range(long - 1):
        with trial.case(size=2, dtype="float64", changed=f"after position {at}"):
            future = tuple(_after(x, y, at, time, long) for x, y in zip(given, other, strict=True))
            got = _call(build(trial, torch.float64).eval(), future, seed)

            def past(y: Tensor, at: int = at) -> Tensor:
                return y.narrow(time, 0, at + 1) if y.dim() > time and y.shape[time] == long else y

            same(trial, f"outputs up to position {at}", _watched(got, past), _watched(base, past), tolerance="T1",
                 cause="a later position is read")  # fmt: skip
            trial.control("the future changes itself", differs(got, base))


def _after(x: Any, other: Any, at: int, time: int, long: int) -> Any:
    if not isinstance(x, Tensor) or x.dim() <= time or x.shape[time] != long:
        return x
    return torch.cat([x.narrow(time, 0, at + 1), other.narrow(time, at + 1, long - at - 1)], time)


# -- vmap --------------------------------------------------------------------------------------------------------------
STACK = 3


@laws.law(
    "L12",
    "vmap",
    priority=1,
    tolerance="T1",
    why="Ensembles, Jacobians and per-sample gradients run a layer under torch.func.vmap.",
    satisfy="Branch on no value of a tensor, call no .item(), give a custom autograd.Function generate_vmap_rule = True.",
    catches=("a custom autograd.Function without a vmap rule", "a data-dependent branch"),
)
def vmapped(trial: Trial) -> None:
    """Under vmap over a stack of inputs, in evaluation, outputs equal those of a loop."""
    module, given = double(trial)
    if draws(build(trial, torch.float64).eval(), given):
        trial.skip("it draws random numbers in evaluation, and vmap draws them in another order than a loop")
    stack = [inputs(trial, 2, torch.float64, stream=f"item {i}") for i in range(STACK)]
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def run(*given: Any) -> dict[str, Any]:
        made = leaves(torch.func.functional_call(module, state, given))
        return {k: y for k, y in made.items() if isinstance(y, Tensor)}

    _compare(trial, "outputs under vmap", run, stack, "evaluation")


@laws.law(
    "L12b",
    "per_sample_gradients",
    priority=1,
    tolerance="T1",
    why="Differential privacy and influence functions need the gradient of each sample: vmap of grad.",
    satisfy="Write no buffer from the batch in training (use GroupNorm, or batch normalisation without running statistics).",
    catches=("pytorch/functorch#505", "statistics updated in place under vmap"),
)
def per_sample_gradients(trial: Trial) -> None:
    """In training, gradients of each item of a stack under vmap equal those of a loop."""
    module, given = double(trial, training=True)
    if draws(build(trial, torch.float64).train(), given):
        module.eval()
    stack = [inputs(trial, 2, torch.float64, stream=f"item {i}") for i in range(STACK)]
    parameters = {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}
    if not parameters:
        trial.skip("it has no parameters")
    rest = {**{n: p for n, p in module.named_parameters() if not p.requires_grad}, **dict(module.named_buffers())}

    def total(weights: dict[str, Tensor], given: tuple[Any, ...]) -> Tensor:
        outputs = with_gradient(
            torch.func.functional_call(module, {**{k: b.clone() for k, b in rest.items()}, **weights}, given)
        )
        drawn = cotangents(outputs, trial.seed)
        return sum(
            ((y * g).real.sum() for y, g in zip(outputs.values(), drawn, strict=True)), torch.zeros((), dtype=torch.float64)
        )

    def run(*given: Any) -> dict[str, Any]:
        found: dict[str, Any] = torch.func.grad(total)(parameters, given)
        return found

    _compare(trial, "gradients of each sample", run, stack, "training" if module.training else "evaluation")


def _compare(trial: Trial, what: str, run: Callable[..., dict[str, Any]], stack: list[tuple[Any, ...]], mode: str) -> None:
    with trial.case(size=STACK, dtype="float64", mode=mode):
        with trial.component("the loop that vmap is compared with"):
            loop = [run(*item) for item in stack]
        if not loop[0]:
            trial.skip("it gives no tensors")
        together, axes = _stacked(stack)
        if not any(a == 0 for a in leaves(axes).values()):
            trial.skip("it takes no tensors")
        with trial.component("calling it under vmap"):
            got = torch.func.vmap(run, in_dims=axes, randomness="same")(*together)
        want = {k: torch.stack([item[k] for item in loop]) for k in loop[0]}
        same(trial, what, got, want, tolerance="T1", cause="items of the stack are mixed, or another operation is taken")
        trial.control("items differ", any(differs(loop[0], item) for item in loop[1:]))


def _stacked(stack: list[tuple[Any, ...]]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    def join(items: list[Any]) -> tuple[Any, Any]:
        one = items[0]
        if isinstance(one, Tensor):
            return torch.stack(items), 0
        if type(one) in (tuple, list):
            pairs = [join([i[k] for i in items]) for k in range(len(one))]
            return type(one)(p[0] for p in pairs), type(one)(p[1] for p in pairs)
        return one, None

    pairs = [join([item[k] for item in stack]) for k in range(len(stack[0]))]
    return tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)
