"""One small language model under many meshes and middlewares: planned in one process, and measured on real ranks."""

from __future__ import annotations

import gc
import json
import time
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mapsto import Spec, use
from mapsto.core.parts import Part
from mapsto.torch.planning.dry_run import dry_run
from mapsto.torch.planning.stages import Mail

WORDS, WIDTH, LENGTH, RECORDS = 128, 48, 32, 3
INJECTED = {"total_steps": 10, "steps_per_epoch": 5, "seed": 0}
EXAMPLE = {"input": np.zeros((2, LENGTH), np.int64), "target": np.zeros((2, LENGTH), np.int64)}
BYTES = {"Float": 4, "Double": 8, "Int": 4, "Long": 8, "BFloat16": 2, "Half": 2, "Byte": 1, "Char": 1, "Bool": 1}

MIDDLEWARE: dict[str, list[Any]] = {
    "plain": [],
    "averaged": ["ema", "nonfinite", use("clip_norm", max_norm=1.0), use("accumulate", steps=3)],
    "bf16": [use("mixed_precision", dtype="bf16"), use("activation_checkpointing", modules=["blocks.*"])],
}
MESHES: dict[str, dict[str, Any]] = {
    "replicate": {"replicate": -1},
    "shard": {"shard": -1},
    "hybrid": {"replicate": -1, "shard": 2},
    "tensor": {"tensor": -1},
    "shard x tensor": {"shard": -1, "tensor": 2},
    "replicate x tensor": {"replicate": -1, "tensor": 2},
    "pipeline": {"pipeline": -1},
    "pipeline x replicate": {"pipeline": 2, "replicate": -1},
}


class Block(nn.Module):
    """Causal self-attention and an MLP; its widths do not divide evenly by 3."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (-1, WIDTH // 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.Sequential(*[Block() for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.token(ids))))


def spec(mesh: dict[str, Any] | None = None, middleware: str = "plain", **more: Any) -> Spec:
    return Spec(
        model=use(Language),
        task="language_model",
        optimizer=use("adamw", lr=1e-3),
        middleware=MIDDLEWARE[middleware],
        data={"train": {"source": use("arrays", **EXAMPLE), "batch_size": 2}},
        mesh=None if mesh is None else Part("ranks", mesh),
        device="cpu",
        **more,
    )


def planned(axes: dict[str, int], middleware: str = "plain", rank: int = 0, steps: int = 1, **more: Any) -> Any:
    """The last of so many stepped steps."""
    mail, each = Mail(), axes["replicate"] * axes["shard"] * axes["tensor"]
    for stage in range(0, rank, each):  # those before tell what comes from them
        with dry_run(spec(None, middleware, **more), axes, stage, EXAMPLE, INJECTED, mail) as run:
            run.step(RECORDS)
    with dry_run(spec(None, middleware, **more), axes, rank, EXAMPLE, INJECTED, mail) as run:
        return [run.step(RECORDS) for _ in range(steps)][-1]


class Sends(TorchDispatchMode):
    """Bytes that are sent from one rank to another, which the flight recorder leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = {}

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = {"c10d::send": "send", "c10d::recv_": "receive"}.get(operator.name())
        if name is not None:
            self.found[name] = self.found.get(name, 0) + sum(t.nbytes for t in args[0])
        return operator(*args, **(kwargs or {}))


# -- on real ranks -----------------------------------------------------------------------------------------------------
def measured(cases: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """What this rank holds, its peak by torch's own profiler, and what its process groups recorded, of each case.

    The peak is the smallest of three programs': threads of gloo hold what they sent until they come to let go of it. Of sharded
    ones, which send the most, it is that of nine: on two cores one of them was from 1.4 to 2.4 MB, at random.
    """
    found = []
    for mesh, middleware in cases:
        tries = [_measured(mesh, middleware) for _ in range(9 if mesh.startswith("shard") else 3)]
        found.append({**tries[0], "peak": min(each["peak"] for each in tries)})
    return found


def _measured(mesh: str, middleware: str) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    from mapsto.torch.wing import build

    gc.collect()  # what an earlier program held is no allocation of this one
    gc.disable()  # and when the collector runs is no law: what stands in cycles goes between steps
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        program = build(spec(MESHES[mesh], middleware), INJECTED)
        held: dict[str, int] = {}
        program.optimizer.register_step_pre_hook(lambda *_: held.update(gradients=_bytes(program.state.gradients())))
        for step in range(3):  # DDP tells the others of its buckets in the second
            fields = {name: torch.zeros(RECORDS, LENGTH, dtype=torch.int64) for name in EXAMPLE}
            gc.collect()
            time.sleep(0.05)
            before = len(_recorded())
            with Sends() if mesh.startswith("pipeline") else nullcontext() as sends:
                program.step([fields] * len(program.reader_args["shard"]) if program.reader_args else fields)
            if step == 2:
                moved = _moved(_recorded()[before:]) | (sends.found if sends is not None else {})
    gc.enable()
    held["parameters"] = _bytes(program.model.parameters())
    held["optimizer"] = _bytes(v for state in program.optimizer.state.values() for v in state.values())
    axes = dict(program.state.mesh.sizes) if hasattr(program.state.mesh, "sizes") else {}
    return {"held": held, "peak": _peak(found), "moved": moved, "axes": axes}


def _bytes(tensors: Any) -> int:
    """Of the storages on this rank, each once."""
    own = [getattr(t, "_local_tensor", t) for t in tensors]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in own if t.numel()}.values())


def _peak(found: Any) -> int:
    """The most that the CPU allocator had given out at once."""
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most


def _recorded() -> list[dict[str, Any]]:
    """What the flight recorder of torch.distributed wrote down of this process's groups."""
    import torch._C._distributed_c10d as c10d

    return json.loads(c10d._dump_fr_trace_json(True)).get("entries", [])


def _moved(entries: list[dict[str, Any]]) -> dict[str, int]:
    """Bytes by collective. Gloo does a reduce-scatter by an all-reduce, so the two are one here."""
    found: dict[str, int] = {}
    for entry in entries:
        name = entry["profiling_name"].removeprefix("gloo:").replace("_", "-")
        inputs, outputs = (
            sum(
                int(np.prod(size)) * BYTES[kind]
                for size, kind in zip(entry[f"{end}_sizes"], entry[f"{end}_dtypes"], strict=False)
            )
            for end in ("input", "output")
        )
        found[name] = found.get(name, 0) + max(inputs, outputs)
    return found
