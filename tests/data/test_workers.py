"""Worker processes change nothing but the time: equal streams, clear errors, nothing left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import Big, Counting, Failing, Tensors, Unpicklable, equal, noise

from mapsto.core.errors import DataError
from mapsto.core.recipes import load_file
from mapsto.data import Batches
from mapsto.data.shared import Slots, open_slots, pack, unpack
from mapsto.data.workers import _work


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """No process, and no open file: the memory that is shared has no name, so it lives as long as a file of it is open."""
    resource_tracker.ensure_running()
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert multiprocessing.active_children() == []
    left = {os.readlink(f"/proc/self/fd/{f}") for f in set(os.listdir("/proc/self/fd")) - before if exists(f)}
    assert not {name for name in left if "memfd" in name or "pipe" in name or "socket" in name}


def exists(file: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{file}")


def gone(group: int) -> bool:
    """Whether a process group ends; multiprocessing's own tracker outlives its parent by a moment."""
    for _ in range(300):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def make(workers: int, **changes: Any) -> Batches:
    return Batches(Big(), 6, shuffle=True, transforms=[noise], seed=4, workers=workers, **changes)


@pytest.mark.parametrize(("workers", "prefetch"), [(1, 3), (2, 1), (3, 2)])
def test_streams_are_bitwise_equal_for_any_workers_and_from_any_position(workers: int, prefetch: int) -> None:
    reference = make(0)
    for start in (0, 9):
        with make(workers, prefetch=prefetch).stream(start, start + 10) as stream:
            got = list(stream)
        assert [p for p, _ in got] == list(range(start, start + 10))
        assert all(equal(batch, reference.batch(p)) for p, batch in got)
    assert multiprocessing.active_children() == []


def test_shards_and_an_early_end() -> None:
    reader, reference = make(2), make(0)
    with reader.stream(3, shard=1, shards=2) as stream:
        position, batch = next(stream)
        assert equal(batch, reference.batch(3, 1, 2))
        assert stream.position == position + 1 == 4
    assert multiprocessing.active_children() == []
    position, batch = next(stream)  # a stream that was left goes on where it was consumed
    assert position == 4
    assert equal(batch, reference.batch(4, 1, 2))
    stream.close()
    assert multiprocessing.active_children() == []


def test_tensors_come_as_tensors() -> None:
    pytest.importorskip("torch")
    reader = Batches(Tensors(), 6, workers=1)
    with reader.stream(0, 2) as stream:
        for position, batch in stream:
            assert equal(batch, Batches(Tensors(), 6).batch(position))


def test_an_error_tells_position_worker_and_the_workers_traceback() -> None:
    reader = Batches(Failing(13, "error"), 6, workers=2)
    with reader.stream() as stream, pytest.raises(DataError) as caught:
        list(stream)
    text = str(caught.value)
    assert "worker 0 failed at position 2: RuntimeError: record 13 is rotten" in text
    assert 'records.py", line' in text
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert stream.position == 2
    assert multiprocessing.active_children() == []


def test_an_error_that_cannot_travel_is_told_by_its_text() -> None:
    with (
        Batches(Failing(0, "local"), 6, workers=1).stream() as stream,
        pytest.raises(DataError, match="LocalError: cannot be") as caught,
    ):
        next(stream)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "kill",
            r"worker 1 \(process \d+\) was killed by signal SIGKILL before position 1 was read; it may have used too much",
        ),
        ("exit", r"worker 1 \(process \d+\) ended with code 3 before position 1 was read; a script that starts workers"),
    ],
)
def test_a_dead_worker_is_an_error_and_not_a_hang(how: str, message: str) -> None:
    with Batches(Failing(7, how), 6, workers=2).stream() as stream:
        assert next(stream)[0] == 0
        with pytest.raises(DataError, match=message):
            next(stream)
    assert multiprocessing.active_children() == []


