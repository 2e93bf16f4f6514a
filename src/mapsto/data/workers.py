"""Worker processes: batches read ahead in other processes, in order, with nothing to lose when one dies.

One pipe a worker and no lock or queue between them, so a killed worker can hold nothing that another waits for. The task
for position p goes to worker p mod n; each holds at most `prefetch` tasks, and the next is sent when one is consumed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any, Self

from ..core.errors import DataError
from ..core.recipes import Recipe, load_recipes, loaded_recipes
from .shared import Slots, open_slots, pack, unpack
from .stream import B, PaddingBatch, Shard, Stream, read


class WorkerStream(Stream[B]):
    """A stream whose batches are made in `workers` processes, equal to those made in this one.

    Starts them when entered (or first read) and ends them when left. Raises DataError where the reader cannot be sent to
    another process, an error happened in a worker (with its traceback), or a worker died.
    """

    def __init__(
        self,
        reader: Any,
        start: int = 0,
        stop: int | None = None,
        *,
        shard: Shard = 0,
        shards: int = 1,
        workers: int,
        prefetch: int,
    ) -> None:
        super().__init__(reader, start, stop, shard=shard, shards=shards)
        self.count, self.prefetch = workers, prefetch
        self._workers: list[_Worker] = []
        self._asked = start

    def __enter__(self) -> Self:
        self._start()
        return self

    def _start(self) -> None:
        payload = _pickled(self.reader)
        context = multiprocessing.get_context("spawn")
        try:
            with _interrupts_blocked():
                for number in range(self.count):
                    self._workers.append(_Worker(context, number, self.prefetch, payload))
            for _ in range(self.count * self.prefetch):
                self._ask()
        except BaseException:
            self.close()
            raise

    def _ask(self) -> None:
        """Send the next position that nobody works on yet, where there is one."""
        if self.stop is None or self._asked < self.stop:
            self._workers[self._asked % self.count].ask(self._asked, self.shard, self.shards)
            self._asked += 1

    def _read(self, position: int) -> Any:
        if not self._workers:
            self._start()
        try:
            batch = self._workers[position % self.count].take(position)
        except BaseException:
            self.close()
            raise
        self._ask()
        return batch

    def close(self) -> None:
        """End every worker; positions asked for and not consumed are simply asked for again by the next stream."""
        workers, self._workers = self._workers, []
        self._asked = self.position
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.join()


class _Worker:
    """This process's side of one worker."""

    def __init__(self, context: Any, number: int, prefetch: int, payload: bytes) -> None:
        self.number = number
        self.pipe, theirs = context.Pipe()
        self.slots = open_slots(prefetch)
        self._sent = self._taken = 0
        self.process = context.Process(
            target=_work,
            args=(theirs, self.slots, loaded_recipes(), payload),
            name=f"mapsto-data-{number}",
            daemon=True,
        )
        try:
            self.process.start()
        except BaseException:
            self.pipe.close()
            self._close()
            raise
        finally:
            theirs.close()  # so that the pipe ends when the worker does

    def ask(self, position: int, shard: Shard, shards: int) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a dead worker is told of when its turn comes
            self.pipe.send((position, shard, shards, self._sent))
        self._sent += 1

    def take(self, position: int) -> Any:
        """The batch at `position`, which must be the next this worker was asked for."""
        try:
            status, found, content = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise DataError(self._died(position)) from None
        if status == "error":
            error, text = content
            raise DataError(f"worker {self.number} failed at position {found}: {text}") from error
        assert found == position, (found, position)
        parts, packed = content
        fields = unpack(packed, self.slots, self._taken)
        self._taken += 1
        return fields if parts is None else _listed(fields, parts)

    def _died(self, position: int) -> str:
        self.process.join(5)
        code = self.process.exitcode
        killed = code is not None and code < 0
        how = f"was killed by signal {signal.Signals(-code).name}" if killed else f"ended with code {code}"
        if code == -signal.SIGKILL:
            hint = "; it may have used too much memory"
        elif self._taken == 0:
            hint = "; a script that starts workers must do so under `if __name__ == '__main__':`"
        else:
            hint = ""
        return f"worker {self.number} (process {self.process.pid}) {how} before position {position} was read{hint}"

    def end(self) -> None:
        self.pipe.close()
        self.process.terminate()

    def join(self) -> None:
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._close()

    def _close(self) -> None:
        self.process.close()
        if self.slots is not None:
            self.slots.close()


def _pickled(reader: Any) -> bytes:
    try:
        return pickle.dumps(reader, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise DataError(
            f"workers: this reader cannot be sent to another process ({error}); "
            "define its functions and classes at the top of a module or recipe file, or use workers=0"
        ) from error


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started within inherit a blocked SIGINT: Ctrl-C is the parent's to handle, also while they start."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _work(pipe: Connection, slots: Slots | None, recipes: tuple[Recipe, ...], payload: bytes) -> None:
    """A worker's whole life: read tasks until the pipe closes, answer each with a batch or an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            load_recipes(recipes)
            reader = pickle.loads(payload)
        except Exception as error:  # noqa: BLE001  # whatever the user's module does on import
            position = pipe.recv()[0]
            pipe.send(("error", position, _described(error)))
            return
        while True:
            position, shard, shards, turn = pipe.recv()
            try:
                fields, parts = _flat(read(reader, position, shard, shards))
                answer = ("batch", position, (parts, pack(fields, slots, turn)))
                data = pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL)
            except Exception as error:  # noqa: BLE001  # whatever the user's data does
                data = pickle.dumps(("error", position, _described(error)))
            pipe.send_bytes(data)


def _flat(found: Any) -> tuple[dict[Any, Any], list[bool] | None]:
    """The fields of a batch, or of a list of them by (place, name) and which of them are stand-ins."""
    if not isinstance(found, list):
        return found, None
    return {(i, n): v for i, batch in enumerate(found) for n, v in batch.items()}, [isinstance(b, PaddingBatch) for b in found]


def _listed(fields: Mapping[Any, Any], parts: list[bool]) -> list[dict[str, Any]]:
    """The list of batches again that `_flat` made fields of; parts: which of them are stand-ins."""
    found: list[dict[str, Any]] = [PaddingBatch() if stands_in else {} for stands_in in parts]
    for (i, name), value in fields.items():
        found[i][name] = value
    return found


def _described(error: Exception) -> tuple[Exception | None, str]:
    """An error as it can travel: itself where it can be pickled, and its text with the worker's traceback."""
    text = f"{type(error).__name__}: {error}\n\nIn the worker:\n{''.join(traceback.format_exception(error)).rstrip()}"
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001
        return None, text
    return error, text
