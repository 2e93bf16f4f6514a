"""What a shuffled batch costs: mapsto's streams against torch's DataLoader, bare gathers and pyarrow.

    OMP_NUM_THREADS=1 python benchmarks/data.py [--rounds 9] [--write]

The arms of a table take turns, an epoch each, in one process and one thread; CPU time is counted (no arm ever waits), a
ratio is taken within each round, and its median and quartiles are reported, so that what disturbs the machine disturbs all
arms alike. Orders of the peers are drawn
anew each epoch, as theirs do; the bare gathers get a ready permutation. `--write` puts the tables into RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mapsto.data import Batches, Parquet, workers
from mapsto.data.shared import open_slots

BATCH = 256
HERE = Path(__file__).parent


# -- (a) arrays ------------------------------------------------------------------------------------------------------------
class PerItem(torch.utils.data.Dataset):
    """One row an index; the loader stacks them."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return self.x[i]


class Gathering(PerItem):
    """A whole batch at once, which is the fastest that the loader offers."""

    def __getitems__(self, indices: list[int]) -> Any:
        return self.x[indices]


class GatheringNumPy(PerItem):
    """The same through NumPy's `take`, the fastest gather there is."""

    def __getitems__(self, indices: list[int]) -> Any:
        return torch.from_numpy(self.x.take(indices, 0))


def identity(batch: Any) -> Any:
    return batch


def array_arms() -> dict[str, Callable[[], int]]:
    x = np.random.default_rng(0).integers(0, 256, (60_000, 784), dtype=np.uint8)
    tensor = torch.from_numpy(x)
    epoch = iter(range(10**9))

    def mapsto_stream(reader: Batches) -> Callable[[], int]:
        per = reader.batches_per_epoch

        def run() -> int:
            first, rows = next(epoch) * per, 0
            with reader.stream(first, first + per) as stream:
                for _, batch in stream:
                    rows += len(batch["input"])
            return rows

        return run

    def loader(data: Any, **options: Any) -> Callable[[], int]:
        made = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True, **options)
        return lambda: sum(len(batch[0]) if isinstance(batch, list) else len(batch) for batch in made)

    ready = np.random.default_rng(1).permutation(len(x))
    ready_tensor = torch.from_numpy(ready)
    starts = range(0, len(x), BATCH)
    return {
        "mapsto stream (tensor)": mapsto_stream(Batches({"input": tensor}, BATCH, shuffle=True)),
        "mapsto stream (NumPy array)": mapsto_stream(Batches({"input": x}, BATCH, shuffle=True)),
        "bare NumPy gather x[rows]": lambda: sum(len(torch.from_numpy(x[ready[i : i + BATCH]])) for i in starts),
        "bare NumPy x.take(rows, 0)": lambda: sum(len(torch.from_numpy(x.take(ready[i : i + BATCH], 0))) for i in starts),
        "bare torch gather x[rows]": lambda: sum(len(tensor[ready_tensor[i : i + BATCH]]) for i in starts),
        "bare torch index_select": lambda: sum(len(torch.index_select(tensor, 0, ready_tensor[i : i + BATCH])) for i in starts),
        "DataLoader, gather of a tensor": loader(Gathering(tensor), collate_fn=identity),
        "DataLoader, gather by NumPy take": loader(GatheringNumPy(x), collate_fn=identity),
        "DataLoader, per item of a tensor": loader(PerItem(tensor)),
        "DataLoader, per item of a NumPy array": loader(PerItem(x)),
        "DataLoader, per item of a TensorDataset": loader(torch.utils.data.TensorDataset(tensor)),
    }


