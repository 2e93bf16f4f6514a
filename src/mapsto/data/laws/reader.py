"""Laws of readers: shards and resuming. Records are told apart by their `id`, or by all that they hold."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from contextlib import closing
from typing import Any

from ...core.laws import Laws, Trial
from .contents import digest, keys_of
from .driving import Readers, comparable, kept_state

laws = Laws("reader")
SIZES = (1, 2, 5, 13)
"""Records of the readers that are built, smallest first."""
MOST = 24
"""Batches of a resuming reader that are driven at most."""


def _keys(trial: Trial, batches: list[Any]) -> list[Any]:
    return [key for batch in batches for key in keys_of(batch, trial.example.more.get("id"))]


def keys_of_epochs(trial: Trial, readers: Readers, records: int, epochs: int = 1, **options: Any) -> list[list[Any]]:
    """The keys of whole epochs of one shard."""
    with closing(readers.driven(records, **options)) as driven, trial.component("reading an epoch"):
        return [_keys(trial, driven.epoch()) for _ in range(epochs)]


# -- shards ------------------------------------------------------------------------------------------------------------
@laws.law(
    "D1",
    "shards",
    priority=0,
    seconds=180,
    why="Records that two ranks both read count twice; those that none reads are never learnt, and metrics are wrong.",
    satisfy="Give shard s of S the s-th slice of each global batch; declare padding='repeat' or 'drop' where it pads.",
    catches=("pytorch#25162", "rf-detr#1507", "tail samples that are repeated to make the ranks even"),
)
def shards(trial: Trial) -> None:
    """The shards of an epoch are disjoint and together complete, for any number of shards and workers, or padded as
    declared.
    """
    readers = Readers(trial)
    for records in SIZES if readers.sized else (13,):
        for shuffle in (False, True) if readers.shuffles() else (None,):
            options = {} if shuffle is None else {"shuffle": shuffle}
            whole = keys_of_epochs(trial, readers, records, 2, **options)
            for epoch, keys in enumerate(whole):
                with trial.case(records=records, shards=1, epoch=epoch, **options):
                    _complete(trial, readers, keys, records)
            if not readers.known_shards(readers.drive(readers.reader(records, **options))):
                continue
            for count in (2, 3):
                with trial.case(records=records, shards=count, **options):
                    parts = [keys_of_epochs(trial, readers, records, 2, shard=s, shards=count, **options) for s in range(count)]
                    for epoch in range(2):
                        with trial.case(epoch=epoch):
                            _together(trial, [p[epoch] for p in parts], whole[epoch])
                    trial.control(
                        "a shard alone is not the epoch", records == 1 or any(Counter(p[0]) != Counter(whole[0]) for p in parts)
                    )
    if readers.workers:
        with trial.case(records=13, workers=2):
            found = keys_of_epochs(trial, readers, 13, 2, workers=2, **({"shuffle": True} if readers.shuffles() else {}))
            plain = keys_of_epochs(trial, readers, 13, 2, **({"shuffle": True} if readers.shuffles() else {}))
            for epoch in range(2):
                _together(trial, [found[epoch]], plain[epoch], who="the workers")


def _complete(trial: Trial, readers: Readers, keys: list[Any], records: int) -> None:
    """An unsharded epoch holds each record once, unless the reader declares that it draws with repetition."""
    trial.demand(bool(keys), "an epoch holds no record")
    if readers.repeats:
        trial.exercised("records", len(keys))
        return
    twice = [k for k, n in Counter(keys).items() if n > 1]
    trial.demand(
        not twice,
        f"record {twice[0] if twice else ''} comes {Counter(keys)[twice[0]] if twice else ''} times in one epoch "
        "(declare tags={'repeats'} where that is meant)",
        measured=len(twice),
        allowed=0,
    )
    if readers.sized and not trial.has("drops_last"):
        trial.demand(
            len(keys) == records,
            f"an epoch holds {len(keys)} records, and the source {records}",
            measured=len(keys),
            allowed=records,
            cause="the last batch is dropped (declare tags={'drops_last'} where it is meant)",
        )
    trial.exercised("records", len(keys))


def _together(trial: Trial, parts: list[list[Any]], whole: list[Any], who: str = "the shards") -> None:
    found, due = Counter(k for part in parts for k in part), Counter(whole)
    missing, extra = list((due - found).elements()), list((found - due).elements())
    padding, count = trial.example.more.get("padding"), len(parts)
    even = -(-len(whole) // count) if padding == "repeat" else len(whole) // count
    if padding in ("repeat", "drop"):
        sizes = [len(p) for p in parts]
        trial.demand(
            sizes == [even] * count, f"the shards hold {sizes} records, and {even} each are due with padding={padding!r}"
        )
        allowed = (0, even * count - len(whole)) if padding == "repeat" else (len(whole) - even * count, 0)
    else:
        allowed = (0, 0)
    if (len(missing), len(extra)) == allowed and set(extra) <= set(whole):
        trial.exercised("records", len(whole))
        return
    owner = next((s for s, part in enumerate(parts) if extra and extra[0] in part), None)
    cause = None
    if extra and not missing:
        cause = "tail records are repeated to make the shards even" if len(extra) < count else "shards overlap"
    elif missing and not extra:
        cause = "the remainder is dropped" if len(missing) < count else "shards leave records out"
    trial.fail(
        f"{who} miss {len(missing)} records ({missing[:5]}) and hold {len(extra)} too many ({extra[:5]})",
        measured=len(missing) + len(extra),
        allowed=sum(allowed),
        first={"record": (missing + extra)[0], "shard": owner},
        cause=cause,
    )


# -- resuming ----------------------------------------------------------------------------------------------------------
def _resuming(trial: Trial, readers: Readers, **options: Any) -> tuple[list[Any], int]:
    """Batches of an epoch and more without an interruption, as digests, and how many an epoch holds."""
    with closing(readers.driven(**options)) as driven:
        if not driven.resumes:
            trial.skip("it has neither positions nor state_dict and load_state_dict: it does not claim to resume")
        with trial.component("reading two epochs"):
            first = driven.epoch()
            rest = driven.take(min(len(first) + 2, MOST))
    return [comparable(trial, driven, b) for b in first + rest], len(first)


def _rest(trial: Trial, readers: Readers, state: Any, count: int, **options: Any) -> list[Any]:
    """What a fresh reader gives after a state is put back."""
    with closing(readers.driven(**options)) as driven:
        with trial.component("putting the state back"):
            driven.restore(pickle.loads(pickle.dumps(state)))  # a checkpoint is read from a file
            at_once = kept_state(driven)
        if digest(at_once) != digest(state):
            trial.fail(
                "its state right after it was put back is another one",
                measured=f"{at_once}"[:120],
                allowed=f"{state}"[:120],
                cause="load_state_dict takes effect only with the first batch, so that a second save loses it",
            )
        with trial.component("going on"):
            return [comparable(trial, driven, b) for b in driven.take(count)]


def _same_rest(trial: Trial, got: list[Any], want: list[Any], cut: int) -> None:
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        if a != b:
            late = next((d for d in (1, 2, -1) if 0 <= i + d < len(want) and a == want[i + d]), None)
            cause = {
                1: "one batch is skipped: the state is ahead of what was consumed",
                2: "batches are skipped: the state counts what was prefetched",
                -1: "a batch is repeated",
            }.get(late or 0)
            start = "it starts the epoch again" if cause is None and got[0] != want[0] else None
            trial.fail(
                f"saved after {cut} batches, batch {cut + i} differs from that of an uninterrupted reader",
                measured=_short(a),
                allowed=_short(b),
                first={"batch": cut + i, "cut": cut},
                cause=cause or start,
            )
    trial.exercised("batches after a restore", len(want))


def _short(found: Any) -> str:
    return f"records {list(found)[:6]}" if isinstance(found, tuple) else str(found)[:120]


@laws.law(
    "D2",
    "resume",
    priority=0,
    seconds=120,
    why="A run that goes on replays or skips data: it overfits some of it and never sees the rest.",
    satisfy="Make the state the position of the batch after the last consumed one, and let any batch follow from a position.",
    catches=("meta-pytorch/data#1437", "datasets#7447", "streaming#700", "a generator state that is not saved"),
)
def resume(trial: Trial) -> None:
    """Restored at any batch, 0, the last and the end of the epoch included, it goes on exactly, and the next epoch is whole."""
    readers = Readers(trial)
    options = {"shuffle": True} if readers.shuffles() else {}
    whole, length = _resuming(trial, readers, **options)
    with closing(readers.driven(**options)) as driven:
        states = [kept_state(driven)]
        for _ in range(min(length + 1, len(whole))):
            driven.take(1)
            states.append(kept_state(driven))
    for cut, state in enumerate(states):
        with trial.case(saved_after=cut, batches_per_epoch=length):
            _same_rest(trial, _rest(trial, readers, state, len(whole) - cut, **options), whole[cut:], cut)
    with closing(readers.driven(**options)) as driven, trial.component("reading a whole epoch"):
        driven.epoch()
        state = kept_state(driven)
    with trial.case(saved_after="the end of the epoch"):
        _same_rest(trial, _rest(trial, readers, state, len(whole) - length, **options), whole[length:], length)
    trial.control("a cold start differs", any(whole[: len(whole) - cut] != whole[cut:] for cut in range(1, len(states))))


@laws.law(
    "D3",
    "resume_twice",
    priority=0,
    why="A state that counts from the last restore loses what was consumed before it: only a second interruption shows it.",
    satisfy="Count from the start of the epoch (or of the run), not from the last restore.",
    catches=("KempnerForge#57",),
)
def resume_twice(trial: Trial) -> None:
    """Saved and restored a second time, within one epoch and across its end, it still goes on exactly."""
    readers = Readers(trial)
    options = {"shuffle": True} if readers.shuffles() else {}
    whole, length = _resuming(trial, readers, **options)
    for first, second in ((0, 1), (1, 1), (1, 2), (2, 1), (length - 1, 2), (length, 1)):
        if first < 0 or first + second >= len(whole):
            continue
        with trial.case(cuts=(first, first + second), batches_per_epoch=length):
            with closing(readers.driven(**options)) as driven:
                driven.take(first)
                state = kept_state(driven)
            with closing(readers.driven(**options)) as driven, trial.component("a second save"):
                driven.restore(state)
                driven.take(second)
                state = kept_state(driven)
            _same_rest(
                trial,
                _rest(trial, readers, state, len(whole) - first - second, **options),
                whole[first + second :],
                first + second,
            )
    trial.control("batches differ", len({str(b) for b in whole}) > 1)


@laws.law(
    "D6",
    "consumed",
    priority=1,
    seconds=120,
    why="Workers read ahead: a state that counts what they have read skips batches that no step has seen.",
    satisfy="Advance the state when a batch is handed out, and let state_dict return a copy.",
    catches=("llm-foundry#1277",),
)
def consumed(trial: Trial) -> None:
    """The state counts batches that were consumed, also while workers read ahead; a state that was saved does not
    change later.
    """
    readers = Readers(trial)
    options: dict[str, Any] = {"shuffle": True} if readers.shuffles() else {}
    if readers.workers:
        options["workers"] = 2
    plain = {n: v for n, v in options.items() if n != "workers"}
    whole, _ = _resuming(trial, readers, **plain)
    for cut in (1, 3):
        if cut >= len(whole):
            continue
        with trial.case(saved_after=cut, workers=options.get("workers", 0)):
            with closing(readers.driven(**options)) as driven:
                with trial.component("reading with workers"):
                    got = [comparable(trial, driven, b) for b in driven.take(cut)]
                time.sleep(0.05)  # so that what reads ahead has read
                held = driven.state()
                state = pickle.loads(pickle.dumps(held))  # just written
                driven.take(1)
                trial.demand(
                    digest(held) == digest(state),
                    "a state that was saved changed when reading went on",
                    cause="state_dict hands out what the reader goes on with",
                )
            trial.demand(got == whole[:cut], "with workers the batches are others", cause="worker processes change the order")
            _same_rest(trial, _rest(trial, readers, state, len(whole) - cut, **plain), whole[cut:], cut)
    trial.control("batches differ", len({str(b) for b in whole}) > 1)
