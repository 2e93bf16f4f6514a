"""Laws of custom operators about memory: what they read and write, once, twice and when they are compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ...core.laws import Laws, Trial
from ..drivers.op import Operator, arguments, called, operator
from .compare import differs, leaves, same
from .layer_compile import compiling

laws = Laws("op")

CALLS = 4
ZONE = 64
"""Elements before and after a tensor that are nobody's."""


# -- twice -------------------------------------------------------------------------------------------------------------
@laws.law(
    "U4",
    "purity",
    priority=0,
    why="A kernel that keeps something between calls, or writes where it says it reads, is another function each time.",
    satisfy="Allocate outputs anew, keep no counters or buffers, declare mutates_args; or state tags={'stochastic'}.",
    catches=(
        "a global counter (opcheck passes it)",
        "an output buffer that the next call overwrites",
        "an undeclared mutation",
    ),
)
def purity(trial: Trial) -> None:
    """Called again it gives the same bits; it changes no input it does not declare, and draws no number unless it says so."""
    op = operator(trial)

    def call(given: tuple[Any, ...]) -> Any:
        torch.manual_seed(trial.seed)
        made = op.call(*given)
        return {"result": made, "written": [given[i] for i in op.mutated]}

    with trial.case(size=3, dtype="float32"):
        before, given = leaves(arguments(trial, 3)), arguments(trial, 3)
        torch.manual_seed(trial.seed)
        stream = torch.get_rng_state()
        versions = {k: x._version for k, x in leaves(given).items() if isinstance(x, Tensor)}
        with trial.component("calling it"):
            held = call(given)
        moved = not torch.equal(stream, torch.get_rng_state())
        trial.demand(not moved or trial.has("stochastic"), "it drew from PyTorch's random stream", first={"stream": "PyTorch"},
                     cause="an extra draw; state tags={'stochastic'} where it is meant")  # fmt: skip
        after = leaves(given)
        kept = [k for k in before if not any(k == f"[{i}]" or k.startswith(f"[{i}][") for i in op.mutated)]
        same(trial, "inputs after the call", {k: after[k] for k in kept}, {k: before[k] for k in kept},
             cause="it writes to an input that it does not declare")  # fmt: skip
        wrote = [k for k in kept if isinstance(after[k], Tensor) and after[k]._version != versions[k]]
        trial.demand(not wrote, f"it wrote to its input {', '.join(wrote)}", first={"tensor": min(wrote, default="")},
                     cause="it writes to an input that it does not declare")  # fmt: skip
        first = {k: y.detach().clone() if isinstance(y, Tensor) else y for k, y in leaves(held).items()}
        for number in range(CALLS):
            with trial.case(call=number + 2):
                again = call(arguments(trial, 3))
                same(trial, "the same call again", leaves(again), first, cause="it keeps something between calls")
            other = leaves(call(arguments(trial, 3, stream=f"other {number}")))
        same(trial, "the first output after more calls", leaves(held), first, cause="its output is a buffer that it uses again")
        if first:
            trial.control("other inputs give another result", differs(other, first))


