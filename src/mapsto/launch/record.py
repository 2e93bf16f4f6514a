"""A rank's own side: what it leaves behind when it fails, and how it says where it is.

RUN/logs/errors/rank-3.json   {rank, host, pid, step, time, type, message, traceback, ...} (see `_write`)
RUN/logs/flight/rank-3.json   its last collectives (the flight recorder of torch.distributed)
RUN/logs/stacks/rank-3.txt    where it was, when asked by SIGUSR2
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..core import durable
from ..core.errors import MapstoError
from .flight_recorder import entries

LOGS, LOG, ATTEMPT = "MAPSTO_LOGS", "MAPSTO_LOG", "MAPSTO_ATTEMPT"
"""Set by the launcher for its ranks: the folder of the logs, this rank's log, and how often the ranks were started."""


def rank_of() -> int | None:
    """This process's rank, where a launcher said one."""
    found = os.environ.get("RANK", "")
    return int(found) if found.isdigit() else None


def is_follower() -> bool:
    """Whether this process is a rank other than the leader, which alone speaks."""
    return (rank_of() or 0) > 0


def is_launched() -> bool:
    """Whether the launcher that waits for this process is ours, and tells of its failures."""
    return LOGS in os.environ


@contextlib.contextmanager
def recorded(folder: Callable[[], Path], step: Callable[[], int | None]) -> Iterator[None]:
    """Within it, what a rank raises is written down; a launcher of ours then tells of it, and this process only ends.

    folder: the run's, once there is one; step: how far it has come. Outside of ranks it does nothing.
    """
    rank = rank_of()
    if rank is None:
        yield
        return
    with _listening(rank):
        try:
            yield
        except (KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:
            with contextlib.suppress(OSError, LookupError):  # a full device, or no folder yet, must not hide the error itself
                _write(Path(os.environ[LOGS]) if LOGS in os.environ else folder() / "logs", rank, error, step)
            if not is_launched():
                raise
            with contextlib.suppress(OSError), open(os.environ[LOG], "a") as log:
                traceback.print_exception(error, file=log)
            raise SystemExit(1) from None


@contextlib.contextmanager
def _listening(rank: int) -> Iterator[None]:
    """Within it, SIGUSR2 writes the stacks of all threads into a file, where a launcher of ours may ask for them."""
    if LOGS not in os.environ:
        yield
        return
    file = Path(os.environ[LOGS]) / "stacks" / f"rank-{rank}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = durable.fresh(file)
    except OSError:  # nowhere to write, and so nothing to listen for
        yield
        return
    with opened:
        faulthandler.register(signal.SIGUSR2, file=opened, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR2)


def _write(logs: Path, rank: int, error: BaseException, step: Callable[[], int | None]) -> None:
    """bases: the classes of what it was raised from in the first place; chain: it, what it was raised from, and so on;
    explained: whether the message alone is meant for the user."""
    try:
        at = step()
    except Exception:  # noqa: BLE001  # whatever broke, its step is the lesser loss
        at = None
    record = {
        "rank": rank,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "step": at,
        "time": time.time(),
        "type": type(error).__qualname__,
        "bases": [base.__name__ for base in type(chain(error)[-1]).__mro__],
        "message": str(error),
        "chain": [f"{type(each).__name__}: {each}" for each in chain(error)],
        "traceback": "".join(traceback.format_exception(error)),
        "attempt": int(os.environ.get(ATTEMPT, 1)),
        "explained": isinstance(error, MapstoError),
    }
    put(logs / "errors" / f"rank-{rank}.json", record)
    put(logs / "flight" / f"rank-{rank}.json", entries())
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # torchrun tells of it, and waits for this form
        extra = {"py_callstack": record["traceback"], "timestamp": str(int(time.time()))}
        put(Path(file), {"message": {"message": f"{type(error).__name__}: {error}", "extraInfo": extra}})


def chain(error: BaseException) -> list[BaseException]:
    """An error, what it was raised from, and so on."""
    found: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in found:
        found.append(each)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return found


def put(file: Path, data: Any) -> None:
    """Write JSON whole, or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    made = file.with_name(f".{file.name}.{os.getpid()}")
    made.write_text(json.dumps(data, indent=1, default=str))
    made.replace(file)
