"""Images: what of a file comes through, and what is an error."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import equal
from torch import nn

from mapsto import Run, Spec, use
from mapsto.core.errors import DataError
from mapsto.data import Batches, ImageFolder
from mapsto.data import images as image_files
from mapsto.engine.record import read_run
from mapsto.engine.report.view import warned

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")
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
    rng = np.random.default_rng(0)
    kept = []
    for i, name in enumerate(["cat/0.png", "cat/1.png", "dog/0.png"]):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path)
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


# -- what a file holds ---------------------------------------------------------------------------------------------------
def saved(tmp_path: Path, image: Any, name: str = "x.png", **options: Any) -> Path:
    """A folder of one class that holds one image."""
    path = tmp_path / name.replace(".", "_") / "a" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path.parent.parent


def only(folder: Path, mode: str = "RGB", **options: Any) -> Any:
    """The one image of a folder, [channels, height, width]."""
    return ImageFolder(folder, mode=mode, **options)[np.array([0])]["input"][0]


@pytest.fixture(params=["simplejpeg", "Pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of decoding JPEG files."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(image_files, "_simplejpeg", lambda: None)
    return str(request.param)


def picture(height: int = 150, width: int = 201) -> Any:
    """Smooth colours with some noise, as photographs are."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return Image.fromarray((np.asarray(coarse) + rng.normal(0, 4, (height, width, 3))).clip(0, 255).astype(np.uint8))


