"""Every layer of torch.nn under the laws of layers: `python benchmarks/sweep_nn.py [--out FILE] [--thorough] [NAME...]`.

Prints the matrix (layer x law) and each cell that is not a pass with its witness; `--out` writes one JSON record a law.
Losses have a sweep of their own; containers, base classes and layers that wrap other processes are left out. Arguments and
inputs are found by the checker itself; stated here is only what layers cannot say of themselves: which keep records apart,
and which draw random numbers in evaluation.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

import mapsto
from mapsto.check import check
from mapsto.check.runner import record
from mapsto.check.targets import of_reference
from mapsto.core.laws import BAD, Verdict, laws_for

LEFT_OUT = {
    "Container", "Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential",  # they hold layers
    "RNNBase", "RNNCellBase",  # base classes
    "DataParallel",  # wants accelerators
    "TransformerEncoder", "TransformerDecoder",  # below, with the layer they repeat
}  # fmt: skip
MIXES_RECORDS = ("BatchNorm", "MultiheadAttention")
"""Statistics over the batch in training; and (attention) outputs whose record axes differ from each other."""
SYMBOLS = {"pass": ".", "fail": "F", "unknown": "?", "vacuous": "V", "not applicable": "-", "expected failure": "x"}


def is_loss(name: str) -> bool:
    return name.endswith("Loss") or issubclass(getattr(nn, name), nn.modules.loss._Loss)


def layers() -> Iterator[tuple[str, type[nn.Module]]]:
    """The layer classes of torch.nn by name."""
    for name in sorted(dir(nn)):
        found = getattr(nn, name)
        if inspect.isclass(found) and issubclass(found, nn.Module) and not is_loss(name) and name not in LEFT_OUT:
            yield name, found


def TransformerEncoder() -> nn.Module:
    """Two encoder layers."""
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False)


def TransformerDecoder() -> nn.Module:
    """Two decoder layers."""
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 2)


NAMES = [*(name for name, _ in layers()), "TransformerDecoder", "TransformerEncoder"]
for _name, _layer in layers():
    globals()[_name] = _layer
    _tags = [] if any(word in _name for word in MIXES_RECORDS) else ["row_independent"]
    mapsto.example(_layer, tags=[*_tags, *(["stochastic"] if _name.startswith("FractionalMaxPool") else [])])


def main() -> int:
    """Exit code 0: a sweep reports, it does not judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="classes of torch.nn (default: all)")
    parser.add_argument("--out", help="write one JSON record a law to this file")
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--only", nargs="*", help="laws by name or id (default: those of layers; exports have their own)")
    parser.add_argument("--thorough", action="store_true", help="P2 too")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    owed = [w.name for w in laws_for("layer", priority=2 if options.thorough else 1) if w.name.startswith("layer.")]
    chosen = [of_reference(f"{__file__}:{name}", "layer") for name in options.names or NAMES]
    began = time.perf_counter()
    out = open(options.out, "w", encoding="utf-8") if options.out else None  # noqa: SIM115  # closed below

    def progress(verdict: Verdict, done: int, total: int) -> None:
        if out is not None:
            out.write(json.dumps(record(verdict), default=str) + "\n")
            out.flush()
        if verdict.status in BAD or done % 200 == 0:
            print(f"{done}/{total} {short(verdict)} {verdict.law}: {verdict.status}", file=sys.stderr, flush=True)

    found = check(
        chosen, only=options.only or owed, thorough=options.thorough, seed=options.seed, jobs=options.jobs, progress=progress
    )
    if out is not None:
        out.close()
    show(found)
    print(f"torch {torch.__version__}, {len(chosen)} layers, {len(found)} verdicts in {time.perf_counter() - began:.0f} s")
    return 0


def short(verdict: Verdict) -> str:
    return verdict.subject.rpartition(":")[2]


def show(found: list[Verdict]) -> None:
    """The matrix, the cells that are no pass, and the counts a law."""
    laws = sorted({(v.priority, v.id, v.law) for v in found})
    print("layer".ljust(26) + " ".join(i.ljust(4) for _, i, _ in laws))
    cells = {(short(v), v.law): v for v in found}
    for name in dict.fromkeys(short(v) for v in found):
        marks = [SYMBOLS[cells[name, law].status] if (name, law) in cells else " " for _, _, law in laws]
        print(name.ljust(26) + " ".join(m.ljust(4) for m in marks))
    print("\n" + ", ".join(f"{s} {name}" for name, s in SYMBOLS.items()))
    for _, i, law in laws:
        counts = Counter(v.status for v in found if v.law == law)
        seconds = sum(v.seconds for v in found if v.law == law)
        print(f"{i.ljust(5)} {law.ljust(30)} {', '.join(f'{n} {s}' for s, n in counts.items())}; {seconds:.0f} s")
    for verdict in found:
        if verdict.status in BAD:
            told = verdict.witness
            print(f"\n{short(verdict)} {verdict.law} ({verdict.id}): {verdict.status}\n  {verdict.reason[:600]}")
            if told is not None:
                print(f"  case {dict(told.case)}; measured {told.measured}, allowed {told.allowed}; cause: {told.cause}")


if __name__ == "__main__":
    sys.exit(main())
