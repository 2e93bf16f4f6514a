"""What a training step costs over the same hand-written loop: mapsto, and the frameworks that people use instead.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py [--rounds 200] [--arms hand,run,...]

A tiny MLP (64-128-128-10), batches of 64 of 4096 rows in memory, one thread, AdamW, the loss kept at every step, averaged
and written down every 50. Every loop fetches its batch: the hand-written one and those of the peers by `torch.randperm` and
an index, mapsto's runs by their reader (source, computed order, no transform). The loops take turns of some steps in one
process; a step is timed from the entry of the model's `forward` to the next entry, the same way in all of them, so set-up is
in no figure. Reported: quartiles of the per-round ratios to the hand-written loop. Peers that are not installed are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
import torch.nn.functional as F
from interleave import Arm, Gate, interleave, ratios
from torch import Tensor, nn

from mapsto import Run, Spec, use
from mapsto.torch import build_program

BATCH, LOG_EVERY, LR = 64, 50, 1e-3


class Net(nn.Module):
    """The MLP; each entry of `forward` is the boundary between two steps."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        self.gate.step()
        return self.layers(x)


class Batches:
    """Shuffled batches of the rows, an epoch an iteration: what a loop of one's own does."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return -(-len(self.x) // BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(self.x), generator=self.generator).split(BATCH):
            yield self.x[rows], self.y[rows]

    def forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch after epoch."""
        while True:
            yield from self


class Log:
    """The mean loss of every 50 steps, as lines of JSON."""

    def __init__(self, folder: Path, name: str) -> None:
        self.file = (folder / f"{name}.jsonl").open("w", buffering=1)
        self.losses: list[Tensor] = []
        self.step = 0

    def __call__(self, loss: Tensor) -> None:
        self.losses.append(loss)
        self.step += 1
        if self.step % LOG_EVERY == 0:
            mean = torch.stack(self.losses).mean().item()
            self.file.write(json.dumps({"step": self.step, "loss": mean}) + "\n")
            self.losses.clear()


