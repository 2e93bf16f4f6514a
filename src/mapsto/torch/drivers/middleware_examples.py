"""Examples of middleware: models, a task and batches, and what our own say of their neutral settings."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.laws import Subject, Trial
from ...core.random import derive
from ...core.values import use
from ...laws.middleware_inputs import RECORDS, records
from ..program import Program
from .recipe import trained_in

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


def _averaged(average: Any, weights: Any, t: int, decay: float, warmup: int) -> Any:
    """Polyak's average with the warm-up of its decay."""
    decay = min(decay, t / (warmup + t - 1)) if warmup else decay
    return decay * average + (1 - decay) * weights


CLIP, ACCUMULATE = use("clip_norm", max_norm=0.05), use("accumulate", steps=3)
RULES = {"rules": [{"match": ["head.*"], "lr": 1e-3}]}
OWN: dict[str, dict[str, Any]] = {
    "Accumulate": {"args": {"steps": 3}, "neutral": {"steps": 1}},
    "ActivationCheckpointing": {"args": {"modules": ["block"]}, "neutral": {"modules": ["block"]}, "tags": {"same_result"}},
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
    "Compile": {"args": {"backend": "eager"}, "neutral": {"enabled": False}, "tags": {"same_result"}},
    "CompressGradients": {"args": {"dtype": "bf16"}, "neutral": {"dtype": "fp32"}, "drift": 0.01},
    "CutMix": {"args": {"alpha": 1.0}, "neutral": {"alpha": 0}, "tags": {"per_micro_batch", "images"}},
    "DiLoCo": {
        "args": {"every": 2, "outer_momentum": 0.3},
        "neutral": {"every": 1, "outer_lr": 1.0, "outer_momentum": 0.0},
        "exact": {"every": 1, "outer_lr": 1.0, "outer_momentum": 0.0},
        "drift": 0.2,
    },
    "Distillation": {"args": {"teacher": use(teacher)}, "neutral": {"teacher": use(teacher), "alpha": 0.0}},
    "EMA": {"args": {"decay": 0.9, "warmup": 3}, "neutral": {"decay": 0.9}, "average": _averaged},
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
    "Nonfinite": {"args": {"every": 2}, "neutral": [{"every": 2}, {"action": "skip"}], "tags": {"same_result"}},
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
    """The subject with what is known of our own, and of its recipe, where its author did not state it."""
    if subject.spec is not None and "model" not in subject.example.more and subject.example.inputs is None:
        more = {**subject.example.more, "in_recipe": functools.partial(trained_in, subject.spec)}
        subject = replace(subject, example=replace(subject.example, more=more))
    return _own(subject)


def _own(subject: Subject) -> Subject:
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


def batch_of(trial: Trial, step: int, size: int = RECORDS, dtype: torch.dtype = torch.float32) -> Batch:
    """The batch of a step: the records of every framework, or what the example's `inputs` give."""
    if trial.example.inputs is not None:
        generator = torch.Generator().manual_seed(derive(trial.seed, "batch", step))
        found = trial.example.inputs(size, generator)[0]
    else:
        found = {n: torch.from_numpy(v) for n, v in records(trial, step, size).items()}
    return {n: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in found.items()}


def parameters(made: Program) -> dict[str, Tensor]:
    """Copies of the parameters by name."""
    return {n: p.detach().clone() for n, p in made.state.model.named_parameters()}
