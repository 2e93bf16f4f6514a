"""One pass of a layer, forward and backward, with all that can be seen of it as a tree of tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...core.laws import Trial
from ...core.random import derive
from ..laws.compare import leaves
from .casts import Casts
from .layer_examples import build, inputs

Call = Callable[..., Any]
Arrange = Callable[[Tensor], Tensor]


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Within it, memory that nobody filled holds NaN (and the largest integers), not what lay there by chance."""
    poison: Any = torch.utils.deterministic
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = poison.fill_uninitialized_memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of algorithms that have no deterministic form
        try:
            torch.use_deterministic_algorithms(True, warn_only=True)
            poison.fill_uninitialized_memory = True
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=warns)
            poison.fill_uninitialized_memory = fill


def differentiable(given: tuple[Any, ...], fixed: tuple[int, ...] = ()) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
    """The inputs with floating tensors as leaves that require gradients, strides kept, and those leaves by path."""
    found: dict[str, Tensor] = {}

    def mapped(tree: Any, path: str) -> Any:
        if isinstance(tree, Tensor) and (tree.is_floating_point() or tree.is_complex()):
            found[path] = tree.detach().requires_grad_()
            return found[path]
        if type(tree) in (tuple, list):
            return type(tree)(mapped(x, f"{path}[{i}]") for i, x in enumerate(tree))
        if isinstance(tree, dict):
            return {k: mapped(v, f"{path}.{k}") for k, v in tree.items()}
        return tree

    made = tuple(x if i in fixed else mapped(x, f"input {i}") for i, x in enumerate(given))
    return made, found


def cotangents(outputs: Mapping[str, Tensor], seed: int, arrange: Arrange | None = None) -> list[Tensor]:
    """A normal gradient for each output, drawn from the seed."""
    made = []
    for path, y in outputs.items():
        generator = torch.Generator().manual_seed(derive(seed, "cotangent", path))
        wide = torch.complex128 if y.is_complex() else torch.float64
        drawn = torch.randn(y.shape, dtype=wide, generator=generator).to(y.dtype)
        made.append(arrange(drawn) if arrange is not None else drawn)
    return made


def with_gradient(output: Any) -> dict[str, Tensor]:
    """The outputs that can be differentiated, by path."""
    return {k: y for k, y in leaves(output).items() if isinstance(y, Tensor) and y.requires_grad}


def observe(
    module: nn.Module,
    given: tuple[Any, ...],
    *,
    seed: int,
    call: Call | None = None,
    arrange: Arrange | None = None,
    fixed: tuple[int, ...] = (),
    in_place: bool = False,
    backward: bool = True,
) -> dict[str, Any]:
    """Outputs, gradients of inputs and parameters, and buffers after one pass that starts from the seed.

    call: what is called instead of the module; arrange: how gradients of outputs lie in memory; fixed: inputs that require
    no gradient; in_place: whether the module may write into its inputs, which are then no leaves.
    """
    torch.manual_seed(seed % (1 << 63))
    wrt: dict[str, Tensor] = {}
    if backward:
        given, wrt = differentiable(given, fixed)
    passed = tuple(x.clone() if in_place and isinstance(x, Tensor) else x for x in given)
    with torch.set_grad_enabled(backward):
        output = (module if call is None else call)(*passed)  # a compiled module has no truth value
    seen: dict[str, Any] = {"output": {k: detached(y) for k, y in leaves(output).items()}}
    if backward and (outputs := with_gradient(output)):
        wrt |= {f"parameter {n}": p for n, p in module.named_parameters() if p.requires_grad}
        if wrt:
            found = _gradients(outputs, wrt, cotangents(outputs, seed, arrange))
            seen["gradient"] = {n: detached(g) for n, g in found.items()}
    seen["buffer"] = {n: b.detach().clone() for n, b in module.named_buffers()}
    return seen


def _gradients(outputs: Mapping[str, Tensor], wrt: Mapping[str, Tensor], given: list[Tensor]) -> dict[str, Tensor | None]:
    """The gradients of leaves by backward(), which is what trains, and what a reentrant checkpoint within a layer needs."""
    held = [(x, x.grad) for x in wrt.values()]
    try:
        for x in wrt.values():
            x.grad = None
        torch.autograd.backward(list(outputs.values()), given)
        return {name: x.grad for name, x in wrt.items()}
    finally:
        for x, before in held:
            x.grad = before


