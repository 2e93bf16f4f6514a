"""Records: those that a set holds twice, and those of an evaluated set that are trained on."""

from __future__ import annotations

from collections.abc import Sequence

from ..figures import share
from ..survey.summary import Overlap, Repeats, SetSummary
from . import thresholds
from .evidence import Evidence
from .finding import Finding, Gravity


def records_repeated(evidence: Evidence) -> list[Finding]:
    """Training records whose input is there more than once."""
    train = evidence.set("train")
    if train is None or train.repeats is None:
        return []
    told, rate = train.repeats, _repeated(train)
    telling = told.bits >= thresholds.TELLING_BITS
    if rate < (thresholds.REPEATED_NOTE if telling else thresholds.REPEATED_CHANCE):
        return []
    said = [f"equal records: {_pairs(told.examples, 'train')}", _read(train)]
    if told.contrary:
        said.append(f"{told.contrary:,} of them have another target than the one before, though their input is the same")
    if not telling:
        said.append("an input says so little that equal ones may be chance")
    return [
        Finding(
            "records_repeated",
            Gravity.WRONG if telling and rate >= thresholds.REPEATED else Gravity.NOTE,
            f"{share(rate)} of the training records repeat the input of another one",
            evidence=tuple(said),
            where=(evidence.data_file, evidence.setting("data.train.source")),
            advice=(
                "a file or folder that was read twice, a join that multiplies rows, copies that were meant as augmentation",
                "drop the repetitions before data are split: else the same record is trained on and tested with",
                "if some records are to weigh more, say so: an order that draws them more often, or weights in the loss",
            ),
            values={"share": rate, "records": told.records, "examples": told.examples, "contrary": told.contrary},
            cost=rate,
        )
    ]


def _repeated(train: SetSummary) -> float:
    """The share of repetitions; where a good part of the records was read, as many more as there must be in all."""
    told = train.repeats
    assert told is not None
    seen = told.repeats / max(told.records, 1)
    part = told.records / max(train.records, told.records, 1)
    return min(seen / part, 1.0) if part >= 0.2 else seen


def records_shared(evidence: Evidence) -> list[Finding]:
    """Records of `valid` or `test` that are trained on."""
    train, found = evidence.set("train"), []
    for name in evidence.evaluated:
        told = evidence.set(name)
        if train is not None and told is not None and told.overlap is not None and told.overlap.found:
            found += _shared(evidence, name, told.overlap, train)
    return found


def _shared(evidence: Evidence, name: str, told: Overlap, train: SetSummary) -> list[Finding]:
    repeats = train.repeats or Repeats(0, 0, 0, 0, 0.0, [])
    copied = repeats.bits >= thresholds.TELLING_BITS and _repeated(train) >= thresholds.REPEATED
    chance = 0.0 if copied else repeats.alike / max(repeats.records, 1)  # what any new record would be found there by
    expected = told.records * chance
    excess = told.found - expected
    rate = excess / told.records
    grave = excess >= max(3.0, 4 * expected**0.5) and rate >= thresholds.SHARED
    if not grave and (chance > 0 or rate < thresholds.SHARED_NOTE):
        return []
    whole = told.read >= told.held
    said = [
        f"equal inputs: {', '.join(f'{name} {a:,} = train {b:,}' for a, b in told.examples)}",
        f"{told.records:,} records of {name} were compared with {'all' if whole else f'{told.read:,} of'} {told.held:,} of "
        f"training{'' if whole else ': there may be more'}",
    ]
    if expected >= 1:
        said.append(f"about {expected:,.0f} would be there by chance, as often as training records are equal to each other")
    if evidence.part(f"data.{name}.source") == evidence.part("data.train.source"):
        said.append(f"data.{name}.source and data.train.source are the same")
    return [
        Finding(
            "records_shared",
            Gravity.WRONG if grave else Gravity.NOTE,
            f"{told.found:,} of {told.records:,} records of {name} ({share(told.found / told.records)}) are in training",
            evidence=tuple(said),
            where=(evidence.data_file, evidence.setting(f"data.{name}.source"), evidence.setting("data.train.source")),
            advice=(
                f"what {name} says is too good: the model has seen these records with their answers",
                "split by record, or by what records have in common (person, document, day), before anything is repeated or "
                "augmented",
                f"let data.{name} read another file, folder or part than data.train",
            ),
            values={"set": name, "found": told.found, "records": told.records, "examples": told.examples},
            cost=min(rate, 1.0),
        )
    ]


def _pairs(examples: Sequence[tuple[int, int]], name: str) -> str:
    return ", ".join(f"{name} {a:,} = {b:,}" for a, b in examples)


def _read(told: SetSummary) -> str:
    return f"{'all' if told.read >= told.records else f'{told.read:,} of'} {told.records:,} records were read"
