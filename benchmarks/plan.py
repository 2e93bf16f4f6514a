"""CPU seconds that `mapsto plan` takes for a mesh of 1024 ranks: a transformer of 1 billion parameters, each mesh by itself.

OMP_NUM_THREADS=1 python benchmarks/plan.py replicate=1024 pipeline=2,replicate=512
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mapsto.core.load_spec import load_spec
from mapsto.core.sizes import format_size
from mapsto.engine.planning import subject_of
from mapsto.planning.candidates import parse_mesh
from mapsto.planning.plan import Limits, Planner

RECIPE = Path(__file__).parents[1] / "recipes" / "language_model.py"
RANKS, MEMORY = 1024, 80 * 10**9
MODEL = ("model.width=1792", "model.heads=16", "model.layers=24", "model.vocabulary=50304", f"data.train.batch_size={RANKS}")


def main(meshes: list[str]) -> None:
    """Each mesh's CPU seconds, peak and largest micro-batch, as a row of a table."""
    subject = subject_of(load_spec(str(RECIPE)).override(*MODEL))
    planner = Planner(subject.spec, subject.example, subject.records, subject.injected, Limits(MEMORY))
    for mesh in meshes:
        begun = time.process_time()
        found = planner.estimate(parse_mesh(mesh, RANKS))
        seconds = time.process_time() - begun
        peak = found.reason if found.measured is None else format_size(found.measured.peak)
        print(f"| {mesh} | {seconds:.1f} | {len(found.stages)} | {peak} | {found.largest} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
