"""What middleware are given to judge them: a program that classifies small records, with and without them in its list.

Beyond `args` and `inputs` an author may state `neutral` (arguments that change nothing, a list of such, or None), `edits`
(what it makes of gradients), `norm` (a metric that is the norm of the gradients), `commutes` (middleware whose place beside
it does not matter), `exact` and `drift` (of those that exchange less), and a `model` (or `plain_model`, in float64) and
`task` of their own. Tags: `low_precision`, `per_micro_batch`, `accumulates`, `adds_noise`, `images`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.compose import declared
from ..core.errors import ComposeError, SpecError
from ..core.laws import Trial
from ..core.random import derive
from ..core.values import use
from .compare import Array
from .drivers import MiddlewareProgram

RECORDS = 13
IGNORED = -100
"""The target of a record that counts for nothing."""


class Interrupted(RuntimeError):
    """What a law raises within a step."""


class Evaluations:
    """Counts evaluations of the loss, and raises in one of them. calls: so far; at: the one that fails; 0: none."""

    def __init__(self) -> None:
        self.calls, self.at = 0, 0

    def note(self) -> None:
        """Count that an evaluation begins. Raises Interrupted in the one that is to fail."""
        self.calls += 1
        if self.calls == self.at:
            raise Interrupted("the task fails, as the law wants it to")


def name(trial: Trial) -> str:
    """What the author calls the middleware that a trial judges, without its kind and module."""
    return trial.subject.label.rpartition(":")[2].rpartition("/")[2].rpartition(".")[2]


def wraps(trial: Trial) -> tuple[str, ...]:
    """The mappings that it wraps."""
    return declared(trial.subject.target).wraps


def provides(trial: Trial) -> tuple[str, ...]:
    """What it says that it provides."""
    return declared(trial.subject.target).provides


def item(trial: Trial, args: Mapping[str, Any] | None = None) -> Any:
    """The middleware as a program's list holds it."""
    subject = trial.subject
    if subject.make is not None and args is None:
        return subject.make()
    target = type(subject.target) if subject.make is not None else subject.target
    return use(target, **dict(trial.example.args if args is None else args))


def records(trial: Trial, step: int, size: int = RECORDS) -> dict[str, Array]:
    """The records of a step, `input` [size, 8] (or images of 8 numbers) and `target` of three classes, two of them ignored."""
    rng = np.random.default_rng(derive(trial.seed, "batch", step))
    images = trial.has("images")
    x = rng.standard_normal((size, 2, 2, 2) if images else (size, 8))
    target = rng.integers(0, 3, size)
    if size > 4 and not images:
        target[:2] = IGNORED
    return {"input": x, "target": target}


def in_the_recipe(trial: Trial) -> None:
    """From here on the trial is of the recipe's model, task and batches, where its subject stands in a recipe."""
    made = trial.example.more.get("in_recipe")
    if made is None:
        return
    try:
        found = made()
    except Exception:  # noqa: BLE001  # the laws of the recipe's other parts say what is wrong with them
        return
    more = {**trial.example.more, "model": found["model"], "task": found["task"]}
    trial.subject = replace(trial.subject, example=replace(trial.example, inputs=found["inputs"], more=more))


def program(trial: Trial, middleware: Sequence[Any], **options: Any) -> MiddlewareProgram:
    """A program with these middleware in its list; options: those of `MiddlewareDriver.build`."""
    driver = trial.driver
    with trial.component("building a program with it"):
        try:
            made: MiddlewareProgram = driver.build(trial, middleware, **options)
        except (ComposeError, SpecError) as error:
            trial.undecided(
                f"a program could not be built with it ({error}); write beside it\n"
                f"  mapsto.example({name(trial)}, args={{...}})  # model=, inputs=lambda size, generator: (batch,)"
            )
    return made


def run(trial: Trial, made: MiddlewareProgram, steps: int, size: int = RECORDS) -> list[Any]:
    """Steps from where the program stands to `steps`; the metrics of each."""
    with trial.component("a step"):
        return [made.step(made.batch(step, size)) for step in range(made.position, steps)]
