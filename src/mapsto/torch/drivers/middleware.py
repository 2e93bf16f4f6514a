"""Examples of middleware: small programs with and without it, and what our own say of their neutral settings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.compose import declared
from ...core.errors import ComposeError, SpecError
from ...core.laws import Subject, Trial
from ...core.random import derive
from ...core.values import use
from ..build import build_program
from ..mappings import Grad, Metrics, Update
from ..program import Program
from ..state import State

Batch = dict[str, Tensor]


class Net(nn.Module):
    """[n, 8] (or images of 8 numbers) -> logits [n, 3], with dropout and batch statistics where `noisy`."""

    def __init__(self, noisy: bool = True) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 12)
        norm, drop = (nn.BatchNorm1d(12), nn.Dropout(0.2)) if noisy else (nn.Identity(), nn.Identity())
        self.block = nn.Sequential(nn.Linear(12, 12), norm, nn.Tanh(), drop)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1))
        logits: Tensor = self.head(x + self.block(x))
        return logits


def classify(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """A task: the summed cross-entropy of records whose target is not -100, their number, and the logits."""
    logits = model(batch["input"])
    return F.cross_entropy(logits, batch["target"], reduction="sum"), (batch["target"] >= 0).sum(), logits


def noisy_model() -> nn.Module:
    """In float32, with all that draws and counts."""
    return Net()


def plain_model() -> nn.Module:
    """In float64, where micro-batches do not matter."""
    return Net(noisy=False).double()


def teacher() -> nn.Module:
    """A model that others learn from, in float64: what it is given is converted."""
    return _Converts(Net(noisy=False).double())


class _Converts(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.double())
        return logits.to(x.dtype)


def _clipped_by_norm(gradients: Sequence[Tensor]) -> list[Tensor]:
    norm = torch.sqrt(torch.stack([(g * g).sum() for g in gradients]).sum())
    return [g * min(1.0, 0.05 / float(norm)) for g in gradients]


def _clipped_by_value(gradients: Sequence[Tensor]) -> list[Tensor]:
    return [g.clamp(-0.01, 0.01) for g in gradients]


CLIP, ACCUMULATE = use("clip_norm", max_norm=0.05), use("accumulate", steps=3)
RULES = {"rules": [{"match": ["head.*"], "lr": 1e-3}]}
OWN: dict[str, dict[str, Any]] = {
    "Accumulate": {"args": {"steps": 3}, "neutral": {"steps": 1}},
    "ActivationCheckpointing": {"args": {"modules": ["block"]}, "neutral": {"modules": ["block"]}},
    "ClipNorm": {
        "args": {"max_norm": 0.05},
        "neutral": [{"max_norm": 1e9}, {"max_norm": None}],
        "edits": _clipped_by_norm,
        "norm": "grad_norm",
        "commutes": [use("freeze", patterns=["embed"])],
    },
    "ClipValue": {
        "args": {"value": 0.01},
        "neutral": [{"value": 1e9}, {"value": None}],
        "edits": _clipped_by_value,
        "commutes": [use("freeze", patterns=["embed"]), use("no_weight_decay")],
    },
    "Compile": {"args": {"backend": "eager"}, "neutral": {"enabled": False}},
    "CompressGradients": {"args": {"dtype": "bf16"}, "neutral": {"dtype": "fp32"}, "drift": 0.01},
    "CutMix": {"args": {"alpha": 1.0}, "neutral": {"alpha": 0}, "tags": {"per_micro_batch", "images"}},
    "DiLoCo": {
        "args": {"every": 2, "outer_momentum": 0.3},
        "neutral": {"every": 1, "outer_lr": 1.0, "outer_momentum": 0.0},
        "exact": {"every": 1, "outer_lr": 1.0, "outer_momentum": 0.0},
        "drift": 0.2,
    },
    "Distillation": {"args": {"teacher": use(teacher)}, "neutral": {"teacher": use(teacher), "alpha": 0.0}},
    "EMA": {"args": {"decay": 0.9, "warmup": 3}, "neutral": {"decay": 0.9}},
    "Freeze": {"args": {"patterns": ["embed"]}, "neutral": None, "commutes": [CLIP, ACCUMULATE]},
    "GradientNoise": {"args": {"eta": 0.1}, "neutral": {"eta": 0}, "tags": {"adds_noise"}},
    "Health": {"args": {"every": 1}, "neutral": [{"every": 2}, {"every": 0}]},
    "LocalSGD": {"args": {"every": 2}, "neutral": {"every": 3}, "exact": {"every": 1}, "drift": 0.15},
    "MixedPrecision": {
        "args": {"dtype": "fp16", "growth_interval": 2},
        "neutral": {"dtype": "fp32"},
        "tags": {"low_precision"},
    },
    "Mixup": {"args": {"alpha": 0.4}, "neutral": {"alpha": 0}, "tags": {"per_micro_batch"}},
    "NoWeightDecay": {"args": {}, "neutral": None, "commutes": [CLIP, ACCUMULATE]},
    "Nonfinite": {"args": {"every": 2}, "neutral": [{"every": 2}, {"action": "skip"}]},
    "ParamGroups": {"args": RULES, "neutral": {"rules": [{"match": ["head.*"], "lr": 1e-2}]}, "commutes": [CLIP]},
    "PowerSGD": {
        "args": {"rank": 1, "min_compression_rate": 1.0},
        "neutral": {"rank": 2},
        "exact": {"rank": 99, "min_compression_rate": 0.0},
        "drift": 0.5,
    },
    "SAM": {"args": {"rho": 0.05}, "neutral": {"rho": 0}},
    "Timing": {"args": {"every": 1}, "neutral": {"every": 2}},
}
"""Class name -> what our own middleware say of themselves."""


def complete(subject: Subject) -> Subject:
    """The subject with what is known of our own, where its author did not state it."""
    name, stated = getattr(subject.target, "__name__", ""), subject.example
    if not str(getattr(subject.target, "__module__", "")).startswith("mapsto.torch.middleware") or name not in OWN:
        return subject
    known = dict(OWN[name])
    tags = stated.tags | known.pop("tags", frozenset())
    args = known.pop("args")
    if stated.args:  # those of a spec: what is known of ours would not fit them
        known = {k: v for k, v in known.items() if k == "neutral"}
        args = stated.args
    return replace(subject, example=replace(stated, args=args, tags=tags, more={**known, **stated.more}))


def item(trial: Trial, args: Mapping[str, Any] | None = None) -> Any:
    """The middleware as a program's list holds it."""
    subject = trial.subject
    if subject.make is not None and args is None:
        return subject.make()
    target = type(subject.target) if subject.make is not None else subject.target
    return use(target, **dict(trial.example.args if args is None else args))


