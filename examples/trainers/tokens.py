"""What the trainings of this folder learn: short token sequences, some of whose labels are ignored, as padding is."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

IGNORED = -100


def token_records(count: int = 12) -> list[dict[str, Any]]:
    """Records of `input_ids` and `labels`, both [6]."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(count):
        tokens = draw.integers(0, 11, 6)
        labels = np.where(np.arange(6) < 5 - number % 5, tokens, IGNORED)
        found.append({"input_ids": tokens, "labels": labels})
    return found


RECORDS = token_records()


class Tagger(nn.Module):
    """Tokens [n, 6] -> logits [n, 6, 11]."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(11, 8), nn.Dropout(dropout), nn.Linear(8, 11))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.layers(input_ids)


def loss_of(model: nn.Module, batch: dict[str, torch.Tensor], reduction: str = "mean") -> torch.Tensor:
    """The mean or the sum over the tokens that are not ignored."""
    logits = model(batch["input_ids"]).flatten(0, 1)
    return cross_entropy(logits, batch["labels"].flatten(), ignore_index=IGNORED, reduction=reduction)


def linear(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A rate that falls to zero over the run."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps)


def weights_of(model: nn.Module) -> dict[str, np.ndarray]:
    """The weights as arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
