"""The runs behind a folder that `train --folds` made, and the mean of what they predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, SpecError
from .folds import FILE


def members(folder: Path) -> list[Path]:
    """The runs of a folder of folds; of any other folder itself. Raises SpecError where the folds are not all trained."""
    runs = sorted(folder.glob("fold-*"), key=lambda path: (len(path.name), path.name))
    if (folder / "spec.yaml").is_file() or not runs:
        return [folder]
    if not (folder / FILE).is_file():
        raise SpecError(
            f"{folder}: its folds are not all trained; go on with `mapsto train SPEC --folds K --run {folder} --continue`"
        )
    return runs


def same_data(runs: Sequence[Any], name: str) -> None:
    """Raise DataError where a data set is another one in each run, so that their predictions are of other records."""
    if any(run.spec.data.get(name) != runs[0].spec.data.get(name) for run in runs[1:]):
        raise DataError(f"data.{name} is another fold in each run: predict over --input, or a data set without folds")


def same_labels(readers: Sequence[Any]) -> None:
    """Raise DataError where the runs number their labels differently, so that their probabilities have no mean."""
    told = []
    for reader in readers:
        transforms = (*getattr(reader, "transforms", ()), *getattr(reader, "unused", ()))
        told.append([transform.classes for transform in transforms if hasattr(transform, "classes")])
    for number, classes in enumerate(told[1:], 2):
        if classes != told[0]:
            stated = "{use: encode_labels, classes: [...]}"
            raise DataError(f"the labels of fold 1 and fold {number} are others: state the classes, {stated}")


def averaged(runs: Sequence[Iterator[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Batches of the mean of several runs' predictions, and the labels of it. Raises DataError for what has no mean."""
    for batches in zip(*runs, strict=True):
        mean: dict[str, Any] = {}
        for name, first in batches[0].items():
            if isinstance(first, np.ndarray) and first.dtype.kind == "f":
                mean[name] = np.mean([batch[name] for batch in batches], axis=0, dtype=np.float64).astype(first.dtype)
        for name in batches[0]:
            if name not in mean:
                mean[name] = _decided(name, batches, mean)
        yield {name: mean[name] for name in batches[0]}


def _decided(name: str, batches: Sequence[Mapping[str, Any]], mean: Mapping[str, Any]) -> Any:
    """Labels by the mean probability, as each run's are by its own: the largest, or what is above one half."""
    for decide in (_largest, _above):
        if name == "label" and "probability" in mean:
            own = [decide(batch["probability"]) for batch in batches]
            if all(np.array_equal(found, batch[name]) for found, batch in zip(own, batches, strict=True)):
                return decide(mean["probability"]).astype(batches[0][name].dtype)
    raise DataError(f"the predicted {name!r} of several runs has no mean: predict with one of them, such as fold-1")


def _largest(probability: Any) -> Any:
    return probability.argmax(-1)


def _above(probability: Any) -> Any:
    return probability > 0.5
