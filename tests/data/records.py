"""Sources and transforms that tests of the data wing read; importable, so that worker processes can load them."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np


class Counting:
    """Records that carry their index, and a log of every gather."""

    vectorised = True

    def __init__(self, records: int) -> None:
        self.records = records
        self.gathered: list[int] = []

    def __len__(self) -> int:
        return self.records

    def __getitem__(self, indices: Any) -> dict[str, Any]:
        self.gathered.append(len(indices))
        return {"input": indices * 2, "id": indices}


class Big:
    """Batches large enough for shared memory, of several types."""

    vectorised = True

    def __init__(self, records: int = 40, width: int = 6000) -> None:
        self.records, self.width = records, width

    def __len__(self) -> int:
        return self.records

    def __getitem__(self, indices: Any) -> dict[str, Any]:
        wide = indices[:, None] * np.arange(self.width)
        return {"id": indices, "input": wide.astype(np.float32), "text": [f"record {i}" for i in indices], "wide": wide}


class Failing(Big):
    """Fails on reading one record: by an error, an error that cannot be pickled, or a kill."""

    def __init__(self, record: int, how: str) -> None:
        super().__init__(width=2)
        self.record, self.how = record, how

    def __getitem__(self, indices: Any) -> dict[str, Any]:
        if self.record in indices:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "exit":
                os._exit(3)
            if self.how == "local":

                class LocalError(Exception):
                    pass

                raise LocalError("cannot be pickled")
            raise RuntimeError(f"record {self.record} is rotten")
        return super().__getitem__(indices)


class Tensors(Big):
    """Batches of torch tensors, one of a type that NumPy lacks."""

    def __getitem__(self, indices: Any) -> dict[str, Any]:
        import torch

        batch = super().__getitem__(indices)
        wide = torch.from_numpy(batch["input"])
        return {"input": wide, "half": wide.to(torch.bfloat16), "id": torch.from_numpy(indices)}


class Unpicklable(Big):
    """Can be pickled, and not unpickled."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("not in this process")


def noise(batch: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Adds a random field, a row a record."""
    return {**batch, "noise": rng.random((len(batch["id"]), 3))}


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Bitwise: the same fields in the same order, types, shapes and values."""
    return list(a) == list(b) and all(_same(a[name], b[name]) for name in a)


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, list) or isinstance(y, list):
        return type(x) is type(y) and x == y
    if type(x).__module__ == "torch":
        import torch

        return isinstance(y, torch.Tensor) and x.dtype == y.dtype and torch.equal(x, y)
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def compressed(data: bytes, ending: str) -> bytes:
    """Data as a file of that ending holds them."""
    import bz2
    import gzip
    import lzma

    import pyarrow

    if ending == ".zst":
        return bytes(pyarrow.compress(data, "zstd", asbytes=True))
    return {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[ending](data)


def kinds(batch: dict[str, Any]) -> dict[str, Any]:
    """The type of each field, as whoever reads a batch meets it."""

    def kind(values: Any) -> Any:
        return (str(values.dtype), values.shape[1:]) if hasattr(values, "dtype") else "list"

    return {name: kind(values) for name, values in batch.items()}


def assert_splits_agree(source: Any) -> None:
    """Any batch of a source is the part of the one big batch that it stands for, in types and values."""
    count = len(source)
    whole = source[np.arange(count)]
    for size in {1, 2, max(count - 1, 1)}:
        for start in range(0, count, size):
            indices = np.arange(start, min(start + size, count))
            part = source[indices]
            assert kinds(part) == kinds(whole)
            for name, values in part.items():
                want = [whole[name][i] for i in indices]
                for got, wanted in zip(values, want, strict=True):
                    if isinstance(wanted, (np.ndarray, np.generic)):
                        assert got.dtype == wanted.dtype
                        assert np.array_equal(got, wanted, equal_nan=wanted.dtype.kind in "fM")
                    else:
                        assert got == wanted or got is wanted
    assert kinds(source[np.arange(0)]) == kinds(whole)
