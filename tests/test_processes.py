"""Clocks of processes: what computes and what sleeps, and what they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mapsto.processes.clock import Clock, computed_by

SPINS = "while True: pass"
SLEEPS = "import time\nwhile True: time.sleep(0.01)"
BELOW = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}])"
ONCE = "import subprocess, sys, time; subprocess.run([sys.executable, '-c', {!r}]); time.sleep(600)"
BRIEFLY = "import time\nwhile time.process_time() < 0.4: pass"
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the system does not tell")


@pytest.fixture
def started():
    found: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> int:
        found.append(subprocess.Popen([sys.executable, "-c", code], start_new_session=True))
        return found[-1].pid

    yield start
    for process in found:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(clock: Clock, reached) -> Clock:
    for _ in range(2400):
        if reached(clock):
            return clock
        time.sleep(0.05)
        clock.look()
    raise AssertionError(f"computed {clock.computed} s, slept {clock.slept} s")


@pytest.mark.parametrize("code", [SPINS, BELOW.format(SPINS)], ids=["itself", "what it started"])
def test_what_computes_is_no_sleeper(started, code):
    pid = started(code)
    until(Clock([pid]), lambda c: c.computed > 0.3)
    clock = until(Clock([pid]), lambda c: c.computed > 0.5)
    assert clock.slept < 0.5


@pytest.mark.parametrize("code", [SLEEPS, BELOW.format(SLEEPS)], ids=["itself", "what it started"])
def test_what_polls_sleeps(started, code):
    pid = started(code)
    until(Clock([pid]), lambda c: c.slept > 0.5)  # it has started
    clock = until(Clock([pid]), lambda c: c.slept > 1.0)
    assert clock.computed < 0.5


def test_one_that_computes_keeps_a_group_awake(started):
    sleeps, spins = started(SLEEPS), started(SPINS)
    until(Clock([sleeps]), lambda c: c.slept > 0.5)
    clock = until(Clock([sleeps, spins]), lambda c: c.computed > 0.5)
    assert clock.slept < 0.5


def test_what_a_process_started_counts_when_it_has_ended(started):
    pid = started(ONCE.format(BRIEFLY))
    until(Clock([pid]), lambda c: c.slept > 0.5)
    assert computed_by(pid) > 0.35


def test_a_process_that_is_gone_sleeps(started):
    clock = until(Clock([2**22 + 1]), lambda c: c.slept > 0.5)
    assert clock.computed == 0
    assert computed_by(2**22 + 1) == 0
