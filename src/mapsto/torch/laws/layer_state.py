"""Laws of a layer's state beyond that of every wing: copies, and being made without memory and filled afterwards."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...core.calls import fresh
from ...core.laws import Laws, Trial
from ..drivers.layer import plain_tensors, used
from ..drivers.layer_examples import build, inputs
from ..drivers.layer_passes import poisoned_memory, seen_by
from .compare import differs, same

laws = Laws("layer", "model")

CONVERSIONS = (
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.float64),
)
"""The dtype of a first call, and the one that a copy is converted to."""


@laws.law(
    "L4b",
    "copies",
    priority=0,
    tolerance="T0",
    why="EMA, averaging and distillation copy modules; worker processes and torch.save pickle them.",
    satisfy="Keep no lambdas, open files or generators in attributes, or define __getstate__ (else state "
    "tags={'unpicklable'}).",
    catches=(
        "a deepcopy that shares a buffer with its original",
        "a lambda kept as an attribute",
        "tied weights untied",
        "transformers#25681",
    ),
)
def copies(trial: Trial) -> None:
    """A deepcopy and a pickle give the same outputs and gradients, share no memory with it, and keep ties of weights; one
    that is converted to another dtype keeps nothing of the dtype in which it was called.
    """
    module, given = used(trial)
    want = seen_by(trial, module, given)
    ways: dict[str, Callable[[nn.Module], Any]] = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m))}
    if trial.has("unpicklable") or "<locals>" in type(module).__qualname__ or type(module).__module__ == "__main__":
        del ways["pickle"]
    for name, way in ways.items():
        with trial.case(size=3, dtype="float32", by=name):
            with trial.component(f"its {name}"):
                copied = way(module)
            same(trial, f"its {name}", seen_by(trial, copied, given), want)
            shared = _storages(module).keys() & _storages(copied).keys()
            trial.demand(not shared, f"its {name} shares memory with it: {_storages(module)[min(shared)] if shared else ''}",
                         first={"tensor": _storages(module)[min(shared)] if shared else ""},
                         cause="a copy by reference")  # fmt: skip
            ties = [sorted(n for n, p in m.named_parameters(remove_duplicate=False) if p is q)
                    for m in (module, copied) for q in m.parameters()]  # fmt: skip
            trial.demand(ties[: len(ties) // 2] == ties[len(ties) // 2 :], f"its {name} has other ties between its weights")
            _moved(trial, name, module, copied, given)
    if not trial.has("stateful"):
        for before, after in CONVERSIONS:
            _converted(trial, before, after)


def _converted(trial: Trial, before: torch.dtype, after: torch.dtype) -> None:
    """Called in one dtype, copied and converted to another, against one that was not called before it was converted."""
    early, late = inputs(trial, 3, before), inputs(trial, 3, after)
    fresh, called = (build(trial, before).eval() for _ in range(2))
    try:
        want = seen_by(trial, fresh.to(after), late)
        seen_by(trial, called, early)
    except Exception as error:  # noqa: BLE001  # told apart here
        apart = any(text in str(error) for text in ("scalar type", "same dtype")) and "not implemented" not in str(error)
        if apart and after is torch.bfloat16 and not trial.has("single_precision"):
            trial.fail(f"converted to bfloat16 it raises: {str(error).splitlines()[0][:200]}",
                       cause="a tensor that it makes or keeps stays in float32")  # fmt: skip
        return  # it does not run in one of them, or PyTorch has no kernel
    said = f"called in {before}, copied and converted to {after}".replace("torch.", "")
    with trial.case(size=3, by=said), trial.component(f"a pass of one that was {said}"):
        found = seen_by(trial, copy.deepcopy(called).to(after), late)
        tolerance = "T1" if after is torch.float64 else "T0"
        same(trial, f"one {said}", _watched(found, after), _watched(want, after), tolerance=tolerance,
             cause="a table that is kept in the dtype of the first call")  # fmt: skip


def _watched(seen: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Outputs and gradients; in half precision their dtypes and shapes alone, since a table may be rounded when it is made
    or when it is converted.
    """
    kept = {k: v for k, v in seen.items() if k != "buffer"}
    blank = torch.zeros_like if dtype is torch.bfloat16 else lambda x: x
    return {k: {n: blank(x) if isinstance(x, Tensor) else x for n, x in v.items()} for k, v in kept.items()}


