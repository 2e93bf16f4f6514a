"""Vocabularies: word -> id."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from .adapt import as_source
from .doors import typed
from .paths import PathLike, existing_file
from .source import field_of

WORDS = r"\w+|[^\w\s]"
PAD, UNKNOWN = 0, 1


class Vocabulary:
    """Maps words to ids: 0 is padding, 1 an unknown word, then `words` in their order.

    pattern: the regular expression whose matches are words; lower: whether case is dropped first.
    """

    @typed
    def __init__(self, words: Sequence[str], *, pattern: str | None = None, lower: bool = True) -> None:
        self.words, self.pattern, self.lower = tuple(words), pattern or WORDS, lower
        self.ids = {word: i + 2 for i, word in enumerate(self.words)}
        try:
            self._find = re.compile(self.pattern).findall
        except re.error as error:
            raise DataError(f"vocabulary: pattern {self.pattern!r} is not a regular expression: {error}") from None

    def __len__(self) -> int:
        return len(self.words) + 2

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.data() == other.data()

    def __hash__(self) -> int:
        return hash((self.words, self.pattern, self.lower))

    def split(self, text: str) -> list[str]:
        """The words of a text."""
        return self._find(text.lower() if self.lower else text)

    def encode(self, text: str) -> list[int]:
        """The ids of a text's words."""
        get = self.ids.get
        return [get(word, UNKNOWN) for word in self.split(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The words of ids with spaces between, padding left out."""
        return " ".join("<unknown>" if i == UNKNOWN else self.words[i - 2] for i in map(int, ids) if i != PAD)

    @classmethod
    def build(
        cls, source: Any, size: int, *, field: str = "input", pattern: str | None = None, lower: bool = True
    ) -> Vocabulary:
        """The `size - 2` most frequent words of a source's texts; equal texts give equal vocabularies."""
        if size < 3:
            raise DataError(f"vocabulary: a size of {size} leaves no word: 0 is padding and 1 unknown")
        records, empty = as_source(source), cls((), pattern=pattern, lower=lower)
        counts: Counter[str] = Counter()
        for start in range(0, len(records), 1024):
            batch = records[np.arange(start, min(start + 1024, len(records)), dtype=np.int64)]
            for text in field_of(batch, field, "vocabulary"):
                if not isinstance(text, str):
                    raise DataError(f"vocabulary: field {field!r} holds {type(text).__name__} values, and text is wanted")
                counts.update(empty.split(text))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls([word for word, _ in ranked[: size - 2]], pattern=pattern, lower=lower)

    def save(self, path: PathLike) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(self.data(), ensure_ascii=False, indent=0), encoding="utf-8")

    @classmethod
    def load(cls, path: PathLike) -> Vocabulary:
        """Read what `save` wrote. Raises DataError where the file is missing or another."""
        file = existing_file(path, "vocabulary")
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            return cls(data["words"], pattern=data["pattern"], lower=data["lower"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"vocabulary: {file} is not a saved vocabulary: {error}") from None

    def data(self) -> dict[str, Any]:
        """It as JSON data: words, pattern, lower."""
        return {"pattern": self.pattern, "lower": self.lower, "words": list(self.words)}

    def __getstate__(self) -> dict[str, Any]:
        return self.data()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
