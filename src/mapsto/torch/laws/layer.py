"""Laws of layers and models beyond those of every wing: second and partial derivatives, and purity."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from ...core.laws import Laws, Trial
from ...core.random import derive
from .. import laws as wing
from ..drivers.layer_examples import build, inputs
from ..drivers.layer_passes import cotangents, differentiable, double, draws, seen_by, with_gradient
from .compare import leaves, same

laws = Laws("layer", "model")

SLOW = 400
"""Numbers up to which every element is compared with a finite difference; beyond, a random projection is."""


# -- gradients ---------------------------------------------------------------------------------------------------------
@laws.law(
    "L1b",
    "double_gradients",
    priority=1,
    tolerance="T3",
    why="Gradient penalties, Hessian products and meta-learning differentiate a backward pass.",
    satisfy="Write the backward of a custom autograd.Function with differentiable operations, or do not declare the tag.",
    catches=("a backward that saves detached or numpy values",),
)
def double_gradients(trial: Trial) -> None:
    """Second derivatives equal finite differences of the first, where `twice_differentiable` is declared."""
    if not trial.has("twice_differentiable"):
        trial.skip("it does not declare `twice_differentiable`")
    with trial.case(size=2, dtype="float64", mode="evaluation"):
        run, given, names = _function(trial, False)
        try:
            torch.autograd.gradgradcheck(run, given, fast_mode=sum(x.numel() for x in given) >= SLOW // 4)
        except GradcheckError as error:
            trial.fail(f"second derivatives differ from finite differences: {_first_line(error)}", measured=str(error)[:400])
        except RuntimeError as error:
            trial.fail(f"differentiating its gradient raised RuntimeError: {str(error)[:300]}", first={"tensor": names[0]})
        trial.exercised("second derivatives", len(given))


@laws.law(
    "L1c",
    "partial_gradients",
    priority=0,
    tolerance="T1",
    why="Frozen weights and inputs without gradient are the rule in fine-tuning and in first layers.",
    satisfy="In a custom backward, ask ctx.needs_input_grad for each input by itself and return one value for each.",
    catches=("a backward that skips the weight's gradient when the input needs none",),
)
def partial_gradients(trial: Trial) -> None:
    """Gradients are the same when inputs need none, or when some of the parameters are frozen."""
    module, given = double(trial)
    whole = seen_by(trial, module, given).get("gradient", {})
    names = [n for n, _ in module.named_parameters()]
    if not whole:
        trial.skip("nothing of it is differentiable")
    cases: dict[str, tuple[tuple[int, ...], list[str]]] = {}
    if names:
        cases["inputs need no gradient"] = (tuple(range(len(given))), [])
        cases["all parameters are frozen"] = ((), names)
    cases |= {f"{n} is frozen": ((), [n]) for n in names[:6]}
    cases |= {f"input {i} needs no gradient": ((i,), []) for i in range(len(given)) if len(given) > 1}
    if not cases:
        cases["the output is asked for its only gradient"] = ((), [])
    stated = tuple(trial.example.more.get("fixed", ()))
    for said, (fixed, frozen) in cases.items():
        with trial.case(size=2, dtype="float64", frozen=said):
            fresh = build(trial, torch.float64).eval()
            for name in frozen:
                fresh.get_parameter(name).requires_grad_(False)
            with trial.component(f"its backward where {said}"):
                part = seen_by(trial, fresh, given, fixed=(*stated, *fixed)).get("gradient", {})
            want = {k: v for k, v in whole.items() if k in part}
            same(trial, f"gradients where {said}", part, want, tolerance="T1")
            expected = {k for k in whole if k not in {f"parameter {n}" for n in frozen} and not _of_inputs(k, fixed)}
            trial.demand(not (lost := {k for k in expected - part.keys() if whole[k] is not None}),
                         f"where {said}, there is no gradient for {', '.join(sorted(lost))}",
                         first={"tensor": min(lost, default="")})  # fmt: skip


def _of_inputs(path: str, fixed: tuple[int, ...]) -> bool:
    return any(path == f"input {i}" or path.startswith((f"input {i}[", f"input {i}.")) for i in fixed)


def _function(trial: Trial, training: bool) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor], list[str]]:
    """The layer as a pure function of its floating inputs and parameters, those, and their names."""
    module, given = double(trial, training=training)
    names = [n for n, p in module.named_parameters() if p.requires_grad]
    buffers = dict(module.named_buffers())
    frozen = {n: p for n, p in module.named_parameters() if not p.requires_grad}
    made, inner = differentiable(given, tuple(trial.example.more.get("fixed", ())))
    seed = derive(trial.seed, "gradients") % (1 << 63)

    def put(tree: Any, path: str, leaf: dict[str, Tensor]) -> Any:
        if path in leaf:
            return leaf[path].clone() if trial.has("in_place") else leaf[path]
        if type(tree) in (tuple, list):
            return type(tree)(put(x, f"{path}[{i}]", leaf) for i, x in enumerate(tree))
        return {k: put(v, f"{path}.{k}", leaf) for k, v in tree.items()} if isinstance(tree, dict) else tree

    def run(*leaf: Tensor) -> tuple[Tensor, ...]:
        by_path = dict(zip(inner, leaf, strict=False))
        arguments = tuple(put(x, f"input {i}", by_path) for i, x in enumerate(made))
        weights = dict(zip(names, leaf[len(inner) :], strict=True))
        state = {**{n: b.clone() for n, b in buffers.items()}, **frozen, **weights}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            output = torch.func.functional_call(module, state, arguments)
        return tuple(y for y in with_gradient(output).values())

    given_leaves = [x.clone().detach().requires_grad_() for x in inner.values()]
    given_leaves += [module.get_parameter(n).detach().clone().requires_grad_() for n in names]
    return run, given_leaves, [*inner, *names]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]


# -- purity ------------------------------------------------------------------------------------------------------------
@laws.law(
    "L3",
    "purity",
    priority=0,
    tolerance="T0",
    why="Inputs that change under their owner, random numbers drawn in evaluation and settings left behind make "
    "other code wrong.",
    satisfy="Copy before writing (or state tags={'in_place'}); draw only in training (or state `stochastic`); put "
    "settings back.",
    catches=("pytorch#118959", "a layer that calls torch.manual_seed", "a sampler that draws in evaluation"),
)
def purity(trial: Trial) -> None:
    """A pass leaves inputs, mode, settings and (in evaluation) random streams, parameters and buffers as they were."""
    for training in (False, True):
        with trial.case(size=2, dtype="float32", mode="training" if training else "evaluation"):
            _one_pure_pass(trial, training)


def _one_pure_pass(trial: Trial, training: bool) -> None:
    module, given = build(trial).train(training), inputs(trial, 2)
    before = _state(module, given)
    versions = {k: x._version for k, x in leaves(given).items() if isinstance(x, Tensor)}
    streams = _streams()
    with trial.component("calling it"):
        output = module(*given)
    moved = [name for name, state in _streams().items() if state != streams[name]]
    outputs = with_gradient(output)
    if outputs:
        with trial.component("its backward"):
            torch.autograd.backward(list(outputs.values()), cotangents(outputs, trial.seed))
    after = _state(module, given)
    wing.put_back(before["settings"])
    if not trial.has("in_place"):
        wrote = [k for k, x in leaves(given).items() if isinstance(x, Tensor) and x._version != versions[k]]
        trial.demand(not wrote, f"it wrote into its inputs ({', '.join(wrote)})", first={"tensor": min(wrote, default="")},
                     cause="an in-place operation on an input", measured=f"{len(wrote)} inputs", allowed="none")  # fmt: skip
        same(trial, "inputs after the pass", after["inputs"], before["inputs"], cause="the input's memory was written")
    allowed = {"PyTorch"} if training or trial.has("stochastic") else set()
    drew = sorted(set(moved) - allowed - ({"Python", "NumPy"} if trial.has("stochastic") else set()))
    trial.demand(not drew, f"it drew from the random stream of {', '.join(drew)} in {'training' if training else 'evaluation'}",
                 first={"stream": drew[0] if drew else ""}, cause="an extra draw, or a seed that was set")  # fmt: skip
    if training and "PyTorch" in moved and not trial.has("stochastic"):
        _no_seeding(trial, given)
    for part in ("mode", "requires_grad", "settings", "parameters"):
        same(trial, f"{part} after the pass", after[part], before[part], cause=f"the pass changed {part}")
    if not training and not trial.has("stateful"):
        same(trial, "buffers after evaluating", after["buffers"], before["buffers"],
             cause="a statistic that is updated in evaluation too; state tags={'stateful'} where this is meant")  # fmt: skip


def _no_seeding(trial: Trial, given: tuple[Any, ...]) -> None:
    """Two passes from different seeds must leave the generator in different states: else the layer seeds it."""
    ends = []
    for seed in (1, 2):
        module = build(trial).train()
        torch.manual_seed(seed)
        if not draws(module, given):
            return
        ends.append(torch.get_rng_state())
    trial.demand(not torch.equal(*ends), "it leaves PyTorch's generator in the same state whatever the seed was",
                 first={"stream": "PyTorch"}, cause="the layer calls torch.manual_seed")  # fmt: skip


def _state(module: nn.Module, given: tuple[Any, ...]) -> dict[str, Any]:
    return {
        "inputs": {k: x.detach().clone() if isinstance(x, Tensor) else x for k, x in leaves(given).items()},
        "mode": {n: m.training for n, m in module.named_modules()},
        "requires_grad": {n: p.requires_grad for n, p in module.named_parameters()},
        "parameters": {n: p.detach().clone() for n, p in module.named_parameters()},
        "buffers": {n: b.detach().clone() for n, b in module.named_buffers()},
        "settings": wing.globals(),
    }


def _streams() -> dict[str, Any]:
    kind, keys, *rest = numpy.random.get_state()
    return {
        "PyTorch": torch.get_rng_state().numpy().tobytes(),
        "Python": random.getstate(),
        "NumPy": (kind, numpy.asarray(keys).tobytes(), *rest),
    }
