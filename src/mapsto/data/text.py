"""Text: from strings to ids, and from ragged ids to rectangular arrays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, require
from ..core.registry import decorator
from .paths import existing_file
from .source import Batch, field_of
from .vocabulary import Vocabulary


def texts_of(batch: Batch, field: str, who: str) -> list[str]:
    """A field of texts. Raises DataError where it holds something else."""
    values = field_of(batch, field, who)
    if not isinstance(values, list) or any(not isinstance(v, str) for v in values):
        odd = next((v for v in values if not isinstance(v, str)), values)
        raise DataError(f"{who}: field {field!r} holds {type(odd).__name__} values, and text is wanted")
    return values


@decorator("transform")("tokenise_bytes")
class TokeniseBytes:
    """Maps texts to lists of ids: the UTF-8 bytes plus 2 (0 is padding, 1 unknown, so 258 ids in all)."""

    size = 258

    def __init__(self, field: str = "input", max_length: int | None = None) -> None:
        self.field, self.max_length = field, max_length

    def __call__(self, batch: Batch) -> Batch:
        texts = texts_of(batch, self.field, "tokenise_bytes")
        cut = self.max_length
        return {**batch, self.field: [np.frombuffer(t.encode()[:cut], np.uint8).astype(np.int64) + 2 for t in texts]}


@decorator("transform")("tokenise_words")
class TokeniseWords:
    """Maps texts to lists of word ids below `size`: 0 is padding, 1 an unknown word, the others by falling frequency.

    vocabulary: one, or the file of one saved; else it is built here from the records of `source`: words matched by
    `pattern` (lower-cased where `lower`), the most frequent first, ties by the word itself. Raises DataError.
    """

    def __init__(
        self,
        vocabulary: Any = None,
        *,
        source: Any = None,
        size: int = 20000,
        field: str = "input",
        pattern: str | None = None,
        lower: bool = True,
        max_length: int | None = None,
    ) -> None:
        if (vocabulary is None) == (source is None):
            raise DataError("tokenise_words: give one of vocabulary (a saved file) and source (to build one from)")
        if vocabulary is None:
            vocabulary = Vocabulary.build(source, size, field=field, pattern=pattern, lower=lower)
        elif isinstance(vocabulary, (str, Path)):
            vocabulary = Vocabulary.load(vocabulary)
        self.vocabulary: Vocabulary = vocabulary
        self.field, self.max_length = field, max_length

    def __call__(self, batch: Batch) -> Batch:
        texts = texts_of(batch, self.field, "tokenise_words")
        return {**batch, self.field: [self.vocabulary.encode(text)[: self.max_length] for text in texts]}


@decorator("transform")("tokenise_with")
class TokeniseWith:
    """Maps texts to lists of ids by a saved Hugging Face tokeniser (`tokenizer.json`). Needs the package `tokenizers`."""

    def __init__(self, path: str | Path, field: str = "input", max_length: int | None = None) -> None:
        tokenizers = require("tokenizers", "tokenizers", "the transform `tokenise_with`")
        file = existing_file(path, "tokenise_with")
        try:
            self.tokeniser = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for a file it cannot read
            raise DataError(f"tokenise_with: {file} is not a tokeniser: {error}") from error
        self.tokeniser.no_padding()
        self.tokeniser.no_truncation()
        self.field, self.max_length = field, max_length

    def __call__(self, batch: Batch) -> Batch:
        texts = texts_of(batch, self.field, "tokenise_with")
        return {**batch, self.field: [e.ids[: self.max_length] for e in self.tokeniser.encode_batch(texts)]}


@decorator("transform")("pad")
class Pad:
    """Maps ragged lists of ids to an int64 array [batch, longest], short ones filled up with `value` (targets: -100).

    max_length: longer ones are cut; multiple_of: the width is rounded up to a multiple; mask, lengths: names of fields to
    add, bool [batch, longest] and int64 [batch]. The width is at least 1. Raises DataError where a record is no list.
    """

    def __init__(
        self,
        field: str = "input",
        value: int = 0,
        *,
        max_length: int | None = None,
        multiple_of: int = 1,
        mask: str | None = None,
        lengths: str | None = None,
    ) -> None:
        if multiple_of < 1 or (max_length is not None and max_length < 1):
            raise DataError(f"pad: multiple_of {multiple_of} and max_length {max_length} must be at least 1")
        self.field, self.value, self.max_length, self.multiple_of = field, value, max_length, multiple_of
        self.mask, self.lengths = mask, lengths

    def __call__(self, batch: Batch) -> Batch:
        rows = field_of(batch, self.field, "pad")
        if self.max_length is not None:
            rows = [row[: self.max_length] for row in rows]
        try:
            lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        except TypeError:
            raise DataError(f"pad: the records of field {self.field!r} are not lists of ids") from None
        width = max(-(-int(lengths.max(initial=1)) // self.multiple_of) * self.multiple_of, 1)
        inside = np.arange(width) < lengths[:, None]
        padded = np.full((len(rows), width), self.value, np.int64)
        padded[inside] = _flat(rows, int(lengths.sum()), self.field)
        added = {name: value for name, value in ((self.mask, inside), (self.lengths, lengths)) if name is not None}
        return {**batch, self.field: padded, **added}


def _flat(rows: Sequence[Any], count: int, field: str) -> Any:
    """All ids one after another."""
    try:
        if all(isinstance(row, np.ndarray) for row in rows):
            return np.concatenate([*rows, np.empty(0, np.int64)])
        return np.fromiter(itertools.chain.from_iterable(rows), np.int64, count)
    except (TypeError, ValueError):
        raise DataError(f"pad: the records of field {field!r} are not lists of ids: tokenise it first") from None
