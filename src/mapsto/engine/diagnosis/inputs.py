"""Inputs: values that are not finite, that never change, that are far too large, blank records, sets that are not alike."""

from __future__ import annotations

from collections.abc import Iterator

from ..figures import number, share
from ..survey.summary import FieldSummary
from . import thresholds
from .evidence import Evidence
from .finding import Finding, Gravity


def _inputs(evidence: Evidence, name: str = "train") -> Iterator[tuple[str, FieldSummary, bool]]:
    """(field, what it is like, whether the model is surely given it) of the inputs of a set, as its batches hold them, or
    else as its source gives them."""
    survey, told = evidence.survey, evidence.set(name)
    if survey is None or told is None:
        return
    for field, about in (told.fields or told.raw).items():
        if field != survey.target:
            yield field, about, field in survey.inputs


def _records(examples: list[int]) -> str:
    known = [f"{i:,}" for i in examples if i >= 0]
    return f"such as record{'s' if len(known) > 1 else ''} {', '.join(known)}" if known else "whose numbers are not known"


def input_nonfinite(evidence: Evidence) -> list[Finding]:
    """Inputs with not-a-number or infinity in them."""
    found = []
    for field, told, _ in _inputs(evidence):
        if not told.nonfinite:
            continue
        broken = any(v != v or abs(v) == float("inf") for _, v in evidence.record.series.get("train/loss", []))
        ended = evidence.record.status == "failed"
        found.append(
            Finding(
                "input_nonfinite",
                Gravity.WRONG if broken or ended else Gravity.NOTE,
                f"{told.nonfinite:,} of {told.records:,} training records hold values of {field!r} that are not finite",
                evidence=(
                    f"not-a-number or infinity: {_records(told.examples)}",
                    f"the finite values go from {_of(told.low)} to {_of(told.high)}",
                    *(() if broken or ended else ("the loss is finite all the same: something takes care of them",)),
                ),
                where=(evidence.data_file, evidence.setting("data.train")),
                advice=(
                    "one such value makes the whole batch's loss, and then every weight, not-a-number",
                    "fill missing values in a transform, and tell the model in a field of its own that they were missing",
                    "look for a division by a spread of zero or a logarithm of zero in what prepares the data",
                ),
                values={"field": field, "records": told.nonfinite, "examples": told.examples},
                cost=told.nonfinite / max(told.records, 1),
            )
        )
    return found


def input_constant(evidence: Evidence) -> list[Finding]:
    """An input, or columns of a table, that are the same in all records."""
    found, fields = (
        [],
        [(f, t, sure) for f, t, sure in _inputs(evidence) if t.dtype != "bool" and t.records >= thresholds.RECORDS],
    )
    for field, told, sure in fields:
        if told.same:
            alone = len(fields) == 1 or (sure and told.dtype.startswith("float"))
            found.append(_constant(evidence, field, told, [], Gravity.WRONG if alone else Gravity.NOTE))
        elif told.dtype.startswith("float") and 1 < told.columns <= thresholds.TABLE:
            columns = [(i, v) for i, v in told.constant if v or told.columns <= thresholds.SMALL_TABLE]
            if columns:
                found.append(_constant(evidence, field, told, columns, Gravity.NOTE))
    return found


def _constant(
    evidence: Evidence, field: str, told: FieldSummary, columns: list[tuple[int, float]], gravity: Gravity
) -> Finding:
    which = f"column{'s' if len(columns) > 1 else ''} {', '.join(str(i) for i, _ in columns[:8])} of {field!r}"
    several = len(columns) > 1
    values = (
        ", ".join(f"column {i} is {number(v)}" for i, v in columns[:8])
        or f"its values go from {_of(told.low)} to {_of(told.high)}"
    )
    return Finding(
        "input_constant" if not columns else "columns_constant",
        gravity,
        f"{which if columns else f'input {field!r}'} {'are' if several else 'is'} the same in all of {told.records:,} records",
        evidence=(values, "the model can learn nothing from what does not differ between records"),
        where=(evidence.data_file, evidence.setting("data.train")),
        advice=(
            "a column that was read wrongly, a join that found nothing, a default that fills it",
            "a transform that writes over it, or normalises each record to the same",
            *(("if it is meant so (a bias, a sensor that is off), leave it",) if columns else ()),
        ),
        values={"field": field, "columns": [i for i, _ in columns]},
        cost=1.0 if not columns else len(columns) / told.columns,
    )


