"""Examples of sources, orders and transforms: arguments by name, small files, batches that a transform takes."""

from __future__ import annotations

import copy
import inspect
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import MissingExtra
from ...core.laws import Subject, Trial
from ...core.parts import build
from ...core.random import derive
from ...core.values import Part, use
from ..adapt import as_source
from ..arrays import Arrays
from ..fitted import fit, learned_by, waits
from ..source import Batch, Indices, Source
from .contents import records_of

TEXTS = ("a cat sat", "the dog ran far away", "owls see at night", "no", "a dog saw the cat", "the owl sat", "far, far off")
LABELS = ("cat", "dog", "owl")


def numbered(records: int, seed: int = 0) -> dict[str, Any]:
    """Fields of so many records that carry their number: `id`, `input` [n, 3] float32, `target`."""
    rng = np.random.default_rng(derive(seed, "records"))
    values = rng.standard_normal((records, 3)).astype(np.float32)
    return {"id": np.arange(records), "input": values, "target": np.arange(records) % 3}


class Numbered:
    """The same as an object of single records, as the data sets of frameworks are."""

    def __init__(self, records: int, seed: int = 0) -> None:
        self.fields = numbered(records, seed)

    def __len__(self) -> int:
        return len(self.fields["id"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "id": int(self.fields["id"][index]),
            "input": self.fields["input"][index],
            "target": int(self.fields["target"][index]),
        }


# -- sources -----------------------------------------------------------------------------------------------------------
def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _images(folder: Path) -> dict[str, Any]:
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in LABELS:
        (folder / label).mkdir()
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, (5, 4, 3), dtype=np.uint8)).save(folder / label / f"{i}.png")
    return {"path": folder}


def _texts(folder: Path) -> dict[str, Any]:
    for label in LABELS:
        _write(folder / label / "a.txt", "\n".join(f"{t} {label}" for t in TEXTS))
    return {"path": folder}


def _arrow(folder: Path, kind: str) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet

    table = pa.table({"id": list(range(7)), "input": list(TEXTS), "target": [float(i) for i in range(7)]})
    path = folder / f"data.{kind}"
    pyarrow.parquet.write_table(table, path) if kind == "parquet" else pyarrow.feather.write_feather(table, path)
    return {"path": path}


def _dataset(folder: Path) -> dict[str, Any]:  # noqa: ARG001  # the signature of all of them
    import datasets

    return {"data": datasets.Dataset.from_dict({"input": list(TEXTS), "target": list(range(7))})}


def _csv(folder: Path) -> dict[str, Any]:
    rows = "".join(f"{i},{i / 3},{LABELS[i % 3]}\n" for i in range(7))
    return {"path": _write(folder / "data.csv", "id,input,target\n" + rows)}


def _json(folder: Path) -> dict[str, Any]:
    return {
        "path": _write(folder / "data.jsonl", "".join(json.dumps({"id": i, "input": t}) + "\n" for i, t in enumerate(TEXTS)))
    }


OWN_SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "Arrays": lambda folder: numbered(7),  # noqa: ARG005
    "Arrow": lambda folder: _arrow(folder, "arrow"),
    "Concatenated": lambda folder: {"sources": [Arrays(**numbered(4)), Arrays(**numbered(3, 1))]},  # noqa: ARG005
    "Csv": _csv,
    "Fold": lambda folder: {"source": Arrays(**numbered(11)), "part": "rest", "fold": 2, "of": 3, "stratify": "target"},  # noqa: ARG005
    "HuggingFace": _dataset,
    "ImageFolder": _images,
    "Items": lambda folder: {"items": Numbered(7)},  # noqa: ARG005
    "JsonLines": _json,
    "Parquet": lambda folder: _arrow(folder, "parquet"),
    "Split": lambda folder: {"source": Arrays(**numbered(11)), "part": "rest", "fraction": 0.3},  # noqa: ARG005
    "TextFolder": _texts,
    "TextLines": lambda folder: {"path": _write(folder / "data.txt", "\n".join(TEXTS))},
    "TokenBlocks": lambda folder: {"text": _write(folder / "data.txt", "\n".join(TEXTS)), "block": 8, "stride": 5},
    "Windows": lambda folder: {"source": Arrays(**numbered(11)), "length": 3},  # noqa: ARG005
}
"""Class name -> arguments of our own sources, over files that they are given a folder for."""