# -- (b) text ----------------------------------------------------------------------------------------------------------------
def text_file(path: Path, rows: int = 200_000) -> None:
    """About 50 MB of sentences of words with the frequencies of a natural language (Zipf), lengths log-normal."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxzéü"))
    share = 1 / np.arange(1, len(letters) + 1)
    words = ["".join(rng.choice(letters, rng.integers(2, 11), p=share / share.sum())) for _ in range(20_000)]
    chance = 1 / np.arange(1, len(words) + 1)
    counts = np.clip(rng.lognormal(3.4, 0.6, rows), 3, 400).astype(int)
    drawn = rng.choice(len(words), counts.sum(), p=chance / chance.sum())
    ends = np.cumsum(counts)
    texts = [" ".join(words[i] for i in drawn[end - n : end]) + "." for n, end in zip(counts, ends, strict=True)]
    pq.write_table(pa.table({"text": texts, "label": rng.integers(0, 2, rows)}), path, row_group_size=20_000)


def text_arms(path: Path) -> dict[str, Callable[[], int]]:
    source = Parquet(path)
    reader = Batches(source, BATCH, shuffle=True)
    per, epoch = reader.batches_per_epoch, iter(range(10**9))

    def stream() -> int:
        first, rows = next(epoch) * per, 0
        with reader.stream(first, first + per) as opened:
            for _, batch in opened:
                assert type(batch["text"][0]) is str
                rows += len(batch["text"])
        return rows

    table = pq.read_table(path).combine_chunks()
    ready = np.random.default_rng(1).permutation(len(table))

    def take() -> int:
        rows = 0
        for i in range(0, len(table), BATCH):
            batch = table.take(ready[i : i + BATCH])
            rows += len(batch["text"].to_pylist()) + 0 * len(batch["label"].to_numpy())
        return rows

    return {"mapsto stream": stream, "pyarrow Table.take, combined chunks, to_pylist": take}


# -- timing ------------------------------------------------------------------------------------------------------------------
def interleaved(arms: dict[str, Callable[[], int]], rounds: int) -> tuple[dict[str, list[float]], int]:
    """CPU seconds of each arm in each round, and the rows that each read."""
    rows = {name: run() for name, run in arms.items()}  # warms up, and proves that all read the same number
    assert len(set(rows.values())) == 1, rows
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            arms[name]()
            times[name].append(time.process_time() - start)
    return times, next(iter(rows.values()))


def ratio(other: list[float], mine: list[float]) -> str:
    """How many times as fast mine is: the median of the rounds' ratios, and their quartiles."""
    low, middle, high = statistics.quantiles([o / m for o, m in zip(other, mine, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def table(times: dict[str, list[float]], rows: int, mine: str) -> list[str]:
    lines = [f"| arm | million rows a CPU second (median) | {mine} is so many times as fast |", "|---|---|---|"]
    for name, seconds in times.items():
        lines.append(f"| {name} | {rows / statistics.median(seconds) / 1e6:.2f} | {ratio(seconds, times[mine])} |")
    return lines


# -- (c) the first batch of very many records --------------------------------------------------------------------------------
class Virtual:
    """Records that are their index."""

    vectorised = True

    def __init__(self, records: int) -> None:
        self.records = records

    def __len__(self) -> int:
        return self.records

    def __getitem__(self, indices: Any) -> dict[str, Any]:
        return {"input": indices}


def first_batches(rounds: int) -> list[str]:
    lines = ["| records | position | first batch, ms (median wall; worst CPU) | peak memory, KiB |", "|---|---|---|---|"]
    for records, position in ((10**4, 0), (10**8, 0), (10**12, 0), (10**12, 10**9)):
        wall, cpu = [], []
        for seed in range(max(rounds, 5) * 3):
            start = time.perf_counter(), time.process_time()
            with Batches(Virtual(records), BATCH, shuffle=True, seed=seed).stream(position) as stream:
                next(stream)
            wall.append((time.perf_counter() - start[0]) * 1e3)
            cpu.append((time.process_time() - start[1]) * 1e3)
        tracemalloc.start()
        with Batches(Virtual(records), BATCH, shuffle=True).stream(position) as stream:
            next(stream)
        peak = tracemalloc.get_traced_memory()[1] / 1024
        tracemalloc.stop()
        lines.append(
            f"| 10^{len(str(records)) - 1} | {position} | {statistics.median(wall):.2f}; {max(cpu):.2f} | {peak:.0f} |"
        )
    return lines


# -- (d) batches from another process ----------------------------------------------------------------------------------------
class Wide:
    """Records of some bytes that cost nothing to read."""

    vectorised = True

    def __init__(self, width: int) -> None:
        self.width = width

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, indices: Any) -> dict[str, Any]:
        return {"input": np.zeros((len(indices), self.width), np.uint8)}


def from_worker(width: int, batches: int, shared: bool) -> float:
    """Milliseconds a batch of 64 from one worker process, with shared memory or through the pipe alone."""
    workers.open_slots = open_slots if shared else lambda count: None
    with Batches(Wide(width), 64, workers=1).stream(0, batches + 5) as stream:
        for _ in range(5):
            next(stream)
        start = time.perf_counter()
        for _ in stream:
            pass
        return (time.perf_counter() - start) / batches * 1e3


def transports(rounds: int) -> list[str]:
    lines = ["| MB a batch | shared memory, ms a batch | pipe, ms a batch | ratio |", "|---|---|---|---|"]
    for width, batches in ((1024, 300), (4096, 300), (16_384, 150), (150_528, 40)):
        pairs = [[from_worker(width, batches, shared) for shared in (True, False)] for _ in range(min(rounds, 5))]
        quick, slow = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        times = ratio([p[1] for p in pairs], [p[0] for p in pairs]) if len(pairs) > 1 else f"{slow / quick:.2f}"
        lines.append(f"| {width * 64 / 1e6:.2f} | {quick:.2f} | {slow:.2f} | {times} |")
    return lines


# -- (e) a CSV file ------------------------------------------------------------------------------------------------------------
MEASURED = """
import json, resource, sys, time
import numpy as np
import mapsto.data.tables as tables
from mapsto.data import Batches
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.process_time()
source = tables.Csv(sys.argv[1])
opened = time.process_time()
with Batches(source, 256, shuffle=True).stream(0, 3907) as stream:
    for _ in stream:
        pass
print(json.dumps([opened - start, time.process_time() - opened, peak() - before, {n: str(getattr(v, "dtype", "text"))
      for n, v in source[np.arange(3)].items()}]))
"""


def csv_reading(rounds: int, rows: int = 10**6) -> list[str]:
    """Opening a CSV file of numbers and text and reading it once, shuffled, each time in a process of its own."""
    rng, lines = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        words = [f"word{i}" for i in range(1000)]
        with path.open("w") as file:
            file.write("id,x,y,text,target\n")
            for i in range(rows):
                text = " ".join(words[w] for w in rng.integers(0, 1000, 5))
                file.write(f'{10**12 + i},{rng.random():.6f},{rng.random():.4f},"{text}",{i % 10}\n')
        done = [subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, text=True) for _ in range(rounds)]
        found = [json.loads(d.stdout) for d in done]
        opened, epoch, memory = (statistics.median(f[i] for f in found) for i in range(3))
        size = path.stat().st_size / 1e6
    lines += ["| rows | file, MB | opening, CPU s | a shuffled epoch, CPU s | peak memory above the imports, MB | types |"]
    lines += ["|---|---|---|---|---|---|"]
    lines += [f"| {rows} | {size:.0f} | {opened:.2f} | {epoch:.2f} | {memory:.0f} | {found[0][3]} |"]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=["csv"], help="measure this alone, and print it")
    parser.add_argument("--write", action="store_true", help="replace the section Data of RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only:
        print("\n".join(csv_reading(options.rounds)))
        return
    report = [
        f"`OMP_NUM_THREADS=1 python benchmarks/data.py --rounds {options.rounds}`; Python {platform.python_version()}, "
        f"torch {torch.__version__}, NumPy {np.__version__}, pyarrow {pa.__version__}, {os.cpu_count()} cores, one thread.",
        "",
        "Shuffled batches of 256 from a 60000 x 784 uint8 array, as torch tensors:",
        "",
    ]
    times, rows = interleaved(array_arms(), options.rounds)
    report += table(times, rows, "mapsto stream (tensor)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.parquet"
        text_file(path)
        megabytes = pq.read_table(path).nbytes / 1e6
        report += [
            "",
            f"Shuffled batches of 256 from a Parquet file of 200000 texts ({megabytes:.0f} MB), as Python strings:",
            "",
        ]
        times, rows = interleaved(text_arms(path), options.rounds)
    report += table(times, rows, "mapsto stream")
    report += ["", "Opening a reader over a virtual source and reading its first shuffled batch of 256:", ""]
    report += first_batches(options.rounds)
    report += ["", "Batches that one worker process hands over (wall time; below 128 KiB both use the pipe):", ""]
    report += transports(options.rounds)
    report += ["", "A CSV file of two columns of whole numbers, two of other numbers and one of text:", ""]
    report += csv_reading(min(options.rounds, 3))
    print("\n".join(report))
    if options.write:
        write("Data", "\n".join(report))


def write(heading: str, text: str) -> None:
    """Replace one section of RESULTS.md, or add it."""
    path = HERE / "RESULTS.md"
    old = path.read_text() if path.exists() else "# Measured\n"
    section = f"## {heading}\n\n{text}\n"
    found = re.search(rf"^## {heading}\n.*?(?=^## |\Z)", old, re.M | re.S)
    new = (
        old[: found.start()] + section + ("\n" if found.end() < len(old) else "") + old[found.end() :]
        if found
        else f"{old.rstrip()}\n\n{section}"
    )
    path.write_text(new)


if __name__ == "__main__":
    sys.exit(main())
