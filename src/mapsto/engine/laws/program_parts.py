"""Laws of the checkpoints of programs on several ranks: any number of them reads what any other wrote, all or nothing."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.laws import Laws, Trial
from ...core.per_rank import PerRank
from ...core.spec import Spec
from ..checkpoints.checkpoint import Checkpoints
from ..consolidate import consolidated
from ..run import Run
from .forked import forked
from .program import killed_at
from .runs import first_difference, folder, leaves, spec_of

laws = Laws("program")
STEPS = 2
CALLS = 40
"""System calls of one rank at which it is killed at most."""


def _sharded(trial: Trial) -> tuple[Spec, type[Checkpoints]]:
    """The spec on as many ranks as there are, and the class of its checkpoints."""
    spec = spec_of(trial)
    made = dataclasses.replace(
        spec, mesh={"shard": -1}, micro_shards=spec.micro_shards or 6, steps=min(spec.steps or STEPS, STEPS)
    )
    with trial.component("loading the framework"):
        prepare = getattr(Run(spec, "unused").wing, "prepare", None)
        if prepare is not None:
            prepare()
    return made, trial.example.more.get("checkpoints", Checkpoints)


def _on_ranks(trial: Trial, world: int, act: Callable[[int], Any], what: str) -> list[Any]:
    """What each rank answers; a refusal of the mesh is told as one, and anything else as the finding."""
    found = forked(world, act)
    for rank, (status, answer) in enumerate(found):
        if status != 0:
            refused = next((a for _, a in found if isinstance(a, str) and ("SpecError" in a or "ComposeError" in a)), None)
            if refused is not None:
                trial.skip(f"it is refused on several ranks: {refused.strip().splitlines()[-1]}")
            said = answer.strip().splitlines()[-1] if isinstance(answer, str) else f"it ended with status {status}"
            trial.fail(f"{what}, rank {rank} of {world}: {said}", first={"rank": rank}, cause=None)
    return [answer for _, answer in found]


def _stepped(spec: Spec, where: Path) -> Run:
    """The program of a spec on these ranks after a few steps."""
    run = Run(spec, where)
    with run.reader("train").stream(0, STEPS, **run.program.reader_args) as stream:
        for _, batch in stream:
            run.program.step(batch)
    return run


@laws.law(
    "K1b",
    "ranks_save_restore",
    priority=0,
    seconds=120,
    why="What the checkpoint of a sharded run forgets or casts is another run after a resume, on every rank another one.",
    satisfy="Let every part tell all of its state in state_dict(), as parts where it goes with a sharded parameter.",
    catches=("sharded state that is cast when it is saved", "pytorch#43706"),
)
def ranks_save_restore(trial: Trial) -> None:
    """Restoring what two ranks saved into a fresh program on two ranks is the identity on all that each rank holds."""
    spec, store = _sharded(trial)
    with folder() as place:

        def act(_: int) -> Any:
            run = _stepped(spec, place / "run")
            held, tree = store(place / "saved", run.wing, run.ranks), run.program.state_tree()
            wanted = leaves(_own(tree))
            held.save(1, {"program": tree}, {})
            after = leaves(_own(run.program.state_tree()))
            fresh = Run(spec, place / "run")
            cold = leaves(_own(fresh.program.state_tree()))
            fresh.program.restore(held.load(held.path(1), fresh.program).tree["program"])
            return wanted, after, leaves(_own(fresh.program.state_tree())), cold

        for rank, (wanted, after, found, cold) in enumerate(_on_ranks(trial, 2, act, "saving and restoring")):
            _same(trial, "the state after saving", after, wanted, rank=rank, world=2)
            _same(trial, "the state of a fresh program after a restore", found, wanted, rank=rank, world=2)
            trial.control("a fresh program's state differs", cold != wanted)


def _own(tree: Any) -> Any:
    """Of a state what this rank holds."""
    if isinstance(tree, dict):
        return {key: _own(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_own(value) for value in tree]
    value = tree.value if isinstance(tree, PerRank) else tree
    return value.to_local() if hasattr(value, "to_local") else value


@laws.law(
    "S5",
    "reshard",
    priority=1,
    seconds=180,
    why="A shard in the wrong place is a model that loads, trains on, and is another one; a run is bound to its machines.",
    satisfy="Keep state that goes with a parameter in its shape, under its name; all other alike on all ranks, or as PerRank.",
    catches=("a shard written as the whole", "shards put together in another order"),
)
def reshard(trial: Trial) -> None:
    """What two ranks saved is loaded bitwise by one process, by three ranks and by two, and as one plain file of weights."""
    spec, store = _sharded(trial)
    alone = dataclasses.replace(spec, mesh=None)

    with folder() as place:

        def first(_: int) -> Any:
            run = _stepped(spec, place / "run")
            store(place / "2", run.wing, run.ranks).save(1, {"program": run.program.state_tree()}, {})
            return run.program.weights()

        def again(number: int) -> Callable[[int], None]:
            def act(_: int) -> None:
                run = Run(spec, place / "run")
                read = store(place / "1", run.wing, run.ranks)
                run.program.restore(read.load(read.path(1), run.program, looking=True).tree["program"])
                store(place / f"{number} again", run.wing, run.ranks).save(1, {"program": run.program.state_tree()}, {})

            return act

        weights = _on_ranks(trial, 2, first, "saving")[0]
        one = Run(alone, place / "one")
        cold = one.program.weights()
        with trial.component("loading what two ranks saved in one process"):
            saved = store(place / "2", one.wing)
            tree = saved.load(saved.path(1), looking=True).tree["program"]
            one.program.restore(tree)
        wanted = leaves(tree)
        _same(trial, "the weights in one process", leaves(one.program.weights()), leaves(weights), reader=1, writers=2)
        with trial.component("one plain file of weights"):
            plain = consolidated(saved.path(1), one.wing, place / "weights.safetensors")
            loaded = {n: _array(t) for n, t in one.wing.load_tensors(plain.path).items()}
        _same(trial, "the plain file of weights", leaves(loaded), leaves(weights), reader=1, writers=2)
        with trial.component("saving in one process"):
            store(place / "1", one.wing).save(1, {"program": one.program.state_tree()}, {})
        for number in (3, 2):
            _on_ranks(trial, number, again(number), "loading what one process saved")
            back = store(place / f"{number} again", one.wing)
            with trial.component("loading what ranks saved in one process"):
                found = back.load(back.path(1), looking=True).tree["program"]
            _same(trial, f"the state after {number} ranks", leaves(found), wanted, writers=1, reader=number)
        trial.control("a fresh program has other weights", first_difference(cold, weights) is not None)


def _array(tensor: Any) -> Any:
    return tensor.numpy() if hasattr(tensor, "numpy") else tensor


def _same(trial: Trial, what: str, got: dict[str, str], want: dict[str, str], **case: Any) -> None:
    wrong = [p for p in {**want, **got} if got.get(p) != want.get(p)]
    with trial.case(**case):
        trial.demand(
            not wrong,
            f"{what}: {wrong[0] if wrong else ''} is not what was saved",
            measured=f"{len(wrong)} of {len(want)} parts",
            allowed=0,
            first={"path": wrong[0] if wrong else ""},
            cause="a part of it is read or written as the whole, or in another place",
        )
    trial.exercised(what, len(want))


@laws.law(
    "K4b",
    "ranks_all_or_nothing",
    priority=1,
    seconds=240,
    why="Ranks die one at a time: a checkpoint of which some have written their part is loaded, and mixes two steps.",
    satisfy="Let ranks write into one directory of a temporary name; rename it when all files of all ranks are synced.",
    catches=("a directory that has its name before the last rank has written",),
)
def ranks_all_or_nothing(trial: Trial) -> None:
    """With one of two ranks killed at any of its system calls while they save, a checkpoint is there whole or not at all."""
    spec, store = _sharded(trial)
    with folder() as place:
        killed = 0
        for rank in (1, 0):
            for call in range(1, CALLS):
                where = place / f"{rank}-{call}"

                def save(me: int, rank: int = rank, call: int = call, where: Path = where) -> None:
                    run = Run(spec, place / "run")
                    made = store(where, run.wing, run.ranks)
                    tree = {"program": run.program.state_tree()}
                    made.save(1, tree, {})

                    def write() -> None:
                        made.save(2, tree, {})

                    killed_at(call, write) if me == rank else write()

                found = forked(2, save)
                if not killed and all(isinstance(a, str) for _, a in found):
                    _on_ranks(trial, 2, save, "saving")
                ended = os.WIFSIGNALED(found[rank][0])
                killed += ended
                with trial.case(killed_rank=rank, at_call=call, world=2):
                    _whole(trial, store, where, done=all(status == 0 for status, _ in found), rank=rank, call=call)
                if not ended:
                    break
    trial.control("ranks were killed", killed > 0)


def _whole(trial: Trial, store: Any, where: Path, done: bool, **first: Any) -> None:
    """The newest loads, and is not older than what was acknowledged."""
    held = store(where, Run(spec_of(trial), where / "unused").wing)
    try:
        newest = held.load(held.find("last"), looking=True)
    except Exception as error:  # noqa: BLE001  # whatever a store raises
        trial.fail(
            f"after a rank was killed the newest checkpoint cannot be loaded: {type(error).__name__}: {str(error)[:200]}",
            first=first,
            cause="it has its name before all ranks have written",
        )
    step = int(Path(newest.path).name.rpartition("-")[2])
    trial.demand(step >= (2 if done else 1), f"step {2 if done else 1} was acknowledged, and {step} is the newest", first=first)
