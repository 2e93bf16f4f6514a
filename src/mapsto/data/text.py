"""Text: from strings to ids."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, require
from ..core.ranges import Count
from ..core.registry import decorator
from .doors import typed
from .fitted import learned
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

    @typed
    def __init__(self, field: str = "input", max_length: Count | None = None) -> None:
        self.field, self.max_length = field, max_length

    def __call__(self, batch: Batch) -> Batch:
        texts = texts_of(batch, self.field, "tokenise_bytes")
        cut = self.max_length
        return {**batch, self.field: [np.frombuffer(t.encode()[:cut], np.uint8).astype(np.int64) + 2 for t in texts]}


@decorator("transform")("tokenise_words")
class TokeniseWords:
    """Maps texts to lists of word ids below `size`: 0 is padding, 1 an unknown word, the others by falling frequency.

    vocabulary: one, or the file of one saved; else it is built of words matched by `pattern` (lower-cased where `lower`), the
    most frequent first, ties by the word itself: here from the records of `source`, without one from the training records.
    Raises DataError.
    """

    @typed
    def __init__(
        self,
        vocabulary: Any = None,
        *,
        source: Any = None,
        size: Count = 20000,
        field: str = "input",
        pattern: str | None = None,
        lower: bool = True,
        max_length: Count | None = None,
    ) -> None:
        if vocabulary is not None and source is not None:
            raise DataError("tokenise_words: give one of vocabulary (a saved file) and source (to build one from), not both")
        self.field, self.max_length = field, max_length
        self._build = functools.partial(Vocabulary.build, size=size, field=field, pattern=pattern, lower=lower)
        if source is not None:
            vocabulary = self._build(source)
        elif isinstance(vocabulary, (str, Path)):
            vocabulary = Vocabulary.load(vocabulary)
        self.vocabulary: Any = vocabulary

    @property
    def learned(self) -> Mapping[str, Any] | None:
        """The vocabulary as JSON data."""
        return None if self.vocabulary is None else self.vocabulary.data()

    @learned.setter
    def learned(self, found: Mapping[str, Any] | None) -> None:
        self.vocabulary = None if found is None else Vocabulary(found["words"], pattern=found["pattern"], lower=found["lower"])

    def fit(self, source: Any) -> dict[str, Any]:
        """The vocabulary of the source's texts."""
        return self._build(source).data()

    def __call__(self, batch: Batch) -> Batch:
        learned(self)
        texts = texts_of(batch, self.field, "tokenise_words")
        return {**batch, self.field: [self.vocabulary.encode(text)[: self.max_length] for text in texts]}


@decorator("transform")("tokenise_with")
class TokeniseWith:
    """Maps texts to lists of ids by a saved Hugging Face tokeniser (`tokenizer.json`). Needs the package `tokenizers`.

    max_length: ids a text, at most; the tokeniser itself cuts, so that the special tokens that it adds (start, end,
    separators) stay and words are lost. Raises DataError where the special tokens alone are more.
    """

    @typed
    def __init__(self, path: str | Path, field: str = "input", max_length: Count | None = None) -> None:
        tokenizers = require("tokenizers", "tokenizers", "the transform `tokenise_with`")
        file = existing_file(path, "tokenise_with")
        try:
            self.tokeniser = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for a file it cannot read
            raise DataError(f"tokenise_with: {file} is not a tokeniser: {error}") from error
        self.tokeniser.no_padding()
        self.tokeniser.no_truncation()
        if max_length is not None:
            special = self.tokeniser.num_special_tokens_to_add(False)
            if max_length < max(special, 1):
                raise DataError(f"tokenise_with: max_length {max_length} leaves no room: {file} adds {special} special tokens")
            self.tokeniser.enable_truncation(max_length)
        self.field, self.max_length = field, max_length

    def __call__(self, batch: Batch) -> Batch:
        texts = texts_of(batch, self.field, "tokenise_with")
        return {**batch, self.field: [e.ids for e in self.tokeniser.encode_batch(texts)]}
