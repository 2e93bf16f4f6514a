"""Laws of trainings that one did not write, data -> weights: the seed, accumulation, clipping, resuming, order, evaluation.

A training is a function `train(data, *, seed, batch_size, steps, ...) -> weights`, a few lines around any trainer. Its other
keywords are what it states that it can do, and a law whose keyword it does not take does not concern it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..core.laws import Laws, Trial
from .compare import differs, same
from .training_inputs import EPS, Records, Weights, apart, features, length, near, needs, records, run

laws = Laws("training")
METRIC = 1e-5
"""How far a metric may lie from itself with other batches, relative to its size: what float32 rounds off."""
BOUND = 0.1
"""On the norm of a gradient: below that of a model that was not trained yet."""
UPDATES = 7
"""Updates of a run that is interrupted: with three batches an epoch, in the middle of one and at the end."""


@laws.law(
    "Z1",
    "seeded",
    priority=0,
    tolerance="T0",
    seconds=100,
    why="A run that its seed does not determine cannot be repeated, compared with another or resumed.",
    satisfy="Seed every generator at the beginning of the run; build the model and the optimizer anew within it.",
    catches=("darts#2463", "a model that the run before has trained", "a seed that reaches no generator"),
)
def seeded(trial: Trial) -> None:
    """The same seed gives bitwise the same weights in a second run of the process; another seed gives others."""
    data = records(trial, 10)
    first = run(trial, data, batch_size=4, steps=4)
    other = run(trial, data, batch_size=4, steps=4, seed=trial.seed + 1)
    same(trial, "the weights of a second run", run(trial, data, batch_size=4, steps=4), first)
    trial.demand(
        differs(first, other), f"seeds {trial.seed} and {trial.seed + 1} give the same weights", cause="no seed is read"
    )


# -- accumulating ------------------------------------------------------------------------------------------------------
def _plain(trial: Trial, count: int, **options: Any) -> tuple[Weights, list[int]]:
    """The weights after two updates on so many records in their order, without dropout; and which records it read."""
    data = records(trial, count)
    found = run(trial, data, steps=2, shuffle=False, dropout=False, **options)
    return found, data.read


def _reach(trial: Trial, want: Weights, **options: Any) -> float:
    """How far apart training on fewer records takes the weights."""
    alone, _ = _plain(trial, 2, batch_size=8, **options)
    reach = apart(alone, want)
    trial.control("a micro-batch alone gives other weights", reach > 1e3 * EPS * length(want))
    return reach


@laws.law(
    "Z2",
    "accumulation",
    priority=0,
    tolerance="T4",
    seconds=100,
    why="Accumulation is there so that a batch need not fit; a mean of the means of uneven micro-batches trains another model, "
    "and the loss curve hides it.",
    satisfy="Divide the summed loss by the number of targets of the whole batch, ignored ones left out; at the end of an epoch "
    "by what there was. Check with plain SGD: Adam hides a constant factor. Take shuffle, and dropout where there is any.",
    catches=("transformers#34191", "transformers#37766", "trl#2175", "a last window divided by as many as the full ones"),
)
def accumulation(trial: Trial) -> None:
    """Micro-batches of two records, the last one and the last window shorter, give the weights of the whole batch."""
    needs(trial, "accumulate")
    for count in (8, 7, 5):
        with trial.case(records=count, batch_size=2, accumulate=4):
            want, order = _plain(trial, count, batch_size=8, accumulate=1)
            got, read = _plain(trial, count, batch_size=2, accumulate=4)
            lost = sorted(set(order) - set(read))
            trial.demand(not lost, f"with accumulation it leaves out records {lost}")
            if read[:count] != order[:count]:
                trial.undecided("it reads the records in another order with other batches: let it take shuffle=False")
            near(trial, "the weights with accumulation", got, want, _reach(trial, want, accumulate=1))


@laws.law(
    "Z3",
    "clipping",
    priority=1,
    tolerance="T4",
    seconds=100,
    why="A bound on the norm of a part of the gradient is another bound, and changes with the size of the micro-batches.",
    satisfy="Clip once an update, after the last micro-batch, the gradient of the whole batch.",
    catches=("accelerate#641", "diffusers#721", "tt-metal#17568"),
)
def clipping(trial: Trial) -> None:
    """Clipped and accumulated over four micro-batches, an update is that of the whole batch, clipped."""
    needs(trial, "accumulate", "clip")
    with trial.case(records=8, batch_size=2, accumulate=4, clip=BOUND):
        free, _ = _plain(trial, 8, batch_size=8, accumulate=1)
        want, _ = _plain(trial, 8, batch_size=8, accumulate=1, clip=BOUND)
        got, _ = _plain(trial, 8, batch_size=2, accumulate=4, clip=BOUND)
        reach = _reach(trial, want, accumulate=1, clip=BOUND)
        trial.control("clipping changes the update", apart(free, want) > reach)
        apart_unclipped = apart(_plain(trial, 8, batch_size=2, accumulate=4)[0], free) > 1e-2 * apart(free, want)
        cause = (
            "accumulation gives other weights without clipping, too" if apart_unclipped else "a part of the gradient is clipped"
        )
        near(trial, "the weights", got, want, reach, cause=cause)


# -- interrupting ------------------------------------------------------------------------------------------------------
@laws.law(
    "Z4",
    "resume",
    priority=0,
    tolerance="T0",
    seconds=100,
    why="Long runs are interrupted; one that goes on with other records, rates, moments or dropout is another run.",
    satisfy="Save weights, optimizer, schedule, the place within the epoch, its order, and every random generator.",
    catches=("transformers#11323", "pytorch-lightning#17543", "pytorch-lightning#5325", "the_well#77"),
)
def resume(trial: Trial) -> None:
    """Saved after any update and resumed by a run of its own, it ends with the bits of the run that was not interrupted."""
    needs(trial, "until", "save", "resume")
    plan: dict[str, Any] = {"batch_size": 4, "steps": UPDATES}
    whole = records(trial, 10)
    want = run(trial, whole, until=UPDATES, **plan)
    if differs(run(trial, records(trial, 10), until=UPDATES, **plan), want):
        trial.fail("two runs that nothing interrupts end with other weights", cause="the seed does not determine the run")
    with tempfile.TemporaryDirectory() as folder:
        for k in range(1, UPDATES):
            with trial.case(saved_after=k, updates=UPDATES, records=10, batch_size=4):
                at = Path(folder) / str(k)
                at.mkdir()
                before = run(trial, records(trial, 10), doing=f"saving after update {k}", until=k, save=at, **plan)
                run(trial, records(trial, 10), until=1, **{**plan, "seed": trial.seed + 1})  # another's random numbers
                rest = records(trial, 10)
                got = run(trial, rest, doing=f"resuming after update {k}", until=UPDATES, resume=at, **plan)
                cause = None if rest.read[-2:] == whole.read[-2:] else "it reads other records"
                same(trial, "the weights at the end", got, want, cause=cause)
            trial.control("the updates after a save change the weights", differs(before, want))


@laws.law(
    "Z5",
    "undisturbed",
    priority=0,
    tolerance="T0",
    seconds=100,
    why="Who looks more often trains another model where looking draws random numbers, leaves a mode or updates statistics.",
    satisfy="Put the modes back after evaluating; give the loader of the evaluation a generator of its own.",
    catches=("vsepp#4", "sd-scripts#1864", "char-rnn#17", "a model that stays in evaluation mode"),
)
def undisturbed(trial: Trial) -> None:
    """An evaluation after every update leaves bitwise the weights of a run without any."""
    needs(trial, "evaluate_every")
    quiet, watched = records(trial, 10), records(trial, 10)
    want = run(trial, quiet, batch_size=4, steps=5, evaluate_every=None)
    got = run(trial, watched, batch_size=4, steps=5, evaluate_every=1)
    with trial.case(evaluate_every=1, updates=5):
        same(trial, "the weights with evaluations", got, want)
    trial.control("the evaluation reads records", len(watched.read) > len(quiet.read))


# -- reading -----------------------------------------------------------------------------------------------------------
def _epochs(trial: Trial, seed: int) -> tuple[list[int], list[int]]:
    """The records of the first and of the second epoch, in their order."""
    data = records(trial, 12)
    run(trial, data, batch_size=4, steps=6, seed=seed)
    return data.read[:12], data.read[12:]


@laws.law(
    "Z6",
    "order",
    priority=0,
    tolerance="T0",
    seconds=100,
    why="Records that are left out or come twice, and epochs in one and the same order, train another model than was said.",
    satisfy="Draw a permutation an epoch from the seed and the number of the epoch.",
    catches=("pytorch#31771", "DALLE-pytorch#230", "a sampler with replacement"),
)
def order(trial: Trial) -> None:
    """Each of two epochs reads each record once; shuffled, they have orders of their own, which another seed changes."""
    first, second = _epochs(trial, trial.seed)
    for number, read in enumerate((first, second)):
        with trial.case(epoch=number, records=12):
            wrong = next((i for i in range(12) if read.count(i) != 1), None)
            said = f"record {wrong} is read {read.count(wrong or 0)} times; {len(read)} records are read, and 12 are due"
            trial.demand(wrong is None and len(read) == 12, said, first={"record": wrong})
    if "shuffle" not in features(trial) and first == second == sorted(first):
        return
    trial.demand(first != second, "both epochs have the same order", cause="the epoch's number does not reach the order")
    trial.demand((first, second) == _epochs(trial, trial.seed), "the same seed gives another order")
    trial.demand(first != _epochs(trial, trial.seed + 1)[0], "another seed gives the same order", cause="no seed is read")


@laws.law(
    "Z7",
    "evaluation",
    priority=0,
    tolerance="T4",
    seconds=100,
    why="A figure that depends on how its records were cut into batches cannot be compared with anyone's.",
    satisfy="Add up sums and weights and divide once at the end; drop no record, pad none twice; evaluate in evaluation mode.",
    catches=("transformers#41898", "transformers#24839", "transformers#16865", "ganslate#74"),
)
def evaluation(trial: Trial) -> None:
    """Whatever the batches and the order, each record is read once and the metrics are those of all records in one batch."""
    evaluate = trial.example.more.get("evaluate")
    if evaluate is None:
        trial.skip("it states no evaluation: mapsto.example(train, evaluate=...) names none")

    def told(count: int, size: int, turn: int = 1) -> dict[str, float]:
        data = Records(records(trial, count).records[::turn])
        with trial.component(f"evaluating with batches of {size}"):
            found = {str(n): float(v) for n, v in evaluate(data, seed=trial.seed, batch_size=size).items()}
        wrong = next((i for i in range(count) if data.read.count(i) != 1), None)
        trial.demand(wrong is None, f"record {wrong} is read {data.read.count(wrong or 0)} times", first={"record": wrong})
        return found

    with trial.case(records=7):
        want = told(7, 7)
    for size, turn in ((3, 1), (2, 1), (1, 1), (3, -1)):
        with trial.case(records=7, batch_size=size, order="reversed" if turn < 0 else "as stated"):
            got = told(7, size, turn)
            for name, due in want.items():
                error, allowed = abs(got.get(name, float("nan")) - due), METRIC * max(abs(due), 1e-3)
                said = f"{name} is {got.get(name)}, and {due} with one batch"
                trial.demand(error <= allowed, said, measured=error, allowed=allowed, first={"metric": name})
    fewer = told(4, 4)
    trial.control("fewer records give other metrics", any(fewer.get(n) != v for n, v in want.items()))
