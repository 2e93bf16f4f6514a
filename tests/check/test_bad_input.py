"""Whatever a component does, its verdict is clear, the other laws are judged, and nothing is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from mapsto.check import check, resolve
from mapsto.check.process import Server
from mapsto.core.laws import Verdict

FILE = Path(__file__).with_name("gadgets.py")
ALONE = {  # gadget -> (verdict of its call, what is said of it)
    "Good": ("pass", ""),
    "good": ("pass", ""),
    "factory": ("pass", ""),
    "NeedsArguments": ("unknown", "missing 1 required positional argument: 'size'"),
    "CannotBeBuilt": ("unknown", "RuntimeError: no room"),
    "Raises": ("fail", "calling it raised ArithmeticError: nought"),
    "Hangs": ("unknown", "it did not answer in 3 s of sleeping or waiting (it was at"),
    "Computes": ("unknown", "it did not answer within 3 s of computing (it was at"),
    "Leaves": ("fail", "it left a process running (sleep 6543)"),
    "LeavesAnOrphan": ("fail", "it left a process running (sleep 6544)"),
    "PrintsMegabytes": ("pass", ""),
    "RaisesSystemExit": ("unknown", "the component raised SystemExit(3)"),
    "RaisesKeyboardInterrupt": ("unknown", "KeyboardInterrupt"),
    "Exits": ("unknown", "it ended the worker process with exit code 0"),
    "Crashes": ("unknown", "it ended the worker process by SIGSEGV (at"),
    "IsKilled": ("unknown", "it ended the worker process by SIGKILL"),
    "Forks": ("pass", ""),
    "Recurses": ("fail", "RecursionError"),
    "Allocates": ("fail", "MemoryError"),
    "ClosesStdout": ("pass", ""),
    "ReadsStdin": ("pass", ""),
    "ChangesDtype": ("fail", "it changed the default dtype"),
    "ChangesDevice": ("fail", "it changed the default device"),
    "ChangesThreads": ("fail", "it changed the number of threads"),
    "ChangesFolder": ("fail", "it changed the working folder"),
    "RemovesFolder": ("fail", "it changed the working folder"),
    "ChangesGradientMode": ("fail", "it changed the gradient mode"),
    "Seeds": ("pass", ""),
    "AnnouncedAndBroken": ("expected failure", "known to raise"),
    "AnnouncedAndFine": ("fail", "it passes, and the example expects it to fail (known to raise)"),
    "AnnouncedForNothing": ("pass", ""),
}
RANKED = {
    "Good": ("not applicable", "it does not declare `ranked`"),
    "Meets": ("pass", ""),
    "Deadlocks": ("unknown", "rank 1 did not answer in 3 s of sleeping or waiting (it was at"),
    "OneRankDies": ("unknown", "rank 1 ended the worker process with exit code 7"),
    "OneRankRaises": ("unknown", "ValueError: not me"),
}
TARGETS = {  # what cannot even be used
    "import os\nos._exit(4)\n": "when it was imported, it ended the worker process with exit code 4",
    "raise SystemExit(2)\n": "it raised SystemExit(2) when it was imported",
    "import ctypes\nctypes.string_at(0)\n": "it ended the worker process by SIGSEGV",
    "import nothing_of_that_name\n": "ModuleNotFoundError: No module named 'nothing_of_that_name'",
    "def broken(:\n": "SyntaxError",
    "while True: pass\n": "it did not answer within 3 s of computing",  # and where it was, if there was time to look
    "Thin = 1\n": "has no 'Thing'",
}


def judged(served, names, **options) -> dict[tuple[str, str], Verdict]:
    found = resolve([f"{FILE}:{name}" for name in names], served, kind="gadget")
    assert found.problems == []
    verdicts = check(found.subjects, laws=found.laws, jobs=2, limit=0.05, served=served, **options)
    return {(v.subject.rpartition(":")[2], v.law): v for v in verdicts}


@pytest.fixture(scope="module")
def served():
    """One server, however those end that are forked from it."""
    with Server(memory=1 << 30) as made:
        yield made


@pytest.fixture(scope="module")
def already(served):
    """That server, and processes that other tests keep, such as a server that mutants share."""
    return {p.pid for p in psutil.Process().children(recursive=True)}


@pytest.fixture(scope="module")
def alone(served, already):
    return judged(served, ALONE, only=["gadget.works", "gadget.draws"])


@pytest.fixture(scope="module")
def ranked(served, already):
    return judged(served, RANKED, only=["gadget.meets"])


@pytest.mark.parametrize("name", ALONE)
def test_each_ends_in_a_clear_verdict(alone, name):
    status, said = ALONE[name]
    made = alone[name, "gadget.works"]
    assert (made.status, made.seconds >= 0) == (status, True), made.reason
    assert said in made.reason


@pytest.mark.parametrize("name", ALONE)
def test_its_other_law_is_judged_in_a_clean_state(alone, name):
    assert alone[name, "gadget.draws"].status == "pass"
    assert alone[name, "gadget.draws"].counts == alone["Good", "gadget.draws"].counts


def test_hangs_and_crashes_are_told_with_their_line(alone):
    lines = FILE.read_text().splitlines()
    for name, said in (("Hangs", "time.sleep(0.01)"), ("Crashes", "ctypes.string_at(0)")):
        reason = alone[name, "gadget.works"].reason
        number = int(reason.partition(f"{FILE}:")[2].split()[0])
        assert said in lines[number - 1] or lines[number - 1].strip() == "while True:"
        assert "in __call__" in reason


def test_the_end_of_what_is_printed_is_kept(alone):
    output = alone["PrintsMegabytes", "gadget.works"].output
    assert output.endswith("the end")
    assert len(output) <= 2000


def test_an_expectation_that_names_no_law_fails(alone):
    made = alone["AnnouncedForNothing", "gadget.wroks"]
    assert made.status == "fail"
    assert "did you mean 'gadget.works'?" in made.reason


def test_a_failure_has_its_case_and_a_script(alone):
    witness = alone["Raises", "gadget.works"].witness
    assert witness.case == {"size": 1}
    assert "judge_law(" in witness.script


@pytest.mark.parametrize("name", RANKED)
def test_ranks_end_in_a_clear_verdict(ranked, name):
    status, said = RANKED[name]
    made = ranked[name, "gadget.meets"]
    assert made.status == status, made.reason
    assert said in made.reason


def test_no_process_is_left(already, alone, ranked):
    mine = [p for p in psutil.Process().children(recursive=True) if p.pid not in already]
    assert [p for p in mine if "mapsto.check" in " ".join(p.cmdline())] == []
    commands = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"])]
    assert ["sleep", "6543"] not in commands
    assert ["sleep", "6544"] not in commands


def test_targets_that_cannot_be_used_are_told_and_stop_nothing(served, tmp_path):
    files = []
    for i, code in enumerate(TARGETS):
        files.append(tmp_path / f"target_{i}.py")
        files[-1].write_text(code)
    before = os.getcwd()
    named = [f"{file}:Thing" for file in files] + ["mapsto_of_no_kind/thing", "optimizer/adamv", f"{FILE}:Good"]
    found = resolve(named, served, limit=0.05, kind=None)
    reasons = {p.subject.rpartition("/")[2]: p.reason for p in found.problems}
    for i, said in enumerate(TARGETS.values()):
        assert said in reasons[f"target_{i}.py:Thing"]
    assert "did you mean 'optimizer/adam'" in reasons["adamv"]
    assert "its kind cannot be told; say it with --kind" in reasons["gadgets.py:Good"]
    assert os.getcwd() == before
