"""What a parameter server costs: time a step over one process, bytes of a sparse table, how stale gradients are.

    OMP_NUM_THREADS=1 python benchmarks/servers.py [--rounds 20] [--steps 5] [--rows 200000]

The programs take turns in one process and are compared round by round; their servers and workers are idle in between.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mapsto import Spec, use
from mapsto.core.compose import Declared
from mapsto.torch.servers.mesh import Servers
from mapsto.torch.wing import build

WIDTH, BATCH, IDS = 512, 256, 8
INJECTED = {"steps_per_epoch": 16, "seed": 0}


class Rows:
    """4096 records: inputs, targets, and ids into a table, of which low ones are frequent (Zipf)."""

    def __init__(self, rows: int = 1) -> None:
        rng = np.random.default_rng(0)
        self.fields = {
            "input": rng.normal(size=(16 * BATCH, WIDTH)).astype(np.float32),
            "target": rng.normal(size=(16 * BATCH, 1)).astype(np.float32),
            "ids": np.minimum(rng.zipf(1.2, (16 * BATCH, IDS)), rows) - 1,
        }

    def __len__(self) -> int:
        return 16 * BATCH

    def __getitem__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values[indices] for name, values in self.fields.items()}


def dense_net() -> nn.Module:
    """0.53 million parameters in three layers."""
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))


class Table(nn.Module):
    """A table of 64 columns and a small head."""

    def __init__(self, rows: int, sparse: bool) -> None:
        super().__init__()
        self.table, self.head = nn.EmbeddingBag(rows, 64, mode="mean", sparse=sparse), nn.Linear(64, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids))


class Straggler:
    """loss -> loss that takes 50 ms longer for micro-shard 0 at every third step."""

    __mapsto__ = Declared(wraps=("loss",))

    def loss(self, inner: Any) -> Any:
        def late(state: Any, batch: Any) -> Any:
            if state.training and state.shard == 0 and state.step % 3 == 0:
                time.sleep(0.05)
            return inner(state, batch)

        return late


def spec(**changes: Any) -> Spec:
    given: dict[str, Any] = {
        "model": use(dense_net),
        "task": "regression",
        "optimizer": use("adamw", lr=1e-3),
        "data": {"train": {"source": use(Rows), "batch_size": BATCH, "shuffle": True}},
        "device": "cpu",
    }
    return Spec(**{**given, **changes})


def alone(of: Spec) -> tuple[Callable[[], Any], Callable[[], None]]:
    """A step of one process, its reading included, and its end."""
    from mapsto.torch.servers.blueprint import Blueprint

    program = build(of, INJECTED)
    stream = iter(Blueprint.of(of, 1, INJECTED).train_reader().stream())
    return lambda: program.step(next(stream)[1]), lambda: None


def served(of: Spec, **mesh: Any) -> tuple[Callable[[], Any], Callable[[], None]]:
    """A step of a parameter server, and its end."""
    program = Servers(**mesh).program(of, INJECTED)
    return program.step, program.close


def turns(arms: Mapping[str, Callable[[], Any]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds a step of every arm, by round; in each round the arms take `steps` steps each, in another order."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for name in names:
        for _ in range(3):
            arms[name]()
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            arms[name]()
            began = time.perf_counter()
            for _ in range(steps):
                arms[name]()
            times[name].append((time.perf_counter() - began) / steps)
    return times


def table(times: Mapping[str, list[float]], more: Mapping[str, str], headings: str) -> None:
    base = next(iter(times))
    print(f"| program | ms a step (median) | times {base} (quartiles) | {headings} |")
    print("|---|---|---|" + "---|" * (headings.count("|") + 1))
    for name, found in times.items():
        low, middle, high = statistics.quantiles([a / b for a, b in zip(found, times[base], strict=True)], n=4)
        print(f"| {name} | {1e3 * statistics.median(found):.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) | {more[name]} |")


def measure(title: str, made: dict[str, tuple[Any, Any]], options: Any, tell: Callable[[str, Any], str], headings: str) -> None:
    print(f"\n{title}\n")
    last: dict[str, Any] = {}

    def remembering(name: str, step: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> None:
            last[name] = step()

        return run

    arms = {name: remembering(name, step) for name, (step, _) in made.items()}
    try:
        times = turns(arms, options.rounds, options.steps)
        table(times, {name: tell(name, last[name]) for name in made}, headings)
    finally:
        for _, end in made.values():
            end()


def lags(bounds: list[int], steps: int) -> dict[int, Counter[int]]:
    """How many gradients of so many steps were how stale, by the bound (rising), three workers, one of them late at times."""
    mesh = Servers(2, 3, bounds[0])
    program = mesh.program(spec(middleware=[use(Straggler)]), INJECTED)
    found = {}
    try:
        for mesh.staleness in bounds:
            for _ in range(max(bounds) + 1):  # until workers are as far ahead as they may be
                program.step()
            program.driver.lags.clear()
            for _ in range(steps):
                program.step()
            found[mesh.staleness] = Counter(program.driver.lags)
    finally:
        program.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=200_000)
    options = parser.parse_args()
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=32, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    print(f"torch {torch.__version__}, ray {ray.__version__}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")

    def moved(name: str, metrics: Mapping[str, Any]) -> str:
        return f"{metrics.get('bytes/pushed', 0) / 1e6:.3f} | {metrics.get('bytes/pulled', 0) / 1e6:.3f}"

    meshes = {
        "1 server, 1 worker": (1, 1, 0),
        "2 servers, 2 workers": (2, 2, 0),
        "2 servers, 2 workers, staleness 3": (2, 2, 3),
    }
    made = {"one process": alone(spec())} | {name: served(spec(), **_mesh(*m)) for name, m in meshes.items()}
    measure("A dense model of 0.53 million float32 parameters, batches of 256:", made, options, moved, "MB pushed | MB pulled")

    late = spec(middleware=[use(Straggler)])
    made = {"in step": served(late, **_mesh(2, 3, 0)), "staleness 3": served(late, **_mesh(2, 3, 3))}
    measure(
        "The same with 3 workers, one of them 50 ms late at every third step:", made, options, moved, "MB pushed | MB pulled"
    )

    size = options.rows * 64 * 4 / 1e6
    data = {"train": {"source": use(Rows, rows=options.rows), "batch_size": BATCH, "shuffle": True}}
    tables = {
        sparse: spec(
            model=use(Table, rows=options.rows, sparse=sparse),
            task=use("regression", input="ids"),
            data=data,
            optimizer=use("sgd", lr=0.1, fused=False),
        )
        for sparse in (True, False)
    }
    made = {f"{'only touched rows' if s else 'whole gradients'}": served(tables[s], **_mesh(2, 2, 0)) for s in (True, False)}
    title = f"A table of {options.rows} x 64 ({size:.1f} MB), {BATCH} x {IDS} ids a step, 2 servers, 2 workers:"
    measure(title, made, options, moved, "MB pushed | MB pulled")
    print(f"\nOn 2 ranks a ring all-reduce of that gradient sends {2 * size:.1f} MB a step in all, 2 (W - 1) / W of it a rank.")

    print("\nHow stale the gradients of 60 steps were, 3 workers of which one is late at times:\n")
    print("| bound | " + " | ".join(f"{k} steps" for k in range(5)) + " |\n|---|" + "---|" * 5)
    for bound, found in lags([0, 1, 2, 4], 60).items():
        assert max(found) <= bound
        print(f"| {bound} | " + " | ".join(f"{100 * found[k] / found.total():.0f} %" for k in range(5)) + " |")
    ray.shutdown()


def _mesh(servers: int, workers: int, staleness: int) -> dict[str, int]:
    return {"servers": servers, "workers": workers, "staleness": staleness}


if __name__ == "__main__":
    main()
