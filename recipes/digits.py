"""Handwritten digits, with a layer, a loss and a middleware of one's own: `mapsto train recipes/digits.py`.

The data are scikit-learn's 1797 real 8x8 images (Alpaydin & Kaynak 1998), which come with the package. Everything that
is not in the framework stands in this file: a layer, a loss and a middleware, each written natively and registered by one
line. Overrides go on the command line: `mapsto train recipes/digits.py optimizer.lr=1e-3 epochs=5`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mapsto
from mapsto import Spec, use
from mapsto.torch import State


# -- data: a source maps record indices to a batch -------------------------------------------------------------------------
@mapsto.source
class Digits:
    """The images of one split as float32 [records, 1, 8, 8] in 0..1, and their classes."""

    def __init__(self, split: Literal["train", "valid", "test"]) -> None:
        from sklearn.datasets import load_digits

        images, classes = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(images))
        chosen = {"train": order[:1257], "valid": order[1257:1437], "test": order[1437:]}[split]
        self.input = (images[chosen] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
        self.target = classes[chosen].astype(np.int64)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {"input": self.input[indices], "target": self.target[indices]}


@mapsto.transform
def jitter(batch: dict[str, np.ndarray], *, rng: np.random.Generator, pixels: int = 1) -> dict[str, np.ndarray]:
    """Shift each image by up to `pixels`; `rng` is given by the reader and depends on the position alone."""
    images = batch["input"]
    padded = np.pad(images, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[2:], axis=(2, 3))
    down, right = rng.integers(0, 2 * pixels + 1, (2, len(images)))
    return {**batch, "input": windows[np.arange(len(images)), :, down, right].copy()}


# -- a layer: an nn.Module as any other ------------------------------------------------------------------------------------
@mapsto.layer
class BlurPool(nn.Module):
    """Anti-aliased downsampling (Zhang 2019): [N, C, H, W] -> [N, C, H/2, W/2], a binomial blur before the stride."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", (row[:, None] * row).expand(channels, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), self.kernel, stride=2, groups=x.shape[1])


@mapsto.model
class DigitNet(nn.Module):
    """A small convolutional classifier: [N, 1, 8, 8] -> logits [N, 10]."""

    def __init__(self, width: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.GroupNorm(4, width), nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.GELU(), BlurPool(width),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.GroupNorm(4, 2 * width), nn.GELU(), BlurPool(2 * width),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * width * 4, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


# -- a loss: a sum and its weight ------------------------------------------------------------------------------------------
@mapsto.loss
def poly1(prediction: Tensor, target: Tensor, *, epsilon: float = 1.0) -> tuple[Tensor, int]:
    """Poly-1 cross entropy (Leng et al. 2022): -log p + epsilon (1 - p), summed over records."""
    surprise = F.cross_entropy(prediction, target, reduction="none")
    return (surprise + epsilon * (1 - torch.exp(-surprise))).sum(), len(target)


# -- a middleware: wraps `update`, so it sees the gradients whole, unscaled and before the optimizer ---------------------------
@mapsto.middleware(wraps="update", after="clip_norm")
def centralise(inner):
    """Gradient centralisation (Yong et al. 2020): remove from each weight's gradient its mean over the inputs."""

    def update(state: State, metrics: dict) -> dict:
        for gradient in state.gradients():
            if gradient.dim() > 1:
                gradient.sub_(_mean(gradient))
        return inner(state, metrics)

    return update


def _mean(gradient: Tensor) -> Tensor:
    return gradient.mean(dim=tuple(range(1, gradient.dim())), keepdim=True)


# what `mapsto check recipes/digits.py` holds it to: no setting makes it neutral, and this is its formula
mapsto.example(centralise, neutral=None, edits=lambda given: [g - _mean(g) if g.dim() > 1 else g for g in given])


# -- the run ---------------------------------------------------------------------------------------------------------------
def spec() -> Spec:
    """The whole of the run as one value; `mapsto show recipes/digits.py` prints it and its plan."""
    return Spec(
        name="digits",
        model=use("digit_net", width=24),
        task=use("classification", loss=use("poly1"), labels=[str(i) for i in range(10)]),
        data={
            "train": {"source": use("digits", split="train"), "batch_size": 64, "shuffle": True, "transforms": [use("jitter")]},
            "valid": {"source": use("digits", split="valid"), "batch_size": 256},
            "test": {"source": use("digits", split="test"), "batch_size": 256},
        },
        optimizer=use("adamw", lr=4e-3, weight_decay=0.05),
        schedule=use("warmup", steps=0.1),
        middleware=[use("timing", every=20), use("clip_norm", max_norm=1.0), "centralise", use("ema", decay=0.98)],
        epochs=20,
        log_every=20,
        seed=0,
    )
