"""Laws of the model within a program: its stages compose to its forward, and what it draws follows seed, step and rank."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...core.errors import SpecError
from ...core.laws import Laws, Trial
from ...core.spec import Spec
from ...core.values import Part
from ...laws.drivers import Sums
from ...laws.program_inputs import micro_shard, reader_of, spec_of
from ..drivers.program import DRIVER, Driven
from ..mesh.pipeline.sections import Section, sections
from .compare import arrays, differs, same

laws = Laws("program")


def _made(trial: Trial, spec: Spec) -> tuple[Driven, Any]:
    """The spec's program of one process in float64, and a batch of 13 records."""
    with trial.component("building the program"):
        reader = reader_of(spec)
        return DRIVER.build(trial, spec, reader), micro_shard(reader, 0, 0, 1)


# -- stages --------------------------------------------------------------------------------------------------------------
@laws.law(
    "S8",
    "stages",
    priority=1,
    tolerance="T1",
    seconds=60,
    why="A pipeline computes the pieces that a model declares, and one process its forward: what pieces leave out, or do in "
    "another order, is trained and evaluated without a word.",
    satisfy="Let pipeline_plan return all that forward does between the inputs and the output: dropout, norms and scales too.",
    catches=("Megatron-LM#1304", "Automodel#3530"),
)
def stages(trial: Trial) -> None:
    """The stages of a model, declared by pipeline_plan or followed, have its loss and gradients, in training and evaluation."""
    spec = spec_of(trial)
    wanted = isinstance(spec.mesh, Part) and spec.mesh.args.get("pipeline", 1) != 1
    program, batch = _made(trial, spec)
    model = program.made.model
    if not wanted and not hasattr(model, "pipeline_plan"):
        trial.skip("its mesh has no axis `pipeline`, and its model declares no pipeline_plan")
    cut = _cut(trial, model)
    outputs: dict[str, Any] = {}
    with trial.case(stages=len(cut), mode="training", dtype="float64"):
        with trial.component("a pass of the model"):
            whole = program.sums({0: batch})
        with trial.component("a pass of its stages"), composed(model, cut, {}):
            parts = program.sums({0: batch})
        same(trial, "the loss and gradients of the stages", _told(parts), _told(whole), tolerance="T1")
    with trial.case(stages=len(cut), mode="evaluation", dtype="float64"):
        with trial.component("an evaluation of the stages"), composed(model, cut, outputs):
            program.loss(batch)
        same(trial, "the output of the stages", outputs["stages"], outputs["model"], tolerance="T1")


def _cut(trial: Trial, model: nn.Module) -> list[Section]:
    """The model in stages of a piece each, or in two where its forward is followed."""
    if not hasattr(model, "pipeline_plan"):
        try:
            return sections(model, 2, None)
        except SpecError as error:
            trial.skip(f"a pipeline refuses it: {error}")
    with trial.component("its pipeline_plan"):
        plan: Any = model.pipeline_plan
        return sections(model, len(plan()), None)


@contextmanager
def composed(model: nn.Module, cut: list[Section], outputs: dict[str, Any]) -> Iterator[None]:
    """Within it a call of the model gives what its stages give; `outputs` is told that, and the output of its forward."""
    forward, signature = model.forward, inspect.signature(type(model).forward)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(model, *args, **kwargs).arguments
        given.pop(next(iter(given)))
        values: tuple[Any, ...] = ()
        for section in cut:
            values = section.call(given, values)
        found = values[0] if len(values) == 1 else values
        if not torch.is_grad_enabled():
            outputs.update(arrays({"stages": {"output": found}, "model": {"output": forward(*args, **kwargs)}}))
        return found

    model.forward = call
    try:
        yield
    finally:
        del model.forward


def _told(sums: Sums) -> dict[str, Any]:
    return {"loss": torch.tensor(sums.total), **{n: g for n, g in sums.gradients.items() if g is not None}}


# -- draws ---------------------------------------------------------------------------------------------------------------
class Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Within it `seen` becomes the names of the operators that drew random numbers.

    An operator that may draw, such as attention without dropout, did where it moved the generator that it drew from.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        given = [v for v in (*args, *(kwargs or {}).values()) if isinstance(v, torch.Generator)]
        generators = [torch.default_generator, *given]
        before = [generator.get_state() for generator in generators]
        found = func(*args, **(kwargs or {}))
        if any(not torch.equal(g.get_state(), state) for g, state in zip(generators, before, strict=True)):
            self.seen.add(str(func))
        return found


@laws.law(
    "S9",
    "draws",
    priority=1,
    ranks=2,
    seconds=120,
    why="Ranks that draw the same dropout for different records see a smaller batch than they have, and seeds that change "
    "nothing make the spread of several runs too small.",
    satisfy="Draw from the default generator, which is seeded by seed, step and micro-shard before each pass, or from "
    "state.generator(name); make no generator of a seed of your own.",
    catches=("accelerate#114", "tt-metal#55947", "anemoi-core#595"),
)
def draws(trial: Trial) -> None:
    """Of one batch and one start, another rank, another step and another seed draw other numbers where a pass draws any."""
    spec = spec_of(trial)
    program, batch = _made(trial, spec)
    start = {name: copy.deepcopy(value) for name, value in program.made.model.state_dict().items()}
    drawing = [_drawn(trial, spec, turn, start, batch) for turn in range(len(program.turns))]
    if not any(drawing):
        trial.skip("a pass of it draws no random numbers")


def _drawn(trial: Trial, spec: Spec, turn: int, start: Mapping[str, Tensor], batch: Any) -> bool:
    """Whether a pass, of a whole step or of a turn of it, draws random numbers, which are then compared."""
    program = _made(trial, spec)[0].turns[turn]
    with trial.component("a pass"), Draws() as drawn:
        first = program.sums({0: batch})
    if not drawn.seen:
        return False

    def passed(seed: int = spec.seed, step: int = 0, shard: int = 0) -> Sums:
        made = _made(trial, dataclasses.replace(spec, seed=seed))[0].turns[turn]
        made.made.model.load_state_dict(start)
        made.made.state.step = step
        with trial.component("a pass"):
            return made.sums({shard: batch})

    same(trial, "a pass and the same again", _told(passed()), _told(first))
    ranks = DRIVER.gather(_told(passed(shard=trial.rank)))
    said = f"({', '.join(sorted(drawn.seen))}), and its loss and gradients are the same"
    for what, other, one in (
        ("on both ranks", ranks[1], ranks[0]),
        ("at another step", _told(passed(step=1)), _told(first)),
        ("with another seed", _told(passed(seed=spec.seed + 1)), _told(first)),
    ):
        with trial.case(differs=what, world=trial.world):
            trial.demand(differs(other, one), f"a pass draws {said} {what}", cause="a generator with a seed of its own")
    return True