def input_scale(evidence: Evidence) -> list[Finding]:
    """Inputs that are not normalised: values in the tens of thousands, or columns of very different size."""
    survey, found = evidence.survey, []
    for field, told, sure in _inputs(evidence):
        if not told.dtype.startswith(("float", "bfloat")) or told.rms is None:
            continue
        top, median = told.largest, told.median or 0.0
        spread = top is not None and told.columns > 1 and median > 0 and top[1] / median >= thresholds.SPREAD
        if told.rms < thresholds.SCALE and not spread:
            continue
        eased = survey is not None and survey.normalises
        said = [f"values from {_of(told.low)} to {_of(told.high)}, of a root mean square of {number(told.rms)}"]
        if top is not None and told.columns > 1:
            said.append(f"the largest is column {top[0]} ({number(top[1])}); the median column has {number(median)}")
        said += ["the model begins with a normalisation, which takes the scale away"] if eased else []
        title = (
            f"the input {field!r} is of {told.rms:.0e} in scale{'' if eased else ': it is not normalised'}".replace("e+0", "e")
            if told.rms >= thresholds.SCALE
            else f"the columns of {field!r} are of very different scale"
        )
        found.append(
            Finding(
                "input_scale",
                Gravity.WRONG if told.rms >= thresholds.SCALE and sure and not eased else Gravity.NOTE,
                title,
                evidence=tuple(said),
                where=(evidence.data_file, evidence.setting("data.train")),
                advice=(
                    "initial weights and learning rates are made for inputs of about 1: larger ones learn slowly, or the "
                    "largest column alone",
                    "subtract each column's mean and divide by its spread, those of the training set, for all sets",
                    "amounts and counts over many powers of ten: take their logarithm first",
                ),
                values={"field": field, "rms": told.rms, "largest": top[0] if top else None},
            )
        )
    return found


def input_blank(evidence: Evidence) -> list[Finding]:
    """Records without content: empty texts, nothing but padding, pictures of one colour."""
    survey, told = evidence.survey, evidence.set("train")
    if survey is None or told is None:
        return []
    found = []
    alone = len([f for f in told.fields if f != survey.target]) == 1
    for field, about in {**told.raw, **told.fields}.items():
        if field == survey.target or about.same or about.records < thresholds.RECORDS:
            continue
        whole = (
            about.dtype.startswith(("int", "uint")) and (about.high or 0) > 1
        )  # 0 and 1 are a mask's, where all may be equal
        blank, what = (about.empty, "empty text") if about.kind == "text" else (about.flat, "one value alone, such as padding")
        if about.kind != "text" and not whole and not (alone and about.dtype.startswith("float")):
            continue
        rate = blank / about.records
        if rate >= (thresholds.EMPTY if about.kind == "text" else thresholds.BLANK_NOTE):
            found.append(
                Finding(
                    "input_blank",
                    Gravity.WRONG if rate >= thresholds.BLANK else Gravity.NOTE,
                    f"{blank:,} of {about.records:,} training records hold {what} in {field!r} ({share(rate)})",
                    evidence=("there is nothing in them that a target could be learned from",),
                    where=(evidence.data_file, evidence.setting("data.train")),
                    advice=(
                        "a tokeniser that knows none of the words, a cut that takes the wrong end, a length of 0",
                        "a column or file that is empty, a picture that was not read",
                        "leave such records out, or name them in a class of their own",
                    ),
                    values={"field": field, "share": rate},
                    cost=rate,
                )
            )
    return found


def sets_differ(evidence: Evidence) -> list[Finding]:
    """Inputs of an evaluated set that are not distributed as those of training."""
    train, found = {field: told for field, told, _ in _inputs(evidence)}, []
    for name in evidence.evaluated:
        for field, told, _ in _inputs(evidence, name):
            here = train.get(field)
            if here is None or told.records < thresholds.RECORDS or not here.dtype.startswith(("float", "uint8")):
                continue
            if here.mean is None or told.mean is None or not here.std or not told.std:
                continue
            moved, ratio = abs(told.mean - here.mean) / here.std, max(told.std / here.std, here.std / told.std)
            if moved < thresholds.MOVED and ratio < thresholds.STRETCHED:
                continue
            grave = moved >= thresholds.MOVED_FAR or ratio >= thresholds.STRETCHED_FAR
            found.append(
                Finding(
                    "sets_differ",
                    Gravity.WRONG if grave else Gravity.NOTE,
                    f"the input {field!r} of {name} is not distributed as in training: mean {number(told.mean)} and spread "
                    f"{number(told.std)} beside {number(here.mean)} and {number(here.std)}",
                    evidence=(
                        f"the mean is {number(moved)} spreads from training's, and the spread differs {number(ratio)}-fold",
                        f"{told.records:,} records of {name} and {here.records:,} of training, as the model is given them",
                    ),
                    where=(evidence.data_file, evidence.setting(f"data.{name}"), evidence.setting("data.train")),
                    advice=(
                        f"the transforms of data.{name}: what scales or normalises data.train must stand there too, with "
                        "the same figures",
                        "another origin (machine, place, year): then what it measures is how well the model carries over",
                    ),
                    values={"set": name, "field": field, "moved": moved, "stretched": ratio},
                )
            )
    return found


def _of(value: float | None) -> str:
    return "?" if value is None else number(value)
