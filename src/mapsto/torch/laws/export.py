"""Laws of exports, model -> artefact, and of layers and models as what is exported."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.laws import Laws, Trial
from ...core.random import derive
from ..drivers.export import TRACED, Cell, agree, called, cells, exported, loaded, of_layer, outputs, take_weights, variations
from ..drivers.export_models import Sample, Tagger, ids
from ..drivers.export_process import NotRun, run_elsewhere
from ..drivers.layer_passes import draws
from ..export import onnx as to_onnx
from .compare import differs, same
from .layer_compile import _for_forward, moving, reassign

laws = Laws("export", "layer", "model")


# -- other inputs ------------------------------------------------------------------------------------------------------
@laws.law(
    "X1",
    "fresh_inputs",
    priority=0,
    seconds=90,
    why="A trace holds one path through the program; a number or branch that the example decided is wrong for other inputs.",
    satisfy="Keep numbers as tensors (no .item(), float() or if on a tensor's value): torch.where, or torch.cond.",
    catches=("pytorch#80973", "a Python float of a tensor baked into the graph", "a branch frozen when tracing"),
)
def fresh_inputs(trial: Trial) -> None:
    """The artefact gives what the model gives in evaluation, on other values, signs, branches and masks than those traced."""
    for cell in cells(trial):
        with trial.case(model=cell.said, size=TRACED), exported(trial, cell) as artefact:
            _compare_on(trial, cell, loaded(trial, cell, artefact), TRACED)


def _compare_on(trial: Trial, cell: Cell, call: Any, size: int) -> None:
    model, traced = cell.build(torch.float32).eval(), cell.inputs(size, "traced")
    at_trace = called(trial, "the model itself", model, traced)
    fresh = [(f"other values {i}", cell.inputs(size, f"fresh {i}")) for i in range(3)]
    changed = False
    for said, given in [("the example", traced), *fresh, *variations(fresh[0][1])]:
        invented = said in dict(variations(traced))
        if invented and not _takes(model, given):
            continue  # we made these up; it need not take them
        with trial.case(inputs=said):
            got = called(trial, f"the artefact on {said}", call, given)
            frozen = said != "the example" and not differs(got, at_trace)
            cause = "it repeats the result of the example" if frozen else "a value or branch of the example became a constant"
            cause = "another path is taken while it is traced" if said == "the example" else cause
            want = agree(trial, cell, "the artefact", got, model, given, cause=cause)
            changed = changed or differs(want, at_trace)
    trial.control("other inputs give another result", changed)


def _takes(model: nn.Module, given: tuple[Any, ...]) -> bool:
    try:
        model(*given)
    except Exception:  # noqa: BLE001  # whatever it raises
        return False
    return True


@laws.law(
    "X1b",
    "onnx",
    kinds=("layer", "model"),
    priority=1,
    tolerance="T2",
    seconds=180,
    why="ONNX has operators of its own; a translation may be missing, or mean something a little different.",
    satisfy="Use operations that ONNX knows and sizes from x.shape; state tags={'eager_only'} where it is never shipped.",
    catches=("an operation without a translation", "a batch size that the ONNX graph holds as a constant"),
)
def in_onnx(trial: Trial) -> None:
    """Exported to ONNX and run by onnxruntime, it is as accurate as eager on fresh inputs at every declared size."""
    import importlib.util

    missing = [n for n in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(n) is None]
    if missing:
        trial.skip(f"{', '.join(missing)} is not installed: pip install 'mapsto[onnx]'")
    cell = of_layer(trial, to_onnx, ".onnx", "T2")
    if trial.has("single_precision"):
        trial.skip("it runs in single precision only, as it declares, and this law needs a float64 result to compare with")
    model = cell.build(torch.float32).eval()
    if draws(model, cell.inputs(TRACED, "traced")):
        trial.skip("it draws random numbers in evaluation, and ONNX has a generator of its own")
    sizes = tuple(sorted(trial.example.dynamic)) if not trial.has("static") else ()
    shapes: Any = False
    if len(sizes) > 1:
        shapes = _for_forward(model, moving(cell.inputs(TRACED, "traced"), cell.inputs(TRACED + 1, "traced")))
    with trial.case(size=TRACED, by="ONNX"), exported(trial, cell, dynamic=shapes) as artefact:
        call = loaded(trial, cell, artefact)
        _compare_on(trial, cell, call, TRACED)
        for size in sizes if shapes else ():
            _at_size(trial, cell, call, size)


# -- other sizes -------------------------------------------------------------------------------------------------------
@laws.law(
    "X2",
    "dynamic_range",
    kinds=("export",),
    priority=0,
    seconds=90,
    why="Serving sees one record, then many; an artefact that only fits the example's size fails there, or is silently wrong.",
    satisfy="Hand dynamic_shapes to the tracer for every input; state tags={'static'} where one size is meant.",
    catches=("pytorch#133653", "pytorch#140011"),
)
def dynamic_range(trial: Trial) -> None:
    """Traced once, the artefact gives what the model gives for 1, 2, odd and many records, not at the traced size alone."""
    if trial.has("static"):
        trial.skip("it declares that its artefacts hold one size")
    for cell in cells(trial):
        with trial.case(model=cell.said, traced=TRACED), exported(trial, cell, dynamic=True) as artefact:
            call = loaded(trial, cell, artefact)
            results = [_at_size(trial, cell, call, size) for size in sorted({*trial.example.dynamic, 33})]
            trial.control("sizes give other results", differs(results[0], results[-1]))


def _at_size(trial: Trial, cell: Cell, call: Any, size: int) -> dict[str, Tensor]:
    with trial.case(size=size):
        given = cell.inputs(size, "sizes")
        got = called(trial, f"the artefact on {size} records", call, given)
        model = cell.build(torch.float32)
        return agree(trial, cell, "the artefact", got, model, given, cause=f"the traced size {TRACED} is held as a constant")


# -- elsewhere ---------------------------------------------------------------------------------------------------------
@laws.law(
    "X3",
    "without_source",
    priority=0,
    seconds=150,
    why="An artefact that needs the training code, its package or its version is not deployed but copied.",
    satisfy="Save a program (torch.export.save, ONNX), not a pickle; name modules that register operators in `runtime`.",
    catches=("a pickled module", "an operator that only the training package registers"),
)
def without_source(trial: Trial) -> None:
    """Saved and loaded in a fresh process that cannot import the model's source, the artefact gives what the model gives."""
    if trial.has("in_memory"):
        trial.skip("it declares that its artefacts live in memory")
    chosen = list(cells(trial))[:2]
    if "<" in chosen[0].reference:
        trial.undecided(
            "`load` must be a function of a module (no lambda, no inner one), so that another process can import it"
        )
    artefacts: list[tuple[Path, list[tuple[Any, ...]]]] = []
    with ExitStack() as kept, trial.case(size=TRACED, process="fresh"):
        for cell in chosen:
            made = kept.enter_context(exported(trial, cell))
            if not isinstance(made, (str, Path)):
                trial.undecided(
                    f"it made a {type(made).__name__}, which another process cannot open: return the path of a file, "
                    "or state tags={'in_memory'}"
                )
            artefacts.append((Path(made), [cell.inputs(TRACED, f"elsewhere {i}") for i in range(2)]))
        blocked = sorted(set().union(*(cell.blocked for cell in chosen)))
        try:
            runtime = tuple(trial.example.more.get("runtime", ()))
            results = run_elsewhere(artefacts, blocked=blocked, load=chosen[0].reference, imports=runtime)
        except NotRun as error:
            trial.fail(f"in a fresh process without {', '.join(blocked) or 'its source'}: {error}",
                       cause="the artefact holds references to code, and not the program itself")  # fmt: skip
        for cell, (_, calls), found in zip(chosen, artefacts, results, strict=True):
            with trial.case(model=cell.said):
                for given, got in zip(calls, found, strict=True):
                    agree(trial, cell, "the artefact elsewhere", outputs(got), cell.build(torch.float32), given)