@contextmanager
def source_of(trial: Trial) -> Iterator[Any]:
    """A fresh source of the trial, closed at the end; its files lie in a folder of its own."""
    subject, stated = trial.subject, trial.example
    if subject.make is not None:
        yield as_source(subject.make())
        return
    with tempfile.TemporaryDirectory(prefix="mapsto-law-") as name:
        args, folder = dict(stated.args), Path(name)
        try:
            if "in_folder" in stated.more:
                args = {**stated.more["in_folder"](folder), **args}
            elif not args and own(subject.target) and subject.target.__name__ in OWN_SOURCES:
                args = OWN_SOURCES[subject.target.__name__](folder)
            elif not args:
                args = _given(subject.target)
            missing = required(subject.target) - args.keys()
            if missing:
                trial.undecided(
                    f"its arguments {', '.join(sorted(missing))} could not be guessed; write beside it\n"
                    f"  mapsto.example({title(trial)}, args={{...}})  # or in_folder=lambda folder: {{...}} to write files"
                )
            trial.subject = replace(subject, example=replace(stated, more={**stated.more, "arguments": args}))
            with trial.building(args, guessed=not (stated.args or "in_folder" in stated.more or own(subject.target))):
                built = build(use(subject.target, **args), "source", path=subject.label, injected={"seed": trial.seed})
                made = as_source(built, claimed=isinstance(subject.target, type) and isinstance(built, subject.target))
        except (MissingExtra, ModuleNotFoundError) as error:
            trial.skip(f"it needs a library that is not installed: {error}")
        try:
            yield made
        finally:
            if hasattr(made, "close"):
                made.close()


def _given(target: Any) -> dict[str, Any]:
    """Arguments of a source of somebody else's by their names."""
    named: dict[str, Any] = dict.fromkeys(("records", "n", "size", "length", "count", "num_samples"), 7)
    named |= {n: Arrays(**numbered(7)) for n in ("source", "data", "dataset")}
    named |= {"items": Numbered(7), "sources": [Arrays(**numbered(4)), Arrays(**numbered(3, 1))], "arrays": numbered(7)}
    return {n: v for n, v in named.items() if n in required(target)}


# -- transforms --------------------------------------------------------------------------------------------------------
def _picked(values: tuple[Any, ...], size: int) -> list[Any]:
    return [values[i % len(values)] for i in range(size)]


def _ragged(size: int, rng: np.random.Generator) -> list[Any]:
    return [rng.integers(2, 50, 1 + (i * 3) % 7) for i in range(size)]


BATCHES: dict[str, Callable[[int, np.random.Generator], Batch]] = {
    "images": lambda n, rng: {"input": rng.integers(0, 255, (n, 3, 8, 6), dtype=np.uint8), "target": np.arange(n) % 3},
    "vectors": lambda n, rng: {"input": rng.standard_normal((n, 4)).astype(np.float32), "target": np.arange(n) % 3},
    "texts": lambda n, rng: {"input": _picked(TEXTS, n), "target": np.arange(n) % 3},  # noqa: ARG005
    "token ids": lambda n, rng: {"input": _ragged(n, rng), "target": np.arange(n) % 3},
    "labels": lambda n, rng: {"input": rng.standard_normal((n, 4)).astype(np.float32), "target": _picked(LABELS, n)},
}
"""Batches that transforms take, in the order in which they are tried."""
OWN_TRANSFORMS: dict[str, dict[str, Any]] = {
    "EncodeCategories": {"field": "target"},
    "EncodeLabels": {"classes": LABELS},
    "Normalise": {"mean": 0.5, "std": 0.25},
    "OneHot": {"classes": 3},
    "RandomCrop": {"padding": 2},
    "RandomShift": {"pixels": 2},
    "Rename": {"names": {"input": "image"}},
    "Select": {"fields": ["input"]},
    "Stack": {"fields": ["input", "target"]},
    "TokeniseWords": {"source": Arrays(input=list(TEXTS))},
}


def transform_of(trial: Trial) -> Any:
    """The transform of a trial: a function with its options bound, or what its class makes."""
    subject, args = trial.subject, dict(trial.example.args)
    if not inspect.isclass(subject.target) and not args:
        return subject.target
    if not args and own(subject.target) and _before_it(subject) is None:
        args = OWN_TRANSFORMS.get(subject.target.__name__, {})
    if (missing := required(subject.target) - args.keys()) and inspect.isclass(subject.target):
        names = ", ".join(sorted(missing))
        if own(subject.target) and subject.target.__name__ == "TokeniseWith":
            trial.skip("it reads a tokeniser's file, which none is given of: example(TokeniseWith, args={'path': ...})")
        trial.undecided(
            f"its arguments {names} could not be guessed; write beside it\n  mapsto.example({title(trial)}, args={{...}})"
        )
    with trial.building(args, guessed=not trial.example.args and not own(subject.target)):
        made = build(use(subject.target, **args), "transform", path=subject.label)
    if waits(made):
        make = batches_for(trial, made)
        with trial.component("fitting it"):
            made.learned = learned_by(made, Rows(make(FITTED)))
    return made


