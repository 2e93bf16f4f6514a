"""Every optimizer of torch.optim and every scheduler of torch.optim.lr_scheduler under the laws of their kinds.

`python benchmarks/sweep_optimizers.py [--out FILE] [--thorough] [NAME...]`. Arguments are the checker's own; what is known
to be broken is shown as an expected failure, with its reason.
"""

from __future__ import annotations

import inspect
import sys

import torch
from sweeping import options, sweep
from torch.optim import lr_scheduler

from mapsto.check.targets import of_reference

BASES = ("Optimizer", "LRScheduler", "_LRScheduler")


def names(module: object, base: type) -> list[str]:
    """The classes of a module that derive from a base, without the bases."""
    found = ((n, getattr(module, n)) for n in sorted(dir(module)))
    return [n for n, c in found if inspect.isclass(c) and issubclass(c, base) and n not in BASES]


def main() -> int:
    chosen = options(__doc__).parse_args()
    subjects = [of_reference(f"torch.optim:{n}", "optimizer") for n in names(torch.optim, torch.optim.Optimizer)]
    schedulers = names(lr_scheduler, lr_scheduler.LRScheduler)
    subjects += [of_reference(f"torch.optim.lr_scheduler:{n}", "schedule") for n in schedulers]
    subjects.append(of_reference("torch.optim.swa_utils:SWALR", "schedule"))
    return sweep([s for s in subjects if not chosen.names or s.label.rpartition(":")[2] in chosen.names], chosen)


if __name__ == "__main__":
    sys.exit(main())
