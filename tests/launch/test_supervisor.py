"""The supervisor over ranks without a framework: exit codes, the first failure, starting again, signals, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.launch.launches import await_, is_alive, launch

from mapsto.core.errors import LaunchError
from mapsto.launch.supervisor import GRACE, SECOND

SLACK = 5.0
"""Seconds for a busy machine, on top of what is promised."""


def test_ranks_find_the_variables_of_torchrun_and_their_words_in_files(bare, tmp_path):
    told = launch(bare, tmp_path / "run", ranks="3")
    assert told.code == 0
    seen = [told.seen(rank)[0] for rank in range(3)]
    assert [(s["RANK"], s["LOCAL_RANK"], s["WORLD_SIZE"]) for s in seen] == [(str(r), str(r), "3") for r in range(3)]
    assert len({s["MASTER_PORT"] for s in seen}) == 1
    assert len({s["pid"] for s in seen} | {os.getpid()}) == 4
    assert sorted(p.name for p in (tmp_path / "run" / "logs").glob("*.log")) == ["rank-0.log", "rank-1.log", "rank-2.log"]
    assert [e["event"] for e in told.events()] == ["started", "ended"]


def test_the_first_failure_is_told_and_not_its_echoes(bare, tmp_path):
    told = launch(bare, tmp_path / "run", "1=raise:system", "all=echo", ranks="3", restarts=0)
    assert "rank 1 failed first at step 7: RuntimeError: planted" in told.error
    assert 'raise {"own"' in told.text()  # the line of the traceback
    assert "Connection reset" not in told.text()
    assert told.events("failed")[0]["ranks"] == [1]
    log = (tmp_path / "run" / "logs" / "rank-1.log").read_text()
    assert "about to fail" in log
    assert "RuntimeError: planted" in log
    assert json.loads((tmp_path / "run" / "logs" / "errors" / "rank-1.json").read_text())["message"] == "planted"


def test_an_error_of_the_program_is_not_tried_again(bare, tmp_path):
    told = launch(bare, tmp_path / "run", "1=raise:own", "all=echo")
    assert len(told.seen(0)) == 1
    assert "ValueError: planted" in told.text()
    assert "it would only meet the same error again" in told.error


def test_an_explained_error_is_its_message_alone(bare, tmp_path):
    told = launch(bare, tmp_path / "run", "all=raise:explained")
    assert told.error.startswith("every rank failed at step 7: planted\nlog: ")
    assert told.said == []


def test_a_lost_rank_starts_all_again(bare, tmp_path):
    told = launch(bare, tmp_path / "run", "1@1=kill", "0@1=echo")
    assert told.code == 0
    assert [s["attempt"] for s in told.seen(0)] == [1, 2]
    assert "rank 1 was ended by SIGKILL" in told.text()
    assert (tmp_path / "run" / "logs" / "attempts" / "1" / "errors" / "rank-0.json").exists()
    assert not (tmp_path / "run" / "logs" / "errors" / "rank-0.json").exists()
    assert (tmp_path / "run" / "logs" / "rank-1.log").read_text().count("--- attempt") == 2


def test_the_same_error_at_the_same_step_twice_ends_it(bare, tmp_path):
    told = launch(bare, tmp_path / "run", "1=raise:memory", "0=echo", restarts=5)
    assert len(told.seen(1)) == 2
    assert "the same error came at the same step twice" in told.error


def test_restarts_are_limited_unless_it_comes_further(bare, tmp_path):
    told = launch(bare, tmp_path / "run", "1=kill", "0=echo", restarts=2)
    assert len(told.seen(1)) == 3
    assert "started again 2 times without a new checkpoint" in told.error
    further = [f"1@{attempt}=checkpoint:{attempt:08d}" for attempt in range(1, 5)]
    told = launch(bare, tmp_path / "far", *further, "1=kill", "0=echo", restarts=1)
    assert len(told.seen(1)) == 5  # four that came further, and the one restart after them


def test_an_exit_code_is_told_with_the_last_words(bare, tmp_path):
    told = launch(bare, tmp_path / "run", "1=exit:3", "0=echo", restarts=0)
    assert "rank 1 ended with exit code 3" in told.error
    assert "last words" in told.text()


def test_who_stays_behind_is_ended_and_named_with_its_place(bare, tmp_path):
    told = launch(bare, tmp_path / "run", "2=loop", "all=echo:0.1", ranks="3", restarts=0)
    assert told.seconds < GRACE + 3 + SLACK
    assert "rank 2 did not come: it was running; ranks 0, 1 waited" in told.error
    assert "fake_ranks.py" in told.text()
    assert "in act" in told.text()
    assert not is_alive(told.seen(2)[0]["pid"])


def test_a_stopped_process_is_named_as_such(bare, tmp_path):
    told = launch(bare, tmp_path / "run", f"1=kill:{int(signal.SIGSTOP)}", "0=echo:0.5", restarts=0)
    assert "rank 1 did not come: it was stopped by a signal (SIGSTOP)" in told.error
    assert not is_alive(told.seen(1)[0]["pid"])


def test_who_came_to_the_end_too_early_is_named(bare, tmp_path):
    told = launch(bare, tmp_path / "run", "0=echo", restarts=3)
    assert "rank 1 had come to the end already, and rank 0 still waited for it" in told.text()
    assert len(told.seen(0)) == 1


# -- from least to most ----------------------------------------------------------------------------------------------------
def test_a_place_that_is_lost_again_and_again_is_left_out_and_tried_later(bare, tmp_path):
    # the third of three places kills its rank whenever three take part, until the fourth attempt
    deeds = ["2@1=kill", "2@2=kill", "all@3=wait", "0@1=echo", "1@1=echo", "0@2=echo", "1@2=echo", "0@3=wait", "1@3=wait"]
    told = launch(bare, tmp_path / "run", *deeds, ranks="2:3", regrow=1.5)
    assert told.code == 0
    assert [e["world"] for e in told.events("started")] == [3, 3, 2, 3]
    assert [e["event"] for e in told.events()].count("regrouped") == 1
    assert json.loads((tmp_path / "run" / "got-0.json").read_text()) == [signal.SIGTERM]  # which saves


def test_a_place_in_the_middle_leaves_the_others_their_devices(bare, tmp_path, monkeypatch):
    deeds = [f"{r}@{a}={'kill' if r == 1 else 'echo'}" for a in (1, 2) for r in range(3)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    told = launch(bare, tmp_path / "run", *deeds, ranks="2:3")
    assert told.code == 0
    assert [(s["WORLD_SIZE"], s["LOCAL_RANK"], s["CUDA_VISIBLE_DEVICES"]) for s in (told.seen(0)[-1], told.seen(1)[-1])] == [
        ("2", "0", "4,6"),
        ("2", "1", "4,6"),
    ]


# -- signals -------------------------------------------------------------------------------------------------------------
def ask(folder, ranks, *numbers, pause=0.2):
    def meanwhile(supervisor):
        await_(lambda: all((folder / f"ready-{rank}").exists() for rank in range(ranks)))
        for number in numbers:
            supervisor.signals.append(number)
            time.sleep(pause)

    return meanwhile


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_goes_to_every_rank_once_and_gives_the_exit_code(bare, tmp_path, number):
    folder = tmp_path / "run"
    told = launch(bare, folder, "all=wait", meanwhile=ask(folder, 2, number))
    assert told.code == 128 + number
    assert [json.loads((folder / f"got-{rank}.json").read_text()) for rank in (0, 1)] == [[number], [number]]
    assert told.events("failed") == []


def test_a_second_one_ends_those_that_do_not_listen(bare, tmp_path):
    folder = tmp_path / "run"
    told = launch(bare, folder, "all=deaf", meanwhile=ask(folder, 2, signal.SIGINT, signal.SIGINT))
    assert told.code == 130
    assert told.seconds < SECOND + 1 + SLACK
    assert not any(is_alive(told.seen(rank)[0]["pid"]) for rank in (0, 1))


def test_a_warning_before_the_signal_is_no_second_one(bare, tmp_path):
    folder = tmp_path / "run"
    told = launch(bare, folder, "all=wait", meanwhile=ask(folder, 2, signal.SIGUSR1, signal.SIGTERM, pause=0.1))
    assert told.code == 128 + signal.SIGUSR1
    assert json.loads((folder / "got-0.json").read_text()) in ([signal.SIGUSR1, signal.SIGTERM], [signal.SIGUSR1])


# -- the server ----------------------------------------------------------------------------------------------------------
def test_ranks_die_with_their_server_and_start_again_under_another(tmp_path):
    from mapsto.processes.forks import ForkServer

    folder = tmp_path / "run"
    with ForkServer((), threads=1) as server:

        def kill(supervisor):
            await_(lambda: all((folder / f"ready-{rank}").exists() for rank in range(2)))
            server._process.kill()

        told = launch(server, folder, "0@1=wait", "1@1=wait", meanwhile=kill)
        assert told.code == 0
        assert [s["attempt"] for s in told.seen(0)] == [1, 2]
        assert not is_alive(told.seen(0)[0]["pid"])


def test_a_server_that_is_stopped_at_its_start_is_named_and_ended(monkeypatch):
    from mapsto.processes import forks

    monkeypatch.setattr(forks, "STOPPED", 0.5)
    with forks.ForkServer((), threads=1) as server:
        pid = server._process.pid
        os.kill(pid, signal.SIGSTOP)
        stands = rf"\(the fork server, process {pid}\) stands still: it has been stopped by a signal \(SIGSTOP\)"
        for _ in range(2):  # and whoever asks again hears the same
            with pytest.raises(LaunchError, match=stands):
                server.fork("time:sleep", [60])
        await_(lambda: not is_alive(pid))
        server.revive()
        assert server.wait(server.fork("time:sleep", [0])) == 0


def test_a_server_that_is_stopped_before_it_has_begun_holds_up_nobody(monkeypatch):
    from mapsto.processes import forks, spawned

    monkeypatch.setattr(forks, "STOPPED", 0.5)
    monkeypatch.setattr(spawned, "dies_with_parent", lambda parent: os.kill(os.getpid(), signal.SIGSTOP))
    with forks.ForkServer((), threads=1) as server:
        with pytest.raises(LaunchError, match="stands still"):
            server.fork("time:sleep", [60])
        await_(lambda: not is_alive(server._process.pid))


def test_a_server_that_is_stopped_while_ranks_run_ends_the_launch_and_the_ranks(tmp_path, monkeypatch):
    from mapsto.processes import forks

    monkeypatch.setattr(forks, "STOPPED", 0.5)
    folder = tmp_path / "run"
    with forks.ForkServer((), threads=1) as server:

        def stop(supervisor):
            await_(lambda: all((folder / f"ready-{rank}").exists() for rank in range(2)))
            os.kill(server._process.pid, signal.SIGSTOP)

        told = launch(server, folder, "all=wait", meanwhile=stop)
        assert "stands still: it has been stopped by a signal (SIGSTOP)" in told.error
        await_(lambda: not any(is_alive(told.seen(rank)[0]["pid"]) for rank in (0, 1)), 10)


def test_a_server_that_does_not_answer_is_named_and_ended(monkeypatch):
    from mapsto.processes import forks

    monkeypatch.setattr(forks, "PING", 0.2)
    with forks.ForkServer((), threads=1) as server:
        pid = server.fork("time:sleep", [60])
        assert server.wait(pid, 1.0) is None  # it answers: the control
        monkeypatch.setattr(forks, "LIMIT", 0.5)
        monkeypatch.setattr(forks, "is_stopped", lambda pid: False)  # as where it is frozen, which no letter tells
        os.kill(server._process.pid, signal.SIGSTOP)
        with pytest.raises(LaunchError, match="stands still: it has not answered for 0.5 s"):
            server.wait(pid, 60.0)
        await_(lambda: not is_alive(pid), 10)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_server_goes_with_its_asker_however_that_ends(stopped):
    code = """
