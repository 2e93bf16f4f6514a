"""The same run under torchrun, as tasks of srun, on Ray, and on nodes of which one is told to leave: the same weights."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.launch.launches import await_, command
from tests.launch.test_real_ranks import RECIPE, told_of, train

from mapsto.engine.folder import RunFolder
from mapsto.launch.network import free_port

LIMIT = 240.0


@pytest.fixture(scope="module")
def whole(torch_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(torch_server, folder, "strict=true").code == 0
    return told_of(torch_server, folder, "strict=true")


@contextlib.contextmanager
def started(*commands, cwd, **options):
    """Processes in sessions of their own, killed at the end."""
    environments = options.get("environments", [{}] * len(commands))
    processes = [
        subprocess.Popen(
            [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd,
            start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        for words, environment in zip(commands, environments, strict=True)
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=30)


MAPSTO = [sys.executable, "-m", "mapsto", "train", RECIPE, "strict=true"]


@pytest.mark.slow
def test_under_torchrun_with_its_own_restarts(tmp_path, torch_server, whole):
    words = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2, "--max-restarts", 1, "--rdzv-backend", "c10d",
        "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "-m", "--", *MAPSTO[2:], "--run", tmp_path / "run", "--quiet",
    ]  # fmt: skip
    trouble = "model.trouble=kill:1:30"
    environment = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "MAPSTO_ATTEMPT": "1"}
    with started([*words, trouble], cwd=tmp_path, environments=[environment]) as (process,):
        # the second attempt would be killed as the first one was, but for the pass that it no longer comes to
        said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    assert len(list(RunFolder(tmp_path / "run").records("start"))) == 2
    assert told_of(torch_server, tmp_path / "run", "strict=true", trouble) == whole


@pytest.mark.slow
def test_tasks_of_srun(tmp_path, torch_server, whole):
    shared = {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NODEID": "0",
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    tasks = [{**shared, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    words = [*MAPSTO, "--run", tmp_path / "run", "--continue", "--quiet"]
    with started(words, words, cwd=tmp_path, environments=tasks) as processes:
        said = [process.communicate(timeout=LIMIT)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert said[1] == ""  # one leader
    assert told_of(torch_server, tmp_path / "run", "strict=true") == whole


@pytest.mark.slow
def test_a_node_that_is_told_to_stop_saves_and_the_other_goes_on(tmp_path, torch_server, whole):
    meet = f"127.0.0.1:{free_port()}"
    words = [*MAPSTO, "model.pause=0.05", "--run", tmp_path / "run", "--ranks", 1, "--nodes", "1:2", "--rendezvous", meet]
    with started(*([*words, "--node-rank", k] for k in range(2)), cwd=tmp_path) as (stays, leaves):
        await_(lambda: len(list(RunFolder(tmp_path / "run").records("log"))) > 4 or stays.poll() is not None, LIMIT)
        assert stays.poll() is None, stays.communicate()[0]
        leaves.send_signal(signal.SIGTERM)
        assert leaves.wait(60) == 143
        said, _ = stays.communicate(timeout=LIMIT)
    assert stays.returncode == 0, said
    assert "did not come" not in said
    records = RunFolder(tmp_path / "run")
    assert len(list(records.records("start"))) == 2
    found = told_of(torch_server, tmp_path / "run", "strict=true", "model.pause=0.05")
    assert found == whole  # nothing was done twice: a step that is repeated would be logged so


@pytest.mark.slow
def test_on_ray_a_killed_rank_starts_again(tmp_path, torch_server, whole):
    pytest.importorskip("ray")
    run = tmp_path / "run"
    changes = ["strict=true", "model.trouble=kill:1:5"]
    with command("train", RECIPE, *changes, "--ray", "local", "--ranks", 2, "--run", run, folder=tmp_path) as process:
        said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    assert "rank 1 was ended by SIGKILL" in said
    assert "finished at step 24" in said
    assert told_of(torch_server, run, *changes) == whole
    assert (run / "logs" / "rank-1.log").read_text().count("--- attempt") == 2


@pytest.mark.slow
def test_a_mesh_of_a_fixed_number_starts_its_ranks(tmp_path):
    with command("train", RECIPE, "mesh={replicate: 2}", "--run", tmp_path / "run", folder=tmp_path) as process:
        said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    assert sorted(p.name for p in (tmp_path / "run" / "logs").glob("*.log")) == ["rank-0.log", "rank-1.log"]


# -- what cannot be started is one message ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ranks", "x"], "--ranks x: a number of at least 1 is wanted"),
        (["--nodes", "2"], "say where they meet: --rendezvous HOST:PORT"),
        (["--rendezvous", "a:1"], "--rendezvous goes with --nodes N"),
        (["--node-rank", "0"], "--node-rank goes with --nodes N"),
        (["--nodes", "2", "--rendezvous", "a:b"], "HOST:PORT is wanted"),
        pytest.param(["--ranks", "2", "--ray", "127.0.0.1:1"], "no cluster answers there", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_started(words, told, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("model: {use: 'torch.nn:Linear', in_features: 2, out_features: 2}\ndata: {train: {source: {use: arrays, "
                    "input: [[0, 1]], target: [1]}, batch_size: 1}}\n")  # fmt: skip
    with command("train", spec, *words, folder=tmp_path) as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("error: ")
    assert told in said
    assert "Traceback" not in said
    assert not Path(tmp_path / "runs").exists()
