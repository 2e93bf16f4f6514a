"""TensorBoard: metrics and the spec as event files, written without TensorFlow, PyTorch or a thread."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import IO, Any

from ...core.doors import typed
from ...core.errors import require
from ...core.registry import decorator
from ..events import Event

observer = decorator("observer")


@observer("tensorboard")
class TensorBoard:
    """Writes every metric of a run as a scalar to `folder` (default: `tensorboard` in the run folder).

    A run that goes on from step s tells TensorBoard to forget what was written after s, so no step shows twice.
    Raises MissingExtra where tensorboard is not installed.
    """

    @typed
    def __init__(self, folder: str | None = None) -> None:
        # The record format and the messages alone: `SummaryWriter` would import TensorFlow where it is installed (seconds).
        self._events = require("tensorboard.compat.proto.event_pb2", "tensorboard", "observer 'tensorboard'")
        self._records = require("tensorboard.summary.writer.record_writer", "tensorboard", "observer 'tensorboard'")
        self.folder = None if folder is None else Path(folder)
        self._file: IO[bytes] | None = None
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        if self._writer is None:
            self._open(event)
        if event.metrics and event.name != "end":  # which repeats the latest of each
            self._scalars(event)
        if self._file is not None:
            self._file.flush()

    def _open(self, event: Event) -> None:
        folder = self.folder or event.run.folder / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        before = sorted(folder.glob("events.out.tfevents.*"))
        # Files are read in the order of their names, so a later one must have a later second.
        second = max(int(time.time()), int(before[-1].name.split(".")[3]) + 1 if before else 0)
        name = f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "xb")  # noqa: SIM115  # held for the run
        self._writer = self._records.RecordWriter(self._file)
        self._put(file_version="brain.Event:2")
        if before:  # readers drop what earlier files hold from this step on
            self._put(step=event.step + 1, session_log=self._events.SessionLog(status=self._events.SessionLog.START))
        else:
            self._text("spec", event.run.spec.to_yaml(live=True))

    def _put(self, **fields: Any) -> None:
        self._writer.write(self._events.Event(wall_time=time.time(), **fields).SerializeToString())

    def _scalars(self, event: Event) -> None:
        record = self._events.Event(wall_time=time.time(), step=event.step)
        for name, value in event.metrics.items():
            record.summary.value.add(tag=name, simple_value=float(value))
        self._writer.write(record.SerializeToString())

    def _text(self, tag: str, text: str) -> None:
        record = self._events.Event(wall_time=time.time())
        value = record.summary.value.add(tag=tag)
        value.metadata.plugin_data.plugin_name = "text"
        value.tensor.dtype = 7  # DT_STRING
        value.tensor.string_val.append("\n".join("    " + line for line in text.splitlines()).encode())
        self._writer.write(record.SerializeToString())

    def close(self) -> None:
        """Close the event file."""
        if self._file is not None:
            self._file.close()
        self._file = self._writer = None
