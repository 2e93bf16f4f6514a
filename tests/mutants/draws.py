"""Orders that draw, with a planted bug, and their correct twin."""

from __future__ import annotations

import numpy as np

from mapsto.core.laws import Example
from mapsto.core.random import derive
from mapsto.data.draws import Weighted
from mapsto.data.order import Sequential, Shuffled

from . import Mutant


class Squares(Weighted):
    """It weighs by the squared weights."""

    def _read(self, source, count):
        super()._read(source, count)
        self._sums = np.cumsum(np.diff(self._sums, prepend=0.0) ** 2)


class Beside(Weighted):
    """The record after the one that is drawn."""

    def _draw(self, epoch, positions):
        return (super()._draw(epoch, positions) + 1) % len(self._sums)


class Keeps(Weighted):
    """A generator that goes on from call to call."""

    def _draw(self, epoch, positions):
        self.calls = getattr(self, "calls", 0) + 1
        return super()._draw(epoch + self.calls, positions)


class Outside(Shuffled):
    repeats = True

    def over(self, records, seed):
        return Outside(records, seed)

    def __call__(self, epoch, positions):
        return super().__call__(epoch, positions) + 1


class Drawn(Sequential):
    """Uniform draws with replacement, by a hash of the position."""

    repeats = True

    def __init__(self, records=None, seed=None):
        super().__init__(records)
        self.seed = seed

    def over(self, records, seed):
        return Drawn(records, seed)

    def __call__(self, epoch, positions):
        return np.array([derive(self.seed, epoch, int(p)) % self.records for p in positions], np.int64)


def frequency(records):
    weights = 1.0 + np.arange(records) % 3
    return records * weights / weights.sum()


WEIGHED = Example(args={"weights": "weight"}, tags=frozenset({"repeats", "stored"}), more={"frequency": frequency})
MUTANTS = [
    Mutant(
        law="order.frequency",
        name="squared weights",
        bug=Squares,
        twin=Weighted,
        models="weights that are applied twice, in sampling and loss",
        example=WEIGHED,
    ),
    Mutant(
        law="order.frequency",
        name="the record beside it",
        bug=Beside,
        twin=Weighted,
        models="searchsorted on the wrong side",
        example=WEIGHED,
    ),
    Mutant(
        law="order.pure",
        name="draws that go on from call to call",
        bug=Keeps,
        twin=Weighted,
        models="WeightedRandomSampler, whose generator is kept",
        example=WEIGHED,
    ),
    Mutant(
        law="order.bijection",
        name="a draw beyond the last record",
        bug=Outside,
        twin=Drawn,
        models="randint with its end included",
    ),
]
