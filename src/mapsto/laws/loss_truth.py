"""Laws of what the author of a loss states of its values: a reference, and relations between its calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..core.calls import called, defaults_of
from ..core.laws import Laws, Trial
from .compare import Array, differs
from .drivers import LossDriver, LossValue
from .loss_inputs import has_reductions
from .search import searched
from .truth import agrees, drawn_or_hard, holds, in_float32, options, stated, varied

laws = Laws("loss", driver=LossDriver)

SIZES = (4, 1, 7)


@laws.law(
    "C6",
    "reference",
    priority=0,
    tolerance="T5",
    why="A loss that is off by a factor, a class or a term trains to something, and its curve falls all the same.",
    satisfy="State it once more in NumPy: mapsto.example(it, reference=lambda prediction, target, gamma: ...). A number is its "
    "mean (or what it returns), an array its unreduced losses, a pair (total, weight).",
    catches=("kornia#875", "focal-loss-keras#6", "nnUNet#12", "MONAI#369", "pytorch-randaugment#30", "DeepCASE#8"),
)
@searched
def reference(trial: Trial) -> None:
    """Values equal those of the stated `reference` in float64: drawn and hard inputs, several sizes, plausible options."""
    driver: LossDriver = trial.driver
    driver.settle(trial)
    truth = stated(trial, trial.example.more.get("reference"), "reference")
    seen: list[Array] = []
    for more, demanded in options(trial, truth):
        with varied(trial, more) as args:
            for size in SIZES if not more else SIZES[:1]:
                given = driver.inputs(trial, size)
                for name, inputs in drawn_or_hard(trial, given, size):
                    named = defaults_of(trial.subject.target, args)
                    try:
                        due = called(truth, inputs, **named)
                        value = driver.look(trial, driver.build(trial), inputs)
                    except Exception:
                        if name == "as drawn" and demanded:
                            raise
                        continue  # outside of the domain of one of them
                    _compare(trial, value, due, inputs, partial(called, truth, in_float32(inputs), **named))
                    seen.append(value.total)
    trial.control("other inputs give other values", any(differs(s, seen[0]) for s in seen))


def _compare(trial: Trial, value: LossValue, due: Any, inputs: tuple[Any, ...], rough: Callable[[], Any]) -> None:
    """The value in the form in which the reference tells it."""
    driver: LossDriver = trial.driver
    if isinstance(due, tuple):
        if value.weight is None:
            trial.undecided("its `reference` gives (total, weight), and the loss tells no weight: let it give the value alone")
        agrees(
            trial, {"total": value.total, "weight": np.float64(value.weight)}, {"total": due[0], "weight": due[1]}, rough=rough
        )
    elif np.ndim(due):
        if value.losses is None and has_reductions(trial):
            value = driver.look(trial, driver.build(trial, reduction="none"), inputs)
        if value.losses is None:
            trial.undecided("its `reference` gives unreduced losses, and the loss one number: let it give that number")
        agrees(trial, {"losses": value.losses}, {"losses": due}, rough=rough)
    elif value.form == "unreduced":
        trial.undecided("its `reference` gives one number, and the loss unreduced losses: let it give an array of their shape")
    elif value.weight != 0:
        agrees(trial, {"value": value.total / (value.weight or 1.0)}, {"value": due}, rough=rough)


@laws.law(
    "C7",
    "relations",
    priority=0,
    tolerance="T5",
    why="Distances are symmetric, scores do not depend on what is added to all logits; a loss that forgot it is another one.",
    satisfy="Break none of the relations that it states: mapsto.example(it, relations=(symmetric(0, 1), within(0, None))).",
    catches=("VNet#13", "a contrastive loss that is not symmetric in its two views", "a softmax over the batch"),
)
@searched
def relations(trial: Trial) -> None:
    """The stated `relations` (mapsto.laws.relations) hold for its value (and unreduced losses) on drawn and hard inputs."""
    driver: LossDriver = trial.driver
    driver.settle(trial)
    for relation in stated(trial, trial.example.more.get("relations"), "relations"):
        loss, given = driver.build(trial), driver.inputs(trial, SIZES[0])

        def value(x: Any, loss: Any = loss) -> dict[str, Array]:
            look = driver.look(trial, loss, tuple(x))
            return {"value": np.asarray(look.total / (look.weight or 1.0)) if look.losses is None else look.losses}

        holds(trial, relation, value, given, SIZES[0])