class Problem:
    """Rows whose classes can be learnt but for some (no loss vanishes), and what every loop makes of them."""

    def __init__(self, folder: Path, rows: int = 4096) -> None:
        generator = torch.Generator().manual_seed(1)
        self.folder = folder
        self.x = torch.randn(rows // 8, 64, generator=generator).repeat(8, 1)
        classes = (self.x @ torch.randn(64, 10, generator=generator)).argmax(1)
        noise = torch.rand(rows, generator=generator) < 0.3
        self.y = torch.where(noise, torch.randint(10, (rows,), generator=generator), classes)
        self.nets: dict[str, nn.Module] = {}

    def net(self, name: str, gate: Gate) -> Net:
        self.nets[name] = net = Net(gate)
        return net

    def batches(self) -> Batches:
        return Batches(self.x, self.y)

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        """The optimizer of the hand-written loop and of the peers, with torch's own settings."""
        return torch.optim.AdamW(parameters, lr=LR)

    def log(self, name: str) -> Log:
        return Log(self.folder, name)

    def loss(self, name: str) -> float:
        """The mean loss over all rows of a net that was trained."""
        with torch.no_grad():
            return float(F.cross_entropy(self.nets[name].layers(self.x), self.y))  # type: ignore[operator]


# -- the hand-written loop ---------------------------------------------------------------------------------------------
def hand(problem: Problem, name: str, gate: Gate) -> None:
    net, log = problem.net(name, gate), problem.log(name)
    adamw = problem.optimizer(net.parameters())
    for x, y in problem.batches().forever():
        adamw.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        adamw.step()
        log(loss.detach())


# -- mapsto ------------------------------------------------------------------------------------------------------------
SAME = use("adamw", lr=LR, fused=False)
INACTIVE = (  # each in the setting in which it has nothing to do
    use("timing", every=0),
    use("compile", enabled=False),
    use("mixed_precision", dtype="fp32"),
    use("sam", rho=0.0),
    use("accumulate", steps=1),
    use("mixup", alpha=0.0),
    use("distillation", teacher=nn.Identity(), alpha=0.0),
    use("clip_norm", max_norm=None),
    use("clip_value", value=None),
    use("gradient_noise", eta=0.0),
)


def own_loop(problem: Problem, name: str, gate: Gate) -> None:
    """`build_program` in a loop of one's own."""
    program = build_program(problem.net(name, gate), "classification", SAME, device="cpu")
    log_file = (problem.folder / f"{name}.jsonl").open("w", buffering=1)
    window = []
    for step, batch in enumerate(problem.batches().forever(), 1):
        window.append(program.step(batch))
        if step % LOG_EVERY == 0:
            log_file.write(json.dumps({"step": step, **program.fetch(window)}) + "\n")
            window.clear()


def run(problem: Problem, name: str, gate: Gate, adamw: Any = SAME, middleware: Any = ()) -> None:
    """`Run(...).fit()`, metrics.jsonl written every 50 steps."""
    spec = Spec(
        model=lambda: problem.net(name, gate),
        data={"train": {"source": use("arrays", input=problem.x, target=problem.y), "batch_size": BATCH, "shuffle": True}},
        optimizer=adamw,
        middleware=middleware,
        checkpoint={"every": 10**9},
        steps=10**9,
        log_every=LOG_EVERY,
        device="cpu",
    )
    Run(spec, problem.folder / name).fit()


def run_inactive(problem: Problem, name: str, gate: Gate) -> None:
    run(problem, name, gate, middleware=INACTIVE)


def run_default(problem: Problem, name: str, gate: Gate) -> None:
    run(problem, name, gate, adamw=use("adamw", lr=LR))


# -- measuring ---------------------------------------------------------------------------------------------------------
Loop = Callable[[Problem, str, Gate], None]
LOOPS: dict[str, tuple[str, Loop]] = {
    "hand": ("hand-written loop", hand),
    "control": ("the hand-written loop once more (the noise)", hand),
    "own": ("mapsto: build_program in one's own loop", own_loop),
    "run": ("mapsto: Run.fit, logging on", run),
    "inactive": ("mapsto: the same with ten inactive middlewares", run_inactive),
    "default": ("mapsto: the same with its default optimizer settings", run_default),
}


def machine() -> str:
    """What the figures were measured on."""
    model = "unknown CPU"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    from overhead_peers import PEERS, missing

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200, help="turns a loop (default %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="timed steps a turn, a multiple of 50 (default %(default)s)")
    parser.add_argument("--arms", help=f"some of {','.join([*LOOPS, *PEERS])} (default: all)")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    loops = LOOPS | PEERS
    names = asked.arms.split(",") if asked.arms else list(loops)
    if unknown := set(names) - set(loops):
        parser.error(f"there is no loop {', '.join(sorted(unknown))}; there are {', '.join(loops)}")
    for name in [n for n in names if n in PEERS]:
        if lacks := missing(name):
            print(f"skipped: {name} ({lacks} is not installed)")
            names.remove(name)
    names = ["hand", *(n for n in names if n != "hand")]
    with tempfile.TemporaryDirectory() as folder:
        problem = Problem(Path(folder))

        def arm(name: str) -> Arm:
            def work(gate: Gate) -> None:
                torch.set_num_threads(1)
                loops[name][1](problem, name, gate)

            return Arm(name, work, Gate(asked.steps, warm=5))

        arms = [arm(name) for name in names]
        interleave(arms, asked.rounds)
    print(f"{machine()}; {asked.rounds} rounds of {asked.steps} steps")
    print("| loop | us/step | ratio | quartiles | CPU ratio | loss |\n|---|---|---|---|---|---|")
    for one in arms:
        low, middle, high = ratios(one, arms[0])
        micro = statistics.median(t[0] for t in one.times) * 1e6
        cpu = ratios(one, arms[0], clock=1)[1]
        row = (loops[one.name][0], f"{micro:.0f}", f"{middle:.3f}", f"{low:.3f} to {high:.3f}", f"{cpu:.3f}")
        print("| " + " | ".join((*row, f"{problem.loss(one.name):.4f}")) + " |", flush=True)


if __name__ == "__main__":
    main()
