"""Laws of a layer under autocast: float32 masters, finite numbers, errors of rounding only."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ...core.laws import Laws, Trial
from ..drivers.layer_examples import build, in_dtype, inputs
from ..drivers.layer_passes import double, draws, seen_by
from .compare import max_error

laws = Laws("layer", "model")

Seen = dict[str, Any]

FACTOR = 6.0
"""How often the error that autocast's own roundings leave a result may have: what lies between them is rounded too."""
SEEDS = 8
"""Inputs over which that error is measured; the largest counts."""
NO_KERNEL = ("not implemented for", "could not create a primitive")
"""What PyTorch and oneDNN say where the device has no kernel for a dtype, which is nothing a layer can mend."""
SCALES = {
    "as drawn": 1.0,
    "a record of zeros": 1.0,
    "10 times a normal": 10.0,
    "30 times": 30.0,
    "100 times": 100.0,
    "1000 times": 1000.0,
}
"""Activations of these sizes are met in deep networks: exp(30) and the square of 300 are no float16."""
SCALED = [said for said, scale in SCALES.items() if scale > 1]
COARSE = 0.5
"""What share of the largest number results of such activations may be off where one rounding of what autocast computes is
above 1: an exponential of it is then another number."""
RANGE = torch.finfo(torch.float16).max / 8
"""What a result, and what autocast computes in float16 itself, may reach for float16 to be asked for."""
SQUARING = (nn.LocalResponseNorm, nn.CrossMapLRN2d, nn.modules.pooling._LPPoolNd, nn.CosineSimilarity)
"""PyTorch's own layers that take powers in half precision: a layer that holds one is asked for ordinary sizes alone."""
LOW = ("mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "convolution", "linear", "scaled_dot_product")
"""What autocast computes in half precision, by the operators that it becomes (the list in PyTorch's notes on autocast)."""
WIDE = (
    "acos", "asin", "cosh", "cumprod", "cumsum", "erfinv", "exp", "expm1", "linalg_vector_norm", "log", "log10", "log1p",
    "log2", "log_softmax", "native_group_norm", "native_layer_norm", "norm", "pow", "prod", "reciprocal", "rsqrt", "sinh",
    "softmax", "softplus", "std", "std_mean", "sum", "tan", "var", "var_mean",
)  # fmt: skip
"""What autocast computes in float32 on a GPU, and not on a CPU; and variances, which PyTorch adds up in float32 anyway."""


@laws.law(
    "L8",
    "autocast",
    priority=1,
    tolerance="T2",
    seconds=90,
    why="Under mixed precision activations arrive in bfloat16 or float16; exponentials and squares overflow, "
    "an epsilon vanishes, masters get rounded.",
    satisfy="Subtract the maximum before exp, square and sum in float32, keep parameters and statistics in their own dtype.",
    catches=(
        "an exponential that overflows in float16",
        "statistics that take the dtype of the activations",
        "pytorch#133085",
        "pytorch#32137",
    ),
)
def autocast(trial: Trial) -> None:
    """Under autocast to bfloat16 and float16, of activations up to 1000, zero, and in half precision, results are finite
    and as near to the float64 result as autocast's own roundings leave them, and parameters and buffers keep their dtype.
    """
    oracle, given = double(trial)
    if draws(oracle.eval(), given):
        trial.skip("it draws random numbers in evaluation, and draws other ones in another dtype")
    exercised = False
    for said in ["as drawn"] if any(isinstance(m, SQUARING) for m in oracle.modules()) else SCALES:
        due = _due(trial, said)
        for dtype in (torch.bfloat16, torch.float16):
            if dtype is torch.bfloat16 or due.reach < RANGE:
                exercised |= _one_dtype(trial, dtype, due)
        if said == "as drawn" and not exercised:
            trial.skip("PyTorch has no kernels of it in half precision on this device")


@dataclass(frozen=True)
class Due:
    """What is due for inputs: the float64 result, the error that autocast's own roundings leave it, and which elements are
    as float32 has them; reach: the largest number that autocast would compute in half precision.
    """

    said: str
    true: Seen
    errors: Mapping[str, Mapping[str, float]]
    sound: Mapping[str, Tensor]
    reach: float


def _fed(trial: Trial, said: str, dtype: torch.dtype, stream: str = "inputs") -> tuple[Any, ...]:
    """Inputs as drawn, scaled, or with a first record of zeros, those of targets (`fixed`) left as they are."""

    def one(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        if said == "a record of zeros":
            axis = trial.example.more.get("record_axis", 0)
            return x.index_fill(axis, torch.tensor([0]), 0.0) if x.dim() > axis else x
        return x * SCALES[said]

    fixed = trial.example.more.get("fixed", ())
    given = inputs(trial, _size(trial), dtype, stream=stream)
    return tuple(x if i in fixed else tree_map_only(Tensor, one, x) for i, x in enumerate(given))


def _size(trial: Trial) -> int:
    """As many records as it takes, of the few that are tried: the numbers that overflow are rare ones."""
    return next((n for n in (7, 3) if n in trial.example.dynamic), 2)


def _due(trial: Trial, said: str) -> Due:
    """The float64 result and its error over several inputs, rounded where autocast rounds."""
    first = said == "as drawn"
    errors: dict[str, dict[str, float]] = {"output": {}, "gradient": {}}
    for number in range(SEEDS if first else 2):
        stream = "inputs" if not number else f"yardstick {number}"
        given = _fed(trial, said, torch.float64, stream)
        exact = seen_by(trial, build(trial, torch.float64).eval(), given, backward=first)
        rough, reach = _rounded_pass(trial, given, backward=first)
        if not number:
            true, largest = exact, reach
        for part, of in errors.items():
            for path, value in exact.get(part, {}).items():
                other = rough.get(part, {}).get(path)
                if isinstance(value, Tensor) and isinstance(other, Tensor) and value.is_floating_point():
                    of[path] = max(of.get(path, 0.0), max_error(other, value))
    single = seen_by(trial, build(trial).eval(), _fed(trial, said, torch.float32), backward=False)
    sound = {k: _near(single["output"].get(k), y) for k, y in true["output"].items() if isinstance(y, Tensor)}
    return Due(said, true, errors, sound, largest)


def _near(single: Any, true: Tensor) -> Tensor:
    """Where float32 has what float64 has."""
    if not isinstance(single, Tensor) or single.shape != true.shape:
        return torch.zeros(true.shape, dtype=torch.bool)
    largest = true[true.isfinite()].abs().max() if true.numel() and bool(true.isfinite().any()) else 0.0
    return true.isfinite() & ((single.double() - true).abs() <= 1e-3 * largest)


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's base has no annotations
    """Within it, what autocast computes in half precision has its inputs and results rounded to bfloat16, in its range."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reach = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.lstrip("_")
        if not name.startswith(LOW):
            made = func(*args, **(kwargs or {}))
            if name == "mul" and all(isinstance(x, Tensor) for x in args[:2]) and args[0] is not args[1]:
                self._reached(made / 8)  # of two activations, itself beyond the range, with no margin; a square need not be
            return made
        made = func(*tree_map_only(Tensor, _rounded, args), **(kwargs or {}))
        for y in made if isinstance(made, (tuple, list)) else (made,):
            self._reached(y)
        return tree_map_only(Tensor, _rounded, made)

    def _reached(self, y: Any) -> None:
        if isinstance(y, Tensor) and y.dtype is torch.float64 and y.numel():
            self.reach = max(self.reach, float(y.abs().max()))


class _Widened(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's base has no annotations
    """Within it, half precision is widened where a GPU's autocast widens it: a layer that trains there is right there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__.lstrip("_") in WIDE:
            args = tree_map_only(Tensor, lambda x: x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, args)
        return func(*args, **(kwargs or {}))


def _rounded(x: Tensor) -> Tensor:
    return x.bfloat16().double() if x.dtype is torch.float64 else x


def _rounded_pass(trial: Trial, given: tuple[Any, ...], *, backward: bool) -> tuple[Seen, float]:
    """A pass in float64 of which inputs, parameters and what autocast computes in half precision are rounded."""
    module = build(trial, torch.float64).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(_rounded(parameter))
    mode = _Rounding()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mode:
            seen = seen_by(trial, module, tree_map_only(Tensor, _rounded, given), backward=backward)
    return seen, mode.reach


def _one_dtype(trial: Trial, dtype: torch.dtype, due: Due) -> bool:
    """Inputs in float32, and then in half precision where it takes them: whether either could be judged."""
    name = str(dtype).removeprefix("torch.")
    fixed = trial.example.more.get("fixed", ())
    exercised = False
    for kept in (torch.float32, dtype):
        module = build(trial).eval()
        dtypes = {n: t.dtype for n, t in (*module.named_parameters(), *module.named_buffers())}
        with trial.case(size=_size(trial), dtype=f"autocast {name}", inputs=due.said, of=str(kept).removeprefix("torch.")):
            given = _fed(trial, due.said, torch.float32)
            given = tuple(x if i in fixed else in_dtype(x, kept) for i, x in enumerate(given))
            found = _cast(trial, module, given, dtype, optional=kept is dtype)
            if found is None:
                continue
            exercised = True
            _masters(trial, module, found, dtypes, dtype)
            _near_truth(trial, "output", found["output"], due, dtype)
            if due.said == "as drawn" and kept is torch.float32:
                _near_truth(trial, "gradient", found.get("gradient", {}), due, dtype)
    return exercised


def _cast(
    trial: Trial, module: nn.Module, given: tuple[Any, ...], dtype: torch.dtype, *, optional: bool
) -> dict[str, Any] | None:
    """A pass under autocast, or None where PyTorch has no kernel for the dtype; of inputs that it need not take (optional)
    the outputs alone, as a GPU's autocast computes them.
    """

    def call(*x: Any) -> Any:
        with torch.autocast("cpu", dtype=dtype), _Widened() if optional else nullcontext():  # type: ignore[no-untyped-call]
            return module(*x)

    with trial.component(f"a pass under autocast to {str(dtype).removeprefix('torch.')}"):
        try:
            return seen_by(trial, module, given, call=call, backward=not optional)
        except Exception as error:
            if not optional and not any(text in str(error) for text in NO_KERNEL):
                raise
    return None


def _masters(
    trial: Trial, module: nn.Module, found: dict[str, Any], dtypes: dict[str, torch.dtype], dtype: torch.dtype
) -> None:
    now = {n: t.dtype for n, t in (*module.named_parameters(), *module.named_buffers())}
    moved = sorted(n for n, d in dtypes.items() if now.get(n) != d)
    trial.demand(not moved, f"{', '.join(moved)} changed dtype: {[str(now.get(n)) for n in moved]}",
                 first={"tensor": min(moved, default="")}, cause="a cast of state to the activations' dtype")  # fmt: skip
    wrong = {k: y.dtype for k, y in found["output"].items()
             if isinstance(y, Tensor) and y.is_floating_point() and y.dtype not in (dtype, torch.float32)}  # fmt: skip
    trial.demand(not wrong, f"outputs in {sorted(map(str, wrong.values()))} under autocast to {dtype}",
                 first={"tensor": min(wrong, default="")}, cause="a constant in another dtype")  # fmt: skip


def _near_truth(trial: Trial, part: str, found: Seen, due: Due, dtype: torch.dtype) -> None:
    """Finite where float64 and float32 are, and off by rounding alone; of results beyond float16's range nothing is asked."""
    wanted = {k: v for k, v in due.true.get(part, {}).items() if isinstance(v, Tensor) and v.is_floating_point() and v.numel()}
    eps = 4 * torch.finfo(torch.bfloat16).eps
    largest = max((float(v.abs().max()) for v in wanted.values()), default=0.0)
    for path, true in wanted.items():
        got, sound = found.get(path), due.sound.get(path) if part == "output" else true.isfinite()
        if not isinstance(got, Tensor) or sound is None or not float(true.abs().max()) < RANGE:
            continue
        trial.exercised(part, int(sound.any()))
        bad = (~got.isfinite() & sound).nonzero()
        trial.demand(not len(bad), f"{part} {path} is not finite, and float64 gives at most {float(true.abs().max()):.3g}",
                     measured=f"{len(bad)} of {got.numel()} elements", allowed="none",
                     first={"tensor": path, "index": bad[0].tolist() if len(bad) else []},
                     cause="an intermediate result overflows, or an epsilon vanishes")  # fmt: skip
        rough = COARSE if due.said in SCALED and due.reach * torch.finfo(dtype).eps / 2 > 1 else eps
        allowed = max(FACTOR * due.errors[part].get(path, 0.0), rough * largest)
        off = ((got.double() - true).abs() * sound).nan_to_num(0.0)
        worst, at = float(off.max()), (off == off.max()).nonzero()[0].tolist()
        trial.demand(worst <= allowed, f"{part} {path} is {worst:.3g} from the float64 result, and {allowed:.3g} is allowed",
                     measured=worst, allowed=allowed, first={"tensor": path, "index": at},
                     cause="half precision where float32 is due")  # fmt: skip
