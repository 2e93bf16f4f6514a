"""Servers and workers in step are one process: gradients, weights, averages, with unequal weights and empty micro-shards.

What is lost on the way changes no bit; what is told of errors in other processes; checkpoints and runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import server_toys as toys
import torch

from mapsto import Run, Spec, use
from mapsto.core.errors import ClusterError, DataError, SpecError
from mapsto.servers.program import ServedProgram
from mapsto.torch.servers.mesh import Servers

pytestmark = [
    pytest.mark.usefixtures("pool"),
    # on a machine under load Ray ends before it has waited for all processes of its own
    pytest.mark.filterwarnings("ignore:.*subprocess .* is still running", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
INJECTED = {"total_steps": 9, "steps_per_epoch": 5, "seed": 0}


@contextmanager
def served(spec: Spec, **mesh: Any) -> Iterator[ServedProgram]:
    """The program of a spec on servers, ended at the end."""
    program = Servers(**{**spec.mesh.args, **mesh}).program(spec, INJECTED)
    try:
        yield program
    finally:
        program.close()


CASES: dict[str, tuple[dict[str, Any], int, float]] = {
    "gradient": ({"optimizer": use("sgd", lr=1.0)}, 1, 1e-12),
    "sgd": ({}, 6, 1e-12),  # the fifth batch has 3 records for 4 micro-shards, the sixth is of another epoch
    "adamw": (
        {
            "optimizer": use("adamw", lr=1e-2),
            "schedule": use("warmup", steps=0.3),
            "middleware": [use("clip_norm", max_norm=0.3), use("accumulate", steps=2), use("ema", decay=0.9)],
        },
        6,
        1e-9,
    ),
    "groups": (
        {
            "optimizer": use("adamw", lr=1e-2),
            "middleware": [
                "no_weight_decay",
                use("freeze", patterns=["5.bias"]),
                use(toys.Halved),
                use("clip_value", value=0.1),
            ],
        },
        4,
        1e-9,
    ),
    "unused": ({"model": use(toys.Unused), "optimizer": use("adamw", lr=1e-2)}, 6, 1e-9),
    "skipped": ({"middleware": [use("nonfinite", action="skip")], "optimizer": use("adamw", lr=1e-2)}, 4, 1e-9),
}


@pytest.mark.parametrize("name", CASES)
def test_the_weights_are_those_of_one_process(name: str) -> None:
    changes, steps, within = CASES[name]
    spec = toys.spec(**changes)
    one = toys.one_process(spec, steps)
    with served(spec) as program:
        found = [program.step() for _ in range(steps)]
        assert program.position == steps
        tree = program.state_tree()
        assert toys.distance(one.weights(), program.weights()) <= within
        assert program.rates() == pytest.approx(one.rates(), rel=1e-12)
    assert [m["staleness/max"] for m in found] == [0] * steps
    _same_tree(one.state_tree(), tree, within)
    before = toys.one_process(spec, 0).weights()
    assert toys.distance(before, one.weights()) > 1e-3  # the control: something was trained


def _same_tree(one: Any, other: Any, within: float, path: str = "") -> None:
    """The same form, names and plain values; tensors alike."""
    if isinstance(one, dict):
        assert set(one) == set(other), path
        for key in one:
            _same_tree(one[key], other[key], within, f"{path}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            _same_tree(a, b, within, f"{path}.{i}")
    elif isinstance(one, torch.Tensor):
        assert one.shape == other.shape, path
        assert one.dtype == other.dtype, path
        torch.testing.assert_close(other, one, rtol=max(within, 1e-9), atol=1e-14)
    else:
        assert one == other or one == pytest.approx(other), path


@pytest.mark.parametrize("optimizer", [use("sgd", lr=0.05, fused=False), use("adagrad", lr=0.05)], ids=["sgd", "adagrad"])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_tables_are_trained_as_in_one_process_and_only_touched_rows_travel(optimizer: Any) -> None:
    spec = toys.spec(model=use(toys.WideNet), task=use(toys.wide), optimizer=optimizer)
    one = toys.one_process(spec, 6)
    with served(spec) as program:
        metrics = [program.step() for _ in range(6)]
        assert toys.distance(one.weights(), program.weights()) <= 1e-12
        shards = program.layout.shards
    assert sum(1 for rows in shards if rows["items.weight"]) == 2, "the large table is split by rows"
    for step, found in enumerate(metrics):
        assert found["bytes/pushed"] == _rows_touched(spec, step, 4) * (5 * 8 + 8) + _dense_bytes(step)
    dense = 8 * 5 * 280 * 3  # what three workers would push of the tables if whole gradients travelled
    assert max(m["bytes/pushed"] for m in metrics) < dense / 2


def _blocks(spec: Spec, step: int) -> list[dict[str, np.ndarray]]:
    """What each of the three workers reads: micro-shard 0, micro-shard 1, micro-shards 2 and 3."""
    from mapsto.torch.servers.blueprint import Blueprint

    reader = Blueprint.of(spec, 4, INJECTED).train_reader()
    parts = [reader.batch(step, shard, 4) for shard in range(4)]
    joined = {n: np.concatenate([parts[2][n], parts[3][n]]) for n in parts[2]}
    return [parts[0], parts[1], joined]


def _rows_touched(spec: Spec, step: int, shards: int) -> int:
    """Distinct rows with a gradient, of all workers and tables, counted by hand; padding has none."""
    count = 0
    for batch in _blocks(spec, step):
        ids = set(np.unique(batch["ids"])) - {0}
        items = set(np.unique(batch["item"])) | set(np.unique((batch["item"] * 7 + 1) % 200))
        count += 2 * len(ids) + len(items)
    return count


def _dense_bytes(step: int) -> int:
    """The head's gradient (5 x 3 weights, 3 biases) of every worker that has a record."""
    working = 3 if step != 4 else 2  # of 3 records in 4 micro-shards the first gets none
    return 8 * 18 * working


