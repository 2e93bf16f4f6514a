"""How long `mapsto check` takes: P0, and P0 + P1, of small mappings, each in a fresh process; wall and CPU seconds.

`OMP_NUM_THREADS=1 python benchmarks/check.py [--rounds N] [--jobs N] [--write]`. CPU seconds are those of the checker and of
all its workers, so that on a shared machine they tell what two idle cores would need at least: CPU / 2.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
TARGETS = (
    "torch.nn:Linear",
    "torch.nn:TransformerEncoderLayer",
    "torch.nn:BatchNorm1d",
    "loss/focal",
    "optimizer/adamw",
    "schedule/warmup",
)
LAYERS = ("GELU", "ReLU", "SiLU", "Tanh", "Sigmoid", "ELU", "SELU", "Softplus", "Hardswish", "Mish")
TEN = tuple(f"torch.nn:{name}" for name in LAYERS)
CASES = {**{target: (target,) for target in TARGETS}, TEN[0]: TEN[:1], "ten layers of torch.nn": TEN}
"""What is checked by one command; the last two show what start-up costs, which ten layers share."""
SETS = {"P0": ("--gate",), "P0 + P1": ()}


def once(targets: tuple[str, ...], options: tuple[str, ...], jobs: int) -> tuple[float, float, int, str]:
    """Wall seconds, CPU seconds, exit code and the summary of one check."""
    command = [sys.executable, "-m", "mapsto", "check", *targets, "--jobs", str(jobs), *options]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, done.returncode, done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Print a table, and with --write put it into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    taken: dict[tuple[str, str], list[tuple[float, float, int, str]]] = {}
    for _ in range(options.rounds):  # sets and targets take turns, so that what disturbs one disturbs all
        for name, words in SETS.items():
            for case, targets in CASES.items():
                taken.setdefault((case, name), []).append(once(targets, words, options.jobs))
    how = f"`OMP_NUM_THREADS=1 python benchmarks/check.py --rounds {options.rounds} --jobs {options.jobs}`"
    where = f"Python {platform.python_version()}, torch {metadata.version('torch')}, {os.cpu_count()} cores"
    lines = [
        f"{how}; {where} (load average {os.getloadavg()[0]:.1f} at the end).",
        "",
        "| mapping | laws | verdicts | wall s (median; least) | CPU s (median) |",
        "|---|---|---|---|---|",
    ]
    for (target, name), found in taken.items():
        walls, cpus = [f[0] for f in found], [f[1] for f in found]
        verdicts = re.sub(r";.*", "", found[-1][3].partition(": ")[2])
        wall, cpu = f"{statistics.median(walls):.1f}; {min(walls):.1f}", f"{statistics.median(cpus):.1f}"
        lines.append(f"| {target} | {name} | {verdicts} | {wall} | {cpu} |")
    for name in SETS:
        clocks = [[statistics.median(f[clock] for f in taken[case, name]) for clock in (0, 1)] for case in list(CASES)[-2:]]
        wall, cpu = (ten / one for one, ten in zip(*clocks, strict=True))
        lines += ["", f"{name}: ten layers take {wall:.2f} times the wall seconds of one, and {cpu:.2f} times the CPU seconds."]
    text = "\n".join(lines)
    print(text)
    if options.write:
        put("Check", text)


def put(title: str, text: str) -> None:
    """Replace a section of RESULTS.md, or add it."""
    whole = RESULTS.read_text() if RESULTS.exists() else "# Measured\n"
    section = f"## {title}\n\n{text}\n"
    found = re.search(rf"^## {title}\n.*?(?=^## |\Z)", whole, re.MULTILINE | re.DOTALL)
    whole = whole[: found.start()] + section + "\n" + whole[found.end() :] if found else f"{whole.rstrip()}\n\n{section}"
    RESULTS.write_text(whole.rstrip() + "\n")


if __name__ == "__main__":
    main()
