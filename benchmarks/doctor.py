"""What the doctor finds and what it makes up: planted faults, their healthy twins, and healthy runs on real data.

    OMP_NUM_THREADS=1 python benchmarks/doctor.py [--data FOLDER] [--only NAME]

Recall over the table of planted faults (`tests/engine/planted.py`); alarms (findings of weight, and notes) of the twins, of
what looks like a fault and is none, of the recipes and, with `--data`, of small runs on data sets there. A run that the
machine slowed down may be told so (`data_starved`, `throughput_dropping`): that is counted apart. `survey` is what looking at
the data took, in seconds, beside the time of the run.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))

import numpy as np
import numpy_wing
import planted
import torch
from torch import nn

from mapsto import Run, Spec, use
from mapsto.core.recipes import load_file
from mapsto.core.wings import add_wing
from mapsto.data import Arrays
from mapsto.engine.diagnosis import Diagnosis, diagnose
from mapsto.engine.diagnosis.finding import Gravity
from mapsto.engine.folder import RunFolder
from mapsto.engine.record import read_run

TIMED = {"data_starved", "throughput_dropping"}


# -- real data -----------------------------------------------------------------------------------------------------------
class Net(nn.Module):
    """A small network over flat inputs."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Bag(nn.Module):
    """The mean of word vectors (padding, id 0, left out), and a layer."""

    def __init__(self, ids: int, outputs: int) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(ids, 32, padding_idx=0), nn.Linear(32, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(x).sum(1) / (x > 0).sum(1, keepdim=True).clamp(min=1))


