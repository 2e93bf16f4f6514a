"""Programs in strict mode, for tests: a small language model with dropout and texts of unequal length, hashed at every step."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto import Run, Spec
from mapsto.core.parts import Part, use
from mapsto.data.reader import Batches
from mapsto.torch import build_program
from mapsto.torch.mesh.one import whole

TEXTS, LENGTH, WORDS, WIDTH = 29, 9, 37, 20
"""No size is a multiple of a vector register, so that parts of a tensor begin and end within one."""


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 33), nn.Linear(33, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.out(attended))
        return x + self.dropout(self.down(F.gelu(self.up(self.norms[1](x)))))


class Transformer(nn.Module):
    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(Block(dropout), Block(dropout))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.position.weight[: ids.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.token.weight)


class Wide(nn.Module):
    """Layers of which the second head is used by few records, and the third by none."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(LENGTH, 13), nn.ReLU(), nn.Linear(13, 7))
        self.head, self.other, self.never = nn.Linear(7, 5), nn.Linear(7, 5), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.float())
        asking = (x[:, 0] > WORDS - 4).nonzero()[:, 0]
        y = self.head(h)
        return y.index_add(0, asking, self.other(h[asking])) if len(asking) else y


def texts() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    ids = rng.integers(0, WORDS, (TEXTS, LENGTH))
    target = rng.integers(0, WORDS, (TEXTS, LENGTH))
    target[np.arange(LENGTH)[None, :] >= rng.integers(1, LENGTH + 1, TEXTS)[:, None]] = -100
    target[:3] = -100  # texts without a token to learn from
    return {"input": ids, "target": target}


def records() -> dict[str, np.ndarray]:
    found = texts()
    return {"input": found["input"], "target": found["input"].sum(1) % 5}


CLIP, EMA = use("clip_norm", max_norm=0.5), use("ema", decay=0.9)
USUAL = {"middleware": [CLIP, EMA, use("accumulate", steps=2)], "optimizer": use("adamw", lr=1e-2)}


class Langevin(torch.optim.SGD):
    """Gradient descent with noise from the framework's generator (Welling & Teh 2011)."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.01)

    def step(self, closure: Any = None) -> None:
        super().step()
        for parameter in self.param_groups[0]["params"]:
            parameter.data.add_(torch.randn(parameter.shape), alpha=1e-3)


def made(case: dict[str, Any]) -> tuple[Any, Batches]:
    """The program of a case and its reader: 11 texts a batch, which 8 micro-shards cut unevenly, and 7 at an epoch's end."""
    model = Wide if case.get("model") == "wide" else case.get("model", Transformer)
    wide = model is not Transformer
    program = build_program(
        use(model, **case.get("options", {})),
        use("classification" if wide else "language_model", metrics=["f1", "log_loss", "auroc"]),
        case.get("optimizer", USUAL["optimizer"]),
        case.get("schedule"),
        case.get("middleware", USUAL["middleware"]),
        seed=3,
        device="cpu",
        mesh=None if case.get("mesh") is None else Part("ranks", case["mesh"]),
        micro_shards=case.get("micro_shards", 8),
        strict=case.get("strict", True),
        injected={"total_steps": 20, "steps_per_epoch": 3},
    )
    return program, Batches(records() if wide else texts(), case.get("batch", 11), shuffle=True, seed=1)


def tensors(tree: Any, path: str = "") -> dict[str, Tensor]:
    """The tensors of a state tree by path, whole ones where ranks hold parts."""
    if isinstance(tree, Tensor):
        return {path: whole(tree)}
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    return {k: v for name, value in pairs for k, v in tensors(value, f"{path}/{name}").items()}


def fingerprint(tree: Any) -> str:
    """Of every bit of every tensor of a state tree, and their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors(tree).items()):
        found.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return found.hexdigest()[:16]


def hashes(case: dict[str, Any]) -> dict[str, Any]:
    """Fingerprints of the weights and of the whole state after each step, the metrics, and an evaluation to the last bit."""
    program, reader = made(case)
    found: dict[str, Any] = {"weights": [], "state": []}
    window = []
    with reader.stream(0, case.get("steps", 4), **program.reader_args) as stream:
        for _, batch in stream:
            window.append(program.step(batch))
            tree = program.state_tree()
            found["weights"].append(fingerprint(tree["model"]))
            found["state"].append(fingerprint({k: tree[k] for k in ("model", "optimizer", "middleware")}))
    plain = reader.sequential()
    with plain.stream(0, plain.batches_per_epoch, **program.reader_args) as stream:
        evaluation = program.evaluate(batch for _, batch in stream)
    told = {**program.fetch(window), **{f"valid/{k}": v for k, v in evaluation.items()}}
    return {**found, "metrics": {k: v.hex() for k, v in told.items()}}


def all_hashes(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: hashes(case) for name, case in cases.items()}


def run_spec(mesh: Any) -> Spec:
    """A run of 3 steps an epoch with all that keeps state, evaluated and saved at each step."""
    return Spec(
        model=use(Transformer),
        task="language_model",
        data={
            "train": {"source": texts(), "batch_size": 11, "shuffle": True},
            "valid": {"source": {k: v[:10] for k, v in texts().items()}, "batch_size": 4},
        },
        middleware=[CLIP, EMA],
        optimizer=USUAL["optimizer"],
        schedule=use("plateau", patience=0, factor=0.5),
        mesh=mesh,
        micro_shards=8,
        strict=True,
        steps=6,
        log_every=2,
        evaluate_every=1,
        checkpoint={"every": 1, "keep": None, "metric": "valid/loss"},
        device="cpu",
    )


def train(folder: str, mesh: list[Any], steps: int) -> dict[str, Any]:
    """The run up to a step, begun or gone on with; a fingerprint of all that it then holds."""
    run = Run(dataclasses.replace(run_spec(mesh[0] if mesh else None), steps=steps), folder)
    result = run.fit(resume=bool((Path(folder) / "checkpoints").exists()))
    tree = run.program.state_tree()
    return {
        "state": fingerprint({k: v for k, v in tree.items() if k != "step"}),
        "steps": result.steps,
        "metrics": {k: v.hex() for k, v in result.metrics.items() if not k.startswith(("time/", "throughput/", "memory/"))},
        "rate": run.program.rates(),
    }
