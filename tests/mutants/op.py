"""Custom operators with a planted bug, and their correct twins; where memory matters they write it as a loop in C would."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mapsto.core.laws import Example

from . import Mutant

Kernel = Callable[..., Any]


def op(
    name: str, kernel: Kernel, *, fake: Kernel | None = None, mutates: tuple[str, ...] = (), schema: str | None = None
) -> Any:
    """Register a kernel as `mapsto_mutants::name`; its fake gives empty tensors like the first argument."""
    made = torch.library.custom_op(f"mapsto_mutants::{name}", kernel, mutates_args=mutates, schema=schema)
    made.register_fake(fake or (lambda x, *rest: torch.empty_like(x)))
    return made


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))


# -- U1: what opcheck sees
def scaled(x: Tensor, k: float) -> Tensor:
    return x.contiguous() * k


def scaled_in_place(x: Tensor, k: float) -> Tensor:
    x.mul_(k)
    return x.clone()


def total(x: Tensor) -> Tensor:
    return x.sum(-1)


SCALED = op("scaled", scaled, fake=lambda x, k: torch.empty(x.shape, dtype=x.dtype))
UNDECLARED = op("undeclared", scaled_in_place, fake=lambda x, k: torch.empty_like(x))
ALIASED = op("aliased", lambda x, k: x.view(x.shape), schema="(Tensor x, float k) -> Tensor")
STRIDED = op("strided", lambda x, k: (x.t().contiguous() * k).t(), fake=lambda x, k: torch.empty(x.shape),
             schema="(Tensor x, float k) -> Tensor")  # fmt: skip
RIGHTLY_STRIDED = op("rightly_strided", lambda x, k: (x.t().contiguous() * k).t(),
                     fake=lambda x, k: torch.empty_strided(x.shape, (1, max(x.shape[0], 1)), dtype=x.dtype),
                     schema="(Tensor x, float k) -> Tensor")  # fmt: skip
TOTAL = op("total", total, fake=lambda x: x.new_empty(x.shape[:-1]))
KEEPS_AXIS = op("keeps_axis", total, fake=lambda x: x.new_empty((*x.shape[:-1], 1)))
WRONG_DTYPE = op("wrong_dtype", total, fake=lambda x: torch.empty(x.shape[:-1], dtype=torch.float64))
FAILS_EMPTY = op("fails_empty", lambda x: x.sum(-1) / (1 if x.shape[0] else [][0]), fake=lambda x: x.new_empty(x.shape[:-1]),
                 schema="(Tensor x) -> Tensor")  # fmt: skip


# -- U2: backward
def cube(x: Tensor, w: Tensor) -> Tensor:
    return x * x * x * w


CUBE, CUBE_FORGETS, CUBE_SWAPS = op("cube", cube), op("cube_forgets", cube), op("cube_swaps", cube)


def _cube_backward(factor: float, swap: bool = False) -> Kernel:
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        found = grad * factor * x * x * w, grad * x * x * x
        return (found[1], found[0]) if swap else found

    return backward


CUBE.register_autograd(_cube_backward(3.0), setup_context=_keep)
CUBE_FORGETS.register_autograd(_cube_backward(1.0), setup_context=_keep)
CUBE_SWAPS.register_autograd(_cube_backward(3.0, swap=True), setup_context=_keep)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


class _DoubledOnce(_Doubled):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def doubled(x: Tensor) -> Tensor:
    return _Doubled.apply(x)


def doubled_once(x: Tensor) -> Tensor:
    return _DoubledOnce.apply(x)


# -- U2b: raw memory
def _raw(x: Tensor) -> Tensor:
    """The elements as they lie from the data pointer on, whatever the strides say."""
    return torch.as_strided(x, (x.numel(),), (1,), x.storage_offset()) if _reaches(x) else x.flatten()


def _reaches(x: Tensor) -> bool:
    return x.storage_offset() + x.numel() <= x.untyped_storage().nbytes() // x.element_size()


def raw_square(x: Tensor) -> Tensor:
    return (_raw(x) ** 2).view(x.shape)


def careful_square(x: Tensor) -> Tensor:
    return raw_square(x.contiguous())


def _square_backward(careful: bool) -> Kernel:
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if careful:
            return 2 * x * grad
        flat = torch.as_strided(grad, (1,), (1,), grad.storage_offset()) if not grad.is_contiguous() else grad.flatten()
        padded = torch.cat([flat, flat.new_zeros(x.numel() - flat.numel())])  # where nothing lies there
        return 2 * x * padded.view(x.shape)

    return backward


RAW_SQUARE, SQUARE, SQUARE_EXPANDED = (op(n, k, fake=lambda x: torch.empty(x.shape, dtype=x.dtype)) for n, k in (
    ("raw_square", raw_square), ("square", careful_square), ("square_expanded", careful_square)))  # fmt: skip
SQUARE.register_autograd(_square_backward(True), setup_context=_keep)
SQUARE_EXPANDED.register_autograd(_square_backward(False), setup_context=_keep)


# -- U3: against a reference
def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x * 4, torch.zeros_like(x))


def softplus_by_formula(x: Tensor) -> Tensor:
    return (x * 4).clamp(min=0) + torch.log1p(torch.exp(-(x * 4).abs()))


def softplus_naive(x: Tensor) -> Tensor:
    """log(1 + exp(x)): right in float64, and without digits for small x in float32."""
    return torch.log(1 + torch.exp(x * 4 + (0 if x.dtype == torch.float64 else 1e-3)))


def softplus_without_tail(x: Tensor) -> Tensor:
    """Blocks of four; what is left over is copied."""
    flat = x.flatten()
    whole = flat.numel() // 4 * 4
    return torch.cat([softplus_by_formula(flat[:whole]), flat[whole:]]).view(x.shape)


def mean(x: Tensor) -> Tensor:
    return x.float().mean(-1).to(x.dtype) if x.dtype != torch.float64 else x.mean(-1)


def mean_in_half(x: Tensor) -> Tensor:
    """Halves are summed one after another in half."""
    if x.dtype in (torch.float64, torch.float32):
        return x.mean(-1)
    out = torch.zeros_like(x[..., 0])
    for i in range(x.shape[-1]):
        out = out + x[..., i]
    return out / x.shape[-1]


def widened(x: Tensor) -> Tensor:
    """Halves come back as float32: everything after it runs in another dtype."""
    return x.float() * 2 if x.dtype in (torch.float16, torch.bfloat16) else x * 2


def angle(y: Tensor, x: Tensor) -> Tensor:
    """Its gradient overflows in float16 near the origin, as that of the reference does."""
    return torch.atan2(y, x)


def angle_turned(y: Tensor, x: Tensor) -> Tensor:
    return torch.atan2(x, y)


# -- U4: purity
COUNT = {"calls": 0, "late": 0}


def counted(x: Tensor) -> Tensor:
    COUNT["calls"] += 1
    return x + 1e-6 * COUNT["calls"]


def warmed(x: Tensor) -> Tensor:
    """Every second call takes a faster kernel."""
    COUNT["late"] += 1
    return x * 2 if COUNT["late"] % 2 else (x * 2).half().float()


BUFFERS: dict[tuple[int, ...], Tensor] = {}


def buffered(x: Tensor) -> Tensor:
    out = BUFFERS.setdefault(tuple(x.shape), torch.empty_like(x))
    return torch.mul(x, 2, out=out)


def noisy(x: Tensor) -> Tensor:
    return x * 2 + 0 * torch.rand(x.shape)


def clipped_in_place(x: Tensor) -> Tensor:
    return x.clamp_(-1, 1) * 2


def pure(x: Tensor) -> Tensor:
    return x * 2


def clipped(x: Tensor) -> Tensor:
    return x.clamp(-1, 1) * 2


# -- U5: memory beside it
def _write(x: Tensor, count: int, value: float) -> None:
    """A loop in C over `count` float32 from the data pointer on."""
    cells = (ctypes.c_float * count).from_address(x.data_ptr())
    for i in range(count):
        cells[i] = value


def _read(x: Tensor, count: int) -> list[float]:
    return list((ctypes.c_float * count).from_address(x.data_ptr()))


def ones_one_too_many(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    _write(out, out.numel() + 1, 1.0)
    return out


def ones_in_blocks(x: Tensor) -> Tensor:
    """Blocks of eight without a mask for the last."""
    out = torch.empty_like(x)
    _write(out, (out.numel() + 7) // 8 * 8, 1.0)
    return out


def ones_exactly(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    _write(out, out.numel(), 1.0)
    return out


def ones_but_last(x: Tensor) -> Tensor:
    """The last element is left as the allocator gave it."""
    out = torch.empty_like(x)
    _write(out, out.numel() - 1, 1.0)
    return out


def neighbours(x: Tensor, reach: int) -> Tensor:
    values = _read(x, x.numel() + reach) + [0.0] * (1 - reach)
    return torch.tensor([a + b for a, b in itertools.pairwise(values)]).view(x.shape)


def next_added(x: Tensor) -> Tensor:
    return neighbours(x, 0)


def next_added_beyond(x: Tensor) -> Tensor:
    return neighbours(x, 1)


def fill_from(x: Tensor, y: Tensor) -> None:
    x.copy_(y)


def fill_beyond(x: Tensor, y: Tensor) -> None:
    x.copy_(y)
    _write(x, x.numel() + 1, 1.0)


# -- U6: writing, compiled
def add_to(x: Tensor, y: Tensor) -> None:
    x.add_(y)


def add_to_both(x: Tensor, y: Tensor) -> None:
    """y is written too, and only x is declared."""
    x.add_(y)
    y.mul_(0.5)


def add_through_storage(x: Tensor, y: Tensor) -> None:
    """The whole storage is written, where x may be a part of it."""
    x.add_(y)
    torch.as_strided(x, (x.untyped_storage().nbytes() // x.element_size(),), (1,), 0).add_(1e-3)


def add_and_add(x: Tensor, y: Tensor) -> None:
    """Two passes: where y is x the second one reads what the first has written."""
    x.add_(y)
    x.add_(y)


def _nothing(x: Tensor, *rest: Any) -> None:
    return None


ADD, ADD_BOTH, ADD_TWICE, ADD_STORAGE, FILL, FILL_BEYOND = (
    op(n, k, fake=_nothing, mutates=("x",))
    for n, k in (("add_to", add_to), ("add_to_both", add_to_both), ("add_and_add", add_and_add),
                 ("add_through_storage", add_through_storage),
                 ("fill_from", fill_from), ("fill_beyond", fill_beyond))
)  # fmt: skip


def _vectors(count: int = 1, *rest: Any) -> Example:
    def make(size: int, generator: torch.Generator) -> tuple[Any, ...]:
        return (*(torch.randn(size, 5, generator=generator) for _ in range(count)), *rest)

    return Example(inputs=make)


def _with(reference: Kernel) -> Example:
    return Example(inputs=lambda size, generator: (torch.randn(size, 5, generator=generator),), more={"reference": reference})


def _long(size: int, generator: torch.Generator) -> tuple[Tensor]:
    return (torch.rand(size, 300, generator=generator),)


ONE, TWO, SCALE = _vectors(), _vectors(2), _vectors(1, 2.0)
CHOICES: tuple[tuple[str, str, Any, Any, str, Example], ...] = (
    ("opcheck", "an undeclared mutation", UNDECLARED, SCALED, "mutates_args forgotten", SCALE),
    ("opcheck", "an output that is a view of the input", ALIASED, SCALED, "returning the input", SCALE),
    ("opcheck", "a fake with contiguous strides", STRIDED, RIGHTLY_STRIDED, "fake strides", SCALE),
    ("opcheck", "a fake that keeps an axis", KEEPS_AXIS, TOTAL, "fake shape", ONE),
    ("opcheck", "a fake of another dtype", WRONG_DTYPE, TOTAL, "fake dtype", ONE),
    ("opcheck", "an empty input fails", FAILS_EMPTY, TOTAL, "a kernel launched with no blocks", ONE),
    ("gradients", "a backward forgets a factor", CUBE_FORGETS, CUBE, "opcheck passes it", TWO),
    ("gradients", "gradients of two inputs change places", CUBE_SWAPS, CUBE, "opcheck passes it", TWO),
    ("gradients", "an autograd.Function forgets a factor", doubled_once, doubled, "hand-written backward", ONE),
    ("layout", "a transposed input is read raw", RAW_SQUARE, SQUARE, "pytorch#194719", ONE),
    ("layout", "an expanded gradient is read raw", SQUARE_EXPANDED, SQUARE, "ROCm/TransformerEngine#623", ONE),
    ("reference", "wrong in float32 alone", softplus_naive, softplus_by_formula, "an epsilon in one dtype", _with(softplus)),
    ("reference", "the tail is left out", softplus_without_tail, softplus_by_formula, "an unmasked tail", _with(softplus)),
    ("reference", "sums in half precision", mean_in_half, mean, "accumulating in half",
     Example(inputs=_long, more={"reference": lambda x: x.mean(-1)})),
    ("reference", "halves come back wider", widened, pure, "a dtype that leaks out of autocast", _with(lambda x: x * 2)),
    ("reference", "two arguments change places", angle_turned, angle, "an argument order taken from another library",
     Example(inputs=TWO.inputs, more={"reference": torch.atan2})),
    ("purity", "a global counter", counted, pure, "opcheck passes it", ONE),
    ("purity", "every second call is rounded", warmed, pure, "an autotuner that changes kernels", ONE),
    ("purity", "one output buffer for all calls", buffered, pure, "a workspace given back", ONE),
    ("purity", "a draw from the random stream", noisy, pure, "hidden randomness", ONE),
    ("purity", "an input is clipped in place", clipped_in_place, clipped, "an undeclared mutation", ONE),
    ("guard_zones", "one element too many is written", ones_one_too_many, ones_exactly, "vllm#36779", ONE),
    ("guard_zones", "the tail of a block is written", ones_in_blocks, ones_exactly, "vllm#36779", ONE),
    ("guard_zones", "the last element is never written", ones_but_last, ones_exactly, "an output of torch.empty", ONE),
    ("guard_zones", "one element too many is read", next_added_beyond, next_added, "a halo without bounds", ONE),
    ("guard_zones", "beyond an input it writes to", FILL_BEYOND, FILL, "vllm#36779", TWO),
    ("guard_zones", "the storage of a view is written", ADD_STORAGE, ADD, "strides and offset ignored", TWO),
    ("compiled_mutation", "a second input is written", ADD_BOTH, ADD, "pytorch#130487", TWO),
    ("compiled_mutation", "it reads what it wrote, where two inputs are one", ADD_TWICE, ADD, "pytorch#153389", TWO),
)  # fmt: skip

MUTANTS = [
    Mutant(law=f"op.{law}", name=name, bug=bug, twin=twin, models=models, example=example, kind="op")
    for law, name, bug, twin, models, example in CHOICES
]
