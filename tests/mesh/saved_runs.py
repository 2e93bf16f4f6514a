"""Runs on ranks that are saved and gone on with, for the tests of checkpoints; all in float64, so that sums may be compared."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import resource
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from mesh_programs import WIDTH, Net
from torch import Tensor

from mapsto import Spec, use
from mapsto.core.per_rank import PerRank
from mapsto.engine.checkpoints import writing
from mapsto.engine.checkpoints.checkpoint import Checkpoints
from mapsto.engine.checkpoints.tree import flatten
from mapsto.engine.run import Run
from mapsto.engine.wing import find_wing
from mapsto.torch import sharded_files, tensor_file

SHARDS = 12
"""Micro-shards: of 1, 2, 3 and 4 ranks each has as many, so dropout is the same on all meshes."""


def net() -> torch.nn.Module:
    return Net(dropout=0.2).double()


class Points:
    """Records in float64."""

    vectorised = True

    def __init__(self, records: int = 41, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.input, self.target = rng.normal(size=(records, WIDTH)), rng.integers(0, 3, records)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, indices: Any) -> dict[str, Any]:
        return {"input": self.input[indices], "target": self.target[indices]}


class Feedback:
    """Adds up what each rank's own gradient is: state of which no rank has another's."""

    def __init__(self, afresh: bool = False) -> None:
        self.afresh = afresh
        self.kept: Tensor | None = None
        self.began_afresh = False

    def begin(self, state: Any) -> None:
        self.kept = torch.full((3,), float(state.mesh.rank), dtype=torch.float64)

    def update(self, inner: Any) -> Any:
        def outer(state: Any, metrics: Any) -> Any:
            self.kept = self.kept * 2 + state.mesh.rank
            return inner(state, metrics)

        return outer

    def state_dict(self) -> dict[str, Any]:
        return {"kept": PerRank(self.kept, self.afresh)}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        self.began_afresh = tree["kept"].value is None
        if not self.began_afresh:
            self.kept = tree["kept"].value


class Means:
    """Adds running means of gradients, which its first step makes and numbers; rows: and of the squares of each row, whose
    shape no parameter has."""

    def __init__(self, rows: bool = False) -> None:
        self.rows, self.kept = rows, {}

    def update(self, inner: Any) -> Any:
        def outer(state: Any, metrics: Any) -> Any:
            for number, gradient in enumerate(state.gradients()):
                mean = self.kept.setdefault(str(number), torch.zeros_like(gradient))
                mean.lerp_(gradient, 0.2)
                gradient.add_(mean, alpha=0.3)
                if self.rows and gradient.ndim == 2:
                    squares = gradient.square().sum(1, keepdim=True)
                    self.kept[f"rows {number}"] = squares + 0.5 * self.kept.get(f"rows {number}", torch.zeros_like(squares))
                    gradient.mul_(1 + self.kept[f"rows {number}"])
            return inner(state, metrics)

        return outer

    def state_dict(self) -> dict[str, Any]:
        return dict(self.kept)

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        self.kept = dict(tree)


class Interrupts:
    """Sends one rank a signal in its fourth step."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def step(self, inner: Any) -> Any:
        def outer(state: Any, batch: Any) -> Any:
            if state.step == 3 and state.mesh.rank == self.rank:
                os.kill(os.getpid(), signal.SIGTERM)
            return inner(state, batch)

        return outer


def spec(mesh: Any = None, **changes: Any) -> Spec:
    """6 steps, 4 an epoch: dropout, shuffling, AdamW, averages, clipping, a schedule; a checkpoint after each."""
    source = {"use": "saved_runs:Points"}
    fields: dict[str, Any] = {
        "model": use("saved_runs:net"),
        "optimizer": use("adamw", lr=0.01),
        "schedule": use("warmup", steps=3),
        "middleware": [use("ema", decay=0.9), use("clip_norm", max_norm=0.5)],
        "data": {
            "train": {"source": source, "batch_size": 13, "shuffle": True},
            "valid": {"source": {**source, "records": 11, "seed": 1}, "batch_size": 5},
        },
        "mesh": mesh,
        "micro_shards": SHARDS,
        "steps": 6,
        "device": "cpu",
        "log_every": 1,
        "checkpoint": {"every": 1, "keep": None},
    }
    return Spec(**{**fields, **changes})


def train(folder: Path, changes: dict[str, Any], resume: bool = False, until: int | None = None) -> dict[str, Any]:
    """Train (or go on) on this rank until a step; what it has in the end."""

    def stop(event: Any) -> None:
        if event.name == "log" and event.step == until:
            event.run.ask_to_stop("far enough")

    run = Run(spec(**changes), folder, observers=[stop])
    result = run.fit(resume=resume)
    return {
        "reason": result.reason,
        "metrics": dict(result.metrics),
        "bits": bits(run.program.state_tree()),
        "layout": {n: tuple(p.to_local().shape) for n, p in run.program.model.named_parameters() if hasattr(p, "to_local")},
        "afresh": [m.began_afresh for m in run.program.middleware.values() if isinstance(m, Feedback)],
    }


