"""A small causal language model over the bytes of any text file: `mapsto train recipes/language_model.py`.

    TEXT=book.txt mapsto train recipes/language_model.py
    python recipes/language_model.py runs/NAME "It was"             goes on with a text

Without a text of one's own it reads Python's standard library. The text is cut into blocks, a twentieth of which is kept for
validation; the last one is filled up with targets that no loss counts, so the weight of a batch is its number of tokens.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mapsto
from mapsto import Run, Spec, use
from mapsto.data import TokenBlocks


# -- data ------------------------------------------------------------------------------------------------------------------
def library() -> np.ndarray:
    """The bytes of the modules at the top of Python's standard library."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return np.frombuffer(b"\n".join(file.read_bytes() for file in files), np.uint8)


@mapsto.source
class TextBlocks:
    """Blocks of consecutive bytes (`input`) and the bytes that follow each (`target`); every twentieth is for `valid`."""

    def __init__(self, split: Literal["train", "valid"], path: str | None = None, block: int = 128) -> None:
        self.blocks = TokenBlocks(library() if path is None else path, block)
        numbers = np.arange(len(self.blocks))
        valid = numbers % 20 == min(10, len(numbers) - 1)
        self.numbers = numbers[valid if split == "valid" else ~valid]
        if not len(self.numbers):
            raise mapsto.DataError(f"text_blocks: {path} is one block of {block} bytes, which leaves none for {split}")

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return self.blocks[self.numbers[indices]]


# -- the model -------------------------------------------------------------------------------------------------------------
@mapsto.layer
class Block(nn.Module):
    """Causal self-attention and an MLP, each after a normalisation and added to its input: [B, T, D] -> [B, T, D]."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attend(self.before_attention(x)))
        return x + self.dropout(self.mlp(self.before_mlp(x)))

    def attend(self, x: Tensor) -> Tensor:
        """Each position looks at itself and at those before it."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


@mapsto.model
class Transformer(nn.Module):
    """Token ids [B, T] -> logits of the token after each [B, T, vocabulary] (Vaswani et al. 2017), for T up to `context`."""

    def __init__(
        self, vocabulary: int = 256, context: int = 128, width: int = 96, heads: int = 4, layers: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.context = context
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[Block(width, heads, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.position.weight[: ids.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.token.weight)


def generate(model: Transformer, prompt: bytes, length: int = 200, *, temperature: float = 0.8, seed: int = 0) -> bytes:
    """The prompt and `length` bytes that the model goes on with, drawn from its softmax at a temperature (0: the likeliest)."""
    ids = list(prompt or b"\n")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(length):
        logits = model(torch.tensor([ids[-model.context :]]))[0, -1]
        if temperature == 0:
            ids.append(int(logits.argmax()))
        else:
            ids.append(int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)))
    return bytes(ids)


# -- the run ---------------------------------------------------------------------------------------------------------------
def spec(path: str | None = None, block: int = 128) -> Spec:
    """The run on the text at `path` (default: the environment's TEXT, else the standard library)."""
    path = path or os.environ.get("TEXT")
    path = None if path is None else str(Path(path).resolve())
    return Spec(
        name="language_model",
        model=use("transformer", context=block),
        task="language_model",
        data={
            "train": {"source": use("text_blocks", split="train", path=path, block=block), "batch_size": 8, "shuffle": True},
            "valid": {"source": use("text_blocks", split="valid", path=path, block=block), "batch_size": 64, "limit": 256},
        },
        optimizer=use("adamw", lr=5e-3, betas=[0.9, 0.95], weight_decay=0.1),
        schedule=use("warmup", steps=0.1),
        middleware=["no_weight_decay", use("clip_norm", max_norm=1.0)],
        steps=1200,
        evaluate_every=200,
        log_every=20,
    )


if __name__ == "__main__":
    folder, prompt = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "def "
    with Run.resume(folder).trained("best") as program, program.evaluating() as state:
        print(generate(state.model, prompt.encode()).decode("utf-8", errors="replace"))
