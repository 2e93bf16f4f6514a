"""A task of srun becomes a rank."""

from __future__ import annotations

import pytest

from mapsto.core.errors import LaunchError
from mapsto.launch import slurm

STEP = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "node[01-03,07]",
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
}


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("node1", ["node1"]),
        ("node[01-03,07]", ["node01", "node02", "node03", "node07"]),
        ("a,b[9-11]-x,c", ["a", "b9-x", "b10-x", "b11-x", "c"]),
        ("r[1-2]n[3,5]", ["r1n3", "r1n5", "r2n3", "r2n5"]),
    ],
)
def test_lists_of_nodes(listed, names):
    assert slurm.expand(listed) == names


@pytest.mark.parametrize("listed", ["", "node[1-", "node[a]", "a b", "node[1,]"])
def test_what_is_no_list_of_nodes(listed):
    with pytest.raises(LaunchError, match="no list of nodes|no number or range"):
        slurm.expand(listed)


def test_scontrol_is_asked_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho first\necho second\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert slurm.hosts("node[1-2]") == ["first", "second"]
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    assert slurm.hosts("node[1-2]") == ["node1", "node2"]


def test_the_variables_of_torchrun():
    found = slurm.variables(STEP)
    assert {k: found[k] for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR")} == {
        "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "7", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "2", "MASTER_ADDR": "node01",
    }  # fmt: skip
    other = slurm.variables({**STEP, "SLURM_PROCID": "0", "SLURM_NODEID": "0"})
    assert other["MASTER_PORT"] == found["MASTER_PORT"]  # all tasks compute the same
    assert slurm.variables({**STEP, "SLURM_STEP_ID": "1"})["MASTER_PORT"] != found["MASTER_PORT"]  # another step another one
    assert slurm.variables({**STEP, "MASTER_PORT": "1234"})["MASTER_PORT"] == "1234"


@pytest.mark.parametrize("missing", ["SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NODELIST"])
def test_a_missing_variable_is_named(missing):
    with pytest.raises(LaunchError, match=missing):
        slurm.variables({k: v for k, v in STEP.items() if k != missing})


def test_a_batch_script_is_no_task():
    assert slurm.is_step(STEP)
    assert not slurm.is_step({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"})
    assert not slurm.is_step({**STEP, "SLURM_STEP_NUM_TASKS": "1"})
