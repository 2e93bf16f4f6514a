"""Targets: labels that the input holds, too few classes, labels in blocks, and numbers that the model has no place for."""

from __future__ import annotations

import re
from typing import Any

from ..figures import number, share
from ..survey.summary import Label
from . import thresholds
from .endings import failure
from .evidence import Evidence
from .finding import Finding, Gravity

_BOUNDS = re.compile(
    r"Target (?P<target>-?\d+) is out of bounds|index (?P<index>-?\d+) is out of bounds for axis \d+ with size (?P<size>\d+)"
)
_TABLE = re.compile(r"index out of range in self|device-side assert", re.IGNORECASE)


def label_in_input(evidence: Evidence) -> list[Finding]:
    """Something in the input that is the label."""
    survey, train = evidence.survey, evidence.set("train")
    if survey is None or train is None:
        return []
    return [_label(evidence, told, told.field in survey.inputs, survey.target) for told in train.labels]


def _label(evidence: Evidence, told: Label, sure: bool, target: str) -> Finding:
    columns = f"column{'s' if len(told.columns) > 1 else ''} {', '.join(map(str, told.columns))} of {told.field!r}"
    what = {
        "one-to-one": f"{columns if told.columns != [0] else repr(told.field)} {'tell' if len(told.columns) > 1 else 'tells'} "
        + ("the class" if told.whole else "some of the classes"),
        "correlated": f"{columns} {'go' if len(told.columns) > 1 else 'goes'} with the target exactly (a correlation of 1)",
        "identical": f"the input {told.field!r} and the target {target!r} are the same",
        "in the text": f"the {'first' if told.columns == [0] else 'last'} word of {told.field!r} tells the class",
    }
    advice = (
        ("to predict what comes next, the target is the input shifted by one: target[t] = input[t + 1]",)
        if told.how == "identical"
        else (
            f"leave it out of the input: the model need look at nothing else, and will have no {target!r} when it is used",
            "a column that was written after the answer was known (a total, a status, a file name) tells it in the same way",
        )
    )
    return Finding(
        "label_in_input",
        Gravity.WRONG if sure and told.whole else Gravity.NOTE,
        f"the input holds the label: {what.get(told.how, told.how)}",
        evidence=(
            f"it holds for all of {told.records:,} records that were looked at",
            *(() if sure else (f"whether the model is given {told.field!r} is not known: the task does not tell its inputs",)),
        ),
        where=(evidence.data_file, evidence.setting("data.train")),
        advice=advice,
        values={"field": told.field, "columns": told.columns, "how": told.how},
    )


def one_class(evidence: Evidence) -> list[Finding]:
    """Targets that are all the same."""
    survey, train = evidence.survey, evidence.set("train")
    if survey is None or train is None:
        return []
    classes, batches = train.classes, train.fields.get(survey.target)
    if classes is not None and classes.distinct == 1 and classes.records >= thresholds.RECORDS:
        said, records = f"all targets are {classes.counts[0][0]}", classes.records
    elif classes is None and batches is not None and batches.same and batches.records >= thresholds.RECORDS:
        said, records = f"all targets are {number(batches.low) if batches.low is not None else 'the same'}", batches.records
    else:
        return []
    return [
        Finding(
            "one_class",
            Gravity.WRONG,
            f"{said} in the {records:,} training records that were looked at: there is nothing to tell apart",
            evidence=("the loss falls all the same, as the model learns to say this one thing whatever it is given",),
            where=(evidence.data_file, evidence.setting("data.train.source")),
            advice=(
                "a column, pattern or folder that was read wrongly; labels that were compared with another type (1 and '1')",
                "a filter or a limit that left one class: sorted files hold the others further on",
            ),
            values={"records": records},
        )
    ]


def classes_missing(evidence: Evidence) -> list[Finding]:
    """Classes that are evaluated and were never trained; classes that hardly occur."""
    train = evidence.set("train")
    if train is None or train.classes is None:
        return []
    found, trained = [], {label for label, _ in train.classes.counts}
    for name in evidence.evaluated:
        told = evidence.set(name)
        if told is None or told.classes is None or train.classes.distinct > len(trained) or train.classes.distinct == 1:
            continue
        unseen = [(label, n) for label, n in told.classes.counts if label not in trained]
        if not unseen:
            continue
        rate, whole = sum(n for _, n in unseen) / told.classes.records, train.read >= train.records
        found.append(
            Finding(
                "classes_missing",
                Gravity.WRONG if whole and rate >= thresholds.UNSEEN else Gravity.NOTE,
                f"{share(rate)} of {name} are of classes that training lacks: {', '.join(label for label, _ in unseen[:8])}",
                evidence=(
                    f"training has {train.classes.distinct} classes in {train.classes.records:,} records: "
                    f"{', '.join(label for label, _ in train.classes.counts[:8])}",
                ),
                where=(evidence.data_file, evidence.setting("data.train.source"), evidence.setting(f"data.{name}.source")),
                advice=(
                    "two sets that number their classes each for itself: give both one list of classes",
                    "a split of sorted records: shuffle before splitting",
                ),
                values={"set": name, "classes": [label for label, _ in unseen], "share": rate},
                cost=rate,
            )
        )
    common, count = train.classes.counts[0]
    if train.classes.distinct > 1 and count / train.classes.records >= thresholds.UNBALANCED:
        found.append(
            Finding(
                "classes_unbalanced",
                Gravity.NOTE,
                f"class {common} has {share(count / train.classes.records)} of the training records",
                evidence=(
                    f"whoever always says {common} is right as often; the other {train.classes.distinct - 1} share the rest",
                ),
                where=(evidence.data_file,),
                advice=("judge by a metric that each class counts in alike (F1, balanced accuracy), not by accuracy",),
                values={"class": common, "share": count / train.classes.records},
            )
        )
    return found


