"""Laws of surgery, model -> model: something happened, what was to stay stayed, the state loads, nothing is nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...core.laws import Laws, Trial
from ...core.parts import build
from ...core.random import derive
from ...core.values import use
from .compare import differs, same

laws = Laws("surgery")


class Blocks(nn.Module):
    """[n, 3, 8, 8] -> [n, 5]: a convolution, normalisations, attention, activations and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = self.norm(tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0])
        logits: Tensor = self.head(tokens.mean(1))
        return logits


def model_of(trial: Trial) -> nn.Module:
    """A fresh model to operate on: `model=factory` of the example, or one with the usual layers."""
    made: Callable[[], nn.Module] = trial.example.more.get("model", Blocks)
    torch.manual_seed(derive(trial.seed, "model") % (1 << 63))
    return made().eval()


def inputs_of(trial: Trial, size: int = 3) -> tuple[Any, ...]:
    """Inputs of the model."""
    generator = torch.Generator().manual_seed(derive(trial.seed, "inputs"))
    if trial.example.inputs is not None:
        return tuple(trial.example.inputs(size, generator))
    return (torch.randn(size, 3, 8, 8, generator=generator),)


def operate(trial: Trial, model: nn.Module, args: Mapping[str, Any] | None = None) -> nn.Module:
    """The surgery done to a model."""
    subject = trial.subject
    if subject.make is not None:
        surgery = subject.make()
    else:
        surgery = build(
            use(subject.target, **dict(trial.example.args if args is None else args)), "surgery", path=subject.label
        )
    torch.manual_seed(derive(trial.seed, "surgery") % (1 << 63))
    with trial.component("the surgery"):
        result = surgery(model)
    if not isinstance(result, nn.Module):
        trial.fail(f"it returned a {type(result).__name__}, and a surgery returns the model", cause="a missing return")
    return result


def anatomy(model: nn.Module) -> dict[str, str]:
    """What a model is made of: the type and the words of each module, and what hangs on it."""
    found: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        found[name] = f"{type(module).__qualname__}({module.extra_repr()}) hooks={hooks} own={sorted(vars(module).keys())}"
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found[f"parameter {name}"] = f"{parameter.dtype} {list(parameter.shape)} trained={parameter.requires_grad}"
    return found


def state(model: nn.Module) -> dict[str, Any]:
    """Copies of its state by name."""
    return {n: v.detach().clone() if isinstance(v, Tensor) else copy.deepcopy(v) for n, v in model.state_dict().items()}


@laws.law(
    "Q1",
    "something_happened",
    priority=0,
    why="A surgery that matches no module is a silent no-op: the model is as large and as slow as before, and nobody is told.",
    satisfy="Raise where nothing matches, and return the model that was changed.",
    catches=("executorch#22069",),
)
def something_happened(trial: Trial) -> None:
    """At least one module, parameter, hook or value of the model is another one afterwards; how many is counted."""
    before = model_of(trial)
    shape, values = anatomy(before), state(before)
    after = operate(trial, copy.deepcopy(before))
    changed = [n for n in {**shape, **anatomy(after)} if shape.get(n) != anatomy(after).get(n)]
    moved = [n for n, v in state(after).items() if n not in values or differs({"": v}, {"": values[n]})]
    modules = sum(1 for _ in before.modules())
    trial.demand(
        bool(changed or moved),
        f"nothing of {modules} modules changed (state a model that it changes: mapsto.example(..., model=factory, inputs=...))",
        measured="0 changed",
        allowed="at least 1",
        cause="no module matched",
    )
    trial.exercised("changed", len(set(changed) | set(moved)))


@laws.law(
    "Q1b",
    "original",
    priority=0,
    why="A surgery that returns another model and changes the first one too leaves no baseline to compare with.",
    satisfy="Change the model in place and return it, or copy it first (copy.deepcopy) and leave it alone.",
    catches=("a shallow copy whose modules are shared",),
)
def original(trial: Trial) -> None:
    """The model that it is given is untouched, unless it is itself what is returned (or `in_place` is declared)."""
    model = model_of(trial)
    shape, values, x = anatomy(model), state(model), inputs_of(trial)
    with torch.no_grad():
        output = model(*x)
    result = operate(trial, model)
    if result is model or trial.has("in_place"):
        trial.skip("it changes the model in place")
    same(trial, "the original's modules", anatomy(model), shape, cause="the copy shares modules with the original")
    same(trial, "the original's state", state(model), values, cause="the copy shares weights with the original")
    with torch.no_grad():
        same(trial, "the original's output", model(*x), output)
        for parameter in result.parameters():
            parameter.add_(1.0)
    same(
        trial,
        "the original after the result was trained",
        state(model),
        values,
        cause="the copy shares weights with the original",
    )
    trial.control(
        "another model differs", differs(state(model_of(Trial(trial.subject, trial.law, seed=trial.seed + 1))), values)
    )


