"""Clocks of processes, what computes and what sleeps; and processes that ran nobody's code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mapsto.check.process import Server
from mapsto.processes.clock import Clock, computed_by
from mapsto.processes.forks import ForkServer

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


# -- fresh processes ---------------------------------------------------------------------------------------------------
TELLS = "import json, os, sys; open(sys.argv[1], 'w').write(json.dumps([os.getppid(), os.getcwd(), os.environ['A']]))"


def in_a_worker(code: str) -> None:
    """Run text in a process that has imported little, as a worker's has; this one holds what every test before has left."""
    needed = "import json, os, sys\nfrom pathlib import Path\nfrom mapsto.processes import fresh\n"
    done = subprocess.run([sys.executable, "-c", needed + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kept", [True, False])
def test_a_fresh_process_has_its_own_folder_words_and_environment_and_tells_its_error(tmp_path, kept):
    path = tmp_path / "told.json"
    environment = {**os.environ, "A": "b"}
    in_a_worker(
        f"fresh.keep() if {kept} else None\n"
        f"sys.modules['nobodys'] = sys\n"
        f"options = dict(folder=Path({str(tmp_path)!r}), environment={environment!r}, seconds=60)\n"
        f"assert fresh.run({TELLS!r}, [{str(path)!r}], **options) == (0, '')\n"
        "code, said = fresh.run('import sys\\nimport nobodys\\n', **options)\n"
        "assert code == 1 and said.strip().endswith(\"No module named 'nobodys'\"), said\n"
        "assert fresh.run('raise SystemExit(7)', **options)[0] == 7\n"
        "assert fresh.run('import os; os.abort()', **options)[0] == -6\n"
        f"assert bool(fresh.kept()) is {kept}\n"
    )
    parent, folder, said = json.loads(path.read_text())
    assert (folder, said) == (str(tmp_path), "b")
    assert parent != os.getpid()


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("code", [SPINS, SLEEPS])
def test_a_fresh_process_that_does_not_end_is_ended(tmp_path, kept, code):
    in_a_worker(
        f"fresh.keep() if {kept} else None\n"
        "try:\n"
        f"    fresh.run({code!r}, folder=Path('.'), environment=os.environ, seconds=0.5)\n"
        "except TimeoutError:\n"
        "    pass\n"
        "else:\n"
        "    raise AssertionError\n"
        "assert fresh.run('', folder=Path('.'), environment=os.environ, seconds=60) == (0, '')\n"
    )


def test_what_was_imported_before_is_no_fresh_process_without_it(tmp_path):
    in_a_worker(
        "fresh.keep()\n"
        "def parent(without):\n"
        f"    path = Path({str(tmp_path)!r}) / 'parent'\n"
        "    code = 'import os, sys; open(sys.argv[1], \"w\").write(str(os.getppid()))'\n"
        "    fresh.run(code, [str(path)], folder=Path('.'), environment=os.environ, seconds=60, without=without)\n"
        "    return int(path.read_text())\n"
        "assert parent(['nowhere']) in fresh.kept()\n"
        "assert parent(['mapsto']) == parent(['mapsto.processes']) == os.getpid()\n"
    )


def test_the_twin_ends_with_its_maker_and_where_it_is_gone_an_interpreter_does(tmp_path):
    path = tmp_path / "twin"
    in_a_worker(
        "fresh.keep()\n"
        f"open({str(path)!r}, 'w').write(str(*fresh.kept()))\n"
        "os.kill(*fresh.kept(), 9)\n"
        "assert fresh.run('', folder=Path('.'), environment=os.environ, seconds=60) == (0, '')\n"
        "fresh.keep()\n"
        f"open({str(path)!r}, 'w').write(str(*fresh.kept()))\n"
    )
    twin = int(path.read_text())
    for _ in range(200):
        if not Path(f"/proc/{twin}").exists():
            return
        time.sleep(0.05)
    raise AssertionError("it runs on")


# -- a server that goes on importing -----------------------------------------------------------------------------------
def test_what_is_imported_later_is_in_later_forks_and_harms_nothing_where_it_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "served_first.py").write_text("LATER = ['nobodys_module', 'served_later']\n")
    (tmp_path / "served_later.py").write_text(
        "import gc, sys\nSEEN = []\n"
        "def tell(path):\n    open(path, 'w').write(f'{__name__ in sys.modules} {gc.isenabled()} {len(SEEN)}')\n"
        "SEEN.append('served')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with ForkServer(["served_first"]) as server:
        for number in range(1200):
            told = tmp_path / f"told{number}"
            was_warm = server.is_warm()
            assert server.wait(server.fork("served_later:tell", [str(told)])) == 0
            assert told.read_text() == "True True 1"
            if was_warm:
                return
            time.sleep(0.05)
    raise AssertionError("it was never warm")


def test_a_server_that_has_ended_is_not_waited_for():
    server = ForkServer([])
    pid = server.fork("os:getpid")
    assert server.wait(pid) is not None
    os.kill(server._process.pid, signal.SIGKILL)
    for _ in range(200):
        if server.is_warm():
            break
        time.sleep(0.05)
    server.close()
    assert server.is_warm()
    with ForkServer([]) as unasked:
        os.kill(unasked._process.pid, signal.SIGKILL)
        assert unasked.is_warm()


def test_the_server_of_the_checker_has_one_thread_when_it_is_warm():
    with Server() as server:
        server.end(server.fork("os:getpid"))
        for _ in range(2400):
            if server.is_warm():
                break
            time.sleep(0.05)
        tasks = len(os.listdir(f"/proc/{server._process.pid}/task"))
    assert tasks == 1
