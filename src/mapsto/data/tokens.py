"""Blocks of one long sequence of tokens: the data of a causal language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.ranges import Count
from ..core.registry import decorator
from .adapt import as_source
from .doors import typed
from .line_files import read_text
from .paths import existing_file
from .source import Batch, Indices, Source, check_indices, field_of

IGNORE = -100
"""The target that no loss counts (the default `ignore_index` of cross-entropy in PyTorch)."""


@decorator("source")("token_blocks")
class TokenBlocks(Source):
    """Maps indices to blocks of consecutive tokens: `input` and, one token later, `target`, both int64 [batch, block].

    text: a text file (its bytes are the tokens, memory-mapped, vocabulary 256), an `.npy` file or array of token ids, or a
    source of texts (joined by line ends); tokenise: text -> token ids, instead of bytes. Blocks start `stride` tokens
    apart (default: `block`, so that every token but the first is a target once). The last block is filled up with input 0
    and target -100, which losses ignore. Raises DataError where there are fewer than two tokens.
    """

    @typed
    def __init__(
        self,
        text: Any,
        block: Count,
        stride: Count | None = None,
        *,
        tokenise: Callable[[str], Sequence[int]] | None = None,
        encoding: str = "utf-8",
    ) -> None:
        self.block, self.stride, self._path = block, stride or block, None
        if isinstance(text, (str, Path)):
            file = existing_file(text, "token_blocks")
            if file.suffix == ".npy" or tokenise is None:
                self._path = file
            self.tokens = _mapped(file) if self._path else _compact(tokenise(read_text(file, encoding)))  # type: ignore[misc]
        elif isinstance(text, np.ndarray):
            self.tokens = _checked(text, "token_blocks")
        else:
            joined = _joined(as_source(text))
            self.tokens = _compact(tokenise(joined) if tokenise else np.frombuffer(joined.encode(), np.uint8))
        if len(self.tokens) < 2:
            raise DataError(f"token_blocks: {len(self.tokens)} tokens are too few: two are needed for one target")
        self._count = -(-(len(self.tokens) - 1) // self.stride)
        self._reach = np.arange(block + 1)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: Indices) -> Batch:
        check_indices(indices, self._count, "token_blocks")
        at = (indices * self.stride)[:, None] + self._reach
        inside = at < len(self.tokens)
        if inside.all():
            ids = self.tokens[at].astype(np.int64)
            return {"input": ids[:, :-1], "target": ids[:, 1:]}
        ids = self.tokens[np.minimum(at, len(self.tokens) - 1)].astype(np.int64)
        return {"input": np.where(inside[:, :-1], ids[:, :-1], 0), "target": np.where(inside[:, 1:], ids[:, 1:], IGNORE)}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "tokens": None} if self._path is not None else self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._path is not None:
            self.tokens = _mapped(self._path)


def _mapped(file: Path) -> np.ndarray[Any, Any]:
    if file.suffix == ".npy":
        return _checked(np.load(file, mmap_mode="r"), str(file))
    if file.stat().st_size == 0:
        raise DataError(f"token_blocks: {file} is empty")
    return np.memmap(file, np.uint8, "r")


def _checked(tokens: np.ndarray[Any, Any], what: str) -> np.ndarray[Any, Any]:
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise DataError(f"{what}: token ids are a 1-D array of whole numbers, not {tokens.dtype} of shape {tokens.shape}")
    return tokens


def _compact(ids: Any) -> np.ndarray[Any, Any]:
    """Token ids in the smallest unsigned type that holds them."""
    tokens = _checked(np.asarray(ids), "token_blocks: tokenise")
    if len(tokens) and tokens.min() < 0:
        raise DataError("token_blocks: tokenise gave a negative token id")
    return tokens.astype(np.min_scalar_type(int(tokens.max()))) if len(tokens) else tokens


def _joined(source: Any) -> str:
    """All texts of a source, one after another."""
    texts: list[str] = []
    for start in range(0, len(source), 4096):
        batch = source[np.arange(start, min(start + 4096, len(source)), dtype=np.int64)]
        texts += field_of(batch, "input", "token_blocks")
    return "\n".join(texts)