# -- as it was ---------------------------------------------------------------------------------------------------------
@laws.law(
    "X4",
    "evaluation_and_original",
    priority=1,
    seconds=90,
    why="An artefact that keeps dropout on, or old statistics, serves another model; an export may ruin the model it is given.",
    satisfy="Trace in evaluation, with the weights as they are now, into storage of its own; put every part's mode back.",
    catches=("a training graph exported", "shared weights stored twice", "a model left in evaluation mode"),
)
def evaluation_and_original(trial: Trial) -> None:
    """The artefact is the model in evaluation, as it is now, in memory of its own; the model stays as it was."""
    for cell in cells(trial):
        with trial.case(model=cell.said, size=TRACED):
            _as_it_was(trial, cell)
    if trial.subject.kind == "export":
        _weights_once(trial)


def _as_it_was(trial: Trial, cell: Cell) -> None:
    given = cell.inputs(TRACED, "fresh")
    model, twin = _trained(trial, cell), _trained(trial, cell)
    before = _state(model)
    with exported(
        trial, cell, model=model
    ) as artefact:  # before any call: what a trace leaves behind must not be there already
        same(trial, "the model after its export", _state(model), before, cause="the export changed the model")
        call = loaded(trial, cell, artefact)
        got = called(trial, "the artefact", call, given)
        if not draws(twin.eval(), given):
            again = called(trial, "the artefact", call, given, seed=1)
            same(trial, "the artefact from another seed", again, got, cause="it is in training mode: dropout is on")
        want = agree(
            trial, cell, "the artefact of a trained model", got, twin, given, cause="not the present weights in evaluation"
        )
        same(
            trial,
            "the model after its artefact ran",
            _state(model),
            before,
            cause="the artefact writes into the model's memory",
        )
        if trial.subject.kind != "export":
            _sharing(trial, model, artefact)
        reassign(model, derive(trial.seed, "later"))
        later = called(trial, "the artefact", call, given)
        same(trial, "the artefact after the model was trained on", later, got, cause="it shares memory with the model")
    take_weights(model, twin)  # what differs then is not in its state
    untouched = called(trial, "the model after its export", model.eval(), given)
    same(trial, "the model after its export", untouched, want, cause="tracing left something in the model")
    if list(model.parameters()):
        first = called(trial, "the model itself", cell.build(torch.float32).eval(), given)
        trial.control("training changes the result", differs(first, want))


