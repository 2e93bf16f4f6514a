"""Public component libraries under the laws: pytorch-optimizer, lion-pytorch, entmax, x-transformers.

`pip install -e ".[sweep]"`, then `python benchmarks/sweep_libraries.py [--out FILE] [--gate] [NAME...]`. Arguments and inputs
are found by the checker, with the few that cannot be told stated here; a name is `library:Class`, and a library alone will do.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import torch
from sweeping import options, sweep

import mapsto
from mapsto.check.targets import of_reference
from mapsto.core.errors import MissingExtra
from mapsto.core.laws import Subject
from mapsto.formulas.optimizers import lion

LIBRARIES = ("pytorch_optimizer", "lion_pytorch", "entmax", "x_transformers")
LEFT_OUT = {
    "BaseOptimizer", "CPUOffloadOptimizer", "ScheduleFreeWrapper", "DistributedMuon", "Lookahead", "SAM", "GSAM", "WSAM",
    "BSAM", "LookSAM", "FriendlySAM", "OrthoGrad", "TRAC", "GaLore", "LOMO", "AdaLOMO",
}  # fmt: skip
"""Bases, wrappers of another optimizer, and those that take a model instead of parameters."""
LAYERS = {
    "entmax": ("Sparsemax", "Entmax15", "SparsemaxBisect", "EntmaxBisect", "NormmaxBisect"),
    "x_transformers": ("Attention", "FeedForward", "RMSNorm", "ScaleNorm", "Encoder", "Decoder"),
}


GLOBAL = ("DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptLion", "DAdaptSGD", "Prodigy", "AdaGC", "Adai", "AdamS")
"""Rules with one estimate, norm or statistic for all parameters."""
DRAWING = ("Kron", "Magma", "DASH")
MOMENTUM = {"SGDP": {"momentum": 0.9}, "QHM": {"momentum": 0.9}, "SGDW": {"momentum": 0.9}}


def _state_examples() -> None:
    """What the libraries' components do not say of themselves."""
    vectors = {"inputs": lambda size, generator: (torch.randn(size, 6, generator=generator),), "tags": ["row_independent"]}
    tokens = {"inputs": lambda size, generator: (torch.randn(size, 5, 16, generator=generator),), "tags": ["row_independent"]}
    attends = {**tokens, "tags": ["row_independent", "single_precision"]}  # softmax is taken in float32
    losses = ("SparsemaxLoss", "Entmax15Loss", "SparsemaxBisectLoss", "EntmaxBisectLoss", "NormmaxBisectLoss")
    stated: dict[str, dict[str, Any]] = {
        "lion_pytorch:Lion": {"formula": lion},
        "pytorch_optimizer:Lion": {"formula": lion},
        **{f"pytorch_optimizer:{n}": {"tags": ["across_parameters"]} for n in GLOBAL},
        **{f"pytorch_optimizer:{n}": {"tags": ["stochastic"]} for n in DRAWING},
        **{f"pytorch_optimizer:{n}": {"args": args} for n, args in MOMENTUM.items()},
        "pytorch_optimizer:SoftF1Loss": {"tags": ["across_records"]},
        **{f"entmax:{n}": vectors for n in LAYERS["entmax"]},
        **{f"entmax:{n}": {"args": {"ignore_index": 0}} for n in losses},  # a negative one ignores nothing
        **{f"x_transformers:{n}": {"args": {"dim": 16, "depth": 1, "heads": 2}, **attends} for n in ("Encoder", "Decoder")},
        "x_transformers:Attention": {"args": {"dim": 16, "heads": 2, "dim_head": 8}, **attends},
        **{f"x_transformers:{n}": {"args": {"dim": 16}, **tokens} for n in ("FeedForward", "RMSNorm", "ScaleNorm")},
    }
    for reference, example in stated.items():
        module, _, name = reference.partition(":")
        try:
            mapsto.example(find(module, name), **example)
        except (ImportError, AttributeError):
            continue


def find(library: str, name: str) -> Any:
    """A component of a library."""
    module = importlib.import_module(library)
    return getattr(module, name, None) or getattr(importlib.import_module(f"{library}.{library}"), name)


def components() -> Iterator[tuple[str, str, str]]:
    """(library, name, kind) of all that are installed."""
    for library in LIBRARIES:
        try:
            module = importlib.import_module(library)
        except ImportError:
            print(f"{library} is not installed", file=sys.stderr)
            continue
        for name in sorted(dir(module)):
            found = getattr(module, name)
            if not inspect.isclass(found) or name in LEFT_OUT:
                continue
            if issubclass(found, torch.optim.Optimizer) and not found.__module__.startswith("torch."):
                yield library, name, "optimizer"
            elif issubclass(found, torch.nn.Module) and name.endswith("Loss") and not found.__module__.startswith("torch."):
                yield library, name, "loss"
        for name in LAYERS.get(library, ()):
            yield library, name, "layer"


_state_examples()
SUBJECTS: dict[str, tuple[str, str]] = {}
for _library, _name, _kind in components():  # the checker's workers find them here, with their examples
    _own = f"{_library}_{_name}"
    globals()[_own] = find(_library, _name)
    SUBJECTS[f"{_library}:{_name}"] = (_own, _kind)


def subjects(chosen: list[str]) -> list[Subject]:
    """The subjects that were asked for."""
    found = [(k, v) for k, v in SUBJECTS.items() if not chosen or k in chosen or k.partition(":")[0] in chosen]
    if not found:
        raise MissingExtra("nothing to sweep: pip install -e '.[sweep]'")
    return [of_reference(f"{__file__}:{own}", kind) for _, (own, kind) in found]


def main() -> int:
    chosen = options(__doc__).parse_args()
    return sweep(subjects(chosen.names), chosen)


if __name__ == "__main__":
    sys.exit(main())
