"""The collector where what is left is counted, or collected often: it sees what was made since, not all that was imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """Within it, the collector sees only objects made since: the compiler alone holds millions.

    What was frozen before stays so: a process that is forked from others, or a suite, has frozen what it imported.
    """
    frozen = gc.get_freeze_count()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


def collect_and_freeze() -> None:
    """Collect what is left, which may hold itself in cycles; what is kept is not looked at again."""
    gc.collect()
    gc.freeze()
