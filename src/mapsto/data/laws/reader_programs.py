"""A law of readers over whole programs of calls, with Hypothesis: the shortest that fails is the witness."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from ...core.errors import MissingExtra, require
from ...core.laws import Laws, Trial
from .contents import keys_of
from .driving import Readers, kept_state

laws = Laws("reader")


@laws.law(
    "D9",
    "any_program",
    priority=2,
    seconds=300,
    why="Bugs of state show in orders of calls that nobody wrote a test for: a save, an epoch's end, a restore, a save.",
    satisfy="Make reading a function of one position.",
    catches=("a restore at the end of an epoch followed by a save",),
)
def any_program(trial: Trial) -> None:
    """Any program of next, epoch, save, restore (into a fresh reader) and interrupt (both) gives what a list would."""
    try:
        hypothesis = require("hypothesis", "test", "the law reader.any_program")
    except MissingExtra as error:
        trial.undecided(str(error))
    readers = Readers(trial)
    options = {"shuffle": True} if readers.shuffles() else {}
    field = trial.example.more.get("id")
    with closing(readers.driven(7, **options)) as driven:
        if not driven.resumes:
            trial.skip("it has neither positions nor state_dict and load_state_dict: it does not claim to resume")
        lengths, whole = [], []
        for _ in range(8):
            batches = driven.epoch()
            lengths.append(len(batches))
            whole += [keys_of(b, field) for b in batches]
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    st = hypothesis.strategies
    names = ("next", "save", "epoch", "interrupt")
    calls = st.one_of(*(st.just((name, 0)) for name in names), st.tuples(st.just("restore"), st.integers(0, 5)))
    failed: list[tuple[list[Any], str]] = []

    def run(program: list[Any]) -> None:
        said = _differs(readers, options, program, whole, ends, field, trial)
        if said is not None:
            failed.append((program, said))
        assert said is None, said

    test = hypothesis.seed(trial.seed)(
        hypothesis.settings(max_examples=120, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))(
            hypothesis.given(program=st.lists(calls, min_size=5, max_size=14))(run)
        )
    )
    try:
        test()
    except AssertionError as error:
        program, said = failed[-1]
        words = "; ".join(name if name != "restore" else f"restore save {n}" for name, n in program)
        trial.fail(
            f"the program [{words}] gave something else than a list: {said}", measured=str(error)[:80], first={"program": words}
        )
    trial.control("batches differ", len({str(b) for b in whole}) > 1)


def _differs(
    readers: Readers, options: Any, program: list[Any], whole: list[Any], ends: list[int], field: str | None, trial: Trial
) -> str | None:
    """Run a program beside the list; what differs, or None."""
    driven, at, saves = readers.driven(7, **options), 0, []
    try:
        for name, number in program:
            if name == "next" and at < len(whole) - 1:
                (batch,) = driven.take(1)
                if (got := keys_of(batch, field)) != whole[at]:
                    return f"batch {at} is {got}, and {whole[at]} is due"
                at += 1
            elif name == "save":
                saves.append((kept_state(driven), at))
            elif name == "interrupt" or (name == "restore" and saves):
                state, at = (kept_state(driven), at) if name == "interrupt" else saves[number % len(saves)]
                driven.close()
                driven = readers.driven(7, **options)
                driven.restore(state)
            elif name == "epoch":
                end = next((e for e in ends if e > at), None)
                if end is None or end >= len(whole):
                    continue
                got = [keys_of(b, field) for b in driven.take(end - at)]
                if got != whole[at:end]:
                    return f"the rest of the epoch from batch {at} differs"
                at = end
            trial.exercised("calls")
    finally:
        driven.close()
    return None
