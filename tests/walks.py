"""Which files of mapsto one case leads through: `python -m tests.walks` prints them.

A walk is the files whose code a reader opens who follows one case through the calls, in the order in which they are first
entered. Every line that runs is traced, so it is counted and not guessed. Left out are:
* leaves: files of which at most `LEAF` lines run and which call no other file (names and docstrings say enough);
* what a spec names (a middleware, a task, an optimizer), and what that calls: it is where a spec leads to, not the way;
* what the constructor of a program calls: the walk of a spec ends with it, and it counts;
* module bodies: an import is no step.
A file that only hands a call on counts, however short it is.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import mapsto

SOURCE = f"{Path(mapsto.__file__).parent}/"
LEAF = 15
"""Lines of a file that run, up to which it is a leaf where it calls no other file."""
NAMED = ("torch/middleware/", "torch/tasks", "torch/optimizers", "core/doors")
"""Files of what the spec below names, and the decorator that stands around constructors of such."""


class Walk:
    """Traces calls. files: those of mapsto by first entry, with the lines that ran in each; calls: whom each called."""

    def __init__(self, ends: tuple[str, ...] = ()) -> None:
        self.ends = ends
        self.lines: dict[str, set[int]] = {}
        self.calls: dict[str, set[str]] = {}

    def run(self, case: Callable[[], Any]) -> Any:
        """What the case returns."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return case()
        finally:
            sys.settrace(before)

    def files(self) -> list[str]:
        """The walk."""
        return [file for file, lines in self.lines.items() if self.calls[file] or len(lines) > LEAF or file in self.ends]

    def _enter(self, frame: FrameType, event: str, _: Any) -> Any:
        file = _file_of(frame)
        if not file or frame.f_code.co_name == "<module>" or file.startswith(NAMED):
            return None
        caller, callers = frame.f_back, []
        while caller is not None:
            callers.append(_file_of(caller))
            caller = caller.f_back
        ours = [other for other in callers if other]
        if any(other.startswith(NAMED) or other in self.ends for other in ours):
            return None
        self.lines.setdefault(file, set())
        self.calls.setdefault(file, set())
        if ours and ours[0] != file and ours[0] in self.calls:
            self.calls[ours[0]].add(file)
        return self._line

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.lines[_file_of(frame)].add(frame.f_lineno)
        return self._line


def _file_of(frame: FrameType) -> str:
    path = frame.f_code.co_filename
    return path.removeprefix(SOURCE).removesuffix(".py") if path.startswith(SOURCE) else ""


SPEC = """
model: {use: "torch.nn:Linear", in_features: 4, out_features: 2}
optimizer: {use: adamw, lr: 1e-3}
middleware: [{use: clip_norm, max_norm: 1.0}]
data: {train: {source: {use: arrays, fields: {input: [[1.0, 2.0, 3.0, 4.0]], target: [1]}}, batch_size: 1}}
steps: 2
device: cpu
"""


def spec_to_program() -> Walk:
    """From the text of a spec to its program: read, checked, built."""
    from mapsto.engine.wing import find_wing

    def case() -> Any:
        spec = mapsto.Spec.from_yaml(SPEC).check()
        return find_wing(spec.wing).build(spec, {"seed": spec.seed, "total_steps": 2, "steps_per_epoch": 1})

    find_wing("torch")  # imported before: what runs while a module is imported is no step
    walk = Walk(ends=("torch/program",))
    walk.run(case)
    return walk


def checkpoint() -> Walk:
    """A checkpoint that a run of one process writes between two steps, not in the background."""
    import numpy as np

    from mapsto.engine.loop import Loop

    walks: list[Walk] = []
    save = Loop._save

    def traced(loop: Loop) -> None:
        walks.append(Walk())
        walks[-1].run(lambda: save(loop))

    model = mapsto.use("torch.nn:Linear", in_features=4, out_features=2)
    data = {"train": {"source": {"input": np.ones((4, 4), "f4"), "target": np.array([0, 1, 0, 1])}, "batch_size": 2}}
    Loop._save = traced  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            mapsto.Run(mapsto.Spec(model=model, data=data, steps=2), Path(folder) / "run").fit()
    finally:
        Loop._save = save  # type: ignore[method-assign]
    return walks[0]


if __name__ == "__main__":
    for name, walk in {"spec to program": spec_to_program(), "checkpoint": checkpoint()}.items():
        print(f"{name}: {len(walk.files())}: {', '.join(walk.files())}")
        if "-v" in sys.argv:
            for file, lines in walk.lines.items():
                print(f"  {file:<32} {len(lines):4} lines, calls {', '.join(sorted(walk.calls[file])) or 'nothing else'}")