class Stars(nn.Module):
    """A rating as the product of a user's and an item's vector."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, 8), nn.Embedding(items, 8)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        return 3 + (self.users(user) * self.items(item)).sum(1)


def run(model: Any, train: dict[str, Any], valid: dict[str, Any], test: dict[str, Any] | None = None, *,
        transforms: tuple[Any, ...] | list[Any] = (), **changes: Any) -> Spec:  # fmt: skip
    sets = {"train": train, "valid": valid, **({"test": test} if test is not None else {})}
    sizes = {"batch_size": 128, "transforms": list(transforms)}
    data = {name: {"source": Arrays(**held), **sizes} for name, held in sets.items()}
    data["train"] |= {"batch_size": 32, "shuffle": True}
    rest = {"task": "classification", "optimizer": use("adamw", lr=3e-3), "steps": 150, "log_every": 10, "evaluate_every": 50}
    return Spec(model=model, data=data, **{**rest, **changes})


def split(fields: dict[str, Any], seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Nine tenths and one, by record."""
    count = len(next(iter(fields.values())))
    mixed = np.random.default_rng(seed).permutation(count)
    parts = mixed[: count * 9 // 10], mixed[count * 9 // 10 :]
    first, second = ({n: v[p] if isinstance(v, np.ndarray) else [v[i] for i in p] for n, v in fields.items()} for p in parts)
    return first, second


def usps(folder: Path) -> Spec:
    import h5py

    with h5py.File(folder / "usps" / "usps.h5") as file:
        held = {n: {"input": file[n]["data"][:], "target": file[n]["target"][:].astype(np.int64)} for n in ("train", "test")}
    train, valid = split(held["train"])
    return run(Net(256, 10), train, valid, held["test"])


def digits(_: Path) -> Spec:
    from sklearn.datasets import load_digits

    raw = load_digits()
    train, valid = split({"input": (raw.data / 16).astype(np.float32), "target": raw.target.astype(np.int64)})
    return run(Net(64, 10), train, valid)


def iris(_: Path) -> Spec:
    from sklearn.datasets import load_iris

    raw = load_iris()
    train, valid = split({"input": raw.data.astype(np.float32), "target": raw.target.astype(np.int64)})
    return run(Net(4, 3), train, valid)


def breast_cancer(_: Path) -> Spec:
    from sklearn.datasets import load_breast_cancer

    raw = load_breast_cancer()
    x = ((raw.data - raw.data.mean(0)) / raw.data.std(0)).astype(np.float32)
    train, valid = split({"input": x, "target": raw.target.astype(np.int64)})
    return run(Net(30, 2), train, valid)


def diabetes(_: Path) -> Spec:
    from sklearn.datasets import load_diabetes

    raw = load_diabetes()
    y = ((raw.target - raw.target.mean()) / raw.target.std()).astype(np.float32)[:, None]
    train, valid = split({"input": (20 * raw.data).astype(np.float32), "target": y})
    return run(Net(10, 1), train, valid, task="regression")


def ucihar(folder: Path) -> Spec:
    held = np.load(folder / "ucihar_subset" / "ucihar_subset.npz")
    sets = {
        n: {"input": held[f"X_{n}"].astype(np.float32), "target": held[f"y_{n}"].astype(np.int64)} for n in ("train", "test")
    }
    train, valid = split(sets["train"])
    return run(Net(128 * 9, 6), train, valid, sets["test"])


def movielens(folder: Path) -> Spec:
    lines = (folder / "ml100k" / "ml-100k.inter").read_text().splitlines()[1:]
    user, item, stars = np.array([[int(v) for v in line.split("\t")[:3]] for line in lines]).T
    train, valid = split({"user": user, "item": item, "target": stars.astype(np.float32)})
    task = use("regression", input=["user", "item"])
    return run(Stars(944, 1683), train, valid, task=task, optimizer=use("adamw", lr=0.02), steps=400)


def sentences(name: str) -> Callable[[Path], Spec]:
    def made(folder: Path) -> Spec:
        lines = (folder / "sentence_cls" / name).read_text(encoding="latin-1").split("\n")
        pairs = [line.split(" ", 1) for line in lines if " " in line]
        train, valid = split({"input": [text for _, text in pairs], "target": np.array([int(label) for label, _ in pairs])})
        texts = [use("tokenise_words", source=Arrays(**train), size=4000, max_length=40), use("pad")]
        return run(Bag(4000, int(train["target"].max()) + 1), train, valid, transforms=texts)

    return made


def cifar(folder: Path, records: int = 1500) -> Spec:
    from PIL import Image

    images, labels = [], []
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    with tarfile.open(folder / "cifar10_jpeg" / "test.tar.xz") as tar:
        for i, member in enumerate(m for m in tar if m.name.endswith(".jpg")):
            if i % 6 == 0 and (file := tar.extractfile(member)) is not None:
                images.append(np.asarray(Image.open(io.BytesIO(file.read()))))
                labels.append(names.index(Path(member.name).parent.name))
            if len(images) == records:
                break
    x = ((np.stack(images) / 255.0 - 0.5) / 0.25).astype(np.float32).transpose(0, 3, 1, 2)
    train, valid = split({"input": x, "target": np.array(labels)})
    return run(Net(3072, 10), train, valid)


def captions(folder: Path, length: int = 12) -> Spec:
    """The next word of captions."""
    sets = {}
    known: dict[str, int] = {}
    for name, file in (("train", "train.lc.norm.tok.en.gz"), ("valid", "val.lc.norm.tok.en.gz")):
        with gzip.open(folder / "multi30k" / file, "rt", encoding="utf-8") as lines:
            rows = [[known.setdefault(w, len(known) + 1) for w in line.split()[: length + 1]] for line in lines]
        kept = np.array([row for row in rows if len(row) == length + 1])
        sets[name] = {"input": kept[:, :-1], "target": kept[:, 1:]}
    ids = len(known) + 1
    model = nn.Sequential(nn.Embedding(ids, 32), nn.Linear(32, ids))
    return run(model, sets["train"], sets["valid"], task="language_model", steps=60, log_every=5)


REAL: dict[str, Callable[[Path], Spec]] = {
    "scikit-learn digits": digits,
    "scikit-learn iris": iris,
    "scikit-learn breast cancer": breast_cancer,
    "scikit-learn diabetes": diabetes,
    "USPS": usps,
    "UCI HAR": ucihar,
    "MovieLens 100k": movielens,
    "TREC": sentences("TREC.train.all"),
    "SST-2": sentences("stsa.binary.train"),
    "MPQA": sentences("mpqa.all"),
    "MR": sentences("rt-polarity.all"),
    "CIFAR-10 (JPEG)": cifar,
    "Multi30k captions": captions,
}
RECIPES = {
    "recipe digits": ("digits.py", ["epochs=6"]),
    "recipe language_model": ("language_model.py", ["steps=60", "evaluate_every=20", "log_every=5"]),
    "recipe movielens": ("movielens.py", ["epochs=4"]),
    "recipe text_classifier": ("text_classifier.py", ["epochs=2", "log_every=5"]),
}


# -- measuring -----------------------------------------------------------------------------------------------------------
def diagnosed(spec: Spec, folder: Path) -> tuple[Diagnosis, float]:
    """What is found, and the seconds that were spent looking at the data."""
    try:
        Run(spec, folder).fit()
    except Exception as error:  # noqa: BLE001  # a planted fault may end its run
        print(f"    ({type(error).__name__}: {str(error).splitlines()[0][:100]})")
    return diagnose(folder), float(RunFolder(folder).survey().get("seconds", 0.0))


def told(found: Diagnosis) -> tuple[list[str], list[str], list[str]]:
    """Findings of weight, those that a busy machine may add, and notes."""
    grave = [f.name for f in found.findings if f.gravity > Gravity.NOTE]
    notes = [f.name for f in found.findings if f.gravity == Gravity.NOTE]
    return [n for n in grave if n not in TIMED], [n for n in grave if n in TIMED], notes


def specs(folder: Path | None) -> Iterator[tuple[str, Callable[[], Spec]]]:
    for fault in planted.NATURAL:
        yield f"natural: {fault.name}", functools.partial(planted.spec, fault)
    for name, (file, overrides) in RECIPES.items():
        yield name, lambda file=file, overrides=overrides: recipe(file, overrides)
    for name, make in REAL.items():
        if folder is not None or name.startswith("scikit"):
            yield name, functools.partial(make, folder or Path())


def recipe(file: str, overrides: list[str]) -> Spec:
    found: Spec = load_file(Path(__file__).parents[1] / "recipes" / file).spec()
    return found.override(*overrides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with data sets")
    parser.add_argument("--only", default="", help="runs whose name holds this")
    options = parser.parse_args()
    add_wing(numpy_wing.FRAMEWORK)
    named = alarms = faults = twins = 0
    with tempfile.TemporaryDirectory() as scratch:
        for i, fault in enumerate(f for f in planted.FAULTS if options.only in f.name):
            found, _ = diagnosed(planted.spec(fault), Path(scratch) / f"fault-{i}")
            twin, _ = diagnosed(planted.spec(fault.healthy), Path(scratch) / f"twin-{i}")
            hit = fault.finding in {f.name for f in found.findings}
            faults, named, twins = faults + 1, named + hit, twins + bool(told(twin)[0])
            print(f"{'named ' if hit else 'MISSED'} {fault.name:52} {fault.finding:22} twin: {told(twin)}")
        print(f"recall {named} of {faults}; twins with an alarm: {twins} of {faults}\n")
        count = 0
        for i, (name, make) in enumerate((n, m) for n, m in specs(options.data) if options.only in n):
            found, seconds = diagnosed(make(), Path(scratch) / f"healthy-{i}")
            grave, timed, notes = told(found)
            count, alarms = count + 1, alarms + bool(grave)
            whole = read_run(RunFolder(found.folder)).seconds
            problems = RunFolder(found.folder).survey().get("problems")
            took = f"survey {seconds:.2f} s of {whole:.1f} s"
            print(f"{name:48} {found.status:9} weight: {grave}  machine: {timed}  notes: {notes}  {took} {problems or ''}")
            for finding in found.findings:
                print(f"    {finding.gravity.name.lower()}: {finding.title}")
        print(f"healthy runs with an alarm: {alarms} of {count}")


if __name__ == "__main__":
    main()
