"""Whether a run is going on: whether some process on this machine holds the lock of its folder."""

from __future__ import annotations

import os
from pathlib import Path

from ...core.errors import CheckpointError
from ..folder import LOCK
from ..reading import read_bytes


def in_use(folder: Path) -> bool:
    """Whether a process trains in the folder; asked within that very process, too."""
    try:
        import fcntl

        held = int(read_bytes(folder / LOCK, most=100))
        if held == os.getpid():  # to open and close the file here would give the lock up
            return True
        with open(folder / LOCK, "r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError, ValueError, CheckpointError):  # no lock, or none that this user may ask for
        return False
    return False
