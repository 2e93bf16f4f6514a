"""Metrics with a planted bug, modelled on public reports, and their right twins."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from mapsto.core.laws import Example
from mapsto.tasks.metric import Metric
from mapsto.tasks.metrics.classes import F1, Accuracy, IoU, masked
from mapsto.tasks.metrics.scores import AUROC

from . import Mutant


class MeanF1(Metric):
    """The mean of the F1 of batches."""

    def count(self, prediction: Any, target: Any, mask: Any) -> dict[str, Any]:
        f1 = F1()
        return {
            "sum": np.asarray(f1.finish(f1.count(prediction, target, mask))) if len(target) else np.zeros(()),
            "all": np.ones(()),
        }

    def finish(self, totals: Any) -> float:
        return float(totals["sum"] / totals["all"])


class BatchAUC(AUROC):
    """The mean of batches, weighted by their records."""

    keep: ClassVar[Literal["sums", "records"]] = "sums"

    def count(self, prediction: Any, target: Any, mask: Any) -> dict[str, Any]:
        found = float(super().finish(super().count(prediction, target, mask))) if len(target) else 0.0  # type: ignore[arg-type]
        return {"sum": np.nan_to_num(np.asarray(found * len(target))), "all": np.asarray(len(target))}

    def finish(self, totals: Any) -> float:
        return float(totals["sum"] / totals["all"])


class PerBatch(Accuracy):
    """Divides what is right by the size of the batch, and counts batches."""

    def count(self, prediction: Any, target: Any, mask: Any) -> dict[str, Any]:
        found = super().count(prediction, target, mask)
        return {"right": found["right"] / max(int(found["all"]), 1), "all": np.ones((), int)}


class FirstTies(Metric):
    """How many of a class come before the others, as a stable sort leaves those that are alike."""

    reads: ClassVar[tuple[str, ...]] = ("probability",)
    keep: ClassVar[Literal["sums", "records"]] = "records"

    def count(self, prediction: Any, target: Any, mask: Any) -> dict[str, Any]:
        return {"p": prediction["probability"][:, 1], "due": (target == 1).astype(int)}

    def finish(self, totals: Any) -> float:
        order = np.argsort(-totals["p"], kind="stable")
        due = totals["due"][order]
        return float((np.cumsum(1 - due)[due == 1]).sum() / max(due.sum() * (1 - due).sum(), 1))


class TiedTogether(FirstTies):
    def finish(self, totals: Any) -> float:
        p, due = totals["p"], totals["due"]
        above = (p[due == 0][:, None] > p[due == 1]) + 0.5 * (p[due == 0][:, None] == p[due == 1])
        return float(above.mean()) if above.size else 0.0


class AllPlaces(Accuracy):
    """Divides by all targets, those that do not count too."""

    def count(self, prediction: Any, target: Any, mask: Any) -> dict[str, Any]:
        return {**super().count(prediction, target, mask), "all": np.asarray(target.size)}


class MaskedTargets(IoU):
    """Leaves masked places out of the targets, not out of what is predicted."""

    def count(self, prediction: Any, target: Any, mask: Any) -> dict[str, Any]:
        found = dict(super().count(prediction, target, mask))
        label, _ = masked(prediction["label"], target, None)
        return {**found, "predicted": np.bincount(label, minlength=len(found["due"]))}


class NoMask(AUROC):
    def count(self, prediction: Any, target: Any, mask: Any) -> Any:
        return super().count(prediction, target, None)


class NotReset(Accuracy):
    """Counts on from the last evaluation."""

    def __init__(self) -> None:
        self.right = self.all = 0

    def count(self, prediction: Any, target: Any, mask: Any) -> Any:
        found = super().count(prediction, target, mask)
        self.right, self.all = self.right + int(found["right"]), self.all + int(found["all"])
        return found

    def finish(self, totals: Any) -> float:
        return self.right / max(self.all, 1)


class Kept(Accuracy):
    """Keeps what it counted last, which it looks at for nothing."""

    def count(self, prediction: Any, target: Any, mask: Any) -> Any:
        self.last = super().count(prediction, target, mask)
        return self.last


class InPlace(AUROC):
    """Sorts what it is given."""

    def count(self, prediction: Any, target: Any, mask: Any) -> Any:
        found = super().count(prediction, target, mask)
        prediction["probability"].sort(axis=0)
        return found


class TotalsChanged(F1):
    """Normalises the totals where they are."""

    def finish(self, totals: Any) -> Any:
        found = super().finish(totals)
        totals["both"] //= 2
        return found


class RecallForIoU(IoU):
    """What a mask of the true background makes of it: the share of the class that was found."""

    def score(self, both: Any, predicted: Any, due: Any) -> Any:
        return np.divide(both, due, out=np.zeros_like(both, float), where=np.asarray(due) > 0)


class EveryClass(F1):
    """The mean over all classes, those that do not occur too."""

    def finish(self, totals: Any) -> float:
        counts = {k: np.append(v, 0) for k, v in totals.items()}
        return float(self.score(*(counts[k].astype(float) for k in ("both", "predicted", "due"))).mean())


def jaccard(prediction: Any, target: Any) -> float:
    sets = [(set(np.flatnonzero(prediction["label"] == c)), set(np.flatnonzero(target == c))) for c in range(7)]
    return float(np.mean([len(a & b) / len(a | b) for a, b in sets if a | b]))


def f1(prediction: Any, target: Any) -> float:
    sets = [(set(np.flatnonzero(prediction["label"] == c)), set(np.flatnonzero(target == c))) for c in range(7)]
    return float(np.mean([2 * len(a & b) / (len(a) + len(b)) for a, b in sets if a | b]))


def mutant(law: str, name: str, bug: Any, twin: Any, models: str, **more: Any) -> Mutant:
    return Mutant(law=f"metric.{law}", name=name, bug=bug, twin=twin, models=models, example=Example(more=more))


MUTANTS = [
    mutant("additivity", "an F1 averaged over batches", MeanF1, F1, "GaNDLF#505"),
    mutant("additivity", "an AUROC averaged over batches", BatchAUC, AUROC, "KGCN#22"),
    mutant("additivity", "an accuracy that counts batches", PerBatch, Accuracy, "netspresso-trainer#360"),
    mutant("order", "ties that fall as records stand", FirstTies, TiedTogether, "anomalib#2003"),
    mutant("masks", "ignored targets in the divisor", AllPlaces, Accuracy, "mmsegmentation#1209"),
    mutant("masks", "a union with ignored places", MaskedTargets, IoU, "torchmetrics#312"),
    mutant("masks", "a mask that is not looked at", NoMask, AUROC, "segmentation_models.pytorch#546"),
    mutant("purity", "counts that go on from epoch to epoch", NotReset, Kept, "code2seq#112, poutyne#72"),
    mutant("purity", "a sort in place", InPlace, AUROC, "a metric that sorts the scores of those after it"),
    mutant("purity", "totals that finishing changes", TotalsChanged, F1, "mxnet#11480"),
    mutant("reference", "recall in the place of IoU", RecallForIoU, IoU, "huggingface/evaluate#421", reference=jaccard),
    mutant("reference", "classes that do not occur in the mean", EveryClass, F1, "torchmetrics#312", reference=f1),
]