def upright(tmp_path: Path, orientation: int, name: str, **options: Any) -> None:
    image = picture(40, 24)
    exif = image.getexif()
    exif[0x0112] = orientation
    folder = saved(tmp_path, image, name, exif=exif, **options)
    with Image.open(folder / "a" / name) as opened:
        right = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).transpose(2, 0, 1)
    assert right.shape[1:] == ((40, 24) if orientation < 5 else (24, 40))
    assert np.array_equal(only(folder), right)
    assert only(folder, size=(9, 5)).shape == (3, 9, 5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_put_upright(tmp_path: Path, orientation: int, decoder: str) -> None:
    upright(tmp_path, orientation, "x.jpg")


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp"])
def test_other_images_are_put_upright(tmp_path: Path, name: str) -> None:
    for orientation in (1, 3, 6):
        upright(tmp_path / str(orientation), orientation, name)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_are_kept_and_never_cut_off(tmp_path: Path, name: str) -> None:
    gray = np.linspace(0, 65535, 24).reshape(4, 6).astype(np.uint16)
    folder = saved(tmp_path, Image.fromarray(gray), name)
    for mode, kind in (("I;16", np.uint16), ("I", np.int32), ("F", np.float32)):
        got = only(folder, mode)
        assert got.dtype == kind
        assert np.array_equal(got[0], gray)
        assert only(folder, mode, size=(2, 3)).dtype == kind
    small = only(folder, "I;16", size=(2, 3))[0].astype(float)
    assert abs(small.mean() - gray.mean()) < 1
    for mode in ("L", "RGB"):
        with pytest.raises(
            DataError, match=rf"{name} holds values of more than 8 bits .* mode '{mode}' has no more: 'I;16' or"
        ):
            only(folder, mode)


def test_float_and_wide_images_keep_their_values(tmp_path: Path) -> None:
    values = np.linspace(-3, 70000, 24).reshape(4, 6)
    real = saved(tmp_path, Image.fromarray(values.astype(np.float32)), "real.tif")
    assert np.array_equal(only(real, "F")[0], values.astype(np.float32))
    whole = saved(tmp_path, Image.fromarray(values.astype(np.int32)), "whole.tif")
    assert np.array_equal(only(whole, "I")[0], values.astype(np.int32))
    for folder, mode in ((real, "I"), (real, "I;16"), (whole, "I;16")):
        with pytest.raises(DataError, match=rf"holds values from -3 to 70000 .*, and mode '{mode}' does not"):
            only(folder, mode)


def test_sixteen_bits_a_colour_are_an_error(tmp_path: Path) -> None:
    for name, content in {
        "x.ppm": b"P6 2 1 65535\n" + bytes(range(12)),
        "x.png": png(2, 1, depth=16, color=2, row=bytes(range(12))),
    }.items():
        write(tmp_path / name / "a" / name, content)
        with pytest.raises(DataError, match=rf"{name} has 16 bits a colour, of which Pillow reads 8"):
            only(tmp_path / name)


def png(width: int, height: int, depth: int, color: int, row: bytes) -> bytes:
    """A PNG file of one row, whatever its height; what Pillow itself cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    pixels = zlib.compress(b"\0" + row)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_palettes_alpha_inks_bits_and_frames(tmp_path: Path) -> None:
    image = picture(6, 5)
    pixels = np.asarray(image)
    palette = image.quantize(7)
    folder = saved(tmp_path, palette, "palette.png")
    assert np.array_equal(only(folder), np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    assert np.array_equal(only(folder, "P")[0], np.asarray(palette))
    assert set(np.unique(only(folder, "P", size=(50, 50)))) <= set(range(7))  # numbers are never averaged
    clear = saved(tmp_path, palette, "clear.png", transparency=bytes([0, 128, 255, 255, 255, 255, 255]))
    assert np.array_equal(only(clear), only(folder))
    assert set(np.unique(only(clear, "RGBA")[3])) <= {0, 128, 255}
    alpha = image.copy()
    alpha.putalpha(7)
    folder = saved(tmp_path, alpha, "alpha.png")
    assert np.array_equal(only(folder), pixels.transpose(2, 0, 1))  # colours as they are stored, alpha left out
    assert (only(folder, "RGBA")[3] == 7).all()
    inks = saved(tmp_path, image.convert("CMYK"), "inks.tif")
    assert np.array_equal(only(inks), pixels.transpose(2, 0, 1))
    assert only(inks, "CMYK").shape == (4, 6, 5)
    bits = Image.fromarray(pixels[:, :, 0] > 128)
    assert np.array_equal(only(saved(tmp_path, bits, "bits.png"), "L")[0], 255 * (pixels[:, :, 0] > 128))
    later = Image.new("RGB", image.size, "red")
    frames = saved(tmp_path, image, "frames.png", save_all=True, append_images=[later])
    assert np.array_equal(only(frames), pixels.transpose(2, 0, 1))
    with pytest.raises(DataError, match="alpha.png has no palette"):
        only(saved(tmp_path, alpha, "alpha.png"), "P")
    with pytest.raises(DataError, match="image_folder.mode: 'RBG' is not a choice; allowed: .* did you mean 'RGB'"):
        only(folder, "RBG")


# -- JPEG ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(150, 201), (64, 64), (65, 300), (257, 129), (33, 20), (7, 5)])
@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_the_same_by_both_decoders(
    tmp_path: Path, shape: tuple[int, int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("simplejpeg")
    folder = saved(tmp_path, picture(*shape).convert(kind), "x.jpg", quality=80)
    cases = [(mode, size) for mode in ("RGB", "L") for size in (None, (16, 16), (60, 50), (100, 20), (7, 7))]
    fast = [only(folder, mode, size=size) for mode, size in cases]
    monkeypatch.setattr(image_files, "_simplejpeg", lambda: None)
    slow = [only(folder, mode, size=size) for mode, size in cases]
    assert all(np.array_equal(a, b) for a, b in zip(fast, slow, strict=True))


def test_a_jpeg_is_decoded_near_the_size_that_is_wanted(tmp_path: Path, decoder: str) -> None:
    image = picture(512, 400)
    folder = saved(tmp_path, image, "x.jpg", quality=95)
    with Image.open(folder / "a" / "x.jpg") as opened:
        whole = opened.convert("RGB")
    for size in ((64, 50), (128, 100), (100, 90), (256, 200), (300, 220)):
        right = np.asarray(whole.resize(size[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1).astype(float)
        off = np.abs(only(folder, size=size) - right)
        assert off.mean() < 1.5
        assert off.max() < 16
        assert np.abs(np.roll(right, 1, 2) - right).mean() > 2  # the control: a shift by one pixel is told


# -- what cannot be read -------------------------------------------------------------------------------------------------
def damaged(tmp_path: Path) -> Path:
    """Two good images and four that are none, or not whole."""
    image = picture(64, 80)
    folder = saved(tmp_path, image, "good.jpg")
    image.save(folder / "a" / "good.png")
    for name in ("good.jpg", "good.png"):
        content = (folder / "a" / name).read_bytes()
        write(folder / "b" / name.replace("good", "cut"), content[: len(content) // 2])
    write(folder / "a" / "text.png", b"not an image")
    write(folder / "a" / "empty.gif", b"")
    write(folder / "a" / ".hidden", b"")
    return folder


def test_damaged_files_are_named(tmp_path: Path, decoder: str) -> None:
    folder = damaged(tmp_path)
    source = ImageFolder(folder, size=8)
    names = [f.name for f in source.files]
    assert source[np.array([names.index("good.jpg"), names.index("good.png")])]["input"].shape == (2, 3, 8, 8)
    for name in ("cut.jpg", "cut.png", "text.png", "empty.gif"):
        with pytest.raises(DataError, match=rf"image_folder: .*{name} cannot be read as an image: "):
            source[np.array([names.index(name)])]


def test_skipped_files_are_no_records_and_stand_in_the_report(
    tmp_path: Path, decoder: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = damaged(tmp_path)
    options: dict[str, Any] = {"size": 8, "on_error": "skip", "classes": ["b", "a"]}
    source = ImageFolder(folder, **options)
    assert [f.name for f in source.files] == ["good.jpg", "good.png"]
    assert everything(source)["target"].tolist() == [1, 1]
    assert source.notes()[0].endswith("1 hidden (a/.hidden); 4 unreadable (a/empty.gif, a/text.png, b/cut.jpg and 1 more)")
    assert [name for note in source.notes()[1:] for name in ("empty", "text", "cut") if name in note] == [
        "empty", "text", "cut", "cut",
    ]  # fmt: skip
    assert "4 of 6 files" in caplog.text
    with pytest.raises(DataError, match=r"on_error: 'skipp' is not a choice; allowed: raise, skip; did you mean 'skip'"):
        ImageFolder(folder, on_error="skipp")  # type: ignore[arg-type]
    for file in source.files:
        file.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 6 files in .* can be read; the first: "):
        ImageFolder(folder, **options)

    spec = Spec(
        model=use(Flat),
        data={"train": {"source": use("image_folder", path=str(damaged(tmp_path)), **options), "batch_size": 2}},
        steps=1,
        device="cpu",
    )
    run = Run(spec, tmp_path / "run")
    run.fit()
    told = next(e for e in run.folder.records("start"))["detail"]["data"]
    assert len(told) == 5
    assert told[0].startswith("data.train: image_folder: left out of ")
    assert all("cut.jpg" in page for page in (told[3], warned(read_run(run.folder))[3]))


class Flat(nn.Module):
    """Pixels to two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 2)

    def forward(self, x: Any) -> Any:
        return self.layer(x.flatten(1).float())


