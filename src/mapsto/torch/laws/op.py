"""Laws of custom operators, tensors -> tensors: what PyTorch's own check sees, and what it does not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from ...core.laws import Laws, Trial
from ...core.random import derive
from ..drivers.layer_examples import in_dtype
from ..drivers.layer_passes import cotangents, differentiable, with_gradient
from ..drivers.op import Operator, arguments, called, not_differentiable, operator, single
from .compare import close_to_oracle, differs, leaves, same
from .layer_layout import LAYOUTS, of_a_sum, sliced, transposed

laws = Laws("op")

LARGE = 257
DRAWS = 8
"""Inputs over which the error of the reference is taken: its largest is what the operator is measured against."""
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


# -- PyTorch's own check -----------------------------------------------------------------------------------------------
@laws.law(
    "U1",
    "opcheck",
    priority=0,
    seconds=90,
    why="An undeclared mutation, or a wrong shape or stride of the fake implementation, breaks compile and export silently.",
    satisfy="Declare mutates_args truly; let register_fake give the kernel's shapes, strides and dtypes for every input.",
    catches=("an undeclared mutation", "a fake implementation with other strides", "a backward not registered for autograd"),
)
def opcheck(trial: Trial) -> None:
    """torch.library.opcheck passes, at its own tolerances, on small, empty, large, non-contiguous and differentiable inputs."""
    op = operator(trial)
    if op.registered is None:
        trial.skip("it is a plain function, and no registered operator")
    for said, given in _samples(trial, op):
        with trial.case(sample=said), trial.component("opcheck"):
            found = torch.library.opcheck(op.registered, given, dict(op.options), raise_exception=False)
        for test, result in found.items():
            with trial.case(sample=said, test=test):
                text = " ".join(str(result).split())
                trial.demand(result == "SUCCESS", f"{test} on {said} inputs: {text[:400]}", measured=type(result).__name__,
                             allowed="SUCCESS", first={"test": test}, cause=_opcheck_cause(test, text))  # fmt: skip


def _samples(trial: Trial, op: Operator) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield "small", arguments(trial, 2)
    yield "one-record", arguments(trial, 1)
    if not trial.has("nonempty"):
        yield "empty", arguments(trial, 0)
    for name, way in (("transposed", transposed), ("sliced", sliced)):
        yield name, _arranged(arguments(trial, 3), way)
    if not_differentiable(trial, op) is None:
        yield "differentiable", differentiable(arguments(trial, 3), tuple(trial.example.more.get("fixed", ())))[0]
    yield "large", arguments(trial, LARGE)


def _arranged(given: tuple[Any, ...], way: Callable[[Tensor], Tensor | None]) -> tuple[Any, ...]:
    def one(x: Any) -> Any:
        made = way(x) if isinstance(x, Tensor) else None
        return x if made is None else made

    return tuple([one(y) for y in x] if isinstance(x, list) else one(x) for x in given)


def _opcheck_cause(test: str, text: str) -> str:
    if "mutat" in text:
        return "it writes to an input that its schema does not declare"
    if "alias" in text:
        return "an output shares memory with an input"
    if "stride" in text.lower():
        return "the fake implementation gives other strides"
    return {
        "test_schema": "it does other than its schema says",
        "test_faketensor": "the fake implementation gives another shape, dtype or stride than the kernel",
        "test_autograd_registration": "its backward is registered where autograd does not look",
    }.get(test, "it is another operator when it is traced")


# -- gradients and layout ----------------------------------------------------------------------------------------------
@laws.law(
    "U2",
    "gradients",
    priority=0,
    tolerance="T3",
    why="opcheck runs a backward, and does not ask whether it is the derivative.",
    satisfy="Check register_autograd's backward with torch.autograd.gradcheck in float64; return a gradient for each input.",
    catches=("a backward that forgets a factor", "a gradient returned for the wrong input"),
)
def gradients(trial: Trial) -> None:
    """Gradients of all floating inputs equal finite differences in float64."""
    op = operator(trial)
    if (reason := not_differentiable(trial, op)) is not None:
        trial.skip(reason)
    if single(trial):
        trial.skip("it runs in single precision only, as it declares; finite differences need float64")
    for size in (1, 3):
        with trial.case(size=size, dtype="float64"):
            given, wrt = differentiable(arguments(trial, size, torch.float64), tuple(trial.example.more.get("fixed", ())))
            names = list(wrt)

            def run(*leaf: Tensor, given: tuple[Any, ...] = given, names: list[str] = names) -> tuple[Tensor, ...]:
                torch.manual_seed(derive(trial.seed, "call") % (1 << 63))
                return tuple(with_gradient(op.call(*_put(given, dict(zip(names, leaf, strict=True))))).values())

            try:
                torch.autograd.gradcheck(run, tuple(wrt.values()))
            except GradcheckError as error:
                lines = [line for line in str(error).splitlines() if line.strip()]
                text = " ".join(str(error).split())[:300]
                trial.fail(f"analytic and numeric gradients differ: {lines[0][:200]}", measured=text,
                           allowed="1e-5 + 1e-3 |x|", first={"tensor": _named(lines[0], names)})  # fmt: skip
            except RuntimeError as error:
                trial.fail(f"its backward raised RuntimeError: {str(error)[:300]}", cause="the component raised")
            trial.exercised("gradients", len(names))


def _put(given: tuple[Any, ...], leaf: dict[str, Tensor]) -> tuple[Any, ...]:
    """The inputs with these leaves in the places that `differentiable` named."""

    def put(x: Any, path: str) -> Any:
        if path in leaf:
            return leaf[path]
        return [put(y, f"{path}[{i}]") for i, y in enumerate(x)] if isinstance(x, list) else x

    return tuple(put(x, f"input {i}") for i, x in enumerate(given))


def _named(line: str, names: list[str]) -> str:
    """gradcheck counts inputs: `... with respect to input 1`."""
    number = line.rpartition("input ")[2].strip(" ,.")[:1]
    return names[int(number)] if number.isdigit() and int(number) < len(names) else names[0]


@laws.law(
    "U2b",
    "layout",
    priority=0,
    tolerance="T1",
    why="Callers hand over slices, and a sum's gradient is expanded: a kernel that reads raw memory is silently wrong.",
    satisfy="Call .contiguous() on inputs and on gradients before a data pointer is taken, or use their strides.",
    catches=("pytorch#194719", "an expanded grad_output read through its data pointer"),
)
def layout(trial: Trial) -> None:
    """Inputs and gradients of outputs give the same results however they lie in memory."""
    op = operator(trial)
    dtype = torch.float32 if single(trial) else torch.float64
    backward = not_differentiable(trial, op) is None
    given = arguments(trial, 3, dtype)
    for name, way in LAYOUTS.items():
        with trial.case(size=3, layout=name, of="inputs"), trial.component(f"calling it with inputs that are {name}"):
            lying = _arranged(given, way)
            plain = _arranged(lying, lambda x: x.contiguous().clone(memory_format=torch.contiguous_format))
            if op.mutated and name == "expanded":
                continue  # many elements of one: writing there has no meaning
            got, want = _pass(trial, op, lying, backward, None), _pass(trial, op, plain, backward, None)
            same(trial, f"inputs that are {name}", got, want, tolerance="T1", cause="memory is read as if it were contiguous")
    for name, way in {**LAYOUTS, "of a sum": of_a_sum}.items() if backward else ():
        with trial.case(size=3, layout=name, of="gradients"), trial.component(f"a backward whose gradient is {name}"):
            got = _pass(trial, op, given, True, functools.partial(_lying, way))
            want = _pass(trial, op, given, True, functools.partial(_lying, way, copied=True))
            same(trial, f"gradients that are {name}", got, want, tolerance="T1", cause="the gradient is read as if contiguous")
    other = called(trial, op, arguments(trial, 3, dtype, stream="other"))
    trial.control("other inputs give another result", differs(other, called(trial, op, arguments(trial, 3, dtype))))


def _lying(way: Callable[[Tensor], Tensor | None], y: Tensor, *, copied: bool = False) -> Tensor:
    made = way(y)
    made = y if made is None else made
    return made.contiguous().clone(memory_format=torch.contiguous_format) if copied else made


def _pass(
    trial: Trial, op: Operator, given: tuple[Any, ...], backward: bool, arrange: Callable[[Tensor], Tensor] | None
) -> dict[str, Any]:
    if not backward:
        return called(trial, op, given)
    given, wrt = differentiable(given, tuple(trial.example.more.get("fixed", ())))
    torch.manual_seed(derive(trial.seed, "call") % (1 << 63))
    made = op.call(*given)
    outputs = with_gradient(made)
    seen: dict[str, Any] = {k: y.detach().clone() for k, y in leaves(made).items() if isinstance(y, Tensor)}
    found = torch.autograd.grad(
        list(outputs.values()), list(wrt.values()), cotangents(outputs, trial.seed, arrange), allow_unused=True
    )
    return seen | {f"gradient of {n}": g for n, g in zip(wrt, found, strict=True) if g is not None}


# -- its reference -----------------------------------------------------------------------------------------------------
@laws.law(
    "U3",
    "reference",
    priority=0,
    tolerance="T2",
    why="A fast kernel is worth nothing where it computes something else, in one dtype or at one size.",
    satisfy="State `reference`, a plain function of the same arguments; accumulate halves in float32.",
    catches=("a kernel that is wrong in one dtype", "a tail that is left out", "sums accumulated in half precision"),
)
def reference(trial: Trial) -> None:
    """In every dtype it takes, outputs and gradients are as accurate against float64 as those of its eager reference."""
    plain = trial.example.more.get("reference")
    if plain is None:
        trial.skip("it states no reference: mapsto.example(op, reference=a plain function of the same arguments)")
    op = operator(trial)
    eager = Operator(lambda *given: plain(*given, **op.options), None, op.options, op.mutated)
    backward = not_differentiable(trial, op) is None
    stated = trial.example.more.get("dtypes")
    for dtype in stated or DTYPES:
        for size in (1, 3, 7, LARGE):
            with trial.case(size=size, dtype=str(dtype).removeprefix("torch.")):
                if stated is None and not _takes(op, arguments(trial, size, dtype)):
                    break
                with trial.component(f"calling it in {dtype}"):
                    got = _draws(trial, op, size, dtype, dtype, backward)
                true = _draws(trial, eager, size, dtype, torch.float64, backward)
                try:
                    usual = _draws(trial, eager, size, dtype, dtype, backward)
                except RuntimeError:  # the framework has no such kernel: the true result, rounded, is the usual one
                    usual = {k: y.to(dtype) if y.is_floating_point() else y for k, y in true.items()}
                cast = [k for k, y in usual.items() if k in got and got[k].dtype != y.dtype]
                wrong = f"{cast[0]} is {got[cast[0]].dtype}, and {usual[cast[0]].dtype} is due" if cast else ""
                trial.demand(not cast, wrong, first={"tensor": cast[0] if cast else ""}, cause="a cast")
                whole = {k: y for k, y in true.items() if not y.is_floating_point()}
                same(trial, "whole numbers", {k: y for k, y in got.items() if k in whole}, whole)
                _excuse(got, usual, true)
                close_to_oracle(trial, "the operator", got, usual, true)
    with trial.case(size=3):
        one, other = (_draws(trial, eager, 3, torch.float64, torch.float64, False, stream=s) for s in ("a", "b"))
        trial.control("other inputs give another result", differs(one, other))


def _excuse(got: dict[str, Tensor], usual: dict[str, Tensor], true: dict[str, Tensor]) -> None:
    """Take out elements where the reference itself overflows in this dtype: nothing is owed there."""
    for name in got.keys() & usual.keys() & true.keys():
        lost = ~usual[name].isfinite() & true[name].isfinite()
        for results in (got, usual, true):
            results[name] = results[name].masked_fill(lost, 0)


def _draws(
    trial: Trial, op: Operator, size: int, held: torch.dtype, dtype: torch.dtype, backward: bool, stream: str = "draw"
) -> dict[str, Tensor]:
    """Results over several inputs, stacked; inputs are what `held` can hold, in `dtype`."""
    results = []
    for i in range(DRAWS):
        given = in_dtype(arguments(trial, size, held, stream=f"{stream} {i}"), dtype)
        seen = _pass(trial, op, given, backward, None)
        results.append({k: y for k, y in seen.items() if isinstance(y, Tensor)})
    same_form = {k for k in results[0] if all(k in r and r[k].shape == results[0][k].shape for r in results)}
    return {k: torch.stack([r[k] for r in results]) for k in sorted(same_form)}


def _takes(op: Operator, given: tuple[Any, ...]) -> bool:
    try:
        op.call(*given)
    except Exception:  # noqa: BLE001  # an explicit refusal of a dtype that nobody declared
        return False
    return True