FITTED = 12
"""Records that a transform which learns is fitted on before it is judged."""


class Rows(Source):
    """The records of a batch as a source; it keeps which were read."""

    def __init__(self, batch: Batch) -> None:
        self._batch, self.read = batch, set[int]()

    def __len__(self) -> int:
        return len(next(iter(self._batch.values())))

    def __getitem__(self, indices: Indices) -> Batch:
        self.read.update(indices.tolist())
        return records_of(self._batch, indices.tolist())


def fitted_copy(transform: Any, batch: Batch) -> Any:
    """A transform that maps: a copy fitted on a batch where it waits for that, else itself."""
    if waits(transform):
        transform = copy.copy(transform)
        transform.learned = learned_by(transform, Rows(batch))
    return transform


def batches_for(trial: Trial, transform: Any) -> Callable[[int], Batch]:
    """`size -> batch` for a transform: as its author states it (`inputs=lambda size, rng: (batch,)`), or the first it takes."""
    if trial.example.inputs is not None:
        inputs = trial.example.inputs
        return lambda size: inputs(size, np.random.default_rng(derive(trial.seed, "batch", size)))[0]
    if (before := _before_it(trial.subject)) is not None:
        return before
    said = ""
    for make in BATCHES.values():
        try:
            batch = make(3, np.random.default_rng(0))
            apply(fitted_copy(transform, batch), batch, 0)
            break
        except Exception as error:  # noqa: BLE001  # a batch that did not fit
            said = said or f"{type(error).__name__}: {str(error)[:200]}"
    else:
        trial.undecided(
            f"it took none of {', '.join(BATCHES)} ({said}); write beside it\n  mapsto.example({title(trial)}, "
            "inputs=lambda size, rng: ({'input': ...},))  # a batch of so many records"
        )
    return lambda size: make(size, np.random.default_rng(derive(trial.seed, "batch", size)))


def _before_it(subject: Subject) -> Callable[[int], Batch] | None:
    """In a recipe, what the transform is given there: the reader's first records, after the transforms before it."""
    place = re.fullmatch(r"data\.([^.]+)\.transforms\.(\d+)", subject.label)
    reader = None if subject.spec is None or place is None else subject.spec.data[place[1]]
    if place is None or not isinstance(reader, Part):
        return None
    earlier = list(reader.args["transforms"])[: int(place[2])]

    def make(size: int) -> Batch:
        args = {**reader.args, "transforms": earlier, "batch_size": max(size, 1), "workers": 0}
        made = fit(build(Part(reader.use, args), "reader", path=f"data.{place[1]}", injected={"seed": subject.spec.seed}))
        batch = made.batch(0)
        there = len(next(iter(batch.values())))
        if there >= size:
            return {name: values[:size] for name, values in batch.items()}
        again = np.arange(size) % there  # fewer than are wanted: some of them twice
        return {n: v[again] if hasattr(v, "shape") else [v[i] for i in again] for n, v in batch.items()}

    return make


def source_in_recipe(subject: Subject) -> Any:
    """Of an order in a recipe, the source that it stands over there; else None."""
    place = re.fullmatch(r"data\.([^.]+)\.order", subject.label)
    reader = None if subject.spec is None or place is None else subject.spec.data[place[1]]
    if place is None or not isinstance(reader, Part) or "source" not in reader.args:
        return None
    source = reader.args["source"]
    if not isinstance(source, Part):
        return as_source(source)
    return as_source(build(source, "source", path=f"data.{place[1]}.source", injected={"seed": subject.spec.seed}))


def apply(transform: Any, batch: Mapping[str, Any], seed: int) -> Any:
    """The transform of a batch, with a generator of that seed where it takes one."""
    return transform(batch, rng=np.random.default_rng(seed)) if takes_rng(transform) else transform(batch)


def takes_rng(transform: Any) -> bool:
    """Whether it draws from a generator that it is given."""
    try:
        return "rng" in inspect.signature(transform).parameters
    except (TypeError, ValueError):
        return False


# -- signatures --------------------------------------------------------------------------------------------------------
def own(target: Any) -> bool:
    """Whether a target is registered by mapsto itself, and not by a plugin or recipe."""
    return str(getattr(target, "__module__", "")).startswith("mapsto.")


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a call that can be named."""
    try:
        found = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {p.name: p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def required(target: Any) -> set[str]:
    """Parameters without a default, but those that whoever builds it injects."""
    return {n for n, p in parameters(target).items() if p.default is p.empty and n not in ("seed", "self")}


def title(trial: Trial) -> str:
    """The name of the subject as its author writes it."""
    return trial.subject.label.rpartition(":")[2].rpartition("/")[2].rpartition(".")[2]
