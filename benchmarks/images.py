"""What a batch of decoded images costs: mapsto's image_folder against torch's DataLoader with Pillow.

    OMP_NUM_THREADS=1 python benchmarks/images.py [--rounds 9] [--files 1024] [--write]

A folder of 256 x 256 JPEG files (quality 90, smooth colours with noise, 4:2:0) is read to 128 x 128 as uint8 tensors in
shuffled batches of 64. The arms take turns, an epoch each, in one process; a ratio is taken within each round. Without workers
CPU time is counted, with 2 workers wall time. A stream of workers reads ahead across epochs: as many batches as it may have
ready when its turn begins are read on top, within the time. `--write` puts the table into RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np
import PIL
import torch
from PIL import Image

from data import ratio, write
from mapsto.data import Batches, ImageFolder, images

BATCH, SIZE, PREFETCH = 64, 128, 2
Arm = Callable[[], int]


def make_files(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((256, 256), Image.Resampling.BICUBIC)
        pixels = (np.asarray(coarse) + rng.normal(0, 6, (256, 256, 3))).clip(0, 255).astype(np.uint8)
        path = folder / str(i % 4) / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)


class PillowFiles(torch.utils.data.Dataset):
    """One image an index, as torchvision's ImageFolder with Resize and PILToTensor reads it."""

    def __init__(self, source: ImageFolder, draft: bool) -> None:
        self.files, self.labels, self.draft = source.files, source.labels.tolist(), draft

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        with Image.open(self.files[i]) as opened:
            if self.draft:
                opened.draft("RGB", (SIZE, SIZE))
            image = opened.convert("RGB")
        if image.size != (SIZE, SIZE):
            image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous(), self.labels[i]


def without_simplejpeg() -> None:
    images._simplejpeg = lambda: None


class PillowFolder(ImageFolder):
    """The source where simplejpeg is not installed, in worker processes too."""

    def __getitem__(self, indices: Any) -> Any:
        before = images._simplejpeg
        without_simplejpeg()
        try:
            return super().__getitem__(indices)
        finally:
            images._simplejpeg = before


def mapsto_arm(stack: contextlib.ExitStack, source: ImageFolder, workers: int) -> Arm:
    reader = Batches(source, BATCH, shuffle=True, workers=workers, prefetch=PREFETCH)
    stream = stack.enter_context(reader.stream())

    def run() -> int:
        batches = itertools.islice(stream, reader.batches_per_epoch + workers * PREFETCH)
        return sum(len(torch.from_numpy(batch["input"])) for _, batch in batches)

    return run


def loader_arm(source: ImageFolder, workers: int, draft: bool) -> Arm:
    loader = torch.utils.data.DataLoader(
        PillowFiles(source, draft), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: sum(len(images) for images, _ in loader)


@contextlib.contextmanager
def arms(folder: Path, workers: int) -> Iterator[dict[str, Arm]]:
    with contextlib.ExitStack() as stack:
        source = ImageFolder(folder, size=SIZE)
        yield {
            "mapsto (simplejpeg)": mapsto_arm(stack, source, workers),
            "mapsto (Pillow)": mapsto_arm(stack, PillowFolder(folder, size=SIZE), workers),
            "DataLoader, Pillow": loader_arm(source, workers, draft=False),
            "DataLoader, Pillow with draft": loader_arm(source, workers, draft=True),
        }


def measured(made: dict[str, Arm], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each arm in each round."""
    for run in made.values():  # warms up, and starts the workers
        run()
    times: dict[str, list[float]] = {name: [] for name in made}
    names = list(made)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = clock()
            made[name]()
            times[name].append(clock() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--files", type=int, default=1024)
    parser.add_argument("--write", action="store_true", help="replace the section Images of RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    report = [
        f"`OMP_NUM_THREADS=1 python benchmarks/images.py --rounds {options.rounds} --files {options.files}`; Python "
        f"{platform.python_version()}, torch {torch.__version__}, Pillow {PIL.__version__}, {os.cpu_count()} cores, "
        f"load average {load:.1f} at the start.",
        "",
        f"Shuffled batches of {BATCH} from {options.files} JPEG files of 256 x 256, to {SIZE} x {SIZE}, uint8 tensors:",
        "",
        "| workers | arm | images a second (median) | mapsto (simplejpeg) is so many times as fast |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        make_files(Path(name), options.files)
        for workers, clock in ((0, time.process_time), (2, time.perf_counter)):
            with arms(Path(name), workers) as made:
                times = measured(made, options.rounds, clock)
            for arm, seconds in times.items():
                speed = options.files / statistics.median(seconds)
                report.append(f"| {workers} | {arm} | {speed:.0f} | {ratio(seconds, times['mapsto (simplejpeg)'])} |")
    print("\n".join(report))
    if options.write:
        write("Images", "\n".join(report))


if __name__ == "__main__":
    sys.exit(main())
