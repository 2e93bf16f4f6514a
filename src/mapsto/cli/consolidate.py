"""Write the weights of a checkpoint to one plain safetensors file.

Whatever mesh a run was trained on, the file holds whole tensors by their names in the model; no ranks are needed."""

from __future__ import annotations

import argparse

from .console import write

EPILOG = """\
examples:
  mapsto consolidate runs/first                             the last checkpoint, to runs/first/step-NNNNNNNN.safetensors
  mapsto consolidate runs/first --checkpoint best --output weights.safetensors

They are the canonical weights; averages that a middleware keeps beside them stay in the checkpoint."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a run")
    parser.add_argument("--checkpoint", metavar="WHICH", default="last", help="last (default), best, or a step")
    parser.add_argument("--output", metavar="FILE", help="the file to write (default: RUN/step-NNNNNNNN.safetensors)")


def run(options: argparse.Namespace) -> int:
    from ..engine.consolidate import consolidate

    made = consolidate(options.run, options.checkpoint, options.output)
    write(f"{made.path}: {made.tensors} tensors, {made.size / 1e6:.1f} MB, of {made.checkpoint.name}")
    return 0
