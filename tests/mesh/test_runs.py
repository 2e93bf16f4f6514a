"""Runs on several ranks: one folder, one leader, the same end on all; what is not the same on all is named."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from company import RankFailed, on_ranks
from mesh_programs import Net, records
from tests.mesh.errors import error

from mapsto import Run, Spec, use
from mapsto.data.arrays import Arrays

RANK = "RANK"


def spec(**changes: Any) -> Spec:
    data = {"source": records("net", "float32"), "batch_size": 8}
    fields: dict[str, Any] = {
        "model": use(Net),
        "data": {"train": {**data, "shuffle": True}, "valid": data},
        "optimizer": use("adamw", lr=1e-2),
        "middleware": [use("clip_norm", max_norm=0.5), use("ema", decay=0.9)],
        "epochs": 3,
        "log_every": 2,
        "device": "cpu",
        **changes,
    }
    return Spec(**fields)


def weights(run: Run) -> dict[str, Any]:
    return run.program.weights()


def fit(folder: str, mesh: Any = None, steps: int | None = None, resume: bool = False) -> dict[str, Any]:
    length = {} if steps is None else {"steps": steps, "epochs": None}
    run = Run(spec(mesh=mesh, micro_shards=4, **length), folder)
    result = run.fit(resume=resume)
    return {"weights": weights(run), "metrics": dict(result.metrics), "steps": result.steps}


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    from mapsto.engine.folder import RunFolder

    return list(RunFolder(folder).records(name))


def test_a_run_on_ranks_is_the_run_on_one_and_goes_on_on_another_number(tmp_path: Path) -> None:
    wanted = fit(str(tmp_path / "one"))
    found = on_ranks(2, fit, str(tmp_path / "two"))
    assert all(error(rank["weights"], wanted["weights"]) < 1e-5 for rank in found)
    assert found[0]["metrics"].keys() >= wanted["metrics"].keys()
    assert found[0]["metrics"]["valid/loss"] == pytest.approx(wanted["metrics"]["valid/loss"], rel=1e-5)
    assert found[0]["metrics"]["valid/loss"] == found[1]["metrics"]["valid/loss"]

    on_ranks(4, fit, str(tmp_path / "moved"), {"replicate": 4}, 5)
    on_ranks(2, fit, str(tmp_path / "moved"), {"replicate": 2}, 9, True)
    moved = fit(str(tmp_path / "moved"), None, 12, True)
    assert moved["steps"] == 12
    assert error(moved["weights"], wanted["weights"]) < 1e-5
    cold = fit(str(tmp_path / "cold"), None, 7)
    assert error(cold["weights"], wanted["weights"]) > 1e-3


def test_only_the_leader_writes_and_the_log_tells_of_each_rank(tmp_path: Path) -> None:
    on_ranks(2, fit, str(tmp_path / "run"))
    logs = events(tmp_path / "run", "log")
    assert [e["step"] for e in logs] == [2, 4, 6, 8, 10, 12]
    assert all(len(e["detail"]["ranks"]["step"]) == 2 for e in logs)
    assert [p.name for p in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))][-1] == "step-00000012"


# -- observers and signals -----------------------------------------------------------------------------------------------
class Watches:
    """Takes copies of the weights at each event, and asks to stop at step 6."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def __call__(self, event: Any) -> None:
        self.seen.append((event.name, event.step, len(event.run.weights())))
        if event.step == 6:
            event.run.ask_to_stop("enough")


def watched(folder: str, mesh: Any) -> Any:
    watch = Watches()
    result = Run(spec(mesh=mesh), folder, observers=[watch]).fit()
    return watch.seen, result.reason, result.why, result.steps


@pytest.mark.parametrize("mesh", [{"replicate": 2}, {"shard": 2}], ids=str)
def test_observers_are_called_on_the_leader_and_may_ask_for_weights_and_the_end(tmp_path: Path, mesh: Any) -> None:
    leader, follower = on_ranks(2, watched, str(tmp_path / "run"), mesh)
    assert leader[0][0][0] == "start"
    assert {count for _, _, count in leader[0]} == {14}
    assert follower[0] == []
    assert leader[1:] == follower[1:] == ("stopped", "enough", 6)


class Signals:
    """A middleware by which one rank gets a signal during its fifth step."""

    def step(self, inner: Any) -> Any:
        def outer(state: Any, batch: Any) -> Any:
            if state.step == 4 and os.environ[RANK] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            return inner(state, batch)

        return outer


def signalled(folder: str) -> Any:
    result = Run(spec(middleware=[use(Signals)]), folder).fit()
    return result.reason, result.why, result.steps, result.last.name


def test_a_signal_on_one_rank_ends_all_after_the_same_step_saved(tmp_path: Path) -> None:
    found = on_ranks(2, signalled, str(tmp_path / "run"))
    assert found[0] == found[1]
    assert found[0][:2] == ("interrupted", "SIGTERM")
    assert found[0][2] in (5, 6)
    assert found[0][3] == f"step-{found[0][2]:08d}"


# -- what is not the same --------------------------------------------------------------------------------------------
class Shifted(Arrays):
    """Reads a file that is not the same on all machines."""

    def __init__(self) -> None:
        data = records("net", "float32")
        if os.environ[RANK] == "2":
            data["input"][7] += 1e-3
        super().__init__(**data)


def unequal(folder: str, what: str) -> Any:
    changes: dict[str, Any] = {}
    other = os.environ[RANK] == "2"
    if what == "spec" and other:
        changes = {"optimizer": use("adamw", lr=2e-2)}
    if what == "data":
        changes = {"data": {"train": {"source": use(Shifted), "batch_size": 31}}}
    return Run(spec(**changes), folder).fit().reason


@pytest.mark.parametrize(
    ("what", "said"), [("spec", r"optimizer.lr: 0.02 and not 0.01"), ("data", r'first batch: "\w+" and not')]
)
def test_a_rank_that_runs_something_else_is_named_before_the_first_step(tmp_path: Path, what: str, said: str) -> None:
    with pytest.raises(RankFailed, match=rf"the ranks do not run the same {what}: rank 2 has {said}"):
        on_ranks(3, unequal, str(tmp_path / "run"), what)


def held(folder: str) -> str:
    try:
        Run(spec(), folder).fit()
    except Exception as found:
        return f"{type(found).__name__}: {found}"
    return "nothing"


def test_an_error_of_the_leader_is_raised_on_all(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").write_text("here")
    found = on_ranks(2, held, str(tmp_path / "run"))
    assert found[0] == found[1]
    assert "is not empty and holds no run" in found[0]