import sys, time
from mapsto.processes.forks import ForkServer
server = ForkServer((), threads=1)
print(server._process.pid, flush=True)
if sys.argv[1] == "False":
    print(server.fork("time:sleep", [600]), flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(stopped)], stdout=subprocess.PIPE) as asker:
        assert asker.stdout is not None
        pids = [int(asker.stdout.readline())]
        begun = Path(f"/proc/{pids[0]}/cmdline")  # from then on it goes with its asker
        await_(lambda: b"mapsto.processes.server" in begun.read_bytes())
        os.kill(pids[0], signal.SIGSTOP) if stopped else pids.append(int(asker.stdout.readline()))
        asker.kill()
    await_(lambda: not any(map(is_alive, pids)), 10)


def test_closing_leaves_nothing(tmp_path):
    from mapsto.processes.forks import ForkServer

    with ForkServer((), threads=1) as server:
        pid = server.fork("time:sleep", [60])
        assert is_alive(pid)
    await_(lambda: not is_alive(pid), 10)


def test_a_rank_that_cannot_be_called_says_so(bare, tmp_path, capfd):
    told = launch(bare, tmp_path / "run", call="tests.launch.fake_ranks:mian", restarts=0)
    assert "ended with exit code 1" in told.error
    assert "AttributeError" in told.text()
