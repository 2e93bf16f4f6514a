"""The driver of losses: how one is built and fed, what it returns, what its mean divides by; found by trying if not stated."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.calls import fresh
from ...core.errors import LossError
from ...core.laws import Example, Subject, Trial
from ...core.random import derive
from ...laws.compare import Array
from ...laws.discovery import Held, settled
from ...laws.drivers import LossValue
from ..laws.compare import arrays
from ..losses import mean_of, stated
from .casts import Casts
from .layer_examples import in_dtype
from .layer_guess import Unguessable, guess, required
from .layer_passes import differentiable
from .loss_inputs import FAMILIES, Family, likely
from .recipe import loss_inputs

Call = Callable[..., Any]


@dataclass(frozen=True)
class Known:
    """A loss of the framework: the family of its inputs, arguments, what its mean divides by (or, where none, its mean)."""

    family: str
    weight: str = "elements"
    args: Mapping[str, Any] = field(default_factory=dict)
    mean: Callable[..., Tensor] | None = None


def _ctc_mean(losses: Tensor, given: tuple[Any, ...]) -> Tensor:
    """The mean of a CTC loss divides each record's by the length of its labels, then by the records."""
    lengths: Tensor = given[3]
    return (losses / lengths.clamp(min=1)).mean()


KNOWN: dict[str, Known] = {
    "BCELoss": Known("probabilities"), "BCEWithLogitsLoss": Known("binary"), "L1Loss": Known("pairs"),
    "MSELoss": Known("pairs"),
    "HuberLoss": Known("pairs"), "SmoothL1Loss": Known("pairs"), "PoissonNLLLoss": Known("counts"),
    "KLDivLoss": Known("distributions"),
    "SoftMarginLoss": Known("signs"), "HingeEmbeddingLoss": Known("distances"), "GaussianNLLLoss": Known("gaussians"),
    "CrossEntropyLoss": Known("classes", "targets"), "NLLLoss": Known("log classes", "targets"),
    "LinearCrossEntropyLoss": Known("features", "targets", {"in_features": 4, "num_classes": 5}),
    "MultiLabelMarginLoss": Known("sets", "records"), "MultiLabelSoftMarginLoss": Known("many labels", "records"),
    "MultiMarginLoss": Known("classes", "records"), "CosineEmbeddingLoss": Known("embedding pairs", "records"),
    "MarginRankingLoss": Known("ranks", "records"), "TripletMarginLoss": Known("triplets", "records"),
    "TripletMarginWithDistanceLoss": Known("triplets", "records"),
    "CTCLoss": Known("alignments", mean=_ctc_mean),
    "mean_of": Known("classes", args={"loss": F.cross_entropy, "weight": "targets"}),
}  # fmt: skip
"""The framework's own losses, and ours that takes another."""
_FOUND: Held = {}


def complete(subject: Subject) -> Subject:
    """The subject with its driver; what is missing of its example is found by `settle`, in the first trial that needs it."""
    return replace(subject, driver=DRIVER)


def _known(target: Any) -> Known | None:
    kind = target if inspect.isclass(target) else type(target)
    own = kind.__module__.startswith(("torch.nn", "mapsto.torch.losses"))
    return KNOWN.get(kind.__name__) if own else None


def settle(trial: Trial) -> Example:
    """The example completed with inputs, their form and arguments that were found by trying."""
    return settled(trial, _discover, _FOUND)


def _discover(subject: Subject) -> Example:
    stated, known = subject.example, _known(subject.target)
    defaults: dict[str, Any] = {"settled": True, "fixed": (1,), "axes": (0,) * 8, "domain": "real"}
    args = dict(stated.args)
    if known is not None:
        args = {**known.args, **args}
        defaults["known_weight"] = known.weight
        if known.mean is not None:
            defaults |= {"mean": known.mean, "known_weight": None}
    if stated.inputs is not None:
        return replace(stated, args=args, more={**defaults, **stated.more})
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            missing = required(subject.target) if inspect.isclass(subject.target) else {}
            args |= {n: guess(n, p.annotation) for n, p in missing.items() if n not in args}
            call = make(subject, args)
            families = [FAMILIES[known.family]] if known is not None else likely(_name(subject), _arity(call))
            family = next((f for f in chain(_of_recipe(subject), families) if _works(subject, args, f)), None)
        except Unguessable as unknown:
            return replace(
                stated, more={**defaults, **stated.more, "unfound": f"its argument `{unknown}` could not be guessed"}
            )
        except Exception as error:  # noqa: BLE001  # a guess that did not fit
            return replace(
                stated, more={**defaults, **stated.more, "unfound": f"building it raised {type(error).__name__}: {error}"}
            )
    if family is None:
        return replace(stated, args=args, more={**defaults, **stated.more, "unfound": "its inputs could not be guessed"})
    more = {
        **defaults,
        "fixed": family.fixed,
        "axes": family.axes,
        "domain": family.domain,
        "found": f"example found: {family.said}",
    }
    return replace(stated, args=args, inputs=family.make, more={**more, **stated.more})


