"""The loops that `ranks.py` times: written by hand on torch's DDP and FSDP2, and mapsto's.

Each is `loop(problem, name, gate)`: it sets itself up, leaves its model in `problem.nets`, calls `gate.step()` at the top of
every step, and trains until that raises.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from interleave import Gate
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel as DDP

from mapsto import Run, Spec, use
from mapsto.torch import build_program

IGNORED = -100
LR = 1e-3


class Block(nn.Module):
    """Attention and MLP, before each a LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.first(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.second(x))


class Net(nn.Module):
    """Tokens [B, T] -> logits [B, T, V] of the next one."""

    def __init__(self, words: int, width: int, depth: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(depth))
        self.head = nn.Linear(width, words)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Problem:
    """Sequences of unequal length, padded: rank r of R takes the r-th slice of every global batch."""

    def __init__(self, folder: Path, *, records: int, words: int, width: int, depth: int, length: int, batches: int) -> None:
        self.folder, self.sizes = folder, (words, width, depth)
        self.nets: dict[str, nn.Module] = {}
        self.told: dict[str, list[Any]] = {}
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.records = records * self.world
        generator = torch.Generator().manual_seed(1)
        steps = torch.randint(1, 7, (batches * self.records, 1), generator=generator)
        start = torch.randint(words, (batches * self.records, 1), generator=generator)
        tokens = (start + steps * torch.arange(length + 1)) % words  # the next one can be learnt
        lengths = torch.randint(length // 4, length + 1, (batches * self.records, 1), generator=generator)
        self.x, self.y = tokens[:, :-1].contiguous(), tokens[:, 1:].masked_fill(torch.arange(length) >= lengths, IGNORED)
        self.own = [
            (self.x[rows], self.y[rows])
            for b in range(batches)
            for rows in [slice(b * self.records + self.rank * records, b * self.records + (self.rank + 1) * records)]
        ]

    def net(self) -> Net:
        return Net(*self.sizes)

    @staticmethod
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        """That of all loops."""
        return torch.optim.AdamW(parameters, lr=LR, fused=True)

    def forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's batches, epoch after epoch."""
        return itertools.cycle(self.own)


Place = Callable[[Problem], nn.Module]


def ddp(problem: Problem) -> nn.Module:
    """The model under DDP, in the settings that mapsto takes."""
    return DDP(problem.net(), gradient_as_bucket_view=True)


def sharded(problem: Problem) -> nn.Module:
    """The model under FSDP2, block by block."""
    net, mesh = problem.net(), init_device_mesh("cpu", (problem.world,))
    for block in net.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(net, mesh=mesh)


# -- by hand -----------------------------------------------------------------------------------------------------------
def exact(place: Place, problem: Problem, name: str, gate: Gate) -> None:
    """Normalised by the summed number of tokens: one small all-reduce a step; the wrappers average, so times the ranks."""
    net = problem.nets[name] = place(problem)
    adamw = problem.optimizer(net.parameters())
    losses: list[Tensor] = []
    for x, y in problem.forever():
        gate.step()
        adamw.zero_grad()
        tokens = (y != IGNORED).sum().double()
        dist.all_reduce(tokens)
        total = F.cross_entropy(net(x).flatten(0, 1), y.flatten(), ignore_index=IGNORED, reduction="sum")
        loss = total * (problem.world / tokens).to(total.dtype)
        loss.backward()
        adamw.step()
        losses.append(loss.detach())


def naive(place: Place, problem: Problem, name: str, gate: Gate) -> None:
    """The mean of the ranks' means, as most loops have it: with unequal numbers of tokens another gradient."""
    net = problem.nets[name] = place(problem)
    adamw = problem.optimizer(net.parameters())
    losses: list[Tensor] = []
    for x, y in problem.forever():
        gate.step()
        adamw.zero_grad()
        loss = F.cross_entropy(net(x).flatten(0, 1), y.flatten(), ignore_index=IGNORED)
        loss.backward()
        adamw.step()
        losses.append(loss.detach())


# -- mapsto ------------------------------------------------------------------------------------------------------------
def next_token(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The task: the same sum as by hand, and its weight."""
    logits, y = model(batch["input"]), batch["target"]
    total = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORED, reduction="sum")
    return total, (y != IGNORED).sum(), logits


SAVERS = {
    "bf16": ("compress_gradients bf16", use("compress_gradients", dtype="bf16")),
    "fp16": ("compress_gradients fp16", use("compress_gradients", dtype="fp16")),
    "powersgd": ("powersgd rank 4", use("powersgd", rank=4)),
    "local_sgd": ("local_sgd every 8", use("local_sgd", every=8)),
    "diloco": ("diloco every 8", use("diloco", every=8)),
}
ADAMW = use("adamw", lr=LR, fused=True)


def own_loop(mesh: dict[str, int], problem: Problem, name: str, gate: Gate, *middleware: Any) -> None:
    """`build_program` in a loop of one's own."""
    program = build_program(problem.net(), next_token, ADAMW, None, middleware, device="cpu", mesh=mesh)
    problem.nets[name] = program.model
    window = problem.told[name] = []
    for x, y in problem.forever():
        gate.step()
        window.append(program.step([{"input": x, "target": y}]))


def saving(mesh: dict[str, int], saver: Any, problem: Problem, name: str, gate: Gate) -> None:
    """The same with a middleware that sends less."""
    own_loop(mesh, problem, name, gate, saver)


class Boundary:
    """A middleware: the gate is at the top of each step."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def step(self, inner: Any) -> Any:
        def stepped(state: Any, batch: Any) -> Any:
            self.gate.step()
            return inner(state, batch)

        return stepped


def run(mesh: dict[str, int], problem: Problem, name: str, gate: Gate) -> None:
    """`Run(...).fit()`: reader, events and metrics.jsonl, with a line every 10 steps."""

    def model() -> nn.Module:
        net = problem.nets[name] = problem.net()
        return net

    spec = Spec(
        model=model,
        task=next_token,
        data={"train": {"source": use("arrays", input=problem.x, target=problem.y), "batch_size": problem.records}},
        optimizer=ADAMW,
        middleware=(Boundary(gate),),
        mesh=mesh,
        checkpoint={"every": 10**9},
        steps=10**9,
        log_every=10,
        device="cpu",
    )
    Run(spec, problem.folder / name).fit()


def loops(world: int) -> dict[str, tuple[str, Callable[..., Any]]]:
    """Name -> (what it is, loop); the first of each family is what its others are compared with."""
    replicate, shard = {"replicate": world}, {"shard": world}
    return {
        "ddp": ("hand-written DDP, summed tokens", partial(exact, ddp)),
        "ddp_control": ("the same once more (the noise)", partial(exact, ddp)),
        "ddp_naive": ("hand-written DDP, mean of means", partial(naive, ddp)),
        "replicate": ("mapsto {replicate: N}, build_program", partial(own_loop, replicate)),
        "replicate_run": ("mapsto {replicate: N}, Run.fit", partial(run, replicate)),
        **{name: (f"mapsto, {title}", partial(saving, replicate, saver)) for name, (title, saver) in SAVERS.items()},
        "fsdp": ("hand-written FSDP2, summed tokens", partial(exact, sharded)),
        "fsdp_control": ("the same once more (the noise)", partial(exact, sharded)),
        "fsdp_naive": ("hand-written FSDP2, mean of means", partial(naive, sharded)),
        "shard": ("mapsto {shard: N}, build_program", partial(own_loop, shard)),
        "shard_run": ("mapsto {shard: N}, Run.fit", partial(run, shard)),
    }