def labels_sorted(evidence: Evidence) -> list[Finding]:
    """Training records that come class by class."""
    train = evidence.set("train")
    told = train.classes if train is not None else None
    if told is None or told.run is None or told.chance is None or told.chance >= thresholds.MOSTLY_ONE:
        return []
    blocked = (told.run - told.chance) / (1 - told.chance)
    if blocked < thresholds.BLOCKED:
        return []
    return [
        Finding(
            "labels_sorted",
            Gravity.WRONG,
            f"training goes through the classes one after another: {share(told.run)} of the pairs in a batch are of one class",
            evidence=(
                f"of pairs of all records {share(told.chance)} are",
                f"there are {told.distinct} classes in {told.records:,} records",
            ),
            where=(evidence.data_file, evidence.setting("data.train.shuffle")),
            advice=(
                "data.train.shuffle=true: batches of one class pull the model to and fro, and it forgets what came first",
                "where records must keep their order, mix several streams of them",
            ),
            values={"run": told.run, "chance": told.chance},
            cost=blocked,
        )
    ]


# -- what the model has no place for -----------------------------------------------------------------------------------
def targets_outside(evidence: Evidence) -> list[Finding]:
    """Class numbers beyond the outputs of the model: why a run failed with an index."""
    error, survey, fields = failure(evidence), evidence.survey, _fields(evidence)
    target = fields.get(survey.target) if survey is not None else None
    if error is None or target is None or target.high is None or target.low is None:
        return []
    told = _BOUNDS.search(str(error.get("message", "")))
    if told is None or not target.dtype.startswith(("int", "uint")):
        return []
    wrong, size = int(told["target"] or told["index"]), int(told["size"]) if told["size"] else None
    if target.low > wrong or (size is not None and target.high < size):
        return []
    return [_outside_outputs(evidence, error, wrong, size, (target.low, target.high))]


def ids_outside(evidence: Evidence) -> list[Finding]:
    """Ids beyond the tables that they are looked up in: why a run failed with an index that is no class number."""
    error, survey = failure(evidence), evidence.survey
    if error is None or survey is None or targets_outside(evidence):
        return []
    message, fields = str(error.get("message", "")), _fields(evidence)
    told = _BOUNDS.search(message)
    ids = {n: t for n, t in fields.items() if n != survey.target and t.dtype.startswith(("int", "uint")) and t.high is not None}
    if not ids or not (_TABLE.search(message) or (told and told["size"])):
        return []
    size = int(told["size"]) if told and told["size"] else None
    limit = size if size is not None else max(survey.embeddings.values(), default=None)
    worst = max(ids, key=lambda name: ids[name].high or 0)
    beyond = limit is not None and ((ids[worst].high or 0) >= limit or (ids[worst].low or 0) < 0)
    return [_outside_table(evidence, error, worst if beyond else "", ids, survey.embeddings, limit)]


def _fields(evidence: Evidence) -> Any:
    """What is known of the training set's fields: as batches hold them, else as its records do."""
    train = evidence.set("train")
    return (train.fields or train.raw) if train is not None else {}


def _outside_outputs(evidence: Evidence, error: Any, wrong: int, size: int | None, span: tuple[float, float]) -> Finding:
    step = int(error.get("step") or 0)
    has = f"the model has {size} outputs, for classes 0 to {size - 1}" if size else "the model has no output for it"
    return Finding(
        "targets_outside",
        Gravity.FATAL,
        f"target {wrong} is outside of the model's outputs: the run failed at step {step:,}",
        evidence=(has, f"the targets of the records that were looked at go from {number(span[0])} to {number(span[1])}"),
        where=(evidence.data_file, evidence.setting("model"), evidence.setting("data.train.source")),
        advice=(
            f"{'classes counted from 1: subtract 1 in a transform' if span[0] >= 1 else 'more outputs'}, or give the model "
            f"{int(span[1]) + 1} outputs",
            *(
                ("-1 and the like for unknown ones: leave such records out, or name it to the loss (ignore_index)",)
                if wrong < 0
                else ()
            ),
        ),
        steps=(step, step),
        values={"target": wrong, "outputs": size, "low": span[0], "high": span[1]},
    )


def _outside_table(evidence: Evidence, error: Any, worst: str, ids: Any, tables: Any, limit: int | None) -> Finding:
    step = int(error.get("step") or 0)
    spans = "; ".join(f"{name!r} from {number(told.low or 0)} to {number(told.high or 0)}" for name, told in ids.items())
    sizes = ", ".join(f"{name} ({size:,} ids, 0 to {size - 1:,})" for name, size in tables.items())
    return Finding(
        "ids_outside",
        Gravity.FATAL,
        (f"ids of {worst!r} go beyond the vocabulary" if worst else "an id is beyond the table that it is looked up in")
        + f": the run failed at step {step:,}",
        evidence=(f"the records that were looked at hold {spans}", *((f"the model's tables: {sizes}",) if sizes else ())),
        where=(evidence.data_file, evidence.setting("model"), evidence.setting("data.train")),
        advice=(
            "give the model the size of the vocabulary that the tokeniser has, with its special tokens (padding, unknown, end)",
            "ids counted from 1 need a table with one more row",
            "rarer ids come later: the largest of all records counts, not that of the first batches",
        ),
        steps=(step, step),
        values={"field": worst or None, "limit": limit},
    )
