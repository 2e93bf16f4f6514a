"""Laws of programs, spec -> program, and their checkpoints: saving and restoring, resuming, torn writes, wrong keys."""

from __future__ import annotations

import contextlib
import copy
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import CheckpointError
from ...core.laws import Laws, Trial
from ..checkpoints.checkpoint import Checkpoints
from ..run import Run
from .runs import first_difference, fit, folder, leaves, saved, spec_of

laws = Laws("program")
POINTS = 20
"""Bytes at which a write is torn."""


# -- saving and restoring ----------------------------------------------------------------------------------------------
@laws.law(
    "K1",
    "save_restore",
    priority=0,
    seconds=120,
    why="What a checkpoint forgets or casts is another run after a resume; saving that moves a stream is another one before.",
    satisfy="Let every part tell all of its state in state_dict(), read without changing anything, in the dtypes it has.",
    catches=("accelerate#4308", "pytorch#43706: state cast on load", "a state_dict that counts its calls"),
)
def save_restore(trial: Trial) -> None:
    """Restoring what was saved, through a file into a fresh program, is the identity on all state; saving changes nothing."""
    spec = spec_of(trial)
    with folder() as place:
        run, _ = fit(trial, spec, place / "run")
        program = run.program
        with trial.component("state_dict"):
            first = copy.deepcopy(program.state_tree())
            second = program.state_tree()
        _same(trial, "a second look at the state", second, first, cause="state_dict changes what it tells")
        store = _store(trial, run, place / "saved")
        with trial.component("saving"):
            store.save(1, {"program": program.state_tree()}, {})
        _same(trial, "the state after saving", program.state_tree(), first, cause="saving changes the state")
        with trial.component("loading"):
            read = store.load(store.path(1)).tree["program"]
        _same(
            trial,
            "what is read back from the file",
            read,
            first,
            cause="the file does not hold it, or holds it in another dtype",
        )
        fresh = Run(spec, place / "fresh").program
        cold = copy.deepcopy(fresh.state_tree())
        with trial.component("restoring"):
            fresh.restore(read)
        _same(
            trial,
            "the state of a fresh program after a restore",
            fresh.state_tree(),
            first,
            cause="a part does not put its state back",
        )
        trial.control("a fresh program's state differs", first_difference(cold, first) is not None)


def _store(trial: Trial, run: Run, where: Path) -> Any:
    """The checkpoints in a folder: by the class that the example names, or mapsto's own."""
    return trial.example.more.get("checkpoints", Checkpoints)(where, run.wing)


def _same(trial: Trial, what: str, got: Any, want: Any, *, cause: str, **first: Any) -> None:
    mine, theirs = leaves(got), leaves(want)
    wrong = [p for p in {**theirs, **mine} if mine.get(p) != theirs.get(p)]
    if wrong:
        missing = [p for p in wrong if p not in mine]
        said = (
            f"{what}: {len(missing)} of its parts are missing, such as {missing[0]}"
            if missing
            else f"{what}: {wrong[0]} differs"
        )
        trial.fail(
            said, measured=f"{len(wrong)} of {len(theirs)} parts", allowed=0, first={**first, "path": wrong[0]}, cause=cause
        )
    trial.exercised(what, len(theirs))


# -- resuming ----------------------------------------------------------------------------------------------------------
@laws.law(
    "K2",
    "resume",
    priority=0,
    seconds=240,
    why="An interrupted run that goes on differently is neither the old run nor a new one, and nobody can repeat it.",
    satisfy="Keep nothing random and no counter outside state_dict(): derive draws from (seed, step), positions from the step.",
    catches=("pytorch-lightning#17543", "torchtitan#1213", "a generator inside a layer or transform"),
)
def resume(trial: Trial) -> None:
    """Resumed at every step of a short run, and once in a new process, it reaches the bits of an uninterrupted run."""
    spec = spec_of(trial)
    with folder() as place:
        whole, result = fit(trial, spec, place / "whole")
        last = result.steps
        wanted = {step: saved(whole, step) for step in range(1, last + 1)}
        for cut in range(1, last):
            with trial.case(saved_at=cut, steps=last):
                _cut(place / "whole", place / f"cut {cut}", cut)
                again, _ = fit(trial, spec, place / f"cut {cut}", resume=True)
                for step in range(cut, last + 1):
                    cause = "state outside the checkpoint: a generator, a counter, or a position"
                    _same(trial, f"step {step}", saved(again, step), wanted[step], cause=cause, step=step)
        cold = Run(spec, place / "cold").program.state_tree()
        trial.control("a cold start differs", first_difference(cold, wanted[last]["program"]) is not None)
        if last > 1:
            _elsewhere(trial, spec, place, last, wanted[last])