def bits(tree: Any) -> str:
    """A hash of what this process holds of a state."""
    plain, tensors = flatten(tree, find_wing("torch").is_tensor)
    found = hashlib.sha256(repr(plain).encode())
    for tensor in tensors.values():
        found.update(getattr(tensor, "_local_tensor", tensor).detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def saved(folder: Path, step: int) -> dict[str, np.ndarray[Any, Any]]:
    """The whole tensors of a checkpoint's program, read in one process."""
    store = Checkpoints(folder / "checkpoints", find_wing("torch"))
    tree = store.load(store.path(step), looking=True).tree["program"]
    return {name: tensor.numpy() for name, tensor in flatten(tree, find_wing("torch").is_tensor)[1].items()}


# -- on two ranks ------------------------------------------------------------------------------------------------------
FREQUENT = {"every": 1, "keep": None}


def same_mesh(folder: Path) -> dict[str, Any]:
    """On the same mesh: a run that was interrupted, one that was not, one that writes while it goes on."""
    shard = {"mesh": {"shard": 2}, "middleware": [use("ema", decay=0.9), use(Means, rows=True), use(Feedback)]}
    aside = {**shard, "checkpoint": {**FREQUENT, "asynchronous": True}}
    found = {"whole": train(folder / "whole", shard), "cut": train(folder / "cut", shard, until=3)}
    found["resumed"] = train(folder / "cut", shard, resume=True)
    found["aside"] = train(folder / "aside", aside, until=4)
    found["aside resumed"] = train(folder / "aside", aside, resume=True)
    replicated = {"mesh": {"replicate": 2}, "checkpoint": {**FREQUENT, "asynchronous": True}}
    found["replicated"] = train(folder / "replicated", {**replicated, "checkpoint": FREQUENT})
    found["replicated aside"] = train(folder / "replicated aside", replicated)
    fresh = {**shard, "middleware": [use(Feedback, afresh=True)]}
    found["fresh"] = train(folder / "fresh", fresh, until=2)
    return found


def reads(folder: Path, mesh: Any) -> float:
    """Which share of the elements of a checkpoint this rank reads when it goes on."""
    read: list[int] = []
    load = sharded_files.load_shards

    def counted(*arguments: Any) -> Any:
        found = load(*arguments)
        read.append(sum(getattr(t, "_local_tensor", t).numel() for t in found.values()))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharded_files, "load_shards", counted)
        Run(spec(mesh), folder).fit(resume=True)
    return read[0] / sum(tensor.size for tensor in saved(folder, 6).values())


def meanwhile(folder: Path) -> dict[str, Any]:
    """With a slow disk: steps go on; a signal, the end and an error are met while something is being written."""
    slow = {"mesh": {"shard": 2}, "checkpoint": {"every": 8, "keep": None, "best": 0, "asynchronous": True}}
    slow |= {"steps": 24, "log_every": 1000, "data": {"train": spec().data["train"]}, "schedule": None}
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        quick = tensor_file.save_file
        patch.setattr(tensor_file, "save_file", _slowly(quick))
        patch.setattr(Steps, "seen", [])
        found["whole"] = train(folder / "whole", {**slow, "middleware": [use(Steps)]})
        found["seen"] = list(Steps.seen)
        often = {**slow, "checkpoint": {**FREQUENT, "asynchronous": True, "best": 0}}
        found["signal"] = train(folder / "signal", {**often, "middleware": [use(Interrupts, rank=1)]})["reason"]
        patch.setattr(tensor_file, "save_file", _full if os.environ["RANK"] == "1" else quick)
        run = Run(spec(**slow, middleware=[use(Paced)]), folder / "full")
        found["full"] = _raised(run.fit)
        found["at"] = run.program.position
    return found


class Steps:
    """At which steps something was being written."""

    seen: ClassVar[list[int]] = []

    def step(self, inner: Any) -> Any:
        def outer(state: Any, batch: Any) -> Any:
            if any(thread.name == "mapsto-checkpoint" for thread in threading.enumerate()):
                self.seen.append(state.step)
            return inner(state, batch)

        return outer


class Paced:
    """Steps that take a twentieth of a second, so that what a thread finds is told between them."""

    def step(self, inner: Any) -> Any:
        def outer(state: Any, batch: Any) -> Any:
            time.sleep(0.05)
            return inner(state, batch)

        return outer


def _slowly(save: Any) -> Any:
    def slow(*arguments: Any) -> None:
        time.sleep(0.3)
        save(*arguments)

    return slow


def _raised(act: Any) -> str:
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def failures(folder: Path) -> dict[str, str]:
    """What each rank is told where a disk is full, a file is lost or changed, or the folder is not shared."""
    rank = int(os.environ["RANK"])
    shard = {"mesh": {"shard": 2}}
    aside = {**shard, "checkpoint": {**FREQUENT, "asynchronous": True}, "steps": 60, "log_every": 50}
    found: dict[str, str] = {}
    train(folder / "good", shard, until=3)
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(tensor_file, "save_file", _full)
        found["full"] = _raised(lambda: train(folder / "good", shard, resume=True))
        found["full aside"] = _raised(lambda: train(folder / "aside", aside))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    found["limited"] = _raised(lambda: train(folder / "limited", shard))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found["again"] = train(folder / "good", shard, resume=True, until=4)["reason"]
    for name, harm in {"gone": _remove, "changed": _flip}.items():
        if rank == 0:
            shutil.copytree(folder / "good", folder / name)
            harm(folder / name / "checkpoints/step-00000004/part-00002-of-00002.safetensors")
        torch.distributed.barrier()
        found[name] = _raised(lambda name=name: train(folder / name, shard, resume=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "SEEN", 0.5)
        hidden = [_hide(folder / "hidden") if rank == 1 else True]
        torch.distributed.broadcast_object_list(hidden, src=1)
        if hidden[0]:
            found["hidden"] = _raised(lambda: train(folder / "hidden/run", shard))
    return found


def _remove(file: Path) -> None:
    file.unlink()


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _hide(folder: Path) -> bool:
    """Give this process a file system of its own at a folder, as another host has."""
    folder.mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    private, new = 1 << 18, 0x20000
    if libc.unshare(new) != 0 or libc.mount(b"none", b"/", None, private | 16384, None) != 0:
        return False
    return bool(libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, None) == 0)
