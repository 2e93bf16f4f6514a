"""Evaluations that are none: dropout that draws, statistics that move, modules that are left in training mode."""

from __future__ import annotations

from ..figures import number, share
from . import thresholds
from .evidence import Evidence
from .finding import Finding, Gravity


def evaluation_training(evidence: Evidence) -> list[Finding]:
    """Modules that were in training mode in evaluation."""
    told = evidence.survey.evaluation if evidence.survey is not None else None
    if told is None or not (told.training or told.moved):
        return []
    names = list(dict.fromkeys([*told.moved, *told.training]))
    said = [f"in training mode at the end of an evaluation: {', '.join(told.training[:8])}"] if told.training else []
    said += [f"whose running statistics an evaluation changed: {', '.join(told.moved[:8])}"] if told.moved else []
    return [
        Finding(
            "evaluation_training",
            Gravity.WRONG,
            f"the model is evaluated in training mode: {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}",
            evidence=tuple(said),
            where=(evidence.data_file, evidence.setting("task"), evidence.setting("model")),
            advice=(
                "look for .train() in the task or the model: mapsto sets the mode before an evaluation and puts it back after",
                "dropout then drops in evaluation too, and batch normalisation learns from, and judges by, the evaluated batch",
            ),
            values={"training": told.training, "moved": told.moved},
        )
    ]


def evaluation_random(evidence: Evidence) -> list[Finding]:
    """A batch of which the loss is not the same when it is evaluated again."""
    told = evidence.survey.evaluation if evidence.survey is not None else None
    if told is None or told.once is None or told.twice is None:
        return []
    again = 2 * told.twice - told.once
    differs = abs(again - told.once) / max(abs(told.once), 1e-12)
    if differs < thresholds.RANDOM_NOTE:
        return []
    return [
        Finding(
            "evaluation_random",
            Gravity.WRONG if differs >= thresholds.RANDOM else Gravity.NOTE,
            f"an evaluation is not repeatable: records of valid had a loss of {number(told.once)} and, again, {number(again)}",
            evidence=(f"they differ by {share(differs)}, with the same weights and records",),
            where=(evidence.data_file, evidence.setting("task"), evidence.setting("model")),
            advice=(
                "dropout of a function call, F.dropout(x, p), drops in evaluation too: F.dropout(x, p, self.training)",
                "look for .train() in the task or the model, and for noise that is drawn whatever the mode",
                "if it is meant so (a model that samples), average over several evaluations before comparing runs",
            ),
            values={"once": told.once, "again": again},
            cost=min(differs, 1.0),
        )
    ]