def _trained(trial: Trial, cell: Cell) -> nn.Module:
    """A model in training, with other weights and buffers than it was built with, gradients, and one part in evaluation."""
    model = cell.build(torch.float32).train()
    reassign(model, derive(trial.seed, "trained"))
    for part in list(model.children())[:1]:
        part.eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    return model


def _state(model: nn.Module) -> dict[str, Any]:
    state = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    return {
        "mode": {n or "itself": part.training for n, part in model.named_modules()},
        "values": {n: x.detach().clone() for n, x in state.items()},
        "requires gradient": {n: x.requires_grad for n, x in state.items()},
        "memory": {n: x.data_ptr() for n, x in state.items()},
        "gradient": {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    }


def _sharing(trial: Trial, model: nn.Module, artefact: Any) -> None:
    """Names that share one weight in the model do so in the program."""

    def groups(state: dict[str, Tensor]) -> dict[str, str]:
        first: dict[tuple[Any, ...], str] = {}
        return {n: first.setdefault((x.data_ptr(), tuple(x.shape)), n) for n, x in sorted(state.items()) if x.numel()}

    want = groups(dict(model.state_dict()))
    got = groups(dict(torch.export.load(artefact).state_dict))
    both = sorted(want.keys() & got.keys())
    cause = "a shared weight was stored twice"
    same(trial, "which names share a weight", {n: got[n] for n in both}, {n: want[n] for n in both}, cause=cause)


def _weights_once(trial: Trial) -> None:
    """A file of a model whose two matrices are one is smaller than that of the same model with two."""
    from ..drivers.export import of_export

    sizes = {}
    for tied in (True, False):
        sample = Sample(partial(Tagger, tied=tied), ids)
        with trial.case(model="Tagger", tied=tied), exported(trial, of_export(trial, sample)) as artefact:
            if not isinstance(artefact, (str, Path)):
                return
            sizes[tied] = sum(f.stat().st_size for f in Path(artefact).parent.rglob("*") if f.is_file())
    weight = Tagger().embed.weight
    trial.demand(
        sizes[False] - sizes[True] >= weight.numel() * weight.element_size() // 16,
        f"with its two matrices tied the file has {sizes[True]} bytes, and {sizes[False]} with two",
        measured=sizes[True], allowed=f"less than {sizes[False]}", cause="a shared weight is stored twice",
    )  # fmt: skip
