"""Every loss of torch.nn under the laws of losses: `python benchmarks/sweep_losses.py [--out FILE] [--thorough] [NAME...]`.

Each is checked as its class gives it by default, a mean; how it adds up is judged on its unreduced losses. Inputs are the
checker's own. AdaptiveLogSoftmaxWithLoss, a layer that returns a pair, is in the sweep of layers.
"""

from __future__ import annotations

import sys

from sweeping import options, sweep
from torch import nn

from mapsto.check.targets import of_reference

NAMES = [n for n in sorted(dir(nn)) if n.endswith("Loss") and issubclass(getattr(nn, n), nn.modules.loss._Loss)]


def main() -> int:
    chosen = options(__doc__).parse_args()
    return sweep([of_reference(f"torch.nn:{name}", "loss") for name in chosen.names or NAMES], chosen)


if __name__ == "__main__":
    sys.exit(main())
