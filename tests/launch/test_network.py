"""Two hosts in network namespaces at 100 Mbit/s: one is killed, one is cut off; the run ends or recovers as promised.

A run in strict mode has the same bits on one rank and on two, so what is left must equal the run that nothing happened to.
"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from tests.launch.launches import await_
from tests.launch.namespaces import NET, are_possible, hosts
from tests.launch.test_real_ranks import RECIPE, TIMEOUT, told_of

from mapsto.engine.folder import RunFolder
from mapsto.launch.agent import ALIVE, ENDS_LIMIT, LAST_CALL, MISSES
from mapsto.launch.supervisor import GRACE

pytestmark = [pytest.mark.network]
CHANGES = ("model.pause=0.02", "strict=true", "epochs=12")
RECOVER = TIMEOUT + GRACE + ENDS_LIMIT + ALIVE * MISSES + LAST_CALL
"""Seconds in which a run goes on without a node, as docs/distributed.md promises; and then ranks start."""
SLACK = 40.0
"""Seconds for a busy machine."""


@pytest.fixture(scope="module")
def whole(torch_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    words = [sys.executable, "-m", "mapsto", "train", str(RECIPE), *CHANGES, "--run", str(folder), "--quiet"]
    subprocess.run(words, check=True, timeout=300, stdout=subprocess.DEVNULL)
    return told_of(torch_server, folder, *CHANGES)


@pytest.fixture
def two():
    if not are_possible():
        pytest.skip("network namespaces cannot be made here")
    with hosts(2) as found:
        yield found


class Job:
    """The same command on each host."""

    def __init__(self, hosts, tmp_path, nodes, *more, rendezvous=None):
        self.hosts, self.run, self.tmp_path, self.nodes, self.more = hosts, tmp_path / "run", tmp_path, nodes, more
        self.rendezvous = rendezvous or f"{hosts[0].address}:29500"
        self.processes = [self.start(number) for number in range(len(hosts))]

    def start(self, number):
        words = ["train", RECIPE, *CHANGES, "--run", self.run, "--ranks", 1, "--nodes", self.nodes, "--node-rank", number]
        words += ["--rendezvous", self.rendezvous, *self.more]
        return self.hosts[number].start(*words, folder=self.tmp_path, said=self.tmp_path / f"said-{number}")

    def said(self, number):
        return (self.tmp_path / f"said-{number}").read_text()

    def step(self):
        return max((r["step"] for r in RunFolder(self.run).records("log")), default=0)

    def comes_to(self, step, limit=120.0):
        await_(lambda: self.step() >= step, limit)

    def starts(self):
        return len(list(RunFolder(self.run).records("start")))

    def codes(self, limit=180.0):
        return [process.wait(limit) for process in self.processes]


def test_two_hosts_train_as_one(two, tmp_path, torch_server, whole):
    job = Job(two, tmp_path, 2)
    assert job.codes() == [0, 0], job.said(0) + job.said(1)
    assert told_of(torch_server, job.run, *CHANGES) == whole


def test_a_killed_host_is_missed_and_the_other_goes_on(two, tmp_path, torch_server, whole):
    job = Job(two, tmp_path, "1:2")
    job.comes_to(10)
    began = time.monotonic()
    two[1].kill()
    await_(lambda: job.starts() == 2)
    assert time.monotonic() - began < RECOVER + SLACK
    assert job.processes[0].wait(180) == 0, job.said(0)
    assert "rank 1 on" in job.said(0) or "rank 1 did not come" in job.said(0)
    assert told_of(torch_server, job.run, *CHANGES) == whole


def test_of_a_fixed_number_the_other_ends_and_says_who_is_missing(two, tmp_path):
    job = Job(two, tmp_path, 2, "--wait", 15)
    job.comes_to(5)
    began = time.monotonic()
    two[1].kill()
    assert job.processes[0].wait(180) == 1
    assert time.monotonic() - began < RECOVER + 15 + SLACK
    assert "fewer than 2 nodes came" in job.said(0)
    assert f"--run {job.run} --continue" in job.said(0)


def test_the_host_of_the_rendezvous_is_killed(two, tmp_path):
    job = Job(two, tmp_path, "1:2", "--wait", 15)
    job.comes_to(10)
    began = time.monotonic()
    two[0].kill()
    assert job.processes[1].wait(180) == 1
    assert time.monotonic() - began < RECOVER + 15 + SLACK
    assert f"rendezvous at {job.rendezvous} could not be met within 15 s" in job.said(1) or "nothing answers" in job.said(1)


def test_with_a_store_of_its_own_any_host_may_be_killed(two, tmp_path, torch_server, whole):
    port = 29555
    store = subprocess.Popen([sys.executable, "-m", "mapsto.launch.store", f"{NET}.254:{port}"], stdout=subprocess.PIPE)
    try:
        assert store.stdout is not None
        store.stdout.readline()
        job = Job(two, tmp_path, "1:2", rendezvous=f"{NET}.254:{port}")
        job.comes_to(10)
        two[0].kill()  # which has the leader
        assert job.processes[1].wait(180) == 0, job.said(1)
        assert told_of(torch_server, job.run, *CHANGES) == whole
    finally:
        store.kill()
        store.communicate(timeout=20)


def test_a_host_that_is_cut_off_is_missed_and_taken_in_again(two, tmp_path, torch_server):
    job = Job(two, tmp_path, "1:2", "--wait", 90, "epochs=60")
    job.comes_to(10)
    began = time.monotonic()
    two[1].link("down")
    await_(lambda: job.starts() == 2)
    assert time.monotonic() - began < RECOVER + SLACK
    two[1].link("up")
    await_(lambda: job.starts() == 3, 120)
    assert job.codes(300) == [0, 0], job.said(0)
    found = told_of(torch_server, job.run, *CHANGES, "epochs=60")
    assert found["steps"] == list(range(1, 481))  # none lost, none twice


def test_a_host_that_stays_cut_off_ends_by_itself(two, tmp_path):
    job = Job(two, tmp_path, "1:2", "--wait", 15)
    job.comes_to(5)
    began = time.monotonic()
    two[1].link("down")
    assert job.processes[1].wait(240) == 1
    assert time.monotonic() - began < RECOVER + 60 + SLACK
    assert "could not be met within 15 s" in job.said(1) or "nothing answers" in job.said(1)
    two[0].kill()


def test_a_short_gap_is_nothing(two, tmp_path, torch_server, whole):
    job = Job(two, tmp_path, 2)
    job.comes_to(5)
    two[1].link("down")
    time.sleep(1.0)
    two[1].link("up")
    assert job.codes() == [0, 0], job.said(0)
    assert job.starts() == 1
    assert told_of(torch_server, job.run, *CHANGES) == whole
