"""The programs of mesh_programs on a parameter server: what its steps come to, in the form in which ranks tell it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from mesh_programs import MODELS, TOKENS, default_dtype, reader
from torch import nn

from mapsto import Spec, use

FAR = 1e3
"""A learning rate at which a step of SGD is the gradient, to the precision of a weight."""
INJECTED = {"total_steps": 20, "steps_per_epoch": 3, "seed": 1}


def model(kind: str, dtype: str) -> nn.Module:
    """A model of mesh_programs in a floating point type, initialised as there."""
    with default_dtype(dtype):
        return MODELS[kind]()


def served(case: Mapping[str, Any], **mesh: Any) -> Any:
    """The program of a case on servers and workers, to be closed."""
    from mapsto.torch.servers.mesh import Servers

    kind, dtype = case.get("model", "net"), case.get("dtype", "float64")
    spec = Spec(
        model=use(model, kind=kind, dtype=dtype),
        task="language_model" if kind in TOKENS else "classification",
        optimizer=case.get("optimizer", use("sgd", lr=0.1)),
        middleware=case.get("middleware", ()),
        data={"train": use(reader, kind=kind, dtype=dtype, batch=case.get("batch", 13))},
        seed=3,
        device="cpu",
        steps=INJECTED["total_steps"],
    )
    return Servers(**mesh).program(spec, INJECTED)


def steps(case: Mapping[str, Any], *, gradients: bool, **mesh: Any) -> dict[str, Any]:
    """As `mesh_programs.steps`, or of that the gradients alone: what a step of SGD takes from the weights."""
    if gradients:
        with closing(served({**case, "optimizer": use("sgd", lr=FAR)}, **mesh)) as program:
            before = program.weights()
            program.step()
            after = program.weights()
        return {"gradients": {n: (before[n] - after[n]) / FAR for n in before}}
    with closing(served(case, **mesh)) as program:
        window = [program.step() for _ in range(case.get("steps", 3))]
        plain = reader(case.get("model", "net"), case.get("dtype", "float64"), case.get("batch", 13)).sequential()
        with plain.stream(0, plain.batches_per_epoch) as stream:
            evaluation = program.evaluate(batch for _, batch in stream)
        metrics = program.fetch(window)
        weights = program.weights()
    own = ("bytes/", "staleness/", "time/")  # what one process has not
    return {
        "weights": weights,
        "metrics": {n: v for n, v in metrics.items() if not n.startswith(own)},
        "evaluation": evaluation,
    }