def _moved(trial: Trial, name: str, module: nn.Module, copied: nn.Module, given: tuple[Any, ...]) -> None:
    """A step on the copy must change the copy and leave the original."""
    original = {n: p.detach().clone() for n, p in module.named_parameters()}
    with torch.no_grad():
        for parameter in copied.parameters():  # by other numbers each, since a layer may not care for the scale of its weights
            parameter.mul_(1.5).add_(torch.linspace(-0.5, 1.0, parameter.numel(), dtype=parameter.dtype).view_as(parameter))
    same(trial, f"the original after a change of its {name}", dict(module.named_parameters()), original)
    if original:
        after = seen_by(trial, copied, given)
        trial.control(f"a changed {name} differs", differs(after, seen_by(trial, module, given)))


def _storages(module: nn.Module) -> dict[int, str]:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers()), **dict(plain_tensors(module))}
    return {t.untyped_storage().data_ptr(): n for n, t in tensors.items() if t.numel() and t.layout is torch.strided}


# -- made without memory -----------------------------------------------------------------------------------------------
@laws.law(
    "L9",
    "meta_init",
    priority=1,
    tolerance="T0",
    why="Large models are made on the meta device and filled later; what nothing fills holds whatever the memory held.",
    satisfy="Make buffers persistent, or recompute them in reset_parameters; read no values of tensors in the constructor.",
    catches=("transformers#45902", "LlamaFactory#10820", "a constructor that calls .item()"),
)
def meta_init(trial: Trial) -> None:
    """Made on the meta device, emptied into poisoned memory (which unties weights: they are tied again), reset and loaded, it
    equals the original, and no poison remains.
    """
    original, given = used(trial)
    if trial.has("no_meta"):
        trial.skip("it cannot be made on the meta device, as it declares")
    with trial.case(size=3, dtype="float32", by="meta device"):
        empty = poisoned(trial)
        before = {n: t.detach().clone() for n, t in _tensors(empty).items()}
        with trial.component("reset_parameters after to_empty"):
            reset = _reset(empty)
        for name in (n for n in reset if bool(_tensors(empty)[n].isnan().any())):
            trial.fail(
                f"{name} is not a number after reset_parameters", first={"tensor": name}, cause="reset_parameters leaves it out"
            )
        trial.exercised("tensors that were reset", len(reset))
        with trial.component("loading the state_dict of the original"):
            empty.load_state_dict(original.state_dict(), strict=True)
        made = _tensors(build(trial)).keys() - original.state_dict().keys()  # and not what its first call put into a cache
        fixed = {n: b for n, b in _tensors(original).items() if n in made}
        left = {n: t for n, t in _tensors(empty).items() if n in fixed}
        same(
            trial,
            "tensors that no state_dict holds",
            left,
            fixed,
            cause="memory that nothing filled; compute it in reset_parameters",
        )
        with trial.component("the pass after loading"):
            found = seen_by(trial, empty, given)
        same(trial, "the pass after loading", found, seen_by(trial, original, given),
             cause="state outside parameters and buffers is still on the meta device, or was never computed")  # fmt: skip
        trial.control("the poison was there", not before or differs(before, _tensors(original)))


def poisoned(trial: Trial) -> nn.Module:
    """An instance made on the meta device whose memory then holds NaN (and the largest integers)."""
    subject = trial.subject
    with trial.component("making it on the meta device"), torch.device("meta"):
        made: Any = subject.make() if subject.make is not None else subject.target(**fresh(trial.example.args))
    if any(nn.parameter.is_lazy(p) for p in made.parameters()):
        trial.skip("its parameters are lazy: before the first call they have no shapes to allocate")
    module: nn.Module = made.to("meta")
    ties = _ties(module)
    with poisoned_memory():
        module.to_empty(device="cpu")
    for name, first in ties.items():  # to_empty unties: who uses it ties again, as every library of large models does
        owner, _, own = name.rpartition(".")
        setattr(module.get_submodule(owner), own, module.get_parameter(first))
    return module.eval()


def _ties(module: nn.Module) -> dict[str, str]:
    """Names of parameters that are one with another, and the first name of that."""
    first = {id(p): n for n, p in module.named_parameters()}
    every = module.named_parameters(remove_duplicate=False)
    return {n: first[id(p)] for n, p in every if first[id(p)] != n}


def _reset(module: nn.Module) -> set[str]:
    """Call what layers have for it, children first; the names of the tensors that their owners have promised to fill."""
    promised = set()
    for prefix, part in reversed(list(module.named_modules())):
        call = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if callable(call):
            with torch.no_grad():
                call()
            own = [*part._parameters.items(), *part._buffers.items()]
            promised |= {f"{prefix}.{n}" if prefix else n for n, t in own if t is not None}
    return promised


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}