def test_a_worker_killed_from_outside_between_two_batches() -> None:
    with make(2, prefetch=1).stream() as stream:
        next(stream)
        next(stream)
        os.kill(stream._workers[0].process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        with pytest.raises(DataError, match=r"worker 0 .* was killed by signal SIGKILL"):
            list(stream)


def test_what_cannot_be_sent_says_so() -> None:
    with pytest.raises(DataError, match=r"cannot be sent to another process .* define its functions"):
        Batches(Counting(3), 1, transforms=[lambda batch: batch], workers=1).stream().__enter__()
    with Batches(Unpicklable(), 6, workers=1).stream() as stream, pytest.raises(DataError, match="not in this process"):
        next(stream)


def test_a_worker_that_cannot_be_started_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    real, started = multiprocessing.context.SpawnProcess.start, []

    def second_fails(process: Any) -> None:
        started.append(process)
        if len(started) == 2:
            raise OSError(11, "Resource temporarily unavailable")
        real(process)

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", second_fails)
    with pytest.raises(OSError, match="Resource temporarily"):
        make(3).stream().__enter__()
    assert multiprocessing.active_children() == []


def test_a_stream_reads_without_being_entered() -> None:
    stream = make(1).stream(2, 4)
    assert [p for p, _ in stream] == [2, 3]
    stream.close()
    assert multiprocessing.active_children() == []


RECIPE = """
import numpy as np

class Squares:
    vectorised = True
    def __len__(self): return 9
    def __getitem__(self, indices): return {"input": indices ** 2}
"""


def test_workers_load_the_same_recipe_files(tmp_path: Path) -> None:
    path = tmp_path / "squares_of_a_recipe.py"
    path.write_text(RECIPE)
    module = load_file(path)
    with Batches(module.Squares(), 3, workers=1).stream(0, 3) as stream:
        assert [b["input"].tolist() for _, b in stream] == [[0, 1, 4], [9, 16, 25], [36, 49, 64]]


SCRIPT = """
import os, sys, time
sys.path.insert(0, {folder!r})
from records import Big
from mapsto.data import Batches

if __name__ == "__main__":
    with Batches(Big(), 6, workers=2).stream() as stream:
        for position, batch in stream:
            if position == 2:
                print("reading", flush=True)
            time.sleep(0.01)
"""


def test_an_interrupt_ends_the_workers_without_their_tracebacks(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent)))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: parent and workers alike
    _, errors = process.communicate(timeout=60)
    assert errors.count("Traceback") == 1, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert gone(process.pid)


# -- the worker's side and the shared memory, in this process, so that each branch is seen -----------------------------------
def work(tasks: list[tuple[int, int, int, int]], payload: bytes, slots: Slots | None) -> list[Any]:
    mine, theirs = multiprocessing.Pipe()
    for task in tasks:
        mine.send(task)
    handler = signal.getsignal(signal.SIGINT)
    try:
        if not tasks:
            mine.close()
            _work(theirs, slots, {}, payload)
            return []
        answers: list[Any] = []
        closing = iter(tasks)
        receive = theirs.recv

        class Pipe:
            """Their end, which closes when the tasks are done."""

            def recv(self) -> Any:
                if next(closing, None) is None:
                    raise EOFError
                return receive()

            def send(self, answer: Any) -> None:
                answers.append(answer)

            def send_bytes(self, data: bytes) -> None:
                answers.append(pickle.loads(data))

        _work(Pipe(), slots, {}, payload)  # type: ignore[arg-type]
        return answers
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_workers_life() -> None:
    slots = open_slots(2)
    assert slots is not None
    payload = pickle.dumps(Batches(Failing(13, "error"), 6))
    answers = work([(0, 0, 1, 0), (2, 0, 1, 1), (1, 0, 1, 2)], payload, slots)
    assert [(a[0], a[1]) for a in answers] == [("batch", 0), ("error", 2), ("batch", 1)]
    assert "rotten" in answers[1][2][1]
    parts, packed = answers[2][2]
    assert parts is None
    assert equal(unpack(packed, slots, 2), Batches(Failing(13, "error"), 6).batch(1))
    slots.close()
    slots.close()
    assert work([], payload, None) == []
    assert work([(4, 0, 1, 0)], pickle.dumps(Unpicklable()), None)[0][:2] == ("error", 4)


def test_arrays_go_through_shared_memory_and_grow() -> None:
    slots = open_slots(1)
    assert slots is not None
    theirs = Slots([os.dup(f) for f in slots.files])
    for width in (9000, 30000, 9000):
        batch = Big(width=width)[np.arange(5)]
        content = pickle.loads(pickle.dumps(pack(batch, theirs, 7)))
        assert set(content["placed"]) == {"input", "wide"}
        received = unpack(content, slots, 7)
        assert equal(received, batch)
        received["input"][:] = 0  # the reader's copy: the next batch may be written meanwhile
        assert equal(unpack(content, slots, 7), batch)
    theirs.close()
    slots.close()


def test_where_memory_is_full_or_missing_the_pipe_does(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Big(width=9000)[np.arange(5)]
    slots = open_slots(1)
    assert slots is not None

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        content = pack(batch, slots, 0)
    assert content["placed"] == {}
    assert equal(unpack(content, slots, 0), batch)
    slots.close()
    monkeypatch.delattr(os, "memfd_create")
    assert open_slots(2) is None
    assert equal(unpack(pack(batch, None, 0), None, 0), batch)
    reference = make(0)
    with make(1).stream(0, 3) as stream:
        assert all(equal(b, reference.batch(p)) for p, b in stream)


def test_a_failing_second_piece_leaves_no_first(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.memfd_create, []

    def second_fails(name: str) -> int:
        calls.append(name)
        if len(calls) == 2:
            raise OSError(24, "Too many open files")
        return real(name)

    monkeypatch.setattr(os, "memfd_create", second_fails)
    assert open_slots(2) is None
    assert len(calls) == 2
