"""Laws of a layer under activation checkpointing, where its forward pass runs a second time during backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from ...core.laws import Laws, Trial
from ...laws.layer_inputs import no_gradient
from ..drivers.layer_examples import build, inputs
from ..drivers.layer_passes import double, draws, poisoned_memory, seen_by
from .compare import differs, first_difference, leaves, same

laws = Laws("layer", "model")


def _early_stop(trial: Trial, plain: dict[str, Any]) -> str | None:
    """Whether recomputing to the end, and not only to the last tensor that is saved, gives what is due."""
    module, given = double(trial, 3, training=True)
    with set_checkpoint_early_stop(False):
        whole = seen_by(trial, module, given, call=lambda *x: checkpoint(module, *x, use_reentrant=False))
    if differs(whole["gradient"], plain["gradient"]):
        return None
    return "a tensor is saved for backward and written afterwards: recomputation stops once all are saved, before it is filled"


def _both(trial: Trial) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """What is seen without and with activation checkpointing in training mode, and whether the layer draws there."""
    module, given = double(trial, 3, training=True)
    drew = draws(build(trial, torch.float64).train(), given)
    plain = seen_by(trial, module, given)
    if "gradient" not in plain:
        no_gradient(trial)
    again = build(trial, torch.float64).train()
    with trial.component("its backward under activation checkpointing"), poisoned_memory():
        recomputed = seen_by(
            trial, again, given, call=lambda *x: checkpoint(again, *x, use_reentrant=False, preserve_rng_state=True)
        )
    fresh = inputs(trial, 3, torch.float64, stream="control")
    other = seen_by(trial, build(trial, torch.float64).train(), fresh)
    trial.control("other inputs give other gradients or outputs", differs(other, plain))
    return plain, recomputed, drew


@laws.law(
    "L5",
    "checkpointing",
    priority=0,
    tolerance="T0",
    why="Activation checkpointing computes the forward pass twice; a second pass that differs gives gradients of "
    "another function.",
    satisfy="Draw from PyTorch's generator alone, keep nothing from one pass to the next, and write nothing into "
    "saved tensors.",
    catches=("OLMo-core#828", "pytorch#193671", "noise from a generator of its own"),
)
def checkpointing(trial: Trial) -> None:
    """Outputs and gradients in training are the same bits with activation checkpointing as without, dropout on."""
    with trial.case(size=3, dtype="float64", mode="training"):
        plain, recomputed, drew = _both(trial)
        cause = None
        if differs(recomputed["gradient"], plain["gradient"]):
            cause = (
                _early_stop(trial, plain)
                or _first_op(trial)
                or ("random numbers in the second pass" if drew else "something kept between the passes")
            )
        for part in ("output", "gradient"):
            same(trial, f"{part} under activation checkpointing", recomputed[part], plain[part], cause=cause)


@laws.law(
    "L5b",
    "checkpointing_buffers",
    priority=1,
    tolerance="T0",
    why="Under activation checkpointing the forward pass runs twice, so counters and queues move twice.",
    satisfy="Update buffers where the pass is not a recomputation, or keep such a layer outside checkpointed blocks.",
    catches=("a queue of keys that is filled twice", "a schedule in a buffer that counts both passes"),
)
def checkpointing_buffers(trial: Trial) -> None:
    """Buffers after a pass in training are the same bits with activation checkpointing as without, but for averages that
    move twice towards what they average, as those of nn.BatchNorm are documented to.
    """
    module = build(trial, torch.float64)
    start = {n: b.detach().clone() for n, b in module.named_buffers()}
    if not start:
        trial.skip("it has no buffers")
    with trial.case(size=3, dtype="float64", mode="training"):
        plain, recomputed, _ = _both(trial)
        once, twice = plain["buffer"], recomputed["buffer"]
        own = {n for n, _ in module.named_buffers() if _of_normalisation(module, n)}
        free = own | {n for n in start.keys() & once.keys() & twice.keys() if _averages(start[n], once[n], twice[n])}
        if free and free >= once.keys():
            trial.skip(f"its buffers are averages ({', '.join(sorted(free))}), which move in both passes, as nn.BatchNorm's do")
        kept = ({n: b for n, b in buffers.items() if n not in free} for buffers in (twice, once))
        same(trial, "buffers under activation checkpointing", *kept, cause="updated by both passes")


def _of_normalisation(module: nn.Module, name: str) -> bool:
    """Whether a buffer is one of PyTorch's own batch normalisation, or its count of batches in one written alike."""
    return name.endswith("num_batches_tracked") or isinstance(
        module.get_submodule(name.rpartition(".")[0]), nn.modules.batchnorm._NormBase
    )


def _averages(start: Tensor, once: Tensor, twice: Tensor) -> bool:
    """Whether the second pass moved a buffer by one share below 1 of what the first did, as an exponential average moves."""
    if not once.is_floating_point() or start.shape != once.shape or once.shape != twice.shape:
        return False
    first, second = once - start, twice - once
    size = float((first * first).sum())
    share = float((first * second).sum()) / size if size else 0.0
    off = float((second - share * first).abs().max()) if once.numel() else 0.0
    return 0.0 < share < 1 - 1e-6 and off <= 1e-6 * float(first.abs().max())


class _Record(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's base has no annotations
    """The operations of a pass with copies of their results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if "empty" not in str(func):  # what fresh memory holds is nobody's result
            self.seen.append((str(func), [x.detach().clone() for x in leaves(result).values() if isinstance(x, Tensor)]))
        return result


def _first_op(trial: Trial) -> str | None:
    """The first operation whose result differs between two passes from one seed on one instance: what recomputation sees."""
    module, given = double(trial, 3, training=True)
    passes = []
    for _ in range(2):
        torch.manual_seed(0)
        with _Record() as record:
            _quiet(module, given)
        passes.append(record.seen)
    for number, (one, two) in enumerate(zip(*passes, strict=False)):
        if one[0] != two[0]:
            return f"operation {number} of the second pass is {two[0]}, and that of the first is {one[0]}"
        for a, b in zip(one[1], two[1], strict=False):
            if a.shape != b.shape or first_difference(a, b, "T0") is not None:
                return f"operation {number}, {one[0]}, gives another result in the second pass"
    return None


def _quiet(module: nn.Module, given: tuple[Any, ...]) -> None:
    with torch.no_grad():
        module(*given)
