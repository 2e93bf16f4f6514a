"""Which rank failed first, told from what each left behind."""

from __future__ import annotations

import signal
import socket

import pytest

from mapsto.launch.failure import End, judge
from mapsto.launch.flight_recorder import collectives, divergence

HOST = socket.gethostname()
RESET = "RuntimeError: [gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:1: Connection reset by peer"
LATE = "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 8000ms for recv operation to complete"


def record(time, *chain, bases=("RuntimeError", "Exception"), explained=False, step=3):
    kind, _, message = chain[0].partition(": ")
    return {
        "time": time, "type": kind, "message": message, "chain": list(chain), "bases": list(bases), "step": step,
        "explained": explained, "traceback": f"Traceback (most recent call last):\n{chain[0]}", "host": HOST,
    }  # fmt: skip


def end(rank, code=1, time=0.0, host=HOST, log="", **more):
    return End(rank=rank, host=host, code=code, time=time, log=log, **more)


def entry(number, name, *sizes, dtype="Float", group="0"):
    return {
        "collective_seq_id": number, "profiling_name": f"gloo:{name}", "input_sizes": [list(s) for s in sizes],
        "input_dtypes": [dtype] * len(sizes), "process_group": [group, "default_pg"], "is_p2p": False,
    }  # fmt: skip


def test_an_error_of_its_own_comes_before_echoes_that_were_noticed_earlier():
    ends = [end(0, record=record(1.0, RESET)), end(1, record=record(2.0, "ValueError: x", bases=("ValueError",)))]
    found = judge(ends)
    assert (found.kind, found.ranks, found.again) == ("failed", (1,), False)
    assert "ValueError: x" in found.text()


def test_the_earliest_of_several_errors():
    ends = [end(r, record=record(10.0 - r, f"OSError: {r}", bases=("OSError",))) for r in range(3)]
    found = judge(ends)
    assert found.ranks == (2,)
    assert found.again  # another time the file may be there


def test_an_echo_that_was_explained_is_an_echo_all_the_same():
    wrapped = record(1.0, "MapstoError: rank 0 could not join", RESET, explained=True)
    ends = [end(0, record=wrapped), end(1, code=-9, time=5.0)]
    assert judge(ends).ranks == (1,)


def test_a_signal_is_a_cause_with_a_hint():
    found = judge([end(0, record=record(1.0, RESET)), end(1, code=-signal.SIGSEGV, time=2.0)])
    assert (found.kind, found.ranks) == ("lost", (1,))
    assert "SIGSEGV" in found.sentence
    assert "crash in native code" in found.text()


def test_who_did_not_come_is_named_with_the_collective_that_waited():
    flight = [entry(1, "broadcast", [2]), entry(2, "all_reduce", [4, 8])]
    ends = [end(r, record=record(1.0, LATE), flight=flight) for r in (0, 2)] + [
        end(1, code=None, state="running", stack="File x")
    ]
    found = judge(ends)
    assert (found.kind, found.ranks) == ("stalled", (1,))
    assert "rank 1 did not come: it was running; ranks 0, 2 waited in collective 2, all_reduce of float32[4, 8]" in found.text()
    assert "File x" in found.text()


def test_another_host_is_named():
    ends = [end(0, record=record(1.0, LATE)), end(1, code=None, host="far", state="gone")]
    assert "rank 1 on far did not come" in judge(ends).text()


def test_another_collective_or_shape_is_a_divergence():
    common = [entry(1, "broadcast", [2])]
    for odd in (entry(2, "all_reduce", [5]), entry(2, "all_gather", [4]), entry(2, "all_reduce", [4], dtype="Double")):
        ends = [
            end(r, record=record(1.0, LATE), flight=[*common, odd if r == 1 else entry(2, "all_reduce", [4])]) for r in range(3)
        ]
        found = judge(ends)
        assert (found.kind, found.ranks, found.again) == ("diverged", (1,), False)
        assert "at collective 2" in found.sentence
        assert "--check-collectives" in found.hint


def test_of_two_ranks_none_is_the_odd_one():
    ends = [end(r, record=record(1.0, LATE), flight=[entry(1, "all_reduce", [4 + r])]) for r in range(2)]
    assert judge(ends).ranks == ()
    assert "rank 0 in all_reduce of float32[4], rank 1 in all_reduce of float32[5]" in judge(ends).sentence


def test_what_may_differ_is_no_divergence():
    further = {0: collectives([entry(1, "barrier"), entry(2, "barrier")]), 1: collectives([entry(1, "barrier")])}
    assert divergence(further) is None
    uneven = {r: collectives([entry(1, "alltoall_base", [r + 1])]) for r in range(2)}
    assert divergence(uneven) is None
    groups = {r: collectives([entry(1, "all_reduce", [r + 1], group=str(r))]) for r in range(2)}
    assert divergence(groups) is None


def test_the_check_of_torch_itself_is_taken_at_its_word():
    line = (
        "RuntimeError: Detected mismatch between collectives on ranks. Rank 0 is running collective: A, but Rank 1 is running B"
    )
    found = judge([end(r, record=record(1.0, line)) for r in range(2)])
    assert found.kind == "diverged"
    assert "Rank 0 is running collective: A, but Rank 1 is running B" in found.sentence
    assert "--check-collectives" not in found.text()


def test_a_process_that_gloo_ended_was_sent_what_it_did_not_wait_for(tmp_path):
    log = tmp_path / "rank-0.log"
    log.write_text(
        "--- attempt 1, now\n  what():  [enforce fail] op.preamble.length <= op.nbytes. 16 vs 12. Received data size\n"
        "Current thread (most recent call first):\n"
        '  File "/x/torch/nn.py", line 1 in f\n  File "/x/own.py", line 22 in forward\n'
    )
    ends = [end(0, code=-signal.SIGABRT, log=str(log)), end(1, record=record(1.0, RESET))]
    found = judge(ends)
    assert found.kind == "diverged"
    assert "rank 0 was at /x/own.py:22" in found.sentence
    log.write_text("--- attempt 1, now\nan assertion of another library\n")
    assert judge(ends).kind == "lost"  # the control: not every abort is one


@pytest.mark.parametrize(("line", "again"), [(RESET, True), (LATE, True)])
def test_where_all_are_echoes_the_first_to_notice_is_named(line, again):
    found = judge([end(0, record=record(2.0, line)), end(1, record=record(1.0, line))])
    assert (found.kind, found.ranks, found.again) == ("disconnected", (1,), again)
