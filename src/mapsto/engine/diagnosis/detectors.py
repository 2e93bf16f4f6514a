"""The detectors, in the order in which they look: what each looks at, and what it must have been told to do so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import (
    endings,
    evaluation,
    inputs,
    learning,
    losses,
    memory,
    numerics,
    ranks,
    saved,
    speed,
    standstill,
    targets,
    thresholds,
)
from . import records as record_detectors
from .evidence import Evidence
from .finding import Finding


@dataclass(frozen=True)
class Detector:
    """evidence -> findings. `looks_at`: in a few words; `missing`: why it cannot look, or nothing."""

    name: str
    looks_at: str
    find: Callable[[Evidence], list[Finding]]
    missing: Callable[[Evidence], str]


def _nothing(evidence: Evidence) -> str:  # noqa: ARG001
    return ""


def _logs(wanted: int) -> Callable[[Evidence], str]:
    def missing(evidence: Evidence) -> str:
        there = len(evidence.logs)
        return "" if there >= wanted else f"{there} logs, and {wanted} are wanted (log_every)"

    return missing


def _metric(name: str, hint: str, wanted: int = 1) -> Callable[[Evidence], str]:
    def missing(evidence: Evidence) -> str:
        there = len(evidence.record.series.get(name, []))
        if there >= wanted:
            return ""
        return f"{there} records of {name}, and {wanted} are wanted" if there else hint

    return missing


def _evaluations(evidence: Evidence) -> str:
    metric = evidence.record.tracked[0]
    return _metric(metric, f"no {metric} was measured", thresholds.EVALUATIONS)(evidence)


def _health(evidence: Evidence) -> str:
    told = sum(bool(log.detail.get("health")) for log in evidence.logs)
    return "" if told >= thresholds.LOGS else f"{told} logs tell of parameters, and {thresholds.LOGS} are wanted (log_every)"


def _rates(evidence: Evidence) -> str:
    return "" if any(name.startswith("train/lr") for name in evidence.record.series) else "none was told"


def _ratios(evidence: Evidence) -> str:
    there = any(name.startswith("train/update_ratio/") for name in evidence.record.series)
    return "" if there else "not measured (middleware+=health does)"


def _ranks(evidence: Evidence) -> str:
    return "" if evidence.world > 1 else "one process"


def _memory(evidence: Evidence) -> str:
    there = len(evidence.points("memory/resident"))
    wanted = thresholds.TREND_LOGS * 4 // 3
    return "" if there >= wanted else f"{there} logs tell of memory, and {wanted} are wanted (log_every)"


def _data(evidence: Evidence) -> str:
    told = evidence.survey
    if told is None:
        return "nothing was written down about them"
    return (
        ""
        if evidence.set("train") is not None
        else f"they could not be looked at ({'; '.join(told.problems) or 'no reader of records'})"
    )


def _shared(evidence: Evidence) -> str:
    others = [told for name in evidence.evaluated if (told := evidence.set(name)) is not None]
    if missing := _data(evidence):
        return missing
    return "" if any(told.overlap for told in others) else "there are no records of valid or test to compare"


def _repeats(evidence: Evidence) -> str:
    train = evidence.set("train")
    return _data(evidence) or ("" if train is not None and train.repeats else "the reader does not address records")


def _classes(evidence: Evidence) -> str:
    train = evidence.set("train")
    return _data(evidence) or ("" if train is not None and train.classes else "the targets are no classes")


def _repeated(evidence: Evidence) -> str:
    told = evidence.survey
    return _data(evidence) or ("" if told is not None and told.evaluation else "nothing was evaluated in one process")


DETECTORS = (
    Detector("crashed", "how it ended", endings.crashed, _nothing),
    Detector("stalled", "whether it stands still", standstill.stalled, _nothing),
    Detector("killed", "whether it was killed", endings.killed, _nothing),
    Detector("restarted", "whether ranks were started again", endings.restarted, _nothing),
    Detector("nonfinite", "values that are not finite", numerics.nonfinite, _nothing),
    Detector(
        "loss_scale", "the loss scale", numerics.loss_scale,
        _metric("train/loss_scale", "there is none (mixed_precision with float16 has one)", thresholds.LOGS),
    ),
    Detector(
        "steps_skipped", "steps that changed nothing", numerics.steps_skipped,
        _metric("train/skipped", "nothing skips steps (nonfinite with action=skip does)", thresholds.LOGS),
    ),
    Detector("learning_rate_zero", "learning rates", learning.learning_rate_zero, _rates),
    Detector("no_gradient", "gradients by parameter", learning.no_gradient, _health),
    Detector("weights_unchanged", "changes of each weight", learning.weights_unchanged, _health),
    Detector("update_ratio", "updates over weights", learning.update_ratio, _ratios),
    Detector("loss_diverging", "the training loss", losses.loss_diverging, _logs(thresholds.TREND_LOGS)),
    Detector("loss_stuck", "whether the training loss fell", losses.loss_stuck, _logs(thresholds.TREND_LOGS)),
    Detector("overfitting", "evaluations beside the training loss", losses.overfitting, _evaluations),
    Detector("files_damaged", "whether its files can be read", saved.files_damaged, _nothing),
    Detector("checkpoints_damaged", "checkpoints, byte by byte", saved.checkpoints_damaged, _nothing),
    Detector("targets_outside", "class numbers against the model's outputs", targets.targets_outside, _data),
    Detector("ids_outside", "ids against the model's tables", targets.ids_outside, _data),
    Detector("input_nonfinite", "inputs that are not finite", inputs.input_nonfinite, _data),
    Detector("label_in_input", "labels within the input", targets.label_in_input, _data),
    Detector("one_class", "whether targets differ", targets.one_class, _data),
    Detector("classes_missing", "classes of each set", targets.classes_missing, _classes),
    Detector("labels_sorted", "labels in blocks", targets.labels_sorted, _classes),
    Detector("records_repeated", "records that are there twice", record_detectors.records_repeated, _repeats),
    Detector("records_shared", "records of valid and test in training", record_detectors.records_shared, _shared),
    Detector("input_constant", "inputs that never change", inputs.input_constant, _data),
    Detector("input_scale", "the scale of inputs", inputs.input_scale, _data),
    Detector("input_blank", "records without content", inputs.input_blank, _data),
    Detector("sets_differ", "whether the sets are alike", inputs.sets_differ, _data),
    Detector("evaluation_training", "modes in evaluation", evaluation.evaluation_training, _repeated),
    Detector("evaluation_random", "whether an evaluation is repeatable", evaluation.evaluation_random, _repeated),
    Detector("data_starved", "waiting for data", speed.data_starved, _logs(thresholds.LOGS)),
    Detector("slow_rank", "times by rank", ranks.slow_rank, _ranks),
    Detector("throughput_dropping", "throughput over time", speed.throughput_dropping, _logs(thresholds.TREND_LOGS + 1)),
    Detector("checkpoints_costly", "time spent on checkpoints", speed.checkpoints_costly, _nothing),
    Detector("memory_growing", "memory over time", memory.memory_growing, _memory),
    Detector("observers_detached", "observers", endings.observers_detached, _nothing),
)  # fmt: skip