def _kill(program: Any, kind: str, number: int) -> None:
    """SIGKILL to a process, and wait until Ray knows."""
    import ray

    driver = program.driver
    actor = (driver.servers if kind == "server" else driver.pool.workers)[number]
    driver.cluster.kill(actor)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get([actor.__ray_ready__.remote() for _ in range(100)], timeout=30)


def _bits(weights: dict[str, np.ndarray]) -> bytes:
    return b"".join(weights[n].tobytes() for n in sorted(weights))


def _uninterrupted(spec: Any, steps: int) -> dict[str, np.ndarray]:
    with served(spec) as program:
        for _ in range(steps):
            program.step()
        return program.weights()


def test_a_killed_server_takes_all_back_to_what_was_saved_and_no_bit_changes(caplog: pytest.LogCaptureFixture) -> None:
    plateau = use("plateau", factor=0.5, patience=0, metric="valid/loss")
    spec = toys.spec(optimizer=use("adamw", lr=1e-2), schedule=plateau, middleware=[use("ema", decay=0.9)])

    def run(kill: dict[int, Any]) -> tuple[dict[str, np.ndarray], Any, int]:
        with served(spec) as program:
            for step in range(8):
                program.step()
                if step == 2:
                    program.state_tree()  # a checkpoint: what all go back to
                if step in (3, 4):
                    program.observe({"valid/loss": 1.0})  # the second time it has not improved: the rate is halved
                if step in kill:
                    _kill(program, "server", kill[step])
            tree = program.state_tree()
            return program.weights(), tree, program.driver.lost

    wanted, tree, _ = run({})
    found, again, lost = run({5: 1, 6: 0})
    assert lost == 2
    assert "mesh: server 1 was lost (ActorDiedError); all servers go back from step 6 to step 3" in caplog.messages
    assert _bits(found) == _bits(wanted)
    assert again["schedule"] == tree["schedule"]
    assert again["optimizer"]["groups"] == tree["optimizer"]["groups"]
    averages = [t["middleware"]["ema"]["averages"] for t in (tree, again)]
    assert all((averages[0][n] == averages[1][n]).all() for n in averages[0])


def test_it_ends_with_a_message_where_more_is_lost_than_is_allowed() -> None:
    with served(toys.spec(), restarts=0) as program:
        program.step()
        _kill(program, "worker", 1)
        with pytest.raises(ClusterError, match=r"worker 1 was lost.*mesh.restarts allows 0"):
            program.step()
        with pytest.raises(ClusterError, match="restore a checkpoint first"):
            program.step()


def test_an_error_in_a_worker_is_told_with_its_worker_step_and_place() -> None:
    with served(toys.spec(model=use(toys.Broken))) as program:
        with pytest.raises(DataError, match=r"worker \d, step 0: step 0: 'inner' \(Linear\) does not accept") as caught:
            program.step()
        assert "server_toys.py" in str(caught.value.__cause__), "the worker's own traceback is the cause"
    with (
        served(toys.spec(task=use(_fails))) as program,
        pytest.raises(ClusterError, match=r"worker \d, step 0 failed: KeyError"),
    ):
        program.step()


def _fails(model: Any, batch: Any) -> Any:
    raise KeyError("no such thing")


