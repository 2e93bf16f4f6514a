"""Programs on ranks, for tests: small models in float64 whose steps can be followed gradient by gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mapsto.core.errors import MapstoError
from mapsto.core.parts import Part, use
from mapsto.data.reader import Batches
from mapsto.torch import build_program

RECORDS, WIDTH, WORDS, LENGTH = 31, 6, 11, 7


class Block(nn.Module):
    """A layer of two products, named as such layers are."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1, self.dropout, self.fc2 = nn.Linear(WIDTH, 8), nn.Dropout(dropout), nn.Linear(8, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc2(self.dropout(self.fc1(x).tanh())))


class Net(nn.Module):
    """Blocks with layer norms."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(2))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Gated(Net):
    """Gives records that ask for it a second head, which takes no part where there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(WIDTH, 3)
        self.never = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, asking = super().forward(x), (x[:, 0] > 0.9).nonzero()[:, 0]
        return y.index_add(0, asking, self.other(x[asking])) if len(asking) else y


class Words(nn.Module):
    """A language model of one block, without attention."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList([Block(dropout)])
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for block in self.blocks:
            h = h + block(h).cumsum(1) / 10
        return self.head(h)


class SparseWords(Words):
    """The same with a table whose gradient is the rows that were looked up."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.embed = nn.Embedding.from_pretrained(self.embed.weight.detach(), freeze=False, sparse=True)


def records(kind: str, dtype: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    if kind in TOKENS:
        x = rng.integers(0, WORDS, (RECORDS, LENGTH))
        y = rng.integers(0, WORDS, (RECORDS, LENGTH))
        y[np.arange(LENGTH)[None, :] >= rng.integers(1, LENGTH + 1, RECORDS)[:, None]] = -100  # lengths differ
        y[:4] = -100  # records without a single token
        return {"input": x, "target": y}
    x = rng.normal(size=(RECORDS, WIDTH)).astype(dtype)
    x[:, 0] = np.where(rng.random(RECORDS) < 0.15, 1.0, 0.0)
    return {"input": x, "target": rng.integers(0, 3, RECORDS)}


METRICS = ["f1", "log_loss", "auroc"]
"""Of sums that grow with the classes met, of sums, and of records."""
MODELS = {"net": Net, "gated": Gated, "words": Words, "sparse words": SparseWords}
TOKENS = {"words", "sparse words"}
"""Models of tokens, whose task is that of a language model."""


@contextmanager
def default_dtype(name: str) -> Iterator[None]:
    """Within it what is built is of this floating point type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def reader(kind: str, dtype: str, batch: int) -> Batches:
    return Batches(records(kind, dtype), batch, shuffle=True, seed=1)


def made(case: dict[str, Any]) -> tuple[Any, Batches]:
    """The program of a case and its reader."""
    kind, dtype = case.get("model", "net"), case.get("dtype", "float64")
    with default_dtype(dtype):
        program = build_program(
            use(MODELS[kind], **case.get("options", {})),
            use(case["task"])
            if "task" in case
            else use("language_model" if kind in TOKENS else "classification", metrics=METRICS),
            case.get("optimizer", use("sgd", lr=0.1)),
            case.get("schedule"),
            case.get("middleware", ()),
            seed=3,
            device="cpu",
            mesh=None if case.get("mesh") is None else Part("ranks", case["mesh"]),
            micro_shards=case.get("micro_shards"),
            strict=case.get("strict", False),
            injected={"total_steps": 20, "steps_per_epoch": 3},
        )
    return program, reader(kind, dtype, case.get("batch", 13))


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.layout is torch.sparse_coo else gradient


def steps(case: dict[str, Any]) -> dict[str, Any]:
    """Gradients of the first step, weights and metrics after `steps` of them, and the evaluation, as NumPy values."""
    program, reader = made(case)
    seen: dict[str, Any] = {}
    window = []
    update = program.state.optimizer.step

    def watched(*args: Any, **kwargs: Any) -> Any:
        if "gradients" not in seen:
            pairs = zip(program.state.names, program.state.parameters, strict=True)
            whole = program.state.mesh.whole
            seen["gradients"] = {
                n: None if p.grad is None else whole(_dense(p.grad)).detach().clone().numpy() for n, p in pairs
            }
        return update(*args, **kwargs)

    program.state.optimizer.step = watched
    with reader.stream(0, case.get("steps", 3), **program.reader_args) as stream:
        for _, batch in stream:
            window.append(program.step(batch))
    del program.state.optimizer.step
    plain = reader.sequential()
    with plain.stream(0, plain.batches_per_epoch, **program.reader_args) as stream:
        evaluation = program.evaluate(batch for _, batch in stream)
    metrics = program.fetch(window)
    metrics.pop("bytes/step", None)  # one process sends nothing
    return {**seen, "weights": program.weights(), "metrics": metrics, "evaluation": evaluation}


def all_steps(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """`steps` of several cases, one after another in the same group of ranks."""
    return {name: steps(case) for name, case in cases.items()}


def refused(case: dict[str, Any]) -> str:
    """What is said where a case cannot be run, or `nothing`."""
    try:
        steps(case)
    except MapstoError as found:
        return str(found)
    return "nothing"