def detached(value: Any) -> Any:
    """A copy of a tensor; what lies sparse (the gradient of a sparse embedding) is compared as a whole one."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().to_dense() if value.layout is torch.sparse_coo else value.detach().clone()


def seen_by(trial: Trial, module: nn.Module, given: tuple[Any, ...], **options: Any) -> dict[str, Any]:
    """`observe` with what the example declares: inputs without gradient (`fixed`), writing into inputs (tag `in_place`)."""
    options.setdefault("seed", derive(trial.seed, "pass"))
    options.setdefault("fixed", tuple(trial.example.more.get("fixed", ())))
    return observe(module, given, in_place=trial.has("in_place"), **options)


def double(trial: Trial, size: int = 2, *, training: bool = False) -> tuple[nn.Module, tuple[Any, ...]]:
    """A fresh instance and inputs in float64, for laws that compare exactly.

    A component that runs in no dtype fails; one that runs in float32 alone has to say so (`single_precision`).
    """
    given = inputs(trial, size, torch.float64)
    probe = build(trial, torch.float64).train(training)
    if trial.has("single_precision"):
        trial.skip("it runs in single precision only, as it declares, and this law compares in float64")
    try:
        with Casts() as casts:
            observe(probe, given, seed=0, backward=False, in_place=trial.has("in_place"))
        trial.single = casts.seen
    except Exception as error:  # noqa: BLE001  # told apart below
        if hidden := next(hidden_modules(probe), None):
            trial.undecided(f"{hidden_said(*hidden)}, so that it stays in float32 where this law compares in float64")
        single = build(trial).train(training)
        with trial.component(f"calling it in {'training' if training else 'evaluation'}"):
            observe(single, inputs(trial, size), seed=0, backward=False, in_place=trial.has("in_place"))
        trial.undecided(
            f"it runs in float32 and raises {type(error).__name__} in float64: {str(error)[:200]}; this law compares "
            "in float64. Let it run in float64 (it is used for checking only), or state tags={'single_precision'}"
        )
    return build(trial, torch.float64).train(training), given


def hidden_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules in plain attributes, lists, tuples and dicts, of which PyTorch knows nothing, by where they are."""
    known = {id(part) for part in module.modules()}

    def within(value: Any, path: str, depth: int) -> Iterator[tuple[str, nn.Module]]:
        if isinstance(value, nn.Module):
            if id(value) not in known:
                known.add(id(value))
                yield path, value
        elif depth and isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                yield from within(item, f"{path}[{i}]", depth - 1)
        elif depth and isinstance(value, Mapping):
            for key, item in value.items():
                yield from within(item, f"{path}[{key!r}]", depth - 1)

    for prefix, part in list(module.named_modules()):
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                yield from within(value, f"{prefix}.{name}" if prefix else name, 3)


def hidden_said(path: str, hidden: nn.Module) -> str:
    """What is wrong with a module that is not registered."""
    name = path.partition("[")[0]
    way = f"nn.ModuleList or nn.ModuleDict for {name}" if "[" in path else f"a plain assignment to self.{name}"
    return (
        f"the {type(hidden).__name__} in the attribute {path} is not registered: parameters(), state_dict(), to(), train() and "
        f"eval() do not reach it; use {way}"
    )


def reassign(module: nn.Module, seed: int) -> None:
    """New values for every floating parameter (in place) and buffer (a new tensor in its place)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
                parameter.mul_(0.9).add_(0.1 * noise)
        for part in module.modules():
            for name, buffer in part._buffers.items():
                if buffer is not None and buffer.is_floating_point():
                    drawn = torch.rand(buffer.shape, generator=generator, dtype=torch.float64).to(buffer.dtype)
                    setattr(part, name, buffer * 0.9 + 0.1 * drawn)


def draws(module: nn.Module, given: tuple[Any, ...]) -> bool:
    """Whether a forward pass in the module's present mode draws from PyTorch's generator (and moves it)."""
    before = torch.get_rng_state()
    with torch.no_grad():
        module(*given)
    return not torch.equal(before, torch.get_rng_state())


class Drawn(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's base has no annotations
    """Within it `shapes` becomes those of the random tensors that are drawn."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.shapes |= {tuple(y.shape) for y in leaves(made).values() if isinstance(y, Tensor)}
        return made
