"""The law of layers and models that are exported to ONNX."""

from __future__ import annotations

import importlib.util
from typing import Any

from ...core.laws import Laws, Trial
from ...laws.export_cases import TRACED, compare_at_size, compare_on_fresh_inputs, exported, opened
from ..drivers.export import DRIVER, of_layer
from ..drivers.layer_examples import inputs
from ..export import onnx as to_onnx
from .layer_compile import for_forward, moving

laws = Laws("layer", "model")


@laws.law(
    "X1b",
    "onnx",
    priority=1,
    tolerance="T2",
    seconds=180,
    why="ONNX has operators of its own; a translation may be missing, or mean something a little different.",
    satisfy="Use operations that ONNX knows and sizes from x.shape; state tags={'eager_only'} where it is never shipped.",
    catches=("an operation without a translation", "a batch size that the ONNX graph holds as a constant"),
)
def in_onnx(trial: Trial) -> None:
    """Exported to ONNX and run by onnxruntime, it is as accurate as eager on fresh inputs at every declared size."""
    missing = [n for n in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(n) is None]
    if missing:
        trial.skip(f"{', '.join(missing)} is not installed: pip install 'mapsto[onnx]'")
    case = of_layer(trial, to_onnx, ".onnx", "T2")
    if trial.has("single_precision"):
        trial.skip("it runs in single precision only, as it declares, and this law needs a float64 result to compare with")
    model = case.build()
    if DRIVER.draws(model, case.inputs(TRACED, "traced")):
        trial.skip("it draws random numbers in evaluation, and ONNX has a generator of its own")
    sizes = tuple(sorted(trial.example.dynamic)) if not trial.has("static") else ()
    shapes: Any = False
    if len(sizes) > 1:
        one, other = (inputs(trial, size, stream="traced") for size in (TRACED, TRACED + 1))
        shapes = for_forward(model, moving(one, other))
    with trial.case(size=TRACED, by="ONNX"), exported(trial, case, DRIVER, dynamic=shapes) as artefact:
        run = opened(trial, case, artefact)
        compare_on_fresh_inputs(trial, DRIVER, case, run)
        for size in sizes if shapes else ():
            compare_at_size(trial, DRIVER, case, run, size)
