"""What it costs that a run tells of itself: memory, parameters and signs of life at its logs; and the middleware `health`.

    OMP_NUM_THREADS=1 python benchmarks/vitals.py [--rounds 60]

First the share: the time of the calls themselves, clocked in place over whole runs of 1,000 steps with a log every 50, over
that of the run (the processor's time of the thread, so that neighbours count less). Then ratios: the same runs with and
without it take turns in one process (see `interleave`), with the middleware `health` too. Models: a tiny MLP, where a step
takes half a millisecond and so everything else weighs most; one of 200 small parameters; one of 4 million weights.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np
import torch
from interleave import Arm, Gate, interleave, ratios
from torch import Tensor, nn

from mapsto import Run, Spec, use
from mapsto.engine import loop
from mapsto.engine.stall import StallWatch
from mapsto.engine.vitals import HealthProbe

SIZES = {
    "tiny MLP (64-128-128-10)": [64, 128, 128, 10],
    "200 small parameters": [64] * 100 + [10],
    "4M weights": [64, 2000, 2000, 10],
}


class Net(nn.Module):
    """An MLP; each entry of `forward` is the boundary between two steps."""

    def __init__(self, sizes: list[int], gate: Gate | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for n, m in itertools.pairwise(sizes):
            layers += [nn.Linear(n, m), nn.ReLU()]
        self.layers, self.gate = nn.Sequential(*layers[:-1]), gate

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            self.gate.step()
        return self.layers(x)


def spec(sizes: list[int], gate: Gate | None, steps: int, middleware: tuple[Any, ...] = ()) -> Spec:
    rng = np.random.default_rng(0)
    source = use("arrays", input=rng.normal(size=(4096, 64)).astype("float32"), target=rng.integers(10, size=4096))
    return Spec(
        model=Net(sizes, gate),
        data={"train": {"source": source, "batch_size": 64, "shuffle": True}},
        optimizer=use("adamw", lr=1e-3),
        middleware=middleware,
        checkpoint={"every": 10**9, "keep": 1, "best": 0},
        steps=steps,
        device="cpu",
    )


# -- the share -----------------------------------------------------------------------------------------------------------
def clocked(call: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def timed(*args: Any) -> Any:
        began = time.thread_time()
        result = call(*args)
        spent[0] += time.thread_time() - began
        spent[1] += 1
        return result

    return timed


def share(sizes: list[int], steps: int, folder: Path) -> str:
    """The calls' share of a run's time, and microseconds each."""
    vitals, beats = [0.0, 0.0], [0.0, 0.0]
    before = HealthProbe.__call__, StallWatch.beat
    HealthProbe.__call__, StallWatch.beat = clocked(before[0], vitals), clocked(before[1], beats)  # type: ignore[method-assign]
    began = time.thread_time()
    try:
        Run(spec(sizes, None, steps), folder).fit()
    finally:
        HealthProbe.__call__, StallWatch.beat = before  # type: ignore[method-assign]
    whole = time.thread_time() - began
    told = (vitals[0] + beats[0]) / whole
    each = f"{vitals[0] / vitals[1] * 1e6:.0f} us a log, {beats[0] / max(beats[1], 1) * 1e6:.0f} us a sign of life"
    return f"| {steps:,} steps of {whole / steps * 1e6:.0f} us | {told * 100:.2f} % | {each} |"


# -- ratios --------------------------------------------------------------------------------------------------------------
class Silent:
    """Tells and watches nothing."""

    due = float("inf")

    def __init__(self, *args: Any) -> None: ...
    def __call__(self, *args: Any) -> tuple[dict[str, float], dict[str, Any]]:
        return {}, {}

    def beat(self, step: int) -> None: ...
    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *told: object) -> None: ...


def by_thread(kind: type[Any]) -> Callable[..., Any]:
    """What a loop is given: nothing that tells where its thread is that of a silent arm."""
    return lambda *args: (Silent if threading.current_thread().name.startswith("without") else kind)(*args)


def arms(sizes: list[int], folder: Path, steps: int) -> list[Arm]:
    def arm(name: str, *middleware: Any) -> Arm:
        gate = Gate(steps, 10)
        path = folder / name.replace(" ", "_").replace("/", "_")
        return Arm(name, lambda g: Run(spec(sizes, g, 10**9, middleware), path).fit() and None, gate)

    return [
        arm("without"),
        arm("without, once more (the noise)"),
        arm("as it is"),
        arm("health, every 50", use("health", every=50)),
        arm("health, every step", use("health", every=1)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="0: shares alone")
    parser.add_argument("--steps", type=int, default=1000, help="of the runs of which shares are taken")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        print("| model | run | share | each |\n|---|---|---|---|")
        for i, (name, sizes) in enumerate(SIZES.items()):
            print(f"| {name} {share(sizes, options.steps, Path(temporary) / f'share{i}')}", flush=True)
        if not options.rounds:
            return
        loop.HealthProbe, loop.StallWatch = by_thread(HealthProbe), by_thread(StallWatch)  # type: ignore[misc, assignment]
        print("\n| model | run | us/step | wall ratio | quartiles | CPU ratio |\n|---|---|---|---|---|---|")
        for i, (name, sizes) in enumerate(SIZES.items()):
            made = arms(sizes, Path(temporary) / str(i), 100 if i == 0 else 50)
            interleave(made, options.rounds if i == 0 else options.rounds // 4)
            for one in made:
                low, middle, high = ratios(one, made[0])
                least = sorted(wall for wall, _ in one.times)[len(one.times) // 2] * 1e6
                cpu = ratios(one, made[0], 1)[1]
                print(f"| {name} | {one.name} | {least:.0f} | {middle:.3f} | {low:.3f} to {high:.3f} | {cpu:.3f} |", flush=True)
    print(f"\nload average {os.getloadavg()[0]:.1f}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
