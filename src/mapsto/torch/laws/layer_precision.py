"""Laws of a layer under autocast: float32 masters, finite numbers, errors of rounding only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...core.laws import Laws, Trial
from ..drivers.layer_examples import build, inputs
from ..drivers.layer_passes import double, draws, seen_by
from .compare import close_to_oracle, max_error

laws = Laws("layer", "model")

SEEDS = 8
"""Passes over which the error of plain bfloat16 is measured; the largest is the yardstick."""
NO_KERNEL = ("not implemented for", "could not create a primitive")
"""What PyTorch and oneDNN say where the device has no kernel for a dtype, which is nothing a layer can mend."""
LARGE = 30.0
"""Activations of this size are ordinary in deep networks, and exp(30) is no float16."""


@laws.law(
    "L8",
    "autocast",
    priority=1,
    tolerance="T2",
    seconds=90,
    why="Under mixed precision activations arrive in bfloat16 or float16; exponentials and squares overflow, "
    "masters get rounded.",
    satisfy="Subtract the maximum before exp, sum squares in float32, keep parameters and statistics in their own dtype.",
    catches=("an exponential that overflows in float16", "statistics that take the dtype of the activations"),
)
def autocast(trial: Trial) -> None:
    """Under autocast to bfloat16 and float16 results are finite and within rounding, and parameters and buffers keep
    their dtype.
    """
    oracle, given = double(trial)
    if draws(build(trial, torch.float64).eval(), given):
        trial.skip("it draws random numbers in evaluation, and draws other ones in another dtype")
    truth = seen_by(trial, oracle, given)
    usual = _plain_bfloat16(trial)
    exercised = [_one_dtype(trial, dtype, truth, usual) for dtype in (torch.bfloat16, torch.float16)]
    if not any(exercised):
        trial.skip("PyTorch has no kernels of it in half precision on this device")


def _one_dtype(trial: Trial, dtype: torch.dtype, truth: dict[str, Any], usual: dict[str, Any]) -> bool:
    name = str(dtype).removeprefix("torch.")
    for scale in (1.0, LARGE):
        module = build(trial).eval()
        dtypes = {n: t.dtype for n, t in (*module.named_parameters(), *module.named_buffers())}
        with trial.case(size=2, dtype=f"autocast {name}", scale=scale):
            given = tuple(_scaled(x, scale) for x in inputs(trial, 2))
            found = _cast(trial, module, given, dtype)
            if found is None:
                return False
            _masters(trial, module, found, dtypes, dtype)
            if scale == 1.0:
                parts = {
                    p: {k: v for k, v in found.get(p, {}).items() if isinstance(v, Tensor)} for p in ("output", "gradient")
                }
                for part in parts:
                    wanted = {k: v for k, v in truth.get(part, {}).items() if isinstance(v, Tensor)}
                    floor = max(
                        (float(v.abs().max()) for v in wanted.values() if v.is_floating_point() and v.numel()), default=0.0
                    )
                    yard = {k: _with_error(v, usual[part].get(k, 0.0)) for k, v in wanted.items()}
                    close_to_oracle(trial, f"{part} under autocast", parts[part], yard, wanted, factor=3.0,
                                    floor=4 * torch.finfo(torch.bfloat16).eps * floor)  # fmt: skip
            else:
                _finite(trial, found, scale)
    return True


def _cast(trial: Trial, module: nn.Module, given: tuple[Any, ...], dtype: torch.dtype) -> dict[str, Any] | None:
    """A pass under autocast, or None where PyTorch has no kernel for the dtype."""

    def call(*x: Any) -> Any:
        with torch.autocast("cpu", dtype=dtype):
            return module(*x)

    with trial.component(f"a pass under autocast to {str(dtype).removeprefix('torch.')}"):
        try:
            return seen_by(trial, module, given, call=call)
        except (RuntimeError, NotImplementedError) as error:
            if not any(text in str(error) for text in NO_KERNEL):
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


def _finite(trial: Trial, found: dict[str, Any], scale: float) -> None:
    """Inputs some tens large: where float64 is finite and in the range of float16, so must be the output."""
    module = build(trial, torch.float64).eval()
    truth = seen_by(trial, module, tuple(_scaled(x, scale) for x in inputs(trial, 2, torch.float64)), backward=False)["output"]
    largest = torch.finfo(torch.float16).max / 8
    for path, y in found["output"].items():
        true = truth.get(path)
        if not isinstance(y, Tensor) or not isinstance(true, Tensor) or not y.is_floating_point() or not y.numel():
            continue
        if bool(true.isfinite().all()) and float(true.abs().max()) < largest:
            bad = (~y.isfinite()).nonzero()
            trial.demand(not len(bad), f"{path} is not finite for inputs {scale:.0f} times a normal, and float64 gives at most "
                         f"{float(true.abs().max()):.3g}", measured=f"{len(bad)} of {y.numel()} elements", allowed="none",
                         first={"tensor": path, "index": bad[0].tolist() if len(bad) else []},
                         cause="an intermediate result overflows")  # fmt: skip


def _scaled(x: Any, scale: float) -> Any:
    return x * scale if isinstance(x, Tensor) and x.is_floating_point() else x


def _plain_bfloat16(trial: Trial) -> dict[str, dict[str, float]]:
    """The largest error of the layer converted to bfloat16 whole, by tensor; empty where it does not run so."""
    errors: dict[str, dict[str, float]] = {"output": {}, "gradient": {}}
    for number in range(SEEDS):
        exact = seen_by(
            trial, build(trial, torch.float64).eval(), inputs(trial, 2, torch.float64, stream=f"yardstick {number}")
        )
        try:
            rough = seen_by(
                trial, build(trial, torch.bfloat16).eval(), inputs(trial, 2, torch.bfloat16, stream=f"yardstick {number}")
            )
        except Exception:  # noqa: BLE001  # no kernel for it; the floor is the yardstick
            break
        for part, of in errors.items():
            for path, value in exact.get(part, {}).items():
                other = rough.get(part, {}).get(path)
                if isinstance(value, Tensor) and isinstance(other, Tensor) and value.is_floating_point():
                    of[path] = max(of.get(path, 0.0), max_error(other, value))
    return errors


def _with_error(value: Tensor, error: float) -> Tensor:
    """The value off by a given error, as the yardstick that `close_to_oracle` measures."""
    return value + error if value.is_floating_point() and error < float("inf") else value
