"""Transforms of numbers and fields: batch -> batch. None changes the batch it is given; all keep the order of records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError, nearest
from ..core.ranges import Positive
from ..core.registry import decorator
from .doors import typed
from .fitted import chunks, distinct, learned, values_of
from .source import Batch, field_of

Array = npt.NDArray[Any]


def array_of(batch: Mapping[str, Any], field: str, who: str) -> Array:
    """A field as a NumPy array (a CPU tensor's memory is shared). Raises DataError where it is a list."""
    value = field_of(batch, field, who)
    if isinstance(value, list):
        held = type(value[0]).__name__ if value else "no"
        raise DataError(f"{who}: field {field!r} is a list of {held} values, and an array is wanted")
    return np.asarray(value)


@decorator("transform")("scale")
class Scale:
    """Maps a field x to the float32 array x * factor + offset; the default takes bytes to [0, 1]."""

    @typed
    def __init__(self, field: str = "input", factor: float = 1 / 255, offset: float = 0.0) -> None:
        self.field, self.factor, self.offset = field, np.float32(factor), np.float32(offset)

    def __call__(self, batch: Batch) -> Batch:
        scaled = np.multiply(array_of(batch, self.field, "scale"), self.factor, dtype=np.float32)
        if self.offset:
            scaled += self.offset
        return {**batch, self.field: scaled}


@decorator("transform")("normalise")
class Normalise:
    """Maps a field x to the float32 array (x - mean) / std.

    mean, std: a number, or one a channel of [batch, channels, ...] (a feature of [batch, features]); without them they are
    learned from the training records, one a channel, in float64 and without missing values (NaN); a channel that does not
    vary is only centred. axis: where the channels are, such as -1 for windows [batch, time, features]. Raises DataError where
    a std is not positive or the channels do not fit, and on fitting where a channel has no value, or one without an end.
    """

    @typed
    def __init__(
        self,
        mean: float | Sequence[float] | None = None,
        std: Positive | Sequence[Positive] | None = None,
        field: str = "input",
        axis: int = 1,
    ) -> None:
        self.field, self.axis = field, axis
        if (mean is None) != (std is None):
            raise DataError("normalise: give both mean and std, or neither, so that they are learned from the training records")
        self.learned = None if mean is None else {"mean": mean, "std": std}

    @property
    def learned(self) -> Mapping[str, Any] | None:
        """`mean` and `std`, a number or one a channel."""
        return self._learned

    @learned.setter
    def learned(self, found: Mapping[str, Any] | None) -> None:
        self._learned = found
        if found is None:
            return
        self.mean, self.std = np.asarray(found["mean"], np.float32), np.asarray(found["std"], np.float32)
        if not (self.std > 0).all():
            raise DataError(f"normalise: std {found['std']} must be positive")
        if self.mean.ndim > 1 or self.std.ndim > 1 or (self.mean.ndim and self.std.ndim and self.mean.shape != self.std.shape):
            raise DataError(f"normalise: mean {found['mean']} and std {found['std']} must be numbers, or lists of one length")

    def fit(self, source: Any) -> dict[str, Any]:
        """The mean and standard deviation of each channel."""
        total = count = squares = np.zeros(())
        for x in self._channels(source):
            total, count = total + np.nansum(x, 1), count + np.isfinite(x).sum(1)
        if not count.all():
            raise DataError(f"normalise: field {self.field!r} has no value in channel {int(np.argmin(count))} of any record")
        mean = total / count
        for x in self._channels(source):
            squares = squares + np.nansum((x - mean[:, None]) ** 2, 1)
        std = np.sqrt(squares / count)
        std[std <= 10 * np.finfo(np.float64).eps * np.abs(mean)] = 1.0
        return {"mean": mean.tolist(), "std": std.tolist()}

    def _channels(self, source: Any) -> Iterator[Array]:
        """The values of each channel, [channels, values], a chunk of records after another."""
        for batch in chunks(source):
            x = array_of(batch, self.field, "normalise").astype(np.float64)
            if np.isinf(x).any():
                raise DataError(f"normalise: field {self.field!r} holds infinity, which has no mean")
            yield np.moveaxis(x, self.axis, 0).reshape(x.shape[self.axis], -1) if x.ndim > 1 else x[None]

    def __call__(self, batch: Batch) -> Batch:
        learned(self)
        x = array_of(batch, self.field, "normalise")
        channels = max(self.mean.size, self.std.size)
        shape = [1] * x.ndim
        if channels > 1:
            if x.ndim < 2 or x.shape[self.axis] != channels:
                raise DataError(f"normalise: {channels} channels were given, and field {self.field!r} has shape {x.shape}")
            shape[self.axis] = channels
        mean, std = (v.reshape(shape) if v.size > 1 else v.reshape(()) for v in (self.mean, self.std))
        result = np.subtract(x, mean, dtype=np.float32)
        result /= std
        return {**batch, self.field: result}


@decorator("transform")("one_hot")
class OneHot:
    """Maps whole numbers c to float32 rows of `classes` with a one at c. Raises DataError for c outside [0, classes)."""

    @typed
    def __init__(self, classes: int, field: str = "target") -> None:
        self.classes, self.field = classes, field

    def __call__(self, batch: Batch) -> Batch:
        labels = array_of(batch, self.field, "one_hot")
        if not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"one_hot: field {self.field!r} is {labels.dtype}, and whole numbers are wanted")
        if labels.size and (labels.min() < 0 or labels.max() >= self.classes):
            wrong = labels[(labels < 0) | (labels >= self.classes)][0]
            raise DataError(f"one_hot: class {wrong} in field {self.field!r} is outside 0 to {self.classes - 1}")
        return {**batch, self.field: (labels[..., None] == np.arange(self.classes)).astype(np.float32)}


