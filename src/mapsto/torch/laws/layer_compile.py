"""Laws of a layer under torch.compile and torch.export: the same numbers, one graph, any number of records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...core.laws import Laws, Trial
from ...core.random import derive
from ..drivers.export import known_outputs
from ..drivers.layer_examples import build, inputs, settle
from ..drivers.layer_passes import Call, double, reassign, seen_by
from .compare import close_to_oracle, differs, leaves, same

laws = Laws("layer", "model")

CALLS = 3
GRAPHS = 2
"""Graphs that a number of records that changes may cost: one for the first size, one for every other."""


@contextmanager
def compiling() -> Iterator[None]:
    """A fresh compiler, forgotten afterwards."""
    torch._dynamo.reset()
    try:
        yield
    finally:
        torch._dynamo.reset()


@laws.law(
    "L6",
    "compile",
    priority=0,
    tolerance="T1",  # and not T0: the compiler splits some operations into others, which round otherwise
    seconds=180,
    why="A compiled layer that keeps old state, or differentiates something else, trains another model without a word.",
    satisfy="Keep state in parameters and buffers; read no Python values that change between calls.",
    catches=("pytorch#115774", "a Python counter baked into the graph", "a buffer read when tracing"),
)
def compiled(trial: Trial) -> None:
    """Compiled (aot_eager) and eager give the same forward, backward and buffers in float64, in three calls with new
    state each.
    """
    for training in (True, False):
        with (
            trial.case(size=2, dtype="float64", mode="training" if training else "evaluation", backend="aot_eager"),
            compiling(),
        ):
            _calls(trial, training, "aot_eager")
        if trial.thorough:
            with (
                trial.case(size=2, dtype="float32", mode="training" if training else "evaluation", backend="inductor"),
                compiling(),
            ):
                _inductor(trial, training)


def _calls(trial: Trial, training: bool, backend: str) -> None:
    eager, _ = double(trial, training=training)
    inner = build(trial, torch.float64).train(training)
    call = torch.compile(inner, backend=backend)
    first: dict[str, Any] = {}
    for number in range(CALLS):
        given = inputs(trial, 2, torch.float64, stream=f"call {number}")
        if number:
            for module in (eager, inner):
                reassign(module, derive(trial.seed, "state", number))
        seed = derive(trial.seed, "call", number)
        with trial.case(call=number):
            want = seen_by(trial, eager, given, seed=seed)
            with trial.component("the compiled call"):
                got = seen_by(trial, inner, given, seed=seed, call=call)
            same(trial, "the compiled call", got, want, tolerance="T1", cause=_stale(number, got, want, first))
        first = first or want
    if first["output"] and (list(eager.parameters()) or given):
        trial.control("the calls differ", differs(want["output"], first["output"]))


def _stale(number: int, got: Any, want: Any, first: Any) -> str | None:
    if not differs(got, want):
        return None
    if number and not differs(got["output"], first["output"]):
        return "the compiled call repeats the first one"
    outputs = differs(got["output"], want["output"])
    part = "output" if outputs else "gradient" if differs(got.get("gradient", {}), want.get("gradient", {})) else "buffers"
    return f"the {part} of call {number} use state that is no longer there" if number else f"another {part} when it is traced"


def _inductor(trial: Trial, training: bool) -> None:
    oracle, given = double(trial, training=training)
    from ..drivers.layer_passes import draws

    if training and draws(build(trial, torch.float64).train(), given):
        return  # inductor draws other numbers from the same seed, as it documents
    low = inputs(trial, 2)
    eager, inner = build(trial).train(training), build(trial).train(training)
    with trial.component("the call compiled by inductor"):
        got = seen_by(trial, inner, low, call=torch.compile(inner, backend="inductor"))
    close_to_oracle(trial, "the call compiled by inductor", got, seen_by(trial, eager, low), seen_by(trial, oracle, given))


@laws.law(
    "L6b",
    "one_graph",
    priority=1,
    tolerance="T0",
    seconds=120,
    why="Each break of the graph and each recompilation costs seconds and memory, and undoes what compiling gains.",
    satisfy="Keep .item(), print, data-dependent branches and Python state that changes out of forward; else "
    "tags={'graph_breaks'}.",
    catches=("a counter attribute that recompiles every call", ".item() in forward"),
)
def one_graph(trial: Trial) -> None:
    """It compiles without a break, new state costs no recompilation, and other numbers of records cost at most one more
    graph.
    """
    settle(trial)
    if trial.has("graph_breaks"):
        trial.skip("it declares that its graph breaks")
    made: list[int] = []

    def counting(graph: Any, example_inputs: Any) -> Any:
        made.append(len(example_inputs))
        return graph.forward

    with trial.case(backend="counting", mode="training"), compiling():
        module = build(trial).train()
        with trial.component("calling it"):  # what the first call puts into a cache is there, as in any but the first step
            module(*inputs(trial, 2, stream="before"))
        call = torch.compile(module, backend=counting, fullgraph=True)
        for number in range(CALLS):
            with trial.component("compiling it as one graph"):
                call(*inputs(trial, 2, stream=f"call {number}"))
            reassign(module, number)
        trial.demand(len(made) <= 1, f"{CALLS} calls with new state took {len(made)} graphs", measured=len(made), allowed=1,
                     first={"call": 1}, cause="a Python value that changes with each call")  # fmt: skip
    with trial.case(backend="counting", mode="evaluation"), compiling():
        made.clear()
        module = build(trial).eval()
        sizes = [n for n in trial.example.dynamic if n > 1]
        with trial.component("calling it"):
            module(*inputs(trial, max(sizes, default=2)))
        call = torch.compile(module, backend=counting, fullgraph=True)
        for size in sizes:
            with trial.case(size=size), trial.component("compiling it as one graph"):
                call(*inputs(trial, size))
        trial.demand(len(made) <= GRAPHS, f"sizes {sizes} took {len(made)} graphs", measured=len(made), allowed=GRAPHS,
                     cause="a size that the graph holds as a constant")  # fmt: skip


# -- sizes -------------------------------------------------------------------------------------------------------------
def _sizes(trial: Trial) -> tuple[int, ...]:
    sizes = tuple(sorted(settle(trial).dynamic))
    if len(sizes) < 2 or trial.has("static"):
        trial.skip("it declares one number of records only")
    return sizes


@laws.law(
    "L11",
    "dynamic_compile",
    priority=1,
    tolerance="T1",
    seconds=240,
    why="The last batch is smaller, and serving sees one record at a time; a graph that holds the traced size as "
    "a constant is wrong.",
    satisfy="Compute sizes from x.shape at each call and pass them as they are; branch on no size.",
    catches=("pytorch#133653", "a size kept from the first call"),
)
def dynamic_compile(trial: Trial) -> None:
    """Compiled for a changing number of records, it equals eager in float64, with gradients, at every declared one."""
    sizes = _sizes(trial)
    start = next((n for n in sizes if n > 1), sizes[0])
    with compiling():
        eager, _ = double(trial, start)
        inner = build(trial, torch.float64).eval()
        call = torch.compile(inner, backend="aot_eager", dynamic=True)
        _each_size(trial, [start, *(n for n in sizes if n != start)], eager, inner, call)


def _each_size(trial: Trial, sizes: list[int], eager: nn.Module, inner: nn.Module, call: Call) -> None:
    results = []
    for size in sizes:
        with trial.case(size=size, dtype="float64", traced=sizes[0]):
            given = inputs(trial, size, torch.float64)
            with trial.component("the eager call"):
                want = seen_by(trial, eager, given)
            with trial.component("the call compiled for any size"):
                got = seen_by(trial, inner, given, call=call)
            same(trial, "the call at another size", got, want, tolerance="T1",
                 cause=f"the traced size {sizes[0]} is held as a constant")  # fmt: skip
            results.append(want["output"])
    trial.control("sizes differ", differs(results[0], results[-1]))


@laws.law(
    "L11b",
    "dynamic_export",
    priority=1,
    tolerance="T1",
    seconds=120,
    why="An exported program serves batches of every size, and has no Python to fall back to.",
    satisfy="Branch on no size and no value in forward (or state tags={'static'} where one size is meant).",
    catches=("pytorch#133653", "pytorch#80973", "a constant computed from the traced batch"),
)
def dynamic_export(trial: Trial) -> None:
    """Exported once with a dynamic number of records, it equals eager in float64 on fresh inputs at every declared one."""
    sizes = _sizes(trial)
    if trial.has("eager_only"):
        trial.skip("it declares that it is not exported")
    traced = next((n for n in sizes if n > 2), sizes[-1])
    module, given = double(trial, traced)
    if not [x for x in leaves(given).values() if isinstance(x, Tensor)]:
        trial.skip("it takes no tensors")
    shapes = moving(given, inputs(trial, traced + 1, torch.float64))
    with trial.case(size=traced, dtype="float64", by="torch.export"), compiling(), torch.no_grad():
        with trial.component("calling it"):  # what is exported has been trained, so its caches are filled
            module(*given)
        with trial.component("exporting it with a dynamic number of records"), known_outputs():
            exported = torch.export.export(module, given, dynamic_shapes=for_forward(module, shapes)).module()
        _exported(trial, sizes, traced, exported)


def _exported(trial: Trial, sizes: tuple[int, ...], traced: int, exported: Callable[..., Any]) -> None:
    eager, results = build(trial, torch.float64).eval(), []
    for size in sizes:
        with trial.case(size=size, traced=traced):
            fresh, seed = inputs(trial, size, torch.float64, stream="fresh"), derive(trial.seed, "export") % (1 << 63)
            torch.manual_seed(seed)
            with trial.component("the eager call"):
                want = leaves(eager(*fresh))
            torch.manual_seed(seed)
            with trial.component("the exported program"):
                got = leaves(exported(*fresh))
            same(
                trial,
                "the exported program",
                got,
                want,
                tolerance="T1",
                cause="a value or size of the traced call became a constant",
            )
            results.append(want)
    trial.control("sizes differ", differs(results[0], results[-1]))


def moving(one: Any, other: Any) -> Any:
    """The axes whose size differs between two sets of inputs, as `dynamic_shapes` of torch.export."""
    if isinstance(one, Tensor):
        return {i: torch.export.Dim.DYNAMIC for i, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)) if a != b}
    if isinstance(one, Mapping):
        return {k: moving(v, other[k]) for k, v in one.items()}
    if isinstance(one, (tuple, list)):
        return type(one)(moving(a, b) for a, b in zip(one, other, strict=True))
    return None


def for_forward(module: nn.Module, shapes: tuple[Any, ...]) -> Any:
    """Inside *args of forward, torch.export wants the shapes one level deeper."""
    import inspect

    parameters = list(inspect.signature(module.forward).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = shapes[len(positional) :]
    return (*shapes[: len(positional)], rest) if rest else shapes
