"""The laws of exports judge functions that write a model of NumPy arrays into a file, and what reads it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from mapsto.core.laws import Example, Subject, Trial, Verdict, find_law, verdict
from mapsto.core.random import derive
from mapsto.laws.drivers import ExportCase, Run


class Model:
    """tanh((x - mean) W) * scale, half of it dropped in training."""

    def __init__(self, rng: np.random.Generator, dtype: str) -> None:
        self.weights = {"W": rng.normal(size=(4, 3)).astype(dtype), "scale": rng.normal(size=3).astype(dtype)}
        self.statistics = {"mean": np.zeros(4, dtype)}
        self.training = True

    def program(self) -> dict[str, Any]:
        """All that it takes to compute what the model does in evaluation."""
        return {**self.weights, **self.statistics, "dropout": False}


def compute(program: dict[str, Any], given: tuple[Any, ...], seed: int) -> dict[str, Any]:
    """A program on its inputs."""
    (x,) = given
    y = np.tanh((x - program["mean"]) @ program["W"]) * program["scale"]
    kept = np.random.default_rng(seed).random(y.shape) < 0.5 if program["dropout"] else True
    y = np.where(kept, y, 0).astype(y.dtype)
    return {"output 0": program.get("result", y)[: program.get("size")]}


class Case:
    said, sources = "Model", frozenset({__name__})
    tolerance: Literal["T0", "T2"] = "T2"

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def build(self, dtype: str = "float32") -> Model:
        return Model(np.random.default_rng(derive(self.trial.seed, "build")), dtype)

    def inputs(self, size: int, stream: str) -> tuple[Any, ...]:
        rng = np.random.default_rng(derive(self.trial.seed, stream, size))
        return (rng.normal(size=(size, 4)).astype("float32"),)

    def export(self, model: Model, given: tuple[Any, ...], folder: Path, dynamic: Any) -> Any:
        return self.trial.subject.target(model, given, folder / "model.bin")

    def open(self, artefact: Any) -> Run:
        program = pickle.loads(artefact.read_bytes()) if isinstance(artefact, Path) else artefact
        return partial(compute, program.program() if isinstance(program, Model) else program)


class Blocked(pickle.Unpickler):
    """Another process, in which a module is not there."""

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__:
            raise ModuleNotFoundError(f"the source {module} is not there")
        return super().find_class(module, name)


class Driver:
    """Exports as the laws see them, in NumPy."""

    def cases(self, trial: Trial) -> Iterator[ExportCase]:
        yield Case(trial)

    def tied(self, trial: Trial) -> None:
        return None

    def call(self, model: Model, given: tuple[Any, ...], seed: int) -> dict[str, Any]:
        before, model.training = model.training, False
        try:
            return compute(model.program(), given, seed)
        finally:
            model.training = before

    def draws(self, model: Model, given: tuple[Any, ...]) -> bool:
        return False

    def trained(self, case: ExportCase, seed: int) -> Model:
        model: Model = case.build()
        self.train(model, seed)
        return model

    def train(self, model: Model, seed: int) -> None:
        rng = np.random.default_rng(seed)
        for values in (*model.weights.values(), *model.statistics.values()):
            values += rng.normal(size=values.shape).astype(values.dtype)

    def take(self, model: Model, other: Model) -> None:
        for mine, theirs in ((model.weights, other.weights), (model.statistics, other.statistics)):
            for name, values in theirs.items():
                mine[name][...] = values

    def state(self, model: Model) -> dict[str, dict[str, Any]]:
        kept = {"parameters": model.weights, "statistics": model.statistics, "mode": {"training": model.training}}
        return copy.deepcopy(kept)

    def sharing(self, model: Model, artefact: Any) -> None:
        return None

    def elsewhere(
        self, trial: Trial, made: Sequence[tuple[ExportCase, Path, Sequence[tuple[Any, ...]]]], blocked: Sequence[str]
    ) -> list[list[dict[str, Any]]] | str:
        assert list(blocked) == [__name__]
        found = []
        for _, path, calls in made:
            try:
                program = Blocked(io.BytesIO(path.read_bytes())).load()
            except ModuleNotFoundError as error:
                return str(error)
            found.append([compute(program, given, 0) for given in calls])
        return found


def written(path: Path, program: Any) -> Path:
    path.write_bytes(pickle.dumps(program))
    return path


def right(model: Model, given: tuple[Any, ...], path: Path) -> Any:
    return written(path, model.program())


def repeats_its_example(model: Model, given: tuple[Any, ...], path: Path) -> Any:
    program = model.program()
    return written(path, {**program, "result": compute(program, given, 0)["output 0"]})


def holds_the_size(model: Model, given: tuple[Any, ...], path: Path) -> Any:
    return written(path, {**model.program(), "size": len(given[0])})


def holds_old_statistics(model: Model, given: tuple[Any, ...], path: Path) -> Any:
    return written(path, {**model.program(), "mean": np.zeros(4, "float32")})


def pickles_the_model(model: Model, given: tuple[Any, ...], path: Path) -> Any:
    return written(path, model)


def drops(model: Model, given: tuple[Any, ...], path: Path) -> Any:
    return written(path, {**model.program(), "dropout": model.training})


def leaves_evaluation(model: Model, given: tuple[Any, ...], path: Path) -> Any:
    model.training = False
    return right(model, given, path)


def shares_memory(model: Model, given: tuple[Any, ...], path: Path) -> Any:
    return model.program()


def judged(target: Callable[..., Any], law: str) -> Verdict:
    subject = Subject(kind="export", label=target.__name__, reference="", target=target, example=Example(), driver=Driver())
    return verdict(Trial(subject, find_law(law)))


@pytest.mark.parametrize("law", ["fresh_inputs", "dynamic_range", "without_source", "evaluation_and_original"])
def test_a_right_one_keeps_them(law: str) -> None:
    made = judged(right, f"export.{law}")
    assert made.status == "pass", (made.status, made.reason)


@pytest.mark.parametrize(
    ("target", "law", "cause"),
    [
        (repeats_its_example, "fresh_inputs", "it repeats the result of the example"),
        (drops, "fresh_inputs", "another path is taken while it is traced"),
        (holds_the_size, "dynamic_range", "the traced size 5 is held as a constant"),
        (pickles_the_model, "without_source", "the artefact holds references to code, and not the program itself"),
        (holds_old_statistics, "evaluation_and_original", "not the present weights in evaluation"),
        (drops, "evaluation_and_original", "it is in training mode: dropout is on"),
        (leaves_evaluation, "evaluation_and_original", "the export changed the model"),
        (shares_memory, "evaluation_and_original", "it shares memory with the model"),
    ],
)
def test_a_wrong_one_is_caught_with_its_cause(target: Callable[..., Any], law: str, cause: str) -> None:
    made = judged(target, f"export.{law}")
    assert made.status == "fail", (made.status, made.reason)
    assert made.witness is not None
    assert made.witness.cause == cause


def test_an_object_is_nothing_that_another_process_opens() -> None:
    made = judged(shares_memory, "export.without_source")
    assert made.status == "unknown"
    assert "tags={'in_memory'}" in made.reason


def test_layers_of_a_framework_without_an_export_are_left_out() -> None:
    class Layers:
        exports = None

    subject = Subject(kind="layer", label="Model", reference="", target=Model, driver=Layers())
    made = verdict(Trial(subject, find_law("export.fresh_inputs")))
    assert made.status == "not applicable"
    assert made.reason == "its framework has no export of its own"