def test_decompression_bombs_are_named(tmp_path: Path, decoder: str) -> None:
    bomb = png(20_000, 20_000, depth=1, color=0, row=bytes(2500))
    write(tmp_path / "bomb" / "a" / "bomb.png", bomb)
    with pytest.raises(DataError, match=r"bomb\.png may be a decompression bomb"):
        only(tmp_path / "bomb")
    for name in ("x.png", "x.jpg"):
        folder = saved(tmp_path, picture(70, 80), name)
        assert only(folder, max_pixels=5600).shape == (3, 70, 80)
        with pytest.raises(DataError, match=rf"{name} may be a decompression bomb: .* 80 x 70, .* max_pixels=5599; raise that"):
            only(folder, max_pixels=5599)


def test_a_file_that_is_something_else_is_not_run(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(DataError, match=r"x\.png cannot be read as an image: it is none of a known kind"):
        only(tmp_path)
    for size in (0, -1, (3,), (2, 0), True):
        with pytest.raises(DataError, match="is one whole number, or|image_folder.size: .* is wanted"):
            only(tmp_path, size=size)


@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "tif", "webp", "bmp", "ppm"])
def test_no_damage_makes_anything_but_pixels_or_one_error(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes changed, put in or cut off at random; JPEG files by both decoders, which agree on every one."""
    rng = np.random.default_rng(0)
    good = next((saved(tmp_path, picture(70, 90), f"x.{kind}") / "a").iterdir()).read_bytes()
    fast, seen = image_files._simplejpeg, {"pixels": 0, "errors": 0}
    for _ in range(60):
        data = bytearray(good)
        for place in rng.integers(0, rng.choice([40, 700, len(data)]), rng.integers(1, 5)):
            data[min(place, len(data) - 1)] = rng.integers(256)
        at = int(rng.integers(len(data)))
        data[at:] = [b"", bytes(rng.bytes(20)) + data[at:], data[at:], data[at:]][rng.integers(4)]
        found = []
        for decoder in (fast, lambda: None) if kind == "jpg" else (fast,):
            monkeypatch.setattr(image_files, "_simplejpeg", decoder)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Pillow's, of what it could still read
                    found.append(image_files.decode_image(bytes(data), Path(f"x.{kind}"), (16, 16), "RGB").tobytes())
                seen["pixels"] += 1
            except DataError as error:
                found.append(str(error).partition(" ")[0].encode())
                seen["errors"] += 1
        assert len(set(found)) == 1
    assert min(seen.values()) > 0
