"""The driver of optimizers: how one is built, the problem of the laws as tensors, and a run over its steps."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...core.laws import Example, Subject, Trial
from ...core.random import derive
from ...formulas import optimizers
from ...laws import optimizer_problem
from ...laws.compare import Array, values
from ...laws.discovery import Held, settled
from ...laws.optimizer_problem import MATRICES, SHAPES
from ..laws.compare import arrays, leaves
from ..optimizers import sgd
from .saved import as_bytes, from_bytes

MODES = (frozenset[str](), frozenset({"needs_closure"}), frozenset({"sparse_only"}), frozenset({"needs_graph"}))
OWN: dict[str, frozenset[str]] = {
    "LBFGS": frozenset({"needs_closure", "across_parameters", "one_group"}),
    "SparseAdam": frozenset({"sparse_only", "sparse"}),
    **dict.fromkeys(("SGD", "Adagrad"), frozenset({"complex", "sparse"})),
    **dict.fromkeys(
        ("Adam", "AdamW", "Adadelta", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop"), frozenset({"complex"})
    ),
}
"""What the documentation of the framework's own optimizers says of them."""
LIMITS: dict[str, dict[str, str]] = {
    "NAdam": dict.fromkeys(
        ("optimizer.resume", "optimizer.resume_low_precision"),
        "load_state_dict casts mu_product, kept in float32, to the parameter's dtype (pytorch#43706); restore_optimizer "
        "keeps it",
    ),
    "ASGD": {
        **dict.fromkeys(("optimizer.formula", "optimizer.kernels"), "eta is kept in float32 beside float64 parameters"),
        **dict.fromkeys(
            ("optimizer.resume", "optimizer.resume_low_precision"),
            "load_state_dict casts eta and mu, kept in float32, to the parameter's dtype (pytorch#43706); restore_optimizer "
            "keeps them",
        ),
    },
    "Adafactor": {
        "optimizer.missing_gradients": "a parameter of size zero raises ZeroDivisionError",
        "optimizer.sharded": "its in-place powers of a norm are refused by DTensor",
    },
    "Muon": {"optimizer.sharded": "it orthogonalises in bfloat16, where sums over shards round differently"},
    "LBFGS": {"optimizer.missing_gradients": "a gradient that is None counts as zero in the one vector of all parameters"},
    "Rprop": {
        "optimizer.groups": "step sizes are not less than step_sizes[0] (1e-6), whatever lr is, as documented",
        "optimizer.sharded": "its in-place selection by sign is refused by DTensor",
    },
}
"""Laws that the framework's own optimizers are known to break, with the reason; an unexpected pass fails."""
FUSED_MOMENTUM = dict.fromkeys(
    ("optimizer.missing_gradients", "optimizer.loss_scaling"),
    "the framework's fused kernel differs from its loop: with momentum it takes no parameter that gets its first gradient "
    "after others, and a skipped first step leaves it a momentum that nothing filled (fused=False does neither)",
)
"""Laws that SGD breaks where its fused kernel is asked for, with momentum."""
FORMULAS: dict[str, optimizers.Formula] = {
    "SGD": optimizers.sgd, "Adam": optimizers.adam, "AdamW": optimizers.adamw, "Adamax": optimizers.adamax,
    "NAdam": optimizers.nadam, "RAdam": optimizers.radam, "Adagrad": optimizers.adagrad, "Adadelta": optimizers.adadelta,
    "RMSprop": optimizers.rmsprop, "Rprop": optimizers.rprop, "ASGD": optimizers.asgd, "Adafactor": optimizers.adafactor,
}  # fmt: skip
"""What the framework's own compute."""