def test_a_buffer_that_training_changes_is_refused_by_name() -> None:
    with served(toys.spec(model=use(toys.Counting))) as program, pytest.raises(SpecError, match="changed the buffer 'passes'"):
        program.step()


def test_gradients_are_never_staler_than_the_bound_and_as_stale_as_that_where_a_worker_dawdles() -> None:
    spec = toys.spec(middleware=[use(toys.Slow, seconds=0.25)], optimizer=use("sgd", lr=0.01), steps=12)
    lags: dict[int, list[int]] = {}
    for bound in (0, 2):
        program = Servers(servers=2, workers=3, staleness=bound, timeout=60.0).program(spec, {**INJECTED, "total_steps": 12})
        try:
            found = [program.step() for _ in range(12)]
            lags[bound] = sorted(program.driver.lags.elements())
            assert len(lags[bound]) == 12 * 3, "each worker told of each step once"
            assert program.fetch(found)["staleness/max"] == max(lags[bound])
        finally:
            program.close()
    assert max(lags[0]) == 0
    assert max(lags[2]) == 2


def test_its_checkpoints_are_those_of_one_process_and_the_other_way_round() -> None:
    spec = toys.spec(optimizer=use("adamw", lr=1e-2), middleware=[use("clip_norm", max_norm=0.5), use("ema", decay=0.9)])
    one = toys.one_process(spec, 6)
    first = toys.one_process(spec, 3)
    with served(spec) as program:  # begun by one process, gone on with by servers
        program.restore(first.state_tree())
        for _ in range(3):
            program.step()
        assert toys.distance(one.weights(), program.weights()) < 1e-9
        program.restore(first.state_tree())  # and back, while the servers run
        assert program.position == 3
        for _ in range(3):
            program.step()
        assert toys.distance(one.weights(), program.weights()) < 1e-9
    with served(spec) as program:  # begun by servers, gone on with by one process
        for _ in range(3):
            program.step()
        tree = program.state_tree()
    rest = toys.one_process(spec, 0)
    rest.restore(tree)
    from mapsto.data.stream import read
    from mapsto.torch.servers.blueprint import Blueprint

    reader = Blueprint.of(spec, 4, INJECTED).train_reader()
    for step in range(3, 6):
        rest.step(read(reader, step, (0, 1, 2, 3), 4))
    assert toys.distance(one.weights(), rest.weights()) < 1e-9


def test_killed_workers_lose_their_micro_shards_to_others_and_no_bit_changes(tmp_path: Path) -> None:
    adamw = use("adamw", lr=1e-2)
    wanted = _uninterrupted(toys.spec(optimizer=adamw), 9)
    fault = use(toys.Faulty, file=str(tmp_path / "killed"), step=2, shard=1)
    with served(toys.spec(optimizer=adamw, middleware=[fault])) as program:
        for step in range(9):
            program.step()
            if step == 2:  # in the middle of its backward pass
                assert (tmp_path / "killed").exists()
                assert program.driver.lost == 1
            if step == 5:  # between two steps
                _kill(program, "worker", 2)
        assert program.driver.lost == 2
        assert _bits(program.weights()) == _bits(wanted)


def test_a_run_trains_on_servers_and_goes_on_without_them_and_the_other_way_round(tmp_path: Path) -> None:
    data = {"train": toys.spec().data["train"], "valid": {"source": use(toys.Numbers, records=30), "batch_size": 20}}
    both = {"optimizer": use("adamw", lr=1e-2), "middleware": [use("ema", decay=0.9)], "data": data, "steps": 10}
    served_spec, plain = toys.spec(**both, evaluate_every=5), toys.spec(**both, evaluate_every=5, mesh=None)
    done = {}
    for name, first, second in (("one", plain, plain), ("began", served_spec, plain), ("ended", plain, served_spec)):
        Run(first.override("steps=5"), tmp_path / name).fit()
        run = Run(second, tmp_path / name)
        result = run.fit(resume=True)
        assert result.reason == "finished"
        with run.trained("last") as program:
            done[name] = program.weights()
    assert toys.distance(done["one"], done["began"]) < 1e-9
    assert toys.distance(done["one"], done["ended"]) < 1e-9
    logs = [r["metrics"] for r in run.folder.records("log")]
    weights = sum(w.nbytes for w in done["one"].values())
    assert logs[-1]["train/bytes/pulled"] == 3 * weights, "each worker pulls all dense parameters once a step"
    evaluated = [r["metrics"]["valid/loss"] for name in done for r in Run(plain, tmp_path / name).folder.records("evaluate")]
    assert evaluated[:2] == pytest.approx(evaluated[2:4], rel=1e-9)
    assert evaluated[:2] == pytest.approx(evaluated[4:], rel=1e-9)