def _of_recipe(subject: Subject) -> Iterator[Family]:
    """What the task of its recipe gives the loss, where it stands in one and its inputs are of records."""
    if subject.spec is None:
        return
    try:
        make, fixed = loss_inputs(subject.spec, subject.label)
        given = make(64, torch.Generator().manual_seed(0))
    except Exception:  # noqa: BLE001  # the laws of the recipe's other parts say what is wrong with them
        return
    if all(isinstance(x, Tensor) and x.dim() and len(x) == 64 for x in given):
        output = next((x for i, x in enumerate(given) if i not in fixed), None)
        yield Family("as the recipe's task gives them", make, fixed, _domain(output))


def _domain(output: Tensor | None) -> str:
    """Where predictions live, as far as 64 records tell."""
    if output is None or bool((output < 0).any() & (output > 0).any()):
        return "real"
    if bool((output >= 0).all()):
        return "probability" if bool((output <= 1).all()) else "positive"
    sums = output.exp().sum(-1)
    return "log_probability" if torch.allclose(sums, torch.ones_like(sums), atol=1e-3) else "real"


def _name(subject: Subject) -> str:
    target = subject.target
    return str(getattr(target, "__name__", type(target).__name__))


def _arity(call: Call) -> int:
    """How many inputs it takes by position, without a default."""
    function = call.forward if isinstance(call, nn.Module) else call
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


def _works(subject: Subject, args: Mapping[str, Any], family: Family) -> bool:
    """Whether inputs of several sizes give a finite loss with a gradient."""
    for size in (3, 4):
        try:
            given, leaves = differentiable(family.make(size, torch.Generator().manual_seed(size)), family.fixed)
            result = make(subject, args)(*given)
            total = torch.as_tensor(result[0] if isinstance(result, tuple) else result).sum()
            if not bool(total.isfinite()) or not total.is_floating_point():
                return False
            grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
            if not any(g is not None and bool(g.isfinite().all()) and bool(g.any()) for g in grads):
                return False
        except Exception:  # noqa: BLE001  # not its inputs
            return False
    return True


def make(subject: Subject, args: Mapping[str, Any]) -> Call:
    """The loss as a function of its inputs: an instance of a class, a copy of an instance, or the function with options."""
    target: Any = subject.target
    if inspect.isroutine(target):
        return functools.partial(target, **fresh(args))
    if inspect.isclass(target):
        made: Call = subject.target(**fresh(args))
        return made
    instance: Any = copy.deepcopy(target)
    for name, value in args.items():
        if not hasattr(instance, name):
            raise TypeError(f"{type(instance).__name__} has no {name!r}")
        setattr(instance, name, value)
    built: Call = instance
    return built


# -- in a trial --------------------------------------------------------------------------------------------------------
def build(trial: Trial, dtype: torch.dtype = torch.float64, **override: Any) -> Call:
    """A fresh loss, the same one each time."""
    example = settle(trial)
    torch.manual_seed(derive(trial.seed, "build") % (1 << 63))
    if trial.example.more.get("unfound"):
        _ask(trial)
    with trial.component("building it"):
        call = make(trial.subject, {**example.args, **override})
    return call.to(dtype) if isinstance(call, nn.Module) else call


def _ask(trial: Trial) -> None:
    name = trial.subject.label.rpartition(":")[2].rpartition("/")[2]
    trial.undecided(
        f"{trial.example.more['unfound']}; write beside it\n  mapsto.example(\n      {name},\n"
        "      inputs=lambda size, generator: (torch.randn(size, 5, generator=generator), torch.randint(5, (size,), "
        "generator=generator)),\n      fixed=(1,),  # which inputs are targets\n  )"
    )