@decorator("transform")("encode_labels")
class EncodeLabels:
    """Maps labels (text or any values) to their int64 place in `classes`: without these, the labels of the training records
    in their order. Raises DataError with the nearest class.
    """

    @typed
    def __init__(self, classes: Sequence[Any] | None = None, field: str = "target") -> None:
        self.field = field
        self.learned = None if classes is None else {"classes": tuple(classes)}

    @property
    def learned(self) -> Mapping[str, Any] | None:
        """`classes`, the labels in the order of their numbers."""
        return self._learned

    @learned.setter
    def learned(self, found: Mapping[str, Any] | None) -> None:
        self._learned, self.classes = found, tuple(found["classes"]) if found is not None else None
        self.ids = {label: i for i, label in enumerate(self.classes or ())}
        if self.classes and len(self.ids) < len(self.classes):
            twice = next(label for i, label in enumerate(self.classes) if self.ids[label] != i)
            raise DataError(f"encode_labels: class {twice!r} is listed twice")

    def fit(self, source: Any) -> dict[str, Any]:
        """The distinct labels."""
        return {"classes": distinct(values_of(source, self.field, "encode_labels"))}

    def __call__(self, batch: Batch) -> Batch:
        learned(self)
        values = field_of(batch, self.field, "encode_labels")
        labels = values if isinstance(values, list) else np.asarray(values).tolist()
        try:
            return {**batch, self.field: np.array([self.ids[label] for label in labels], np.int64)}
        except KeyError as error:
            label, there = error.args[0], map(str, self.classes or ())
            raise DataError(
                f"encode_labels: {label!r} in field {self.field!r} is no class; {nearest(str(label), there)}"
            ) from None


@decorator("transform")("select")
class Select:
    """Maps a batch to some of its fields. Raises DataError with the nearest name."""

    @typed
    def __init__(self, fields: Sequence[str] | str) -> None:
        self.fields = (fields,) if isinstance(fields, str) else tuple(fields)

    def __call__(self, batch: Batch) -> Batch:
        return {name: field_of(batch, name, "select") for name in self.fields}


@decorator("transform")("rename")
class Rename:
    """Maps a batch to one whose fields have new names: `rename(names={"text": "input"})`; the others stay.

    Raises DataError with the nearest name, or where two fields would have one name.
    """

    @typed
    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = dict(names)

    def __call__(self, batch: Batch) -> Batch:
        for old in self.names:
            field_of(batch, old, "rename")
        renamed = {self.names.get(name, name): value for name, value in batch.items()}
        if len(renamed) < len(batch):
            new = [self.names.get(name, name) for name in batch]
            raise DataError(f"rename: two fields would be named {next(n for n in new if new.count(n) > 1)!r}")
        return renamed
