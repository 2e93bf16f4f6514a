"""Comparing trees of tensors within a law's tolerance; every comparison is counted, every difference has a place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.laws import Trial

RTOL, ATOL = 1e-9, 1e-12
"""T1: float64."""
FACTOR = {torch.float64: 2.0, torch.float32: 2.0, torch.float16: 3.0, torch.bfloat16: 3.0}
"""T2: how many times the framework's own error a candidate may have (the factors of `torch._dynamo.utils.same`)."""


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dicts, lists and tuples by path."""
    if isinstance(tree, Mapping):
        return {k: v for key, value in tree.items() for k, v in leaves(value, f"{path}.{key}" if path else str(key)).items()}
    if isinstance(tree, (list, tuple)):
        return {k: v for i, value in enumerate(tree) for k, v in leaves(value, f"{path}[{i}]").items()}
    return {path or "output": tree}


def same(
    trial: Trial, what: str, got: Any, want: Any, *, tolerance: str = "T0", cause: str | None = None, script: str | None = None
) -> None:
    """Demand that two trees are the same: equal paths, types, dtypes, shapes and NaN patterns, values within T0 or T1."""
    mine, theirs = leaves(got), leaves(want)
    if mine.keys() != theirs.keys():
        missing, extra = sorted(theirs.keys() - mine.keys()), sorted(mine.keys() - theirs.keys())
        trial.fail(
            f"{what}: missing {missing}, unexpected {extra}", first={"tensor": (missing + extra)[0]}, cause=cause, script=script
        )
    for path, value in theirs.items():
        _same_leaf(trial, what, path, mine[path], value, tolerance, cause, script)
    trial.exercised(what, len(theirs))


def _same_leaf(
    trial: Trial, what: str, path: str, got: Any, want: Any, tolerance: str, cause: str | None, script: str | None
) -> None:
    if not isinstance(want, Tensor) or not isinstance(got, Tensor):
        if isinstance(want, Tensor) != isinstance(got, Tensor) or got != want:
            trial.fail(
                f"{what}: {path} is {got!r:.80}, and {want!r:.80} is due", first={"tensor": path}, cause=cause, script=script
            )
        return
    if got.dtype != want.dtype or got.shape != want.shape:
        said = f"{what}: {path} is {_form(got)}, and {_form(want)} is due"
        trial.fail(said, first={"tensor": path}, cause=cause or ("a cast" if got.dtype != want.dtype else None), script=script)
    at = first_difference(got, want, tolerance)
    if at is not None:
        trial.fail(
            f"{what}: {path} differs at {at}: {_item(got, at)} against {_item(want, at)}",
            measured=max_error(got, want),
            allowed=0.0 if tolerance == "T0" else f"{ATOL} + {RTOL} |x|",
            first={"tensor": path, "index": at},
            cause=cause or ratio_cause(got, want),
            script=script,
        )


def differs(got: Any, want: Any) -> bool:
    """Whether two trees differ anywhere (for controls)."""
    mine, theirs = leaves(got), leaves(want)
    if mine.keys() != theirs.keys():
        return True
    for path, value in theirs.items():
        other = mine[path]
        if not isinstance(value, Tensor) or not isinstance(other, Tensor):
            if isinstance(value, Tensor) != isinstance(other, Tensor) or value != other:
                return True
        elif value.shape != other.shape or value.dtype != other.dtype or first_difference(other, value, "T0") is not None:
            return True
    return False


def first_difference(got: Tensor, want: Tensor, tolerance: str) -> list[int] | None:
    """The index of the first element that is out of tolerance, or None. Zeros of either sign are equal, NaNs are too."""
    a, b = got.detach().resolve_conj().resolve_neg().cpu(), want.detach().resolve_conj().resolve_neg().cpu()
    if a.layout != torch.strided:
        a, b = a.to_dense(), b.to_dense()
    equal = a == b
    if a.is_floating_point() or a.is_complex():
        equal = equal | (a.isnan() & b.isnan())
        if tolerance != "T0" and b.numel():
            x, y = (a, b) if a.is_complex() else (a.double(), b.double())
            equal = equal | ((x - y).abs() <= ATOL + RTOL * y.abs().nan_to_num().amax())
    if bool(equal.all()):
        return None
    return [int(i) for i in (~equal).nonzero()[0]]


def max_error(got: Tensor, want: Tensor) -> float:
    """The largest absolute difference where both are finite."""
    a, b = (x.detach().cpu() if x.is_complex() else x.detach().cpu().double() for x in (got, want))
    error = (a - b).abs()
    finite = error[error.isfinite()]
    return float(finite.max()) if finite.numel() else float("inf")


def worst(got: Tensor, want: Tensor) -> list[int]:
    """The index of the element that is furthest off."""
    error = (got.detach().cpu().double() - want.detach().cpu().double()).abs().nan_to_num(nan=float("inf"))
    return [int(i) for i in torch.unravel_index(error.argmax(), error.shape)]


def relative_error(got: Tensor, want: Tensor) -> float:
    """Norm of the difference over the norm of `want`, in float64 (absolute where `want` is zero)."""
    a, b = got.detach().double(), want.detach().double()
    scale = float(b.norm())
    error = float((a - b).norm())
    return error / scale if scale else error


def close_to_oracle(
    trial: Trial,
    what: str,
    candidate: Any,
    eager: Any,
    oracle: Any,
    *,
    factor: float | None = None,
    floor: float = 0.0,
    cause: str | None = None,
    script: str | None = None,
) -> None:
    """T2: the candidate's error against the float64 oracle is at most k times that of the eager result, plus rounding.

    floor: an error that is always allowed, for sums that cancel: n terms of size s leave up to n eps s (Higham 2002, 4.2).
    """
    mine, usual, true = leaves(candidate), leaves(eager), leaves(oracle)
    if mine.keys() != true.keys():
        trial.fail(f"{what}: the outputs are {sorted(mine)}, and {sorted(true)} are due", script=script)
    for path, value in true.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        dtype = mine[path].dtype
        scale = float(value.abs().max()) if value.numel() else 0.0
        usual_error = (factor or FACTOR.get(dtype, 2.0)) * max_error(usual[path], value)
        allowed = max(usual_error + 4 * torch.finfo(dtype).eps * max(scale, 1e-30), floor)
        if not bool(mine[path].isfinite().all()) and bool(value.isfinite().all()):
            trial.fail(f"{what}: {path} is not finite in {dtype}", first={"tensor": path}, cause="overflow", script=script)
        if (measured := max_error(mine[path], value)) > allowed:
            trial.fail(
                f"{what}: {path} is {measured:.3g} from the float64 result, and {allowed:.3g} is allowed",
                measured=measured, allowed=allowed, first={"tensor": path, "index": worst(mine[path], value)},
                cause=cause or ratio_cause(mine[path], value),
                script=script,
            )  # fmt: skip
    trial.exercised(what, len(true))


def ratio_cause(got: Tensor, want: Tensor) -> str | None:
    """What a constant ratio between two tensors tells, such as a factor that was applied twice or left out."""
    if not got.is_floating_point() or not want.is_floating_point() or got.shape != want.shape or not got.numel():
        return None
    if bool(got.isnan().any()) and not bool(want.isnan().any()):
        return "not a number"
    a, b = got.detach().double().flatten(), want.detach().double().flatten()
    kept = b.abs() > 1e-8 * b.abs().max()
    if not bool(kept.any()):
        return None
    ratio = a[kept] / b[kept]
    if float(ratio.max() - ratio.min()) > 1e-4 * abs(float(ratio.mean())):
        return None
    value = float(ratio.mean())
    return None if abs(value - 1) < 1e-6 else f"a constant factor of {value:.6g} throughout"


def _form(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


def _item(value: Tensor, at: list[int]) -> str:
    dense = value.detach() if value.layout == torch.strided else value.detach().to_dense()
    return f"{dense[tuple(at)].item():.9g}" if not value.is_complex() else str(dense[tuple(at)].item())


def each_dtype(trial: Trial, run: Callable[[torch.dtype], None], *dtypes: torch.dtype) -> None:
    """Run a case a dtype, labelled."""
    for dtype in dtypes:
        with trial.case(dtype=str(dtype).removeprefix("torch.")):
            run(dtype)
