"""What is lost: workers and servers that are killed or stand still; and what is told of errors in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import server_toys as toys
from test_served_equality import OFFERS, served

from mapsto import use
from mapsto.core.errors import ClusterError, DataError, SpecError
from mapsto.torch.servers.mesh import Servers

pytestmark = pytest.mark.usefixtures("pool")


def _kill(program: Any, kind: str, number: int) -> None:
    driver = program.driver
    driver.cluster.kill((driver.servers if kind == "server" else driver.workers)[number])


def _bits(weights: dict[str, np.ndarray]) -> bytes:
    return b"".join(weights[n].tobytes() for n in sorted(weights))


def _uninterrupted(spec: Any, steps: int) -> dict[str, np.ndarray]:
    with served(spec) as program:
        for _ in range(steps):
            program.step()
        return program.weights()


def test_killed_and_silent_workers_lose_their_micro_shards_to_others_and_no_bit_changes(tmp_path: Path) -> None:
    adamw = use("adamw", lr=1e-2)
    wanted = _uninterrupted(toys.spec(optimizer=adamw), 9)
    faults = [use(toys.Faulty, file=str(tmp_path / how), step=step, shard=shard, how=how)
              for how, step, shard in (("kill", 2, 1), ("hang", 5, 3))]  # fmt: skip
    spec = toys.spec(optimizer=adamw, middleware=faults)
    with served(spec, timeout=4.0) as program:
        for _ in range(9):
            program.step()
        assert {p.name for p in tmp_path.iterdir()} == {"kill", "hang"}, "both faults happened"
        assert program.driver.lost == 2
        assert _bits(program.weights()) == _bits(wanted)


def test_a_killed_server_takes_all_back_to_what_was_saved_and_no_bit_changes() -> None:
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
    with served(toys.spec(task=use(_fails))) as program, pytest.raises(ClusterError, match=r"worker \d, step 0 failed: KeyError"):
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
        program = Servers(servers=2, workers=3, staleness=bound, timeout=60.0).program(spec, {**OFFERS, "total_steps": 12})
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
        assert toys.apart(one.weights(), program.weights()) < 1e-9
        program.restore(first.state_tree())  # and back, while the servers run
        assert program.position == 3
        for _ in range(3):
            program.step()
        assert toys.apart(one.weights(), program.weights()) < 1e-9
    with served(spec) as program:  # begun by servers, gone on with by one process
        for _ in range(3):
            program.step()
        tree = program.state_tree()
    rest = toys.one_process(spec, 0)
    rest.restore(tree)
    from mapsto.data.stream import read
    from mapsto.torch.servers.blueprint import Blueprint

    reader = Blueprint.of(spec, 4, OFFERS).train_reader()
    for step in range(3, 6):
        rest.step(read(reader, step, (0, 1, 2, 3), 4))
    assert toys.apart(one.weights(), rest.weights()) < 1e-9
