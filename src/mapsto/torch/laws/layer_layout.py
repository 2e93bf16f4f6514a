"""Laws of how tensors lie in memory: a layer's results depend on values, never on strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core.laws import Laws, Trial
from ...laws.layer_inputs import controlled_by_inputs, no_gradient
from ..drivers.layer_examples import build, inputs
from ..drivers.layer_passes import double, seen_by
from .compare import close_to_oracle, differs, leaves, max_error, same

laws = Laws("layer", "model")


def transposed(x: Tensor) -> Tensor | None:
    """The same values with the first and last axes swapped in memory."""
    return x.transpose(0, -1).contiguous().transpose(0, -1) if x.dim() > 1 else None


def sliced(x: Tensor) -> Tensor | None:
    """The same values as every second of a wider tensor that holds nothing useful between them."""
    if not x.dim():
        return None
    rest = float("nan") if x.is_floating_point() or x.is_complex() else x.flip(-1).unsqueeze(-1)
    wide = torch.stack([x, torch.full_like(x, rest) if isinstance(rest, float) else rest.squeeze(-1)], -1)
    return wide.flatten(-2)[..., ::2]


def expanded(x: Tensor) -> Tensor | None:
    """The first record in the place of every one, with stride 0."""
    return x[:1].expand_as(x) if x.dim() and x.shape[0] else None


def offset(x: Tensor) -> Tensor | None:
    """The same values a few elements into their storage."""
    return torch.cat([x.flatten()[:1].expand(3), x.flatten()])[3:].view(x.shape) if x.numel() else None


def channels_last(x: Tensor) -> Tensor | None:
    """Channels last in memory, for images and volumes."""
    form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return x.to(memory_format=form) if form is not None and not x.is_contiguous(memory_format=form) else None


def of_a_sum(x: Tensor) -> Tensor | None:
    """One number in every place, with all strides 0: what the gradient of a sum is."""
    return x.flatten()[:1].view([1] * x.dim()).expand_as(x) if x.numel() else None


Layout = Callable[[Tensor], Tensor | None]
LAYOUTS: dict[str, Layout] = {
    "transposed": transposed, "sliced": sliced, "expanded": expanded, "offset": offset, "channels last": channels_last,
}  # fmt: skip


@laws.law(
    "L2",
    "layout",
    priority=0,
    tolerance="T1",
    why="Whoever calls a layer hands it slices, transposes and expanded tensors; a kernel that assumes contiguity reads "
    "others' numbers.",
    satisfy="Call .contiguous() before a raw kernel or data pointer; use reshape where view would need contiguity.",
    catches=("pytorch#194719", "view on a transposed input"),
)
def layout(trial: Trial) -> None:
    """Inputs give the same outputs and gradients however they lie in memory."""
    _layouts(trial, LAYOUTS, of_inputs=True)


@laws.law(
    "L2b",
    "gradient_layout",
    priority=0,
    tolerance="T1",
    why="Gradients come back transposed, sliced and expanded (a sum's are expanded); a backward kernel that assumes contiguity "
    "is silently wrong.",
    satisfy="Call grad.contiguous() in a custom backward before a raw kernel or data pointer.",
    catches=("ROCm/TransformerEngine#623", "an expanded grad_output read through its data pointer"),
)
def gradient_layout(trial: Trial) -> None:
    """Gradients of outputs give the same gradients of inputs and parameters however they lie in memory."""
    _layouts(trial, {**LAYOUTS, "of a sum": of_a_sum}, of_inputs=False)


def _layouts(trial: Trial, layouts: dict[str, Layout], *, of_inputs: bool) -> None:
    """Compare each layout with a contiguous copy of the same values: exactly in float64, then within T2 in float32."""
    module, given = double(trial, 3)
    base = seen_by(trial, module, given)
    if not of_inputs and "gradient" not in base:
        no_gradient(trial)
    if of_inputs and not any(isinstance(x, Tensor) for x in leaves(given).values()):
        trial.skip("it takes no tensors")
    what = "input" if of_inputs else "gradient of the output"
    tensors = [x for x in leaves((given, base)).values() if isinstance(x, Tensor) and x.is_floating_point() and x.numel()]
    floor = max((x.numel() * float(x.abs().max()) for x in tensors), default=0.0) * torch.finfo(torch.float32).eps
    for name, way in layouts.items():
        if of_inputs and not any(_changes(way, x) for x in leaves(given).values() if isinstance(x, Tensor)):
            continue
        with trial.case(size=3, dtype="float64", layout=name, of=what), trial.component(f"a pass with a {what} that is {name}"):
            got, want = _two_passes(trial, torch.float64, given, way, of_inputs)
            same(trial, f"{what} that is {name}", got, want, tolerance="T1", cause=_contiguity(got, want))
        with trial.case(size=3, dtype="float32", layout=name, of=what), trial.component(f"a pass with a {what} that is {name}"):
            low, usual = _two_passes(trial, torch.float32, given, way, of_inputs)
            close_to_oracle(trial, f"float32 {what} that is {name}", low, usual, want, floor=floor)
    fresh = inputs(trial, 3, torch.float64, stream="control")
    controlled_by_inputs(trial, "other inputs give another result", differs(seen_by(trial, module, fresh), base) or not fresh)


def _changes(way: Layout, x: Tensor) -> bool:
    made = way(x)
    return made is not None and (made.stride() != x.stride() or made.storage_offset() != x.storage_offset())


def _two_passes(
    trial: Trial, dtype: torch.dtype, given: tuple[Any, ...], way: Layout, of_inputs: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    def arranged(x: Tensor) -> Tensor:
        made = way(x)
        return x if made is None else made

    def mapped(tree: Any, contiguous: bool) -> Any:
        if isinstance(tree, Tensor):
            made = arranged(tree.to(dtype) if tree.is_floating_point() else tree)
            return made.contiguous().clone(memory_format=torch.contiguous_format) if contiguous else made
        if type(tree) in (tuple, list):
            return type(tree)(mapped(x, contiguous) for x in tree)
        return {k: mapped(v, contiguous) for k, v in tree.items()} if isinstance(tree, dict) else tree

    results = []
    for contiguous in (False, True):
        module = build(trial, dtype).eval()
        if of_inputs:
            results.append(seen_by(trial, module, mapped(given, contiguous)))
        else:
            plain = mapped(given, True)

            def lay(g: Tensor, contiguous: bool = contiguous) -> Tensor:
                return arranged(g).clone(memory_format=torch.contiguous_format) if contiguous else arranged(g)

            results.append(seen_by(trial, module, plain, arrange=lay))
    return results[0], results[1]


def _contiguity(got: Any, want: Any) -> str | None:
    mine, theirs = leaves(got), leaves(want)
    wrong = [p for p, v in theirs.items() if isinstance(v, Tensor) and isinstance(mine.get(p), Tensor)
             and mine[p].shape == v.shape and v.is_floating_point() and max_error(mine[p], v) > 1e-6]  # fmt: skip
    return "memory is read as if it were contiguous" if wrong else None