# -- guard zones -------------------------------------------------------------------------------------------------------
class Guarded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, what a kernel allocates stands between two zones; memory that it leaves unwritten holds `fill`."""

    FRESH = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
    FILLED = ("zeros", "zeros_like", "new_zeros", "ones", "ones_like", "full", "full_like", "new_full")

    def __init__(self, fill: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fill = fill
        self.zones: dict[str, Zone] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace not in ("aten", "prim", "prims"):
            with self:  # on to the kernel, and what it calls comes here too
                return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **(kwargs or {}))
        made = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name in self.FRESH + self.FILLED and isinstance(made, Tensor) and made.layout == torch.strided:
            zone = Zone(made, self.fill, keep=name in self.FILLED)
            self.zones[f"allocation {len(self.zones)}"] = zone
            return zone.tensor
        return made


class Zone:
    """A tensor within a larger buffer whose other elements are set to `fill`."""

    def __init__(self, x: Tensor, fill: float, *, keep: bool = True) -> None:
        reach = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0
        whole = bool(fill == fill and abs(fill) < 100)
        value = fill if x.is_floating_point() or x.is_complex() else (int(fill) if whole else 1)
        self.base = torch.full((reach + 2 * ZONE,), value, dtype=x.dtype)
        self.tensor = self.base.as_strided(x.shape, x.stride(), ZONE)
        if keep:
            self.tensor.copy_(x)
        self.edges = [self.base[:ZONE], self.base[ZONE + reach :]]
        self.before = [e.clone() for e in self.edges]
        self.size = x.element_size()

    def broken(self) -> int | None:
        """The first offset, in elements from the start of the tensor, of a byte outside it that changed; or None."""
        for edge, before, start in zip(self.edges, self.before, (-ZONE, self.base.numel() - 2 * ZONE), strict=True):
            changed = (edge.view(torch.uint8) != before.view(torch.uint8)).nonzero()
            if len(changed):
                nearest = changed[-1] if start < 0 else changed[0]
                return start + int(nearest) // self.size
        return None


@laws.law(
    "U5",
    "guard_zones",
    priority=1,
    why="A kernel that reads or writes one element too many works until the neighbour is someone else's.",
    satisfy="Bound every loop by the tensor's own number of elements, and mask the tail of a block.",
    catches=("vllm#36779", "a tail of a block that is not masked", "an output that is not written completely"),
)
def guard_zones(trial: Trial) -> None:
    """Bytes before and after inputs and outputs stay, and what stands there, or in memory not yet written, decides nothing."""
    op = operator(trial)
    counted = 0
    for size in (1, 3, 7, 33):
        results = []
        for fill in (0.0, float("nan"), 3.0):
            with trial.case(size=size, fill=str(fill)):
                result, zones = _guarded_call(trial, op, size, fill)
                for name, zone in zones.items():
                    at = zone.broken()
                    trial.demand(
                        at is None, f"{name} of {list(zone.tensor.shape)} was written at element {at}, outside of it",
                        measured=at, allowed=f"0 to {zone.base.numel() - 2 * ZONE - 1}", first={"tensor": name, "offset": at},
                        cause="a loop that runs one element or one block too far",
                    )  # fmt: skip
                counted += len(zones)
                results.append(result)
                same(trial, "the result with other surroundings", result, results[0],
                     cause="it reads outside of its inputs, or leaves part of its output unwritten")  # fmt: skip
        trial.control("something was given back", bool(results[0]))
    trial.exercised("zones", counted)


def _guarded_call(trial: Trial, op: Operator, size: int, fill: float) -> tuple[dict[str, Any], dict[str, Zone]]:
    zones: dict[str, Zone] = {}

    def guard(tree: Any, path: str) -> Any:
        if isinstance(tree, Tensor):
            zones[path] = Zone(tree.contiguous(), fill)
            return zones[path].tensor
        return [guard(x, f"{path}[{i}]") for i, x in enumerate(tree)] if isinstance(tree, list) else tree

    given = tuple(guard(x, f"input {i}") for i, x in enumerate(arguments(trial, size)))
    mode = Guarded(fill)
    with torch.no_grad(), mode, trial.component("calling it"):
        made = called(trial, op, given)
    return made, zones | mode.zones


# -- writing to inputs, compiled ---------------------------------------------------------------------------------------
@laws.law(
    "U6",
    "compiled_mutation",
    priority=1,
    seconds=90,
    why="The compiler turns writing into copying and back; it trusts what the operator declares, and views break that first.",
    satisfy="Declare every input that is written, write only its elements, read before writing; or tags={'no_alias'}.",
    catches=("pytorch#130487", "pytorch#153389", "an input written but not declared beside one that is"),
)
def compiled_mutation(trial: Trial) -> None:
    """Where it writes to inputs, compiled (aot_eager) and eager leave the same in them, their bases and their other views."""
    op = operator(trial)
    if not op.mutated:
        trial.skip("it writes to no input")
    for position in op.mutated:
        for said, function in _uses(op, position, aliases=not trial.has("no_alias")):
            with trial.case(size=3, written=f"input {position}", use=said), compiling():
                before, given = arguments(trial, 3), arguments(trial, 3)
                if not isinstance(given[position], Tensor):
                    continue
                want = _eager(function, given)
                if want is None:
                    continue
                passed = arguments(trial, 3)
                with trial.component("compiling a function that uses it"):
                    got = [torch.compile(function, backend="aot_eager", fullgraph=True)(*passed), *passed]
                same(trial, said, got, want, cause="it writes where it does not declare, or outside of the view it is given")
                trial.control(
                    "it writes something", differs(want[1:], list(before)) or differs(want[0], _plain(before, position))
                )


def _eager(function: Callable[..., Any], given: tuple[Any, ...]) -> list[Any] | None:
    """What it gives and leaves, or None where it refuses this sort of view, as it may."""
    try:
        return [function(*given), *given]
    except Exception:  # noqa: BLE001  # whatever it raises
        return None


def _plain(given: tuple[Any, ...], position: int) -> Any:
    return given[position]


def _uses(op: Operator, position: int, *, aliases: bool) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions that call it on an input, a copy, views of larger tensors, and beside other views of the same memory."""

    def whole(made: Any) -> list[Any]:
        return [y * 1 for y in leaves(made).values() if isinstance(y, Tensor)]

    def on(view: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Callable[..., Any]:
        def use(*given: Any) -> Any:
            base, x = view(given[position])
            made = op.call(*given[:position], x, *given[position + 1 :])
            rest = [y * 1 for i, y in enumerate(given) if isinstance(y, Tensor) and i != position]
            return x * 2, base + 1, whole(made), rest

        return use

    def in_larger(x: Tensor) -> tuple[Tensor, Tensor]:
        base = torch.cat([x[:1], x, x[:1]]) + 0
        return base, base[1:-1]

    def transposed(x: Tensor) -> tuple[Tensor, Tensor]:
        base = x.transpose(0, -1).contiguous() + 0
        return base, base.transpose(0, -1)

    yield "an input", on(lambda x: (x, x))
    yield "a copy of an input", on(lambda x: (x, x.clone()))
    yield "a slice of a larger tensor", on(in_larger)
    yield "a transposed view", on(transposed)
    yield "an input of which a view was taken before", on(lambda x: (x.view(-1), x))

    def beside(*given: Any) -> Any:
        """Call it with each tensor of the shape and dtype of the mutated one in a row of its own of one base tensor."""
        x = given[position]
        form = [i for i, y in enumerate(given) if isinstance(y, Tensor) and y.shape == x.shape and y.dtype == x.dtype]
        base = torch.stack([given[i] for i in form])
        made = op.call(*(base[form.index(i)] if i in form else y for i, y in enumerate(given)))
        return base * 1, whole(made)

    def twice(*given: Any) -> Any:
        """Call it with the mutated tensor itself in the place of each tensor of its shape and dtype."""
        x = given[position] * 1
        form = [isinstance(y, Tensor) and y.shape == x.shape and y.dtype == x.dtype for y in given]
        return whole(op.call(*(x if f else y for f, y in zip(form, given, strict=True)))), x * 1

    if aliases:
        yield "rows of one tensor", beside
        yield "the same tensor in every place", twice