VARIANTS: dict[str, tuple[Mapping[str, Any], ...]] = {
    "SGD": ({"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "dampening": 0.3}, {"weight_decay": 0.1},
            {"maximize": True}),
    "Adam": ({"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True}),
    "AdamW": ({"weight_decay": 0.3}, {"amsgrad": True}, {"maximize": True}),
    "Adamax": ({"weight_decay": 0.1}, {"maximize": True}),
    "NAdam": ({"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}, {"maximize": True}),
    "RAdam": ({"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}, {"maximize": True}),
    "Adagrad": ({"weight_decay": 0.1}, {"lr_decay": 0.2}, {"initial_accumulator_value": 0.5}, {"maximize": True}),
    "Adadelta": ({"weight_decay": 0.1}, {"lr": 0.5}, {"maximize": True}),
    "RMSprop": ({"weight_decay": 0.1}, {"centered": True}, {"momentum": 0.9},
                {"centered": True, "momentum": 0.5}, {"maximize": True}),
    "Rprop": ({"etas": (0.3, 1.5)}, {"maximize": True}),
    "ASGD": ({"weight_decay": 0.1}, {"lambd": 0.1, "alpha": 0.5}, {"maximize": True}),
    "Adafactor": ({"weight_decay": 0.1}, {"d": 3.0}, {"maximize": True}),
}  # fmt: skip
"""Options with which the framework's own are checked as well."""
_FOUND: Held = {}

Params = Iterable[Any]


def complete(subject: Subject) -> Subject:
    """The subject with its driver and known limits; an instance, bound to its parameters, becomes its class and defaults."""
    subject = replace(subject, driver=DRIVER)
    if subject.make is None:
        said = subject.example
        if subject.target in (torch.optim.SGD, sgd) and said.args.get("fused") and said.args.get("momentum"):
            subject = replace(subject, example=replace(said, expect={**FUSED_MOMENTUM, **said.expect}))
        if not _own(subject.target):
            return subject
        name, more = subject.target.__name__, dict(subject.example.more)
        if "formula" not in more and name in FORMULAS:
            more |= {"formula": FORMULAS[name], "variants": (*VARIANTS[name], *more.get("variants", ()))}
        known = {**LIMITS.get(name, {}), **subject.example.expect}
        return replace(subject, example=replace(subject.example, expect=known, more=more))
    made, takes = subject.target, inspect.signature(type(subject.target)).parameters
    args = {k: v for k, v in made.defaults.items() if k in takes} | dict(subject.example.args)
    return complete(replace(subject, target=type(made), make=None, example=replace(subject.example, args=args)))


def _own(target: Any) -> bool:
    """Whether it is one of the framework's own classes."""
    return inspect.isclass(target) and target.__module__.startswith("torch.optim")


@dataclass(frozen=True)
class Problem(optimizer_problem.Problem):
    """The problem of the laws as tensors of a dtype."""

    dtype: torch.dtype = torch.float64

    def parameters(self) -> list[nn.Parameter]:
        """Fresh parameters, the same ones each time."""
        return [nn.Parameter(torch.from_numpy(values).to(self.dtype)) for values in self.start()]

    def gradient_of(self, t: int, i: int, parameter: Tensor) -> Tensor:
        """a_t p + b_t."""
        a, b = self._tensors(t, i)
        return a * parameter.detach() + b

    def loss(self, t: int, parameters: Sequence[Tensor], without: Sequence[int] = ()) -> Tensor:
        """f_t, differentiable."""
        total = torch.zeros((), dtype=self.dtype)
        for i in range(len(self.shapes)):
            if i not in without:
                a, b = self._tensors(t, i)
                total = total + (a * parameters[i] * parameters[i] / 2 + b * parameters[i]).sum()
        return total

    def _tensors(self, t: int, i: int) -> tuple[Tensor, Tensor]:
        a, b = self.coefficients(t, i)
        return torch.as_tensor(a).to(self.dtype), torch.as_tensor(b).to(self.dtype)


def settle(trial: Trial) -> Example:
    """The example completed with what was found by trying: tags and shapes; `more["unfound"]` where nothing works."""
    return settled(trial, _discover, _FOUND)


def _discover(subject: Subject) -> Example:
    stated, target = subject.example, subject.target
    tags = stated.tags | (OWN.get(target.__name__, frozenset()) if _own(target) else frozenset())
    shapes = [tuple(stated.more["shapes"])] if "shapes" in stated.more else [SHAPES, MATRICES]
    modes = [tags] if tags & {"needs_closure", "sparse_only", "needs_graph"} else [tags | mode for mode in MODES]
    rates: list[dict[str, Any]] = [{}] if "lr" in stated.args else [{}, {"lr": 1e-2}]
    problems: list[str] = []
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for some in shapes:
            for mode in modes:
                for rate in rates:
                    args = {**stated.args, **rate}
                    failed = _fails(target, args, Problem(0, some, mode))
                    if failed is None:
                        said = _said(mode - stated.tags, some, rate)
                        more = {**stated.more, "settled": True, "shapes": some, **({"found": said} if said else {})}
                        return replace(stated, args=args, tags=mode, more=more)
                    problems.append(failed)
    return replace(stated, tags=tags, more={**stated.more, "settled": True, "unfound": problems[0]})


def _fails(target: Any, args: Mapping[str, Any], problem: Problem) -> str | None:
    parameters = problem.parameters()
    try:
        optimizer = made(target, parameters, args)
        for t in range(2):
            advance(problem, optimizer, parameters, t)
    except Exception as error:  # noqa: BLE001  # a guess that did not fit
        return f"{type(error).__name__}: {str(error)[:200]}"
    if not isinstance(getattr(optimizer, "param_groups", None), list):
        return f"it made a {type(optimizer).__name__} without param_groups"
    return None if all(bool(p.isfinite().all()) for p in parameters) else "its parameters are no numbers after two steps"


def _said(tags: frozenset[str], shapes: tuple[tuple[int, ...], ...], rate: Mapping[str, Any]) -> str:
    parts = [f"tags {', '.join(sorted(tags))}"] if tags else []
    parts += ["matrices alone"] if shapes == MATRICES else []
    parts += [f"lr={rate['lr']}"] if rate else []
    return f"example found: {'; '.join(parts)}" if parts else ""


def problem_for(trial: Trial, dtype: torch.dtype = torch.float64) -> Problem:
    """The quadratic of a trial in a dtype."""
    example = settle(trial)
    if (unfound := example.more.get("unfound")) is not None:
        name = trial.subject.label.rpartition(":")[2].rpartition("/")[2]
        trial.undecided(
            f"it could not be built and stepped ({unfound}); write beside it\n  mapsto.example({name}, args={{'lr': 0.01}}, "
            "shapes=((4, 3), (5,)), tags={...})  # tags: needs_closure, sparse_only, needs_graph"
        )
    return Problem(derive(trial.seed, "problem"), tuple(tuple(s) for s in example.more["shapes"]), example.tags, dtype)


def build(trial: Trial, parameters: Params, **override: Any) -> Any:
    """A fresh optimizer of the parameters (or groups)."""
    settle(trial)
    torch.manual_seed(derive(trial.seed, "build") % (1 << 63))
    with trial.component("building it"):
        return made(trial.subject.target, parameters, {**trial.example.args, **override})


def made(target: Any, parameters: Params, args: Mapping[str, Any]) -> Any:
    """An optimizer that trains: rules that hold an average have modes, as modules do."""
    optimizer = target(parameters, **args)
    if callable(train := getattr(optimizer, "train", None)):
        train()
    return optimizer


def fill(problem: Problem, parameters: Sequence[Tensor], t: int, without: Sequence[int] = ()) -> None:
    """Put the gradients of step t into .grad; None for those that are left out."""
    for i, parameter in enumerate(parameters):
        if i in without:
            parameter.grad = None
        else:
            grad = problem.gradient_of(t, i, parameter) if i < len(problem.shapes) else torch.zeros_like(parameter)
            parameter.grad = _sparse(grad) if "sparse_only" in problem.tags else grad


def _sparse(grad: Tensor) -> Tensor:
    return grad.to_sparse(1) if grad.dim() else grad


def seed(problem: Problem, t: int) -> None:
    """The random numbers of step t: whatever optimizer draws in it draws the same."""
    torch.manual_seed(derive(problem.seed, "step", t) % (1 << 63))


def advance(problem: Problem, optimizer: Any, parameters: Sequence[Tensor], t: int, without: Sequence[int] = ()) -> Any:
    """The gradients of step t and one update; random numbers are those of step t."""
    seed(problem, t)
    if problem.tags & {"needs_closure", "needs_graph"}:

        def closure() -> Tensor:
            for parameter in parameters:
                parameter.grad = None
            loss = problem.loss(t, parameters, without)
            torch.autograd.backward(loss, create_graph="needs_graph" in problem.tags)
            return loss

        if "needs_closure" in problem.tags:
            return optimizer.step(closure)
        closure()
        return optimizer.step()
    fill(problem, parameters, t, without)
    return optimizer.step()


def run(
    problem: Problem,
    optimizer: Any,
    parameters: Sequence[Tensor],
    start: int,
    stop: int,
    after: Callable[[int], None] | None = None,
) -> None:
    """Take the steps numbered start, ..., stop - 1 of the problem."""
    for t in range(start, stop):
        advance(problem, optimizer, parameters, t)
        if after is not None:
            after(t)


def weights(parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """Copies of the parameters by number."""
    return {f"parameter {i}": p.detach().clone() for i, p in enumerate(parameters)}


def state(optimizer: Any) -> dict[str, Any]:
    """Copies of all state by path, without the numbers of parameters in groups."""
    tree = copy.deepcopy(optimizer.state_dict())
    for group in tree.get("param_groups", []):
        group.pop("params", None)
    return leaves(plain(tree))


def plain(tree: Any) -> Any:
    """The tree with queues as lists and objects that hold tensors (preconditioners, projectors) as dicts of what they hold."""
    if isinstance(tree, Mapping):
        return {k: plain(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple, deque)):
        return [plain(v) for v in tree]
    if isinstance(tree, Tensor) or not hasattr(tree, "__dict__") or callable(tree):
        return tree
    return plain(vars(tree))


def has_state(optimizer: Any) -> bool:
    """Whether anything is kept between steps."""
    tree = optimizer.state_dict().get("state", {})
    return any(v is not None for v in leaves(tree).values() if not isinstance(v, Mapping)) if tree else False


def options(optimizer: Any) -> dict[str, Any]:
    """The options of the first group."""
    return {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}


# -- for the laws of every wing ----------------------------------------------------------------------------------------
@dataclass
class Driven:
    """An optimizer and all parameters of a problem (`mapsto.laws.drivers.Optimizer`)."""

    problem: Problem
    parameter_list: list[nn.Parameter]
    optimizer: Any

    def parameters(self) -> list[Any]:
        return [arrays(p.detach().clone()) for p in self.parameter_list]

    def options(self) -> dict[str, Any]:
        return options(self.optimizer)

    def set_rate(self, change: Callable[[float], float], *, first: bool = False) -> None:
        for group in self.optimizer.param_groups[: 1 if first else None]:
            if isinstance(group.get("lr"), float):
                group["lr"] = change(group["lr"])

    def update(self, t: int, without: Sequence[int] = ()) -> None:
        advance(self.problem, self.optimizer, self.parameter_list, t, without)

    def update_with(self, gradients: Sequence[Array]) -> None:
        for parameter, gradient in zip(self.parameter_list, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient).to(parameter.dtype)
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = arrays(state(self.optimizer))
        return found

    def state_of(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = arrays(plain(copy.deepcopy(dict(self.optimizer.state.get(self.parameter_list[number], {})))))
        return found

    def has_state(self) -> bool:
        return has_state(self.optimizer)

    def save(self) -> bytes:
        return as_bytes(self.optimizer.state_dict())

    def load(self, saved: bytes) -> None:
        self.optimizer.load_state_dict(from_bytes(saved))


class Driver:
    """Optimizers as the laws see them (`mapsto.laws.drivers.OptimizerDriver`)."""

    def problem(self, trial: Trial) -> Problem:
        return problem_for(trial)

    def build(
        self,
        trial: Trial,
        *,
        dtype: str = "float64",
        parameters: Sequence[Any] | None = None,
        groups: Sequence[tuple[Sequence[int], Mapping[str, Any]]] | None = None,
        **options: Any,
    ) -> Driven:
        problem = problem_for(trial, getattr(torch, dtype))
        start = problem.start() if parameters is None else parameters
        parameter_list = [nn.Parameter(torch.from_numpy(values(p).copy()).to(problem.dtype)) for p in start]
        given = (
            parameter_list
            if groups is None
            else [{"params": [parameter_list[i] for i in numbers], **own} for numbers, own in groups]
        )
        return Driven(problem, parameter_list, build(trial, given, **options))


DRIVER = Driver()
