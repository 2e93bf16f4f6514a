"""`python -m tests.mutants [--seeds N] [--only TEXT]`: caught and missed by law, and correct twins that were not passed."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import defaultdict

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from . import every, verdicts


def main() -> int:
    """Exit code 0 only where every bug was caught and no twin failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds each is judged with")
    parser.add_argument("--only", default="", help="only mutants whose law or name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as workers do: ranks are forks, which hang where their parent's threads are gone
    console, rows, wrong = Console(), defaultdict(lambda: [0, 0, 0, 0.0]), []
    chosen = [m for mutants in every().values() for m in mutants if options.only in f"{m.law} {m.name}"]
    for mutant in track(chosen, "judged", console=Console(stderr=True)):
        row = rows[mutant.law]
        for seed in range(options.seeds):
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                bug, twin = verdicts(mutant, seed)
            caught, passed = bug.status == mutant.status, twin.status == "pass"
            row[0] += caught
            row[1] += not caught
            row[2] += not passed
            row[3] += time.perf_counter() - began
            if not caught:
                wrong.append(f"missed: {mutant.law} {mutant.name} seed {seed}: {bug.status} {bug.reason}")
            if not passed:
                wrong.append(f"twin: {mutant.law} {mutant.name} seed {seed}: {twin.status} {twin.reason}")
    table = Table("law", "caught", "missed", "twins not passed", "seconds")
    for law, (caught, missed, twins, seconds) in sorted(rows.items()):
        table.add_row(law, str(caught), str(missed), str(twins), f"{seconds:.1f}")
    console.print(table)
    for line in wrong:
        console.print(line, style="red", markup=False, highlight=False)
    console.print(f"{len(chosen)} mutants over {options.seeds} seed(s): {len(wrong)} wrong")
    return 1 if wrong or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
