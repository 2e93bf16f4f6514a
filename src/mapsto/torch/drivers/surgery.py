"""The driver of surgery: a model with the usual layers, what it is made of, its state and its outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...core.laws import Subject, Trial
from ...core.random import derive
from ..laws.compare import arrays


def complete(subject: Subject) -> Subject:
    """The subject with its driver."""
    return replace(subject, driver=DRIVER)


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


class Driver:
    """Models before and after a surgery (`mapsto.laws.drivers.SurgeryDriver`)."""

    def model(self, trial: Trial, dtype: str = "float32") -> nn.Module:
        made: Callable[[], nn.Module] = trial.example.more.get("model", Blocks)
        torch.manual_seed(derive(trial.seed, "model") % (1 << 63))
        model = made().eval()
        return model.double() if dtype == "float64" else model

    def inputs(self, trial: Trial, dtype: str = "float32") -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(derive(trial.seed, "inputs"))
        if trial.example.inputs is not None:
            given = tuple(trial.example.inputs(3, generator))
        else:
            given = (torch.randn(3, 3, 8, 8, generator=generator),)
        if dtype != "float64":
            return given
        return tuple(v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in given)

    def operate(self, surgery: Callable[[Any], Any], model: nn.Module, seed: int) -> Any:
        torch.manual_seed(seed % (1 << 63))
        result = surgery(model)
        return result.eval() if isinstance(result, nn.Module) else result

    def widened(self, result: nn.Module) -> nn.Module:
        """The result in float64: layers that a surgery adds are made in float32, of numbers that float32 holds."""
        return result.double()

    def is_model(self, result: Any) -> bool:
        return isinstance(result, nn.Module)

    def copy(self, model: nn.Module) -> nn.Module:
        return copy.deepcopy(model)

    def anatomy(self, model: nn.Module) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            hooks, own = len(module._forward_hooks) + len(module._forward_pre_hooks), sorted(vars(module).keys())
            found[name] = f"{type(module).__qualname__}({module.extra_repr()}) hooks={hooks} own={own}"
        for name, parameter in model.named_parameters(remove_duplicate=False):
            found[f"parameter {name}"] = f"{parameter.dtype} {list(parameter.shape)} trained={parameter.requires_grad}"
        return found

    def state(self, model: nn.Module) -> dict[str, Any]:
        found: dict[str, Any] = arrays(self.save(model))
        return found

    def call(self, model: nn.Module, given: tuple[Any, ...]) -> Any:
        with torch.no_grad():
            return arrays(model(*given))

    def train(self, model: nn.Module) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)

    def save(self, model: nn.Module) -> dict[str, Any]:
        named = model.state_dict().items()
        return {n: v.detach().clone() if isinstance(v, Tensor) else copy.deepcopy(v) for n, v in named}

    def load(self, model: nn.Module, saved: Any) -> None:
        model.load_state_dict(saved)


DRIVER = Driver()
