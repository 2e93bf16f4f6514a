"""A kind of its own with its laws, and gadgets that misbehave in every way a component can; run in workers only."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import mapsto
from mapsto.core.laws import Laws, Trial

mapsto.add_kind(mapsto.Kind(name="gadget", signature="rank -> nothing", summary="a thing that is called"))
laws = Laws("gadget")


@laws.law("G1", "works", priority=0, why="it must", satisfy="Work.", catches=("none#1",))
def works(trial: Trial) -> None:
    """It is built, called and returns."""
    with trial.case(size=1):
        made = trial.subject.make() if trial.subject.make else trial.subject.target(**trial.example.args)
        with trial.component("calling it"):
            made()
    trial.exercised("calls")


@laws.law("G2", "draws", priority=1, why="it must", satisfy="Draw.")
def draws(trial: Trial) -> None:
    """Global random streams begin alike in every law."""
    trial.exercised("drawn by torch", int(torch.randint(1, 10**6, ()).item()))
    trial.exercised("drawn by Python", random.randint(1, 10**6))


@laws.law("G3", "meets", priority=1, why="it must", satisfy="Meet.", ranks=2)
def meets(trial: Trial) -> None:
    """Ranks that call it meet at a barrier."""
    if not trial.has("ranked"):
        trial.skip("it does not declare `ranked`")
    trial.subject.target()(trial.rank)
    torch.distributed.barrier()
    trial.demand(trial.world == 2, "two ranks")


mapsto.registry.register("law", "gadget", laws)


class Gadget:
    def __call__(self, rank: int = 0) -> None: ...


class Good(Gadget): ...


good = Good()


def factory() -> Good:
    return Good()


class NeedsArguments(Gadget):
    def __init__(self, size: int) -> None: ...


class CannotBeBuilt(Gadget):
    def __init__(self) -> None:
        raise RuntimeError("no room")


class Raises(Gadget):
    def __call__(self, rank: int = 0) -> None:
        raise ArithmeticError("nought")


class Hangs(Gadget):
    def __call__(self, rank: int = 0) -> None:
        if flag := os.environ.get("GADGET_HANGS"):
            Path(flag).touch()
        while True:
            time.sleep(0.01)


class Computes(Gadget):
    def __call__(self, rank: int = 0) -> None:
        while True:
            pass


class Leaves(Gadget):
    def __call__(self, rank: int = 0) -> None:
        subprocess.Popen(["sleep", "6543"])


class LeavesAnOrphan(Gadget):
    def __call__(self, rank: int = 0) -> None:
        code = "import subprocess; subprocess.Popen(['sleep', '6544'], start_new_session=True)"
        subprocess.run([sys.executable, "-c", code], check=True)


class PrintsMegabytes(Gadget):
    def __call__(self, rank: int = 0) -> None:
        for _ in range(200):
            print("x" * 100_000)
        os.write(2, b"the end")


class RaisesSystemExit(Gadget):
    def __call__(self, rank: int = 0) -> None:
        sys.exit(3)


class RaisesKeyboardInterrupt(Gadget):
    def __call__(self, rank: int = 0) -> None:
        raise KeyboardInterrupt


class Exits(Gadget):
    def __call__(self, rank: int = 0) -> None:
        os._exit(0)


class Crashes(Gadget):
    def __call__(self, rank: int = 0) -> None:
        ctypes.string_at(0)


class IsKilled(Gadget):
    def __call__(self, rank: int = 0) -> None:
        os.kill(os.getpid(), 9)


class Forks(Gadget):
    def __call__(self, rank: int = 0) -> None:
        if pid := os.fork():
            os.waitpid(pid, 0)


class Recurses(Gadget):
    def __call__(self, rank: int = 0) -> None:
        self(rank)


class Allocates(Gadget):
    def __call__(self, rank: int = 0) -> None:
        held: list[Any] = []
        while True:
            # pages that nobody touches: the limit is met at once, however busy the machine is
            held.append(bytes(1 << 28))


class ClosesStdout(Gadget):
    def __call__(self, rank: int = 0) -> None:
        sys.stdout.close()
        os.close(1)


class ReadsStdin(Gadget):
    def __call__(self, rank: int = 0) -> None:
        assert sys.stdin.read() == ""


class ChangesDtype(Gadget):
    def __call__(self, rank: int = 0) -> None:
        torch.set_default_dtype(torch.float64)


class ChangesDevice(Gadget):
    def __call__(self, rank: int = 0) -> None:
        torch.set_default_device("meta")


class ChangesThreads(Gadget):
    def __call__(self, rank: int = 0) -> None:
        torch.set_num_threads(3)


class ChangesFolder(Gadget):
    def __call__(self, rank: int = 0) -> None:
        os.chdir(tempfile.mkdtemp())


class RemovesFolder(Gadget):
    def __call__(self, rank: int = 0) -> None:
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        os.rmdir(folder)


class ChangesGradientMode(Gadget):
    def __call__(self, rank: int = 0) -> None:
        torch.set_grad_enabled(False)


class Seeds(Gadget):
    def __call__(self, rank: int = 0) -> None:
        random.seed(time.time())
        torch.seed()


class AnnouncedAndBroken(Raises): ...


class AnnouncedAndFine(Good): ...


class AnnouncedForNothing(Good): ...


mapsto.example(AnnouncedAndBroken, expect={"gadget.works": "known to raise"})
mapsto.example(AnnouncedAndFine, expect={"G1": "known to raise"})
mapsto.example(AnnouncedForNothing, expect={"gadget.wroks": "misspelt"})


class Meets(Good): ...


class Deadlocks(Gadget):
    def __call__(self, rank: int = 0) -> None:
        while rank == 1:
            time.sleep(0.01)


class OneRankDies(Gadget):
    def __call__(self, rank: int = 0) -> None:
        if rank == 1:
            os._exit(7)


class OneRankRaises(Gadget):
    def __call__(self, rank: int = 0) -> None:
        if rank == 1:
            raise ValueError("not me")


for ranked in (Meets, Deadlocks, OneRankDies, OneRankRaises):
    mapsto.example(ranked, tags=("ranked",))