def _cut(whole: Path, where: Path, step: int) -> None:
    """The run as it would be had it ended at a step."""
    shutil.copytree(whole, where)
    for path in (where / "checkpoints").iterdir():
        if path.name.rpartition("-")[2].isdigit() and int(path.name.rpartition("-")[2]) > step:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _elsewhere(trial: Trial, spec: Any, place: Path, last: int, wanted: dict[str, Any]) -> None:
    """The same in a new process, where the folder alone says what is run."""
    if (
        not Run(spec, place / "whole").folder.environment().get("resumable_from_folder", False)
        or "checkpoints" in trial.example.more
    ):
        return
    where, step = place / "elsewhere", last // 2
    _cut(place / "whole", where, max(step, 1))
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    code = "import sys; from mapsto.engine.run import Run; Run.resume(sys.argv[1]).fit()"
    paths = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(  # noqa: S603  # our own module
        [sys.executable, "-W", "ignore", "-c", code, str(where)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": paths},
    )
    with trial.case(saved_at=step, process="a new one"):
        trial.demand(done.returncode == 0, f"it could not be resumed there: {done.stderr.strip().splitlines()[-1:]}")
        cause = "something that only this process knows"
        _same(trial, "the last step in a new process", saved(Run(spec, where), last), wanted, cause=cause, step=last)


# -- torn writes -------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _two(trial: Trial) -> Iterator[tuple[Any, Callable[[], None], Callable[[], None]]]:
    """A store that holds step 1, what writes step 2 into it, and what puts its folder back."""
    with folder() as place:
        run = Run(spec_of(trial), place / "run")
        tree = {"program": run.program.state_tree()}
        store = _store(trial, run, place / "checkpoints")
        with trial.component("saving"):
            store.save(1, tree, {})
        shutil.copytree(place / "checkpoints", place / "as it was")

        def save() -> None:
            store.save(2, tree, {})

        yield store, save, lambda: _again(place / "as it was", place / "checkpoints")


def _again(kept: Path, where: Path) -> None:
    """Put a copy of the folder `kept` in the place of the folder `where`, which a law has gone on with."""
    shutil.rmtree(where)
    shutil.copytree(kept, where)


def _child(act: Callable[[], None]) -> int:
    """Run in a forked child; its wait status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # threads that a fork leaves behind take no part
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            act()
            code = 0
        except BaseException:  # noqa: BLE001  # the parent looks at what is on the disk
            code = 2
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def _intact(trial: Trial, store: Any, done: bool, **first: Any) -> None:
    """The newest that can be loaded is at least the last that was acknowledged."""
    try:
        newest = store.load(store.find("last"))
    except Exception as error:  # noqa: BLE001  # whatever a store raises
        trial.fail(
            f"after a write that was cut, the newest checkpoint cannot be loaded: {type(error).__name__}: {str(error)[:200]}",
            first=first,
            cause="it is written in place, so that a half of it stands under its name"
            if Path(store.path(1)).exists()
            else "the last one is removed before the next is there",
        )
    step = int(Path(newest.path).name.rpartition("-")[2])
    trial.demand(step >= (2 if done else 1), f"step {2 if done else 1} was acknowledged, and {step} is the newest", first=first)


@laws.law(
    "K3",
    "torn_writes",
    priority=0,
    seconds=120,
    why="A full disk or a kill in the middle of a write is when a checkpoint is needed; a torn one may take the last along.",
    satisfy="Write under another name, sync, rename; verify a checksum before anything is restored.",
    catches=("pytorch-lightning#688", "pytorch-lightning#19970"),
)
def torn_writes(trial: Trial) -> None:
    """With the writer ended at any byte, the newest checkpoint loads and is not older than the last acknowledged one."""
    with _two(trial) as (store, save, again):
        written = Path(store.path(1))
        size = max(f.stat().st_size for f in (written.rglob("*") if written.is_dir() else [written]))
        killed = 0
        for point in range(POINTS):
            limit = size * point // (POINTS - 1)

            def torn(limit: int = limit) -> None:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                save()

            status = _child(torn)
            killed += os.WIFSIGNALED(status)
            done = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
            with trial.case(torn_at=limit, of=size):
                _intact(trial, store, done, byte=limit)
            again()
            if done:
                break
    trial.control("a writer was ended", killed > 0)


@laws.law(
    "K4",
    "all_or_nothing",
    priority=1,
    seconds=120,
    why="A checkpoint of several files that was cut between two of them mixes the steps of two, and loads.",
    satisfy="Put all files into one directory under a temporary name, and rename it when the last one is synced.",
    catches=("adaptdl#81",),
)
def all_or_nothing(trial: Trial) -> None:
    """With the writer killed at each system call that opens, syncs or renames, one checkpoint is there whole or not at all."""
    with _two(trial) as (store, save, again):
        killed = 0
        for call in range(1, 60):
            status = _child(lambda call=call: killed_at(call, save))  # type: ignore[misc]
            done = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
            killed += os.WIFSIGNALED(status)
            with trial.case(killed_at_call=call):
                _intact(trial, store, done, call=call)
            again()
            if os.WIFEXITED(status):
                break
    trial.control("a writer was killed", killed > 0)


def killed_at(call: int, save: Callable[[], None]) -> None:
    """Save, and be killed right after the call of that number."""
    count = 0

    def audit(event: str, _: Any) -> None:
        nonlocal count
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.link", "os.truncate"):
            count += 1
            if count >= call:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    save()


# -- keys --------------------------------------------------------------------------------------------------------------
@laws.law(
    "K5",
    "keys",
    priority=1,
    seconds=120,
    why="A key that is left out in silence is a part that starts afresh in a run that says that it was resumed.",
    satisfy="Compare the keys of what is loaded with one's own before anything is changed, and name those that differ.",
    catches=("load_state_dict(strict=False)", "tree.get(name, default) in a load"),
)
def keys(trial: Trial) -> None:
    """A key that is missing or unexpected anywhere in the saved state is an error, and nothing was changed by then."""
    spec = spec_of(trial)
    with folder() as place:
        run, _ = fit(trial, spec, place / "run")
        tree = copy.deepcopy(run.program.state_tree())
        program = Run(spec, place / "fresh").program
        before = copy.deepcopy(program.state_tree())
        for path in _paths(tree):
            for how in ("missing", "unexpected"):
                if how == "unexpected" and len(path) > 1 and path[0] in ("optimizer", "schedule"):
                    continue  # of the state that these keep, only they know
                with trial.case(key=".".join(map(str, path)), how=how):
                    _refused(trial, program, _changed(tree, path, how), before, whole=len(path) < 3)
        with trial.component("restoring what was saved"):
            program.restore(tree)
    trial.control("what was saved is accepted", first_difference(program.state_tree(), tree) is None)


def _paths(tree: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Keys of the tree and of its parts, some of each."""
    found: list[tuple[Any, ...]] = [(k,) for k in tree]
    found += [("model", k) for k in list(tree["model"])[:4]]
    found += [("optimizer", k) for k in tree["optimizer"]]
    for name, own in tree["middleware"].items():
        found.append(("middleware", name))
        if isinstance(own, Mapping):
            found += [("middleware", name, k) for k in own]
            found += [("middleware", name, k, j) for k, v in own.items() if isinstance(v, Mapping) for j in list(v)[:2]]
    if isinstance(tree["schedule"], Mapping):
        found += [("schedule", "last_epoch")] if "last_epoch" in tree["schedule"] else []
    return found


def _changed(tree: Mapping[str, Any], path: tuple[Any, ...], how: str) -> dict[str, Any]:
    """A copy of the tree without the key, or with another beside it."""
    made = copy.deepcopy(dict(tree))
    at: Any = made
    for key in path[:-1]:
        at = at[key]
    if how == "missing":
        del at[path[-1]]
    else:
        at[f"{path[-1]}_of_another_version"] = copy.deepcopy(at[path[-1]])
    return made


def _refused(trial: Trial, program: Any, tree: dict[str, Any], before: Any, *, whole: bool) -> None:
    """Demand that it is refused, and (`whole`: unless a part refuses its own state, when others were restored) unchanged."""
    try:
        program.restore(tree)
    except (CheckpointError, KeyError, ValueError, RuntimeError, TypeError) as error:
        if isinstance(error, CheckpointError) and whole:
            path = first_difference(program.state_tree(), before)
            trial.demand(path is None, f"it was refused, and {path} was changed by then", cause="it is compared too late")
        trial.exercised("keys refused")
        program.restore(before)
        return
    trial.fail(
        "a state with another key is restored without an error",
        allowed="an error",
        measured="restored",
        cause="the key is left out in silence",
    )
