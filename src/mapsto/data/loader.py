"""The loader: a reader in the place of a DataLoader, for anybody's loop."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict

from ..core.errors import DataError
from ..core.native import loaded
from .combine import concatenate
from .doors import typed, whole
from .source import Batch
from .stream import PaddingBatch, check_reader, size

KEYS = ("batches_per_epoch", "micro_shards", "next_batch", "position", "records")
"""What the state of a loader holds, as whole numbers that any file can keep; `next_batch` is a checksum of the record
indices of the batch that comes next (0 where the reader tells none), which another seed or order would change."""


class Slice(TypedDict, total=False):
    """Which slice of each global batch a loader gives; see `Loader`."""

    rank: int | None
    world_size: int | None
    micro_shards: int | None


class Loader:
    """An iterable of this rank's parts of a reader's batches, one epoch an iteration, that resumes at any batch.

    rank, world_size: which slice of each global batch is this process's (default: as torch.distributed says where it is
    initialised, else RANK and WORLD_SIZE, else the whole); micro_shards: into how many equal slices a global batch is cut,
    of which each rank gets as many (default: one a rank); say it where the number of ranks may change and transforms draw
    random numbers, which depend on the slice; convert: batch -> what the loop gets (default: the batch).

    An iteration ends with the epoch and begins with one: after `load_state_dict` the first goes on exactly behind the batch
    that was given out last (what workers had read ahead does not count); one that was left early is followed by the next
    epoch. `set_epoch` says which is next, and keeps the place within it that was loaded. Worker processes and reading ahead
    are the reader's; they stay from one epoch to the next, until `close`. One iteration at a time.
    Raises DataError where the state is of other data, or a rank would get no record of a batch.
    """

    @typed
    def __init__(
        self,
        reader: Any,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        micro_shards: int | None = None,
        convert: Callable[[Batch], Any] | None = None,
    ) -> None:
        check_reader(reader, "loader")
        if (rank is None) != (world_size is None):
            raise DataError("loader: rank and world_size go together: say both, or none")
        self.reader, self.micro_shards, self.convert = reader, micro_shards, convert
        self._ranks = None if rank is None or world_size is None else (rank, world_size)
        self.position = 0
        """Global batches that were given out since the start of the run."""
        self._loaded = False  # whether `position` was restored, and no batch was given out since
        self._of: int | None = None  # the epoch that the next iteration is of, where it was said
        self._stream: Any = None
        self._stream_at = -1  # the position that the stream gives next
        self._turn = object()

    def __len__(self) -> int:
        """Batches of an epoch, whatever was already given out of it."""
        return int(self.reader.batches_per_epoch)

    @property
    def epoch(self) -> int:
        """The epoch that `position` lies in."""
        return self.position // len(self)

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration with this epoch; at the place within it that was loaded, where one was.

        An epoch of which all was given out before the state was saved has no batch left then.
        """
        if not (self._loaded and epoch * len(self) <= self.position <= (epoch + 1) * len(self)):
            self.position = epoch * len(self)
        self._of = epoch

    def __iter__(self) -> Iterator[Any]:
        # All of this runs when the first batch is asked for: frameworks make the iterator before they set the epoch.
        epoch = self.epoch if self._of is None else self._of
        if self._of is None and not self._loaded and self.position % len(self):  # the epoch was left early
            epoch += 1
            self.position = epoch * len(self)
        self._of, self._loaded, turn = None, False, object()
        self._turn = turn
        stream = self._opened()
        for _ in range((epoch + 1) * len(self) - self.position):
            if self._turn is not turn:
                raise DataError("loader: another iteration has begun; for two at a time make two loaders")
            position, batch = next(stream)
            self.position = self._stream_at = position + 1
            yield self._converted(batch)

    # -- state ---------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, int]:
        """Where the loop is: the batches that it was given, not those that were read ahead. The same on all ranks."""
        return {
            "position": self.position,
            "records": int(self.reader.records),
            "batches_per_epoch": len(self),
            "micro_shards": self._shards()[2],
            "next_batch": self._checksum(self.position),
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there, on any number of ranks. Raises DataError where that would not be the same batches."""
        if not isinstance(state, Mapping) or set(state) != set(KEYS):
            holds = ", ".join(map(str, state)) if isinstance(state, Mapping) else f"a {type(state).__name__}"
            raise DataError(f"loader: this is no state of a loader: it holds {holds}, not {', '.join(KEYS)}")
        state = {name: whole(value, f"loader: {name} of the state") for name, value in state.items()}
        own = self.state_dict()
        for name, what in (("records", "records"), ("batches_per_epoch", "batches an epoch")):
            if state[name] != own[name]:
                raise DataError(f"loader: the state is of a reader with {state[name]} {what}, and this one has {own[name]}")
        if state["next_batch"] != self._checksum(state["position"]):
            raise DataError(
                f"loader: behind batch {state['position']} other records would come than where the state was made: the same "
                "seed, order and batch_size are wanted"
            )
        if state["micro_shards"] != own["micro_shards"] and getattr(self.reader, "draws", True):
            raise DataError(
                f"loader: the state is of batches cut into {state['micro_shards']} micro-shards, by which the transforms draw, "
                f"and here they are {own['micro_shards']}: say micro_shards={state['micro_shards']}"
            )
        self.position, self._loaded, self._of = int(state["position"]), True, None

    def _checksum(self, position: int) -> int:
        indices = getattr(self.reader, "indices", None)
        return 0 if indices is None else zlib.crc32(indices(position).tobytes())

    def close(self) -> None:
        """End the worker processes, where there are any; a later iteration starts them again."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.__exit__(None, None, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None}

    # -- what frameworks look at ---------------------------------------------------------------------------------------
    @property
    def batch_size(self) -> int | None:
        """Records of a batch on this rank, where the reader says how many a global batch has."""
        whole = getattr(self.reader, "batch_size", None)
        return None if whole is None else -(-whole // self._shards()[1])

    @property
    def num_workers(self) -> int:
        """The worker processes of the reader that is iterated over."""
        return int(getattr(self.reader, "workers", 0))

    @property
    def prefetch_factor(self) -> int | None:
        """The reader's `prefetch`, where it has workers."""
        return int(self.reader.prefetch) if self.num_workers else None

    @property
    def dataset(self) -> ByPosition:
        """The batches by their positions; its length is the records of an epoch."""
        return ByPosition(self)

    @property
    def batch_sampler(self) -> Positions:
        """The positions of the epoch, so that who skips batches by a sampler skips those."""
        return Positions(self)

    sampler = batch_sampler

    @staticmethod
    def collate_fn(batches: list[Any]) -> Any:
        """Batches are whole as they are read: the only one of a list."""
        return batches[0]

    # -- reading -------------------------------------------------------------------------------------------------------
    def _shards(self) -> tuple[int, int, int]:
        """Rank, world size and micro-shards. Raises DataError where they do not fit."""
        rank, world = self._ranks or _ranks_here()
        shards = world if self.micro_shards is None else self.micro_shards
        if not 0 <= rank < world:
            raise DataError(f"loader: rank {rank} of {world}: ranks are numbered 0 to {world - 1}")
        if shards < 1 or shards % world:
            raise DataError(f"loader: {shards} micro-shards cannot be shared equally by {world} ranks")
        whole = getattr(self.reader, "batch_size", None)
        if whole is not None and (least := self.reader.records - (len(self) - 1) * whole) < world:
            raise DataError(
                f"loader: the last batch of an epoch has {least} {'record' if least == 1 else 'records'} for {world} ranks: "
                "say drop_last=True to the reader, or another batch_size"
            )
        return rank, world, shards

    def _which(self) -> dict[str, Any]:
        """The arguments by which a reader or stream is asked for this rank's part."""
        rank, world, shards = self._shards()
        if shards == 1:
            return {}
        own = shards // world
        return {"shard": rank if own == 1 else tuple(range(rank * own, (rank + 1) * own)), "shards": shards}

    def _opened(self) -> Any:
        """The stream from `position` on; the one of before where it stands there."""
        if self._stream is None or self._stream_at != self.position:
            self.close()
            stream = self.reader.stream(self.position, **self._which())
            stream.__enter__()
            self._stream, self._stream_at = stream, self.position
        return self._stream

    def _converted(self, batch: Any) -> Any:
        if isinstance(batch, list):
            parts = [part for part in batch if not isinstance(part, PaddingBatch)]
            batch = {name: concatenate([part[name] for part in parts], name) for name in parts[0]} if parts else {}
        if not size(batch):
            raise DataError("loader: this rank has no record of a batch: say drop_last=True to the reader, or fewer ranks")
        return batch if self.convert is None else self.convert(batch)


class ByPosition:
    """Maps the position of a batch to the batch, as a loader gives it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return int(self.loader.reader.records)

    def __getitem__(self, position: int) -> Any:
        with self.loader.reader.stream(position, position + 1, **self.loader._which()) as stream:
            return self.loader._converted(next(stream)[1])


class Positions:
    """The positions of a loader's epoch, from its beginning, each as a list of one."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[int]]:
        first = self.loader.epoch * len(self)
        return ([position] for position in range(first, first + len(self)))

    def set_epoch(self, epoch: int) -> None:
        """Let the loader's next iteration be that epoch, as samplers of distributed data do."""
        self.loader.set_epoch(epoch)


def _ranks_here() -> tuple[int, int]:
    """Rank and world size of this process; frameworks are asked where they are loaded, and none is imported."""
    for own in loaded().values():
        if (found := own.ranks()) is not None:
            return found
    said = {name: os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))}
    if odd := next((name for name, text in said.items() if not text.strip().isdecimal()), None):
        raise DataError(f"loader: the environment says {odd}={said[odd]!r}, and a whole number is wanted")
    return int(said["RANK"]), int(said["WORLD_SIZE"])