@laws.law(
    "Q1c",
    "kept_weights",
    priority=0,
    why="Weights that were trained and are not the surgery's business must come through it, under names that checkpoints know.",
    satisfy="Move modules, do not make them anew; declare changes_weights where values change on purpose.",
    catches=("a layer that is made again with fresh weights", "scales lost in a conversion"),
)
def kept_weights(trial: Trial) -> None:
    """What has the same name and shape before and after has the same values (unless `changes_weights`), in the same dtype."""
    if trial.has("changes_weights"):
        trial.skip("it changes weights, as it declares")
    model = model_of(trial)
    before = state(model)
    after = state(operate(trial, model))
    kept = {n: v for n, v in before.items() if n in after and isinstance(v, Tensor) and after[n].shape == v.shape}
    if not kept:
        trial.skip("no name of the state is kept")
    same(trial, "weights that keep their names", {n: after[n] for n in kept}, kept, cause="a module was made anew")
    trial.exercised("names lost", len(before.keys() - after.keys()))
    other = state(model_of(Trial(trial.subject, trial.law, seed=trial.seed + 1)))
    trial.control("another model's weights differ", differs({n: other[n] for n in kept}, kept))


@laws.law(
    "Q4",
    "loadable",
    priority=1,
    why="A model that was operated on must be saved and loaded as any other: into a fresh one that the same was done to.",
    satisfy="Keep all that the forward pass needs in parameters and buffers, and let the surgery depend on nothing else.",
    catches=("scales kept as plain attributes", "masks that are not in the state"),
)
def loadable(trial: Trial) -> None:
    """Its state loads into a fresh model with the same surgery, which then gives the same output."""
    x = inputs_of(trial)
    made = operate(trial, model_of(trial)).eval()
    fresh_trial = Trial(trial.subject, trial.law, seed=trial.seed + 1)
    fresh = operate(fresh_trial, model_of(fresh_trial)).eval()
    with torch.no_grad(), trial.component("a forward pass after the surgery"):
        wanted, cold = made(*x), fresh(*x)
        with trial.component("loading its state"):
            fresh.load_state_dict(state(made))
        same(
            trial,
            "the output after loading",
            fresh(*x),
            wanted,
            cause="something that the forward pass needs is not in the state",
        )
    trial.control("before loading it differs", differs(cold, wanted))


@laws.law(
    "Q5",
    "neutral",
    priority=1,
    tolerance="T1",
    why="With a sparsity of 0, or as many bits as there were, the plumbing is all that is left: it must be the identity.",
    satisfy="State the arguments with which it is the identity: mapsto.example(it, neutral={...}).",
    catches=("a wrong axis that only shows without rounding",),
)
def neutral(trial: Trial) -> None:
    """With its neutral setting the outputs are those of the model as it was, in float64."""
    if "neutral" not in trial.example.more:
        trial.undecided(
            "state arguments with which outputs stay: mapsto.example(..., neutral={...}), or neutral=None if there are none"
        )
    setting = trial.example.more["neutral"]
    if setting is None:
        trial.skip("its author says that it has no neutral setting")
    x = tuple(v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in inputs_of(trial))
    model = model_of(trial).double()
    with torch.no_grad():
        wanted = model(*x)
        with trial.case(neutral=str(setting)):
            result = operate(trial, copy.deepcopy(model), setting).eval()
            with trial.component("a forward pass after the surgery"):
                got = result(*x)
            same(trial, "the output", got, wanted, tolerance="T1")
        full = operate(trial, copy.deepcopy(model)).eval()
        trial.control("with its own setting something differs", differs(full(*x), wanted) or anatomy(full) != anatomy(model))