def inputs(
    trial: Trial, size: int, dtype: torch.dtype = torch.float64, stream: str = "inputs", make: Call | None = None
) -> tuple[Any, ...]:
    """Inputs of `size` records from the trial's seed."""
    maker = make or settle(trial).inputs
    if maker is None:
        _ask(trial)
    assert maker is not None
    made = maker(size, torch.Generator().manual_seed(derive(trial.seed, stream, size)))
    return tuple(in_dtype(x, dtype) for x in (made if isinstance(made, tuple) else (made,)))


def form(result: Any) -> Literal["weighted", "unreduced", "scalar"]:
    """`weighted` (total, weight), `unreduced`, or `scalar`. Raises LossError for anything else."""
    if type(result) is tuple and len(result) == 2 and isinstance(result[0], Tensor) and result[0].dim() == 0:
        return "weighted"
    if isinstance(result, Tensor):
        return "unreduced" if result.dim() else "scalar"
    raise LossError(f"it returned a {type(result).__name__}, and (total, weight), unreduced losses or a scalar are due")


class Driver:
    """Losses as the laws see them (`mapsto.laws.drivers.LossDriver`)."""

    def settle(self, trial: Trial) -> Example:
        return settle(trial)

    def build(self, trial: Trial, dtype: str = "float64", **options: Any) -> Call:
        return build(trial, getattr(torch, dtype), **options)

    def inputs(
        self, trial: Trial, size: int, *, stream: str = "inputs", dtype: str = "float64", make: Call | None = None
    ) -> tuple[Any, ...]:
        made = inputs(trial, size, getattr(torch, dtype), stream, make)
        return tuple(arrays(made))

    def look(
        self,
        trial: Trial,
        loss: Call,
        given: tuple[Any, ...],
        dtype: str = "float64",
        *,
        parameters: Mapping[str, Array] | None = None,
    ) -> LossValue:
        """One evaluation with gradients of predictions and of the loss's own parameters."""
        if parameters and isinstance(loss, nn.Module):
            loss = copy.deepcopy(loss)
            loss.load_state_dict({n: self.native(x) for n, x in parameters.items()}, strict=False)
        torch.manual_seed(derive(trial.seed, "pass") % (1 << 63))
        native = tuple(in_dtype(self.native(x), getattr(torch, dtype)) for x in given)
        arguments, wrt = differentiable(native, tuple(trial.example.more["fixed"]))
        if isinstance(loss, nn.Module):
            wrt |= {f"parameter {n}": p for n, p in loss.named_parameters() if p.requires_grad}
        with Casts() as casts:
            result = loss(*arguments)
        trial.single = trial.single or casts.seen
        kind = form(result)
        total = result[0] if kind == "weighted" else result.sum()
        weight = float(result[1]) if kind == "weighted" else None
        found = torch.autograd.grad(total, list(wrt.values()), allow_unused=True) if total.requires_grad and wrt else None
        pairs = zip(wrt.items(), found or [None] * len(wrt), strict=True)
        gradients = {k: torch.zeros_like(x) if g is None else g for (k, x), g in pairs}
        losses = arrays(result) if kind == "unreduced" else None
        return LossValue(kind, arrays(total), weight, arrays(gradients), losses)

    def parameters(self, loss: Call) -> dict[str, Array]:
        named = loss.named_parameters() if isinstance(loss, nn.Module) else ()
        return {n: arrays(p.detach().clone()) for n, p in named if p.requires_grad}

    def weighed(self, loss: Call, weight: Any = None) -> Call:
        return _Weighed(loss, weight) if weight is not None else _several(loss)

    def native(self, array: Any) -> Any:
        return torch.from_numpy(array.copy()) if isinstance(array, np.ndarray) else array

    def no_kernel(self, error: Exception) -> bool:
        return "not implemented for" in str(error) or "expected scalar type" in str(error)


DRIVER = Driver()


def _several(call: Call) -> Call:
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

    def __init__(self, call: Call, weight: Any) -> None:
        self.call, self.weight = call, weight

    def __call__(self, prediction: Any, *rest: Any) -> Any:
        index = getattr(self.call, "ignore_index", -100)
        wrapped = mean_of(lambda first, _: self.call(first, *rest), self.weight, ignore_index=index)
        return wrapped(prediction, rest[0] if rest else None)
