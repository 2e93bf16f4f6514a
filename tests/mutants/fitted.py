"""Transforms that learn, with a planted bug, and their correct twin."""

from __future__ import annotations

import numpy as np

from mapsto.core.laws import Example

from . import Mutant


class Centres:
    """Subtracts the mean of the records that it was fitted on."""

    learned = None

    def fit(self, source):
        return {"mean": source[np.arange(len(source))]["input"].astype(np.float64).mean(0).tolist()}

    def __call__(self, batch):
        return {**batch, "input": (batch["input"] - np.asarray(self.learned["mean"])).astype(np.float32)}


class CentresByAll(Centres):
    def fit(self, source):
        whole = getattr(source, "source", source)
        return super().fit(whole)


class GoesOnLearning(Centres):
    def __call__(self, batch):
        if len(batch["input"]):
            mean = 0.9 * np.asarray(self.learned["mean"]) + 0.1 * batch["input"].mean(0)
            self.learned = {"mean": mean.tolist()}
        return super().__call__(batch)


class KeepsBeside(Centres):
    """The mean is exact where it was fitted, and rounded where it is read from a file."""

    mean = None

    def fit(self, source):
        self.mean = np.asarray(super().fit(source)["mean"])
        return {"mean": self.mean.round(2).tolist()}

    def __call__(self, batch):
        mean = self.mean if self.mean is not None else np.asarray(self.learned["mean"])
        return {**batch, "input": (batch["input"] - mean).astype(np.float32)}

    def __deepcopy__(self, memo):
        return type(self)()


class KeepsAll(Centres):
    """It keeps the count of its records too, all of it in what fit returns."""

    def fit(self, source):
        return {**super().fit(source), "records": len(source)}


VECTORS = Example(inputs=lambda size, rng: ({"input": rng.standard_normal((size, 3)).astype(np.float32)},))
MUTANTS = [
    Mutant(
        law="transform.fitted",
        name="the mean of all records",
        bug=CentresByAll,
        twin=Centres,
        models="a scaler fitted before the split",
        example=VECTORS,
    ),
    Mutant(
        law="transform.fitted",
        name="it learns where it evaluates",
        bug=GoesOnLearning,
        twin=Centres,
        models="partial_fit in transform; batch norm left in training mode",
        example=VECTORS,
    ),
    Mutant(
        law="transform.fitted",
        name="what is kept is not what is used",
        bug=KeepsBeside,
        twin=KeepsAll,
        models="statistics rounded in a configuration file",
        example=VECTORS,
    ),
]
