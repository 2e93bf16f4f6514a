"""What the laws of exports do with a case: export and open it, call it on other inputs, compare it with its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..core.errors import MissingExtra
from ..core.laws import Trial
from .compare import EPS, Array, close_to_oracle, differs, dtype_of, rounded, same, values
from .drivers import ExportCase, ExportDriver, Run
from .layer_inputs import controlled_by_inputs, mapped

TRACED = 5
"""Records in the example that is traced; no declared size is judged at this one alone."""


@contextmanager
def exported(
    trial: Trial, case: ExportCase, driver: ExportDriver | None = None, *, dynamic: Any = None, model: Any = None
) -> Iterator[Any]:
    """The artefact of a fresh model (or of this one), there within the block; an error of the export fails the law.

    driver: calls the fresh model once before, as whoever exports one has: its caches are filled.
    """
    if model is None:
        model = case.build()
        if driver is not None:
            called(trial, "the model itself", partial(driver.call, model), case.inputs(TRACED, "traced"))
    if dynamic is None:
        dynamic = trial.subject.kind == "export" and not trial.has("static")
    with TemporaryDirectory(prefix="mapsto-export-") as folder:
        with trial.component("exporting it"):
            given = case.inputs(TRACED, "traced")
            try:
                artefact = case.export(model, given, Path(folder), dynamic)
            except MissingExtra as missing:
                trial.skip(str(missing))
        yield artefact


def opened(trial: Trial, case: ExportCase, artefact: Any) -> Run:
    """The artefact as a function of inputs."""
    with trial.component("loading the artefact"):
        return case.open(artefact)


def called(trial: Trial, what: str, run: Run, given: tuple[Any, ...], seed: int = 0) -> dict[str, Any]:
    """The outputs of a call that must work, from a seed."""
    with trial.component(what):
        made = run(given, seed)
    for path, y in made.items():
        if y is None:
            said = f"{what}: {path} is a tensor without data"
            trial.fail(said, first={"tensor": path}, cause="a tensor made while tracing was kept in a cache")
    return made


def agree(
    trial: Trial,
    driver: ExportDriver,
    case: ExportCase,
    what: str,
    got: dict[str, Any],
    model: Any,
    given: tuple[Any, ...],
    *,
    cause: str | None = None,
) -> dict[str, Any]:
    """Demand what the model gives in evaluation: its bits (T0), or its accuracy against float64 (T2). Returns what was due.

    A tracer may add up in another order: where bits differ by roundings alone, the accuracy counts there too.
    """
    want = called(trial, "the model itself", partial(driver.call, model), given)
    if case.tolerance == "T0" and (not differs(got, want) or not rounded(got, want)):
        same(trial, what, got, want, cause=cause)
        return want
    if [_form(y) for y in got.values()] != [_form(y) for y in want.values()]:
        same(trial, what, got, want, cause=cause)
    whole = {k: y for k, y in want.items() if values(y).dtype.kind != "f"}
    same(trial, what, {k: got[k] for k in whole}, whole, cause=cause)
    true = case.build("float64")
    driver.take(true, model)
    exact = called(trial, "the model in float64", partial(driver.call, true), mapped(given, _in_float64))
    close_to_oracle(trial, what, got, want, exact, floor=_floor(exact), cause=cause)
    return want


def _form(array: Any) -> tuple[Any, ...]:
    return dtype_of(array), *values(array).shape


def _in_float64(x: Any) -> Any:
    return values(x).astype(np.float64) if values(x).dtype.kind == "f" else x


def _floor(exact: dict[str, Any]) -> float:
    """Other kernels sum in another order: 16 roundings of the largest output, of which a sum of n terms has about sqrt(n)."""
    numbers = [values(y) for y in exact.values() if values(y).dtype.kind == "f" and values(y).size]
    return 16 * EPS["float32"] * max((float(np.nan_to_num(np.abs(y)).max()) for y in numbers), default=0.0)


def compare_on_fresh_inputs(trial: Trial, driver: ExportDriver, case: ExportCase, run: Run) -> None:
    """The artefact on other values than those traced, and on ones that take other branches, against the model."""
    model, traced = case.build(), case.inputs(TRACED, "traced")
    at_trace = called(trial, "the model itself", partial(driver.call, model), traced)
    fresh = [(f"other values {i}", case.inputs(TRACED, f"fresh {i}")) for i in range(3)]
    changed = False
    for said, given in [("the example", traced), *fresh, *variations(fresh[0][1])]:
        invented = said in WAYS
        if invented and not _takes(driver, model, given):
            continue  # we made these up; it need not take them
        with trial.case(inputs=said):
            got = called(trial, f"the artefact on {said}", run, given)
            frozen = said != "the example" and not differs(got, at_trace)
            cause = "it repeats the result of the example" if frozen else "a value or branch of the example became a constant"
            cause = "another path is taken while it is traced" if said == "the example" else cause
            want = agree(trial, driver, case, "the artefact", got, model, given, cause=cause)
            changed = changed or differs(want, at_trace)
    controlled_by_inputs(trial, "other inputs give another result", changed)


def _takes(driver: ExportDriver, model: Any, given: tuple[Any, ...]) -> bool:
    try:
        driver.call(model, given, 0)
    except Exception:  # noqa: BLE001  # whatever it raises
        return False
    return True


def compare_at_size(trial: Trial, driver: ExportDriver, case: ExportCase, run: Run, size: int) -> dict[str, Any]:
    """The artefact on another number of records than was traced; what the model gives."""
    with trial.case(size=size):
        given = case.inputs(size, "sizes")
        got = called(trial, f"the artefact on {size} records", run, given)
        cause = f"the traced size {TRACED} is held as a constant"
        return agree(trial, driver, case, "the artefact", got, case.build(), given, cause=cause)


def _on_floats(change: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: change(x) if x.dtype.kind == "f" else x


WAYS: dict[str, Callable[[Array], Array]] = {
    "values negated": _on_floats(np.negative),
    "values eightfold": _on_floats(lambda x: x * x.dtype.type(8)),
    "all values one": _on_floats(np.ones_like),
    "masks turned over": lambda x: ~x if x.dtype.kind == "b" else x,
    "whole numbers moved on": lambda x: np.roll(x, 1, -1) if x.dtype.kind not in "fb" and x.ndim else x,
}
"""How inputs of the same form are made that take other branches."""


def variations(given: tuple[Any, ...]) -> Sequence[tuple[str, tuple[Any, ...]]]:
    """Inputs of the same form that take other branches: signs, sizes of values and masks turned over, ids moved on."""

    def change(way: Callable[[Array], Array], x: Any) -> Any:
        return np.asarray(way(x)) if isinstance(x, np.ndarray) else x

    return [(said, mapped(given, partial(change, way))) for said, way in WAYS.items()]
