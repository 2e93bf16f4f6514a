"""Running artefacts in a process of its own, which cannot import the model's source."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...processes import fresh

SECONDS = 120
RUNNER = """
import importlib, json, sys

request = json.loads(open(sys.argv[1]).read())


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if any(name == b or name.startswith(b + ".") for b in request["blocked"]):
            raise ModuleNotFoundError(f"the source {name} is not there", name=name)


sys.meta_path.insert(0, Blocked())
import torch


def told(kind, error, trace):
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    print(f"{type(error).__name__}: {' '.join(str(error).split())[:400]}", file=sys.stderr)


sys.excepthook = told
for name in request["imports"]:
    importlib.import_module(name)


def opened(path):
    if request["load"]:
        module, _, name = request["load"].partition(":")
        return getattr(importlib.import_module(module), name)(path)
    if path.endswith(".pt2"):
        return torch.export.load(path).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def call(*inputs):
        tensors = [x for x in torch.utils._pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor)]
        made = session.run(None, {i.name: x.numpy() for i, x in zip(session.get_inputs(), tensors)})
        return [torch.from_numpy(y) for y in made]

    return call


outputs = []
for path, calls in torch.load(request["inputs"], weights_only=True):
    call = opened(path)
    outputs.append([])
    for inputs in calls:
        torch.manual_seed(0)
        made = torch.utils._pytree.tree_leaves(call(*inputs))
        outputs[-1].append([y.detach().clone() for y in made if isinstance(y, torch.Tensor)])
torch.save(outputs, request["outputs"])
"""
"""What the other process runs; it knows torch, and of an artefact nothing but its path."""


class NotRun(Exception):
    """An artefact did not load or run there; the text is the last line of the error."""


def run_elsewhere(
    artefacts: Sequence[tuple[Path, Sequence[tuple[Any, ...]]]],
    *,
    blocked: Iterable[str] = (),
    load: str = "",
    imports: Iterable[str] = (),
) -> list[list[list[Tensor]]]:
    """The tensors that each artefact gives for each of its inputs, in order, from seed 0. Raises NotRun.

    blocked: modules that cannot be imported there; load: `module:function` that opens an artefact; imports: what is
    imported before, because it registers operators.
    """
    with tempfile.TemporaryDirectory(prefix="mapsto-export-") as folder:
        where = Path(folder)
        torch.save([(str(path), list(calls)) for path, calls in artefacts], where / "inputs.pt")
        request = {
            "inputs": str(where / "inputs.pt"), "outputs": str(where / "outputs.pt"),
            "blocked": sorted(set(blocked) - set(imports)), "load": load, "imports": list(imports),
        }  # fmt: skip
        (where / "request.json").write_text(json.dumps(request), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "OMP_NUM_THREADS": "1"}
        try:
            code, said = fresh.run(
                RUNNER, [str(where / "request.json")],
                folder=where, environment=environment, seconds=SECONDS, without=request["blocked"],
            )  # fmt: skip
        except TimeoutError:
            raise NotRun(f"it did not end within {SECONDS} s of computing, or of sleeping") from None
        if code:
            lines = [line for line in said.splitlines() if line.strip()]
            raise NotRun(lines[-1][:400] if lines else f"exit code {code}")
        made: list[list[list[Tensor]]] = torch.load(where / "outputs.pt", weights_only=True)
        return made
