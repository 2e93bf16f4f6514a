"""Examples of operators: what is called, with which tensors, and which of them it says it writes to.

An operator is what `torch.library.custom_op` gives, an overload of `torch.ops`, or a plain function (of tensors), such as one
around an autograd.Function. `args` of its example are keyword arguments, `inputs` the positional ones.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.laws import Subject, Trial
from ...core.random import derive
from ..laws.compare import leaves
from .layer_examples import in_dtype

GUESSES: Mapping[str, Any] = {"float": 0.5, "int": 1, "bool": False, "number": 0.5, "str": "", "Scalar": 0.5, "SymInt": 1}
WIDTH = 4


def complete(subject: Subject) -> Subject:
    """The subject as it is: inputs that its author did not state are made from its schema inside a trial."""
    return subject


@dataclass(frozen=True)
class Operator:
    """`call(*inputs)`; `registered` is the overload, None for a plain function; `mutated` are the positions it writes to."""

    call: Callable[..., Any]
    registered: Any
    options: Mapping[str, Any]
    mutated: tuple[int, ...]


def operator(trial: Trial) -> Operator:
    """The operator that a trial judges, be its subject an overload, a packet of them or a function."""
    target, options = trial.subject.target, dict(trial.example.args)
    registered = getattr(target, "_opoverload", target if isinstance(target, torch._ops.OpOverload) else None)
    if isinstance(target, torch._ops.OpOverloadPacket):
        names = list(target.overloads())  # type: ignore[no-untyped-call]
        if len(names) != 1:
            trial.undecided(f"{target} has the overloads {', '.join(names)}: check one of them, such as {target}.{names[0]}")
        registered = getattr(target, names[0])
    mutated: tuple[int, ...] = tuple(trial.example.more.get("mutates", ()))
    if registered is not None:
        arguments = registered._schema.arguments
        mutated = tuple(i for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write)
    return Operator(functools.partial(target, **options), registered, options, mutated)


def arguments(trial: Trial, size: int, dtype: torch.dtype = torch.float32, stream: str = "inputs") -> tuple[Any, ...]:
    """Inputs of `size` records from the trial's seed, floating ones in the dtype; guessed from the schema where not stated."""
    make = trial.example.inputs or _guessed(trial)
    generator = torch.Generator().manual_seed(derive(trial.seed, stream, size))
    with trial.component(f"making inputs of size {size}"):
        made = make(size, generator)
    return tuple(in_dtype(x, dtype) for x in (made if isinstance(made, tuple) else (made,)))


def _guessed(trial: Trial) -> Callable[[int, torch.Generator], tuple[Any, ...]]:
    kinds = _types(operator(trial))
    if kinds is None or not any(k.startswith("Tensor") for k in kinds):
        trial.undecided(_what_to_write(trial, "its inputs could not be guessed"))

    def make(size: int, generator: torch.Generator) -> tuple[Any, ...]:
        def tensor() -> Tensor:
            return torch.randn(size, WIDTH, generator=generator)

        return tuple(
            tensor()
            if k == "Tensor"
            else [tensor(), tensor()]
            if k.startswith(("Tensor[]", "List[Tensor]"))
            else GUESSES.get(k)
            for k in kinds
        )

    try:
        operator(trial).call(*make(2, torch.Generator().manual_seed(0)))
    except Exception as error:  # noqa: BLE001  # a guess that did not fit
        said = (
            f"called with {', '.join(kinds)}, tensors of [size, {WIDTH}], it raised {type(error).__name__}: {str(error)[:200]}"
        )
        trial.undecided(_what_to_write(trial, said))
    return make


def _types(op: Operator) -> list[str] | None:
    """The types of positional arguments without a default, as a schema writes them."""
    if op.registered is not None:
        return [str(a.type) for a in op.registered._schema.arguments
                if not a.has_default_value() and not a.kwarg_only and a.name not in op.options]  # fmt: skip
    try:
        parameters = inspect.signature(op.call).parameters.values()
    except (TypeError, ValueError):
        return None
    asked = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    texts = [p.annotation if isinstance(p.annotation, str) else getattr(p.annotation, "__name__", "") for p in asked]
    return ["Tensor" if t.rpartition(".")[2] in ("Tensor", "", "_empty", "Any") else t for t in texts]


def _what_to_write(trial: Trial, problem: str) -> str:
    name = trial.subject.label.rpartition(":")[2].rpartition("/")[2]
    return (
        f"{problem}; write beside it\n  mapsto.example(\n      {name},\n"
        "      inputs=lambda size, generator: (torch.randn(size, 4, generator=generator),),  # its positional arguments\n  )"
    )


# -- calling it --------------------------------------------------------------------------------------------------------
def called(trial: Trial, op: Operator, given: tuple[Any, ...]) -> dict[str, Any]:
    """The outputs, and what it left in the inputs that it says it writes to; started from the trial's seed."""
    torch.manual_seed(derive(trial.seed, "call") % (1 << 63))
    made = op.call(*given)
    seen = {k if k == "output" else f"output {k}": _kept(y) for k, y in leaves(made).items() if y is not None}
    return seen | {f"input {i}": _kept(given[i]) for i in op.mutated}


def _kept(y: Any) -> Any:
    return y.detach().clone() if isinstance(y, Tensor) else y


def single(trial: Trial) -> bool:
    """Whether it declares that it runs in single precision only."""
    return trial.has("single_precision")


def not_differentiable(trial: Trial, op: Operator) -> str | None:
    """Why its gradient is no matter: it writes to inputs, takes or gives no floating tensors, or registers no backward."""
    if trial.has("not_differentiable"):
        return "it declares that it is not differentiable"
    if op.mutated:
        return "it writes to its inputs"
    given = arguments(trial, 2, torch.float32 if single(trial) else torch.float64)
    floating = [x.requires_grad_() for x in leaves(given).values() if isinstance(x, Tensor) and x.is_floating_point()]
    if not floating:
        return "it takes no floating tensors"
    with trial.component("calling it"):
        made = [y for y in leaves(op.call(*given)).values() if isinstance(y, Tensor) and y.requires_grad]
    if not made:
        return "nothing of what it gives depends on its inputs differentiably"
    try:
        torch.autograd.grad([y.sum() for y in made], floating, allow_unused=True)
    except (RuntimeError, NotImplementedError) as error:
        if "no autograd formula" in str(error) or "not implemented" in str(error) or isinstance(error, NotImplementedError):
            return "it registers no backward"
    return None
