"""Models of attention for tests of tensor and pipeline ranks: as GPTs are written, as Llamas are, and torch's own encoder."""

from __future__ import annotations

import sys
from pathlib import Path

import mesh_programs
import torch
import torch.nn.functional as F
from mesh_programs import LENGTH, MODELS, WORDS
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
from language_model import Transformer

WIDTH, VOCABULARY = 16, WORDS + 1


class Recipe(Transformer):
    """The recipe's model: one product for queries, keys and values, and embeddings that are the output head too."""

    def __init__(self, dropout: float = 0.0, heads: int = 4) -> None:
        super().__init__(vocabulary=VOCABULARY, context=LENGTH + 1, width=WIDTH, heads=heads, layers=2, dropout=dropout)


class Attention(nn.Module):
    """Grouped queries, rotary positions, queries normalised by head."""

    def __init__(self, heads: int, key_heads: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, size = heads, key_heads, WIDTH // heads
        self.wq, self.wo = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.wk, self.wv = (nn.Linear(WIDTH, key_heads * size, bias=False) for _ in range(2))
        self.q_norm = nn.RMSNorm(size)
        angles = torch.outer(torch.arange(LENGTH + 1.0), 10 ** -(torch.arange(0, size, 2) / size)).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def rotated(self, x: Tensor) -> Tensor:
        (a, b), length = x.chunk(2, -1), x.shape[1]
        return x * self.cos[:length, None] + torch.cat((-b, a), -1) * self.sin[:length, None]

    def forward(self, x: Tensor) -> Tensor:
        records, length, _ = x.shape
        q = self.rotated(self.q_norm(self.wq(x).view(records, length, self.n_heads, -1)))
        k = self.rotated(self.wk(x).view(records, length, self.n_kv_heads, -1))
        v = self.wv(x).view(records, length, self.n_kv_heads, -1)
        y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True, enable_gqa=True)
        return self.wo(y.transpose(1, 2).contiguous().view(records, length, -1))


class FeedForward(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(WIDTH, 24, bias=False), nn.Linear(WIDTH, 24, bias=False)
        self.w2, self.dropout = nn.Linear(24, WIDTH, bias=False), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.dropout(F.silu(self.w1(x)) * self.w3(x)))


class Layer(nn.Module):
    def __init__(self, heads: int, key_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(heads, key_heads), FeedForward(dropout)
        self.attention_norm, self.ffn_norm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    def __init__(self, dropout: float = 0.0, heads: int = 4, key_heads: int = 2, tied: bool = False, layers: int = 2) -> None:
        super().__init__()
        self.tok_embeddings, self.norm = nn.Embedding(VOCABULARY, WIDTH), nn.RMSNorm(WIDTH)
        self.layers = nn.ModuleList(Layer(heads, key_heads, dropout) for _ in range(layers))
        self.output = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.output.weight = self.tok_embeddings.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.output(self.norm(x))


class Encoder(nn.Module):
    """torch's own encoder, whose attention keeps its weights to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.lm_head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.lm_head(self.encoder(self.wte(ids)))


class Branching(nn.Module):
    """Looks at values, so that it says itself how it is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(mesh_programs.WIDTH, 8), nn.Linear(8, 3)

    def begin(self, x: Tensor) -> Tensor:
        return self.first(x + 1 if x.sum() > 0 else x)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.begin(x))

    def pipeline_plan(self) -> list[object]:
        return [(self.begin, "first"), self.last]


class Followed(Branching):
    """The same without saying so."""

    pipeline_plan = property()  # type: ignore[assignment]


MODELS |= {"recipe": Recipe, "llama": Llama, "encoder": Encoder, "branching": Branching, "followed": Followed}
mesh_programs.TOKENS |= {"recipe", "llama", "encoder"}
