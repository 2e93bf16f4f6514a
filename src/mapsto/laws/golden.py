"""Laws of recorded values, the last resort: what a mapping gave when it was last looked at is what it gives today.

`mapsto check TARGET --record` writes them beside the component, into `goldens/NAME.KIND.npz` (arrays alone, no pickle), to be
looked at and committed. A layer is recorded with its inputs, its state and its outputs, so that a change of one is not taken
for a change of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.laws import Laws, Trial
from ..core.random import derive
from ..data.laws.contents import fields_of
from ..data.laws.examples import apply, batches_for, transform_of
from .compare import Array, differs, leaves, values
from .drivers import LayerDriver, LossDriver
from .kept_arrays import beside, read_arrays, write_arrays
from .truth import agrees

laws = Laws("layer", "model")
loss_laws, transform_laws = Laws("loss"), Laws("transform")

SIZE = 3
WHY = "A refactoring that changes what comes out, where no formula and no relation is known, is seen by nobody."
HOW = (
    "Keep the values; or, where they were to change, look at the difference and record them anew: mapsto check TARGET --record."
)
Recorded = Mapping[str, Array]


@laws.law(
    "L17",
    "golden",
    priority=1,
    tolerance="T5",
    why=WHY,
    satisfy=HOW,
    catches=("a default that changed", "another initialisation"),
)
def golden(trial: Trial) -> None:
    """What was recorded of its outputs in float64, for recorded inputs, is what it gives; so are its initial parameters."""
    driver: LayerDriver = trial.driver
    path = _place(trial)
    driver.settle(trial)
    driver.exact(trial, SIZE)
    layer, given = driver.used(trial, SIZE, "float64")
    outputs = driver.call(layer, given, derive(trial.seed, "golden"))
    now = {
        **_named("parameter", driver.parameters(driver.build(trial, "float64"))),
        **_named("input", leaves(given)),
        **_named("state", driver.state(layer)),
        **_named("output", outputs),
    }
    _keep_or_compare(trial, path, now, ("parameter", "input", "state", "output"))


@loss_laws.law("C8", "golden", priority=1, tolerance="T5", why=WHY, satisfy=HOW, catches=("a reduction that changed",))
def loss_golden(trial: Trial) -> None:
    """What was recorded of its value and gradients in float64, for recorded inputs, is what it gives."""
    driver: LossDriver = trial.driver
    path = _place(trial)
    driver.settle(trial)
    given = driver.inputs(trial, SIZE)
    look = driver.look(trial, driver.build(trial), given)
    values_of = {"total": look.total, "weight": np.float64(np.nan if look.weight is None else look.weight)}
    now = {
        **_named("input", leaves(given)),
        **_named("output", {**values_of, **{f"gradient of {k}": g for k, g in look.gradients.items()}}),
    }
    _keep_or_compare(trial, path, now, ("input", "output"))


@transform_laws.law("D20", "golden", priority=1, tolerance="T5", why=WHY, satisfy=HOW, catches=("another tokeniser",))
def transform_golden(trial: Trial) -> None:
    """What was recorded of the fields that it makes, for a recorded batch and seed, is what it gives."""
    path = _place(trial)
    transform = transform_of(trial)
    batch = batches_for(trial, transform)(SIZE)
    made = fields_of(apply(transform, {k: v.copy() for k, v in batch.items()}, 0))
    now = {**_named("input", _arrays(batch)), **_named("output", _arrays(made))}
    _keep_or_compare(trial, path, now, ("input", "output"))


def _arrays(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Each field as an array, or each record of it where they are of different lengths."""
    made: dict[str, Any] = {}
    for field, found in batch.items():
        if isinstance(found, np.ndarray) and found.dtype != object:
            made[field] = found
        else:
            made |= {f"{field}[{i}]": np.asarray(value) for i, value in enumerate(found)}
    return made


def _named(word: str, tree: Mapping[str, Any]) -> dict[str, Array]:
    return {f"{word} {name}": np.asarray(values(value)) for name, value in tree.items() if np.asarray(value).dtype != object}


# -- the file ----------------------------------------------------------------------------------------------------------
def _place(trial: Trial) -> Path:
    """Where the values are kept: as its `golden` says, beside its source file; not applicable where nothing was recorded.

    From then on all is drawn from seed 0, whatever seed the check has.
    """
    trial.seed = 0
    path = beside(trial, "goldens", stated=trial.example.more.get("golden"))
    if path is None:
        trial.skip("it has no file beside which values could be kept")
    if not trial.record and not path.exists():
        trial.skip("no values of it are recorded (mapsto check TARGET --record does it)")
    return path


def _keep_or_compare(trial: Trial, path: Path, now: Recorded, words: tuple[str, ...]) -> None:
    if trial.record:
        write_arrays(trial, path, now)
        trial.exercised("recorded values", sum(int(v.size) for v in now.values()))
        return
    kept = read_arrays(trial, path)
    for word in words:
        mine, theirs = ({k: v for k, v in tree.items() if k.startswith(f"{word} ")} for tree in (now, kept))
        if mine.keys() != theirs.keys():
            odd = sorted(mine.keys() ^ theirs.keys())[0]
            trial.fail(f"{odd} is {'new' if odd in mine else 'gone'} since {path.name} was recorded", first={"tensor": odd})
        if word == "input":
            if differs(mine, theirs):
                trial.undecided(f"other inputs are drawn than when {path.name} was recorded: record it anew (--record)")
            continue
        agrees(trial, mine, theirs, what="its", by=path.name)
    outputs = [v for k, v in kept.items() if k.startswith("output ") and v.size]
    trial.control("the recorded values are not all one number", any(np.unique(v).size > 1 for v in outputs) or len(outputs) > 1)
