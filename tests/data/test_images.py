"""Images: what of a file comes through, and what is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import equal

from mapsto.core.errors import DataError
from mapsto.data import Batches, ImageFolder

NONE = np.array([], np.int64)


def everything(source: Any) -> dict[str, Any]:
    batch: dict[str, Any] = source[np.arange(len(source))]
    return batch


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def images(folder: Path, size: tuple[int, int] = (5, 4), mode: str = "RGB") -> np.ndarray[Any, Any]:
    """PNG files of random pixels, two classes; returns their pixels in order."""
    module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    kept = []
    for i, name in enumerate(["cat/0.png", "cat/1.png", "dog/0.png"]):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        module.fromarray(pixels).convert(mode).save(path)
        kept.append(pixels)
        assert i < 3
    return np.stack(kept)


def test_image_folders(tmp_path: Path) -> None:
    pixels = images(tmp_path)
    source = ImageFolder(tmp_path)
    batch = everything(source)
    assert np.array_equal(batch["input"], np.moveaxis(pixels, -1, 1))
    assert batch["target"].tolist() == [0, 0, 1]
    assert source.classes == ["cat", "dog"]
    assert everything(ImageFolder(tmp_path, size=(8, 6)))["input"].shape == (3, 3, 8, 6)
    assert everything(ImageFolder(tmp_path, size=7, mode="L"))["input"].shape == (3, 1, 7, 7)
    assert np.array_equal(everything(ImageFolder(tmp_path, size=(5, 4)))["input"], batch["input"])
    assert source[NONE]["input"].shape == (0, 3, 5, 4)
    with pytest.raises(DataError, match="image_folder: record 3 is out of range"):
        source[np.array([3])]


def test_image_folders_are_read_by_workers(tmp_path: Path) -> None:
    images(tmp_path, size=(160, 150))
    reference = Batches(ImageFolder(tmp_path), 2, shuffle=True)
    with Batches(ImageFolder(tmp_path), 2, shuffle=True, workers=1).stream(0, 4) as stream:
        assert all(equal(batch, reference.batch(p)) for p, batch in stream)


def test_a_corrupt_image_and_one_of_another_size_are_named(tmp_path: Path) -> None:
    images(tmp_path)
    good = (tmp_path / "cat" / "1.png").read_bytes()
    for content in (b"not an image", good[: len(good) // 2]):
        write(tmp_path / "cat" / "1.png", content)
        with pytest.raises(DataError, match=r"cat/1\.png cannot be read as an image"):
            everything(ImageFolder(tmp_path))
    images(tmp_path / "other", size=(9, 9))
    write(tmp_path / "cat" / "1.png", (tmp_path / "other" / "cat" / "1.png").read_bytes())
    with pytest.raises(DataError, match=r"cat/1\.png is 9 x 9 and .*cat/0\.png is 5 x 4 .*give a size"):
        ImageFolder(tmp_path, suffixes=[".png"])[np.array([0, 1])]