def batch_of(trial: Trial, step: int, size: int = 13, dtype: torch.dtype = torch.float32) -> Batch:
    """The batch of a step: 13 records, two of which count for nothing (their target is ignored)."""
    generator = torch.Generator().manual_seed(derive(trial.seed, "batch", step))
    if trial.example.inputs is not None:
        found = trial.example.inputs(size, generator)[0]
        return {n: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in found.items()}
    shape = (size, 2, 2, 2) if trial.has("images") else (size, 8)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    target = torch.randint(0, 3, (size,), generator=generator)
    if size > 4 and not trial.has("images"):
        target[:2] = -100
    return {"input": x, "target": target}


def program(
    trial: Trial,
    middleware: Sequence[Any],
    *,
    plain: bool = False,
    seed: int | None = None,
    task: Any = None,
    momentum: bool = False,
) -> Program:
    """A program with these middleware: dropout, statistics, AdamW and a schedule; or SGD in float64 where `plain`."""
    more = trial.example.more
    model = more.get("model", noisy_model)
    if plain:
        model = more.get("plain_model", plain_model if "model" not in more else _double(model))
    optimizer: Any = use("sgd", lr=0.1, momentum=0.9 if momentum else 0.0) if plain else use("adamw", lr=1e-2)
    with trial.component("building a program with it"):
        try:
            return build_program(
                use(model),
                more.get("task", classify) if task is None else task,
                optimizer,
                None if plain else use("step", step_size=2, gamma=0.5),
                middleware,
                seed=trial.seed if seed is None else seed,
                device="cpu",
            )
        except (ComposeError, SpecError) as error:
            name = trial.subject.label.rpartition(":")[2].rpartition("/")[2].rpartition(".")[2]
            trial.undecided(
                f"a program could not be built with it ({error}); write beside it\n"
                f"  mapsto.example({name}, args={{...}})  # model=, inputs=lambda size, generator: (batch,)"
            )


def _double(model: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def doubled() -> nn.Module:
        return model().double()

    return doubled


def run(trial: Trial, made: Program, steps: int, *, dtype: torch.dtype = torch.float32, size: int = 13) -> list[Metrics]:
    """Steps from where the program stands to `steps`; the metrics of each."""
    with trial.component("a step"):
        return [made.step(batch_of(trial, step, size, dtype)) for step in range(made.position, steps)]


def trained(made: Program, *, optimizer: bool = True) -> dict[str, Any]:
    """Copies of weights, buffers and optimizer state by parameter name."""
    found = {"model": made.state.model.state_dict()}
    if optimizer:
        found["optimizer"] = {
            name: dict(made.optimizer.state.get(parameter, {}))
            for name, parameter in zip(made.state.names, made.state.parameters, strict=True)
        }
    return copy.deepcopy(found)


def parameters(made: Program) -> dict[str, Tensor]:
    """Copies of the parameters by name."""
    return {n: p.detach().clone() for n, p in made.state.model.named_parameters()}


def wraps(trial: Trial) -> tuple[str, ...]:
    """The mappings that it wraps."""
    return declared(trial.subject.target).wraps


def provides(trial: Trial) -> tuple[str, ...]:
    """What it says that it provides."""
    return declared(trial.subject.target).provides


class Sees:
    """Stands outermost around `grad` and innermost around `update` (as two instances do): what passes there."""

    def __init__(self, where: str) -> None:
        self.where, self.seen = where, list[dict[str, Tensor]]()
        self.failing = False

    def __call__(self, inner: Any) -> Any:
        return inner

    def grad(self, inner: Grad) -> Grad:
        if self.where != "grad":
            return inner

        def seen(state: State, batch: Mapping[str, Any]) -> Metrics:
            metrics = inner(state, batch)
            self._note(state)
            return metrics

        return seen

    def update(self, inner: Update) -> Update:
        if self.where != "update":
            return inner

        def seen(state: State, metrics: Metrics) -> Metrics:
            self._note(state)
            if self.failing:
                raise Interrupted("the update fails, as the law wants it to")
            return inner(state, metrics)

        return seen

    def _note(self, state: State) -> None:
        pairs = zip(state.names, state.parameters, strict=True)
        self.seen.append({n: p.grad.detach().clone().to_dense() for n, p in pairs if p.grad is not None})


class Interrupted(RuntimeError):
    """What a law raises within a step."""


class Failing:
    """A task that raises at its n-th call from now on; 0 never."""

    def __init__(self, inner: Any = None) -> None:
        self.inner, self.calls, self.at = inner or classify, 0, 0

    def __call__(self, model: Any, batch: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise Interrupted("the task fails, as the law wants it to")
        return self.inner(model, batch)
