"""`mapsto check`: what it prints and writes, its exit codes, and how it is interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest

from mapsto.check import runner
from mapsto.cli import main
from mapsto.core.yaml_text import read_yaml

FILE = Path(__file__).with_name("gadgets.py")


def gadgets(*names: str) -> list[str]:
    return [*(f"{FILE}:{name}" for name in names), "--kind", "gadget", "--jobs", "2"]


@pytest.fixture(scope="module", autouse=True)
def _one_server():
    """The commands of this process fork their workers from one server; those that are processes start their own."""
    with runner.server(2) as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "server", lambda jobs: nullcontext(made))
        yield


@pytest.fixture
def mapsto(capsys):
    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code
        found = capsys.readouterr()
        return code, found.out, found.err

    return call


def test_a_clean_report_says_what_was_exercised(mapsto):
    code, out, _ = mapsto("check", *gadgets("Good"), "--laws", "works,G2")
    assert code == 0
    assert "✓ works  G1" in out
    assert re.search(r"\d+ compared: \d+ drawn by", out)
    assert re.search(r"2 verdicts on 1 mapping: 2 pass; [\d,]+ comparisons, 0 controls that differed \(.* s, seed 0\)", out)


def test_several_mappings_are_a_matrix_that_fits(mapsto, tmp_path):
    code, out, err = mapsto(
        "check", *gadgets("Good", "Raises", "CannotBeBuilt", "AnnouncedAndBroken"), "--json", tmp_path / "a"
    )
    assert code == 1
    shown, _, out = out.partition("\n\n")
    assert len(shown.splitlines()) == 2 + 4  # what is bad, and who is done
    matrix = out.partition("\n  exercised")[0]
    assert max(map(len, out.partition("\n✓ pass")[0].splitlines())) <= 100
    head = next(line for line in out.splitlines() if line.split()[:1] == ["G1"])
    assert head.split() == ["G1", "G2", "G3"]
    rows = {line.split()[0].rpartition(":")[2]: line[36:] for line in matrix.splitlines() if "gadgets.py:" in line}
    assert [rows[name][0] for name in ("Good", "Raises", "CannotBeBuilt", "AnnouncedAndBroken")] == ["✓", "✗", "?", "!"]
    assert "law gadget.works (G1): It is built, called and returns." in out
    assert "calling it raised ArithmeticError: nought" in out
    assert "case: size=1" in out
    assert "likely cause: the component raised" in out
    assert "to satisfy it: Work." in out
    assert f"again: mapsto check {FILE}:Raises --laws gadget.works --kind gadget" in out
    assert f"written: {tmp_path / 'a'}" in err


def test_the_command_of_a_witness_finds_it_again(mapsto):
    _, out, _ = mapsto("check", *gadgets("Raises"), "--laws", "works", "--seed", "7")
    again = re.search(r"again: mapsto (.*)", out)[1].split()
    code, out, _ = mapsto(*again)
    assert code == 1
    assert "calling it raised ArithmeticError: nought" in out
    assert "seed 7" in out


def test_the_files_hold_every_verdict(mapsto, tmp_path):
    paths = {name: tmp_path / f"check.{name}" for name in ("json", "html", "junit")}
    words = [word for name, path in paths.items() for word in (f"--{name}", path)]
    code, _, _ = mapsto("check", *gadgets("Good", "Raises", "AnnouncedAndBroken", "Deadlocks"), "--limit", "0.03", *words)
    assert code == 1
    records, end = records_of(paths["json"])
    assert (end["exit_code"], end["verdicts"], end["left"], end["counts"]["fail"]) == (1, 12, 0, 1)
    by = {(r["subject"].rpartition(":")[2], r["law"]): r for r in records}
    assert len(records) == len(by) == 12
    broken = by["Raises", "gadget.works"]
    assert (broken["status"], broken["id"], broken["seed"], broken["kind"]) == ("fail", "G1", 0, "gadget")
    assert broken["statement"] == "It is built, called and returns."
    assert broken["witness"]["case"] == {"size": 1}
    assert broken["versions"]["torch"]
    assert by["AnnouncedAndBroken", "gadget.works"]["status"] == "expected failure"
    assert by["Deadlocks", "gadget.meets"]["status"] == "unknown"
    _page_is_whole(paths["html"].read_text())
    root = ElementTree.parse(paths["junit"]).getroot()
    cases = {(c.get("classname").rpartition(":")[2], c.get("name")): c for c in root.iter("testcase")}
    assert cases.keys() == by.keys()
    assert cases["Raises", "gadget.works"].find("failure").text.startswith(f"{FILE}:Raises fail: law gadget.works")
    assert cases["Deadlocks", "gadget.meets"].find("error") is not None
    assert cases["AnnouncedAndBroken", "gadget.works"].find("skipped").get("type") == "expected failure"
    assert list(cases["Good", "gadget.works"].iter("failure")) == []
    _is_junit(root)
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def records_of(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records of JSON lines, and what the last one says."""
    *records, last = map(json.loads, path.read_text().splitlines())
    assert list(last) == ["end"]
    return records, last["end"]


TAKEN = {  # element -> where it may stand, its attributes: as in junit-10.xsd of Jenkins
    "testsuites": ("", {"name", "time", "tests", "failures", "disabled", "errors"}),
    "testsuite": ("testsuites", {"name", "time", "tests", "failures", "errors", "skipped", "timestamp", "hostname", "id"}),
    "properties": ("testsuite", set()),
    "property": ("properties", {"name", "value"}),
    "testcase": ("testsuite", {"name", "classname", "time", "status", "file", "line"}),
    "failure": ("testcase", {"type", "message"}),
    "error": ("testcase", {"type", "message"}),
    "skipped": ("testcase", {"type", "message"}),
    "system-out": ("testcase", set()),
}


def _is_junit(root: ElementTree.Element) -> None:
    def walk(element: ElementTree.Element, within: str) -> None:
        place, attributes = TAKEN[element.tag]
        assert (place, set(element.keys()) - attributes) == (within, set())
        for child in element:
            walk(child, element.tag)

    walk(root, "")
    for suite in root:
        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(name)) == len(list(suite.iter(tag)))
    assert int(root.get("tests")) == len(list(root.iter("testcase")))


def _page_is_whole(page: str) -> None:
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert anchors
    assert all(page.count(f'id="{anchor}"') == 1 for anchor in anchors)
    assert "judge_law(" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)  # it loads nothing
    assert "calling it raised ArithmeticError: nought" in page


def test_text_of_a_component_cannot_break_the_files(mapsto, tmp_path):
    file = tmp_path / "nasty.py"
    file.write_text(
        f"from mapsto.core.recipes import load_file\nGadget = load_file({str(FILE)!r}).Gadget\n"
        "class Nasty(Gadget):\n    def __call__(self, rank=0):\n"
        "        print('\\x00\\x1b[31m\\udcff'.encode('utf-8', 'surrogatepass'))\n"
        "        raise ValueError('</pre><script>alert(1)</script> \\x00 \\ud800 ]]>')\n"
    )
    words = ["--json", tmp_path / "a.json", "--html", tmp_path / "a.html", "--junit", tmp_path / "a.xml"]
    code, out, _ = mapsto("check", f"{file}:Nasty", "--kind", "gadget", "--laws", "works", *words)
    assert (code, "alert(1)" in out) == (1, True)
    assert "<script>alert" not in (tmp_path / "a.html").read_text()
    assert records_of(tmp_path / "a.json")[0][0]["status"] == "fail"
    assert "alert(1)" in ElementTree.parse(tmp_path / "a.xml").getroot().find(".//failure").get("message")


def test_what_owes_no_law_is_said_and_is_no_success(mapsto, tmp_path):
    code, out, _ = mapsto("check", *gadgets("Good"), "--laws", "layer.layout", "--json", tmp_path / "a")
    assert code == 1
    assert "a gadget owes no law that was asked for" in out
    assert "nothing was judged" in out
    assert [r["status"] for r in records_of(tmp_path / "a")[0]] == ["owes no law"]


def test_what_is_not_applicable_alone_is_no_success(mapsto):
    code, out, _ = mapsto("check", *gadgets("Good"), "--laws", "meets")
    assert code == 1
    assert "not applicable: it does not declare `ranked`" in out


def test_a_target_that_is_not_there_is_unknown_and_the_others_are_judged(mapsto):
    code, out, _ = mapsto("check", "optimizer/adamv", *gadgets("Good"), "--laws", "works")
    assert code == 1
    assert "optimizer/adamv unknown: target" in out
    assert "✓ works" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what to check, or --list, or --explain LAW"),
        (["adamw", "--gate", "--thorough"], "exclude each other"),
        (["adamw", "--jobs", "0"], "at least 1 is wanted"),
        (["adamw", "--limit", "-1"], "a number above 0 is wanted"),
        (["--list", "--seed", "x"], "invalid int value: 'x'"),
        (["adamw", "--markdown"], "--markdown is said with --list"),
        (["adamw", "--baseline", "a", "--write-baseline", "a"], "exclude each other"),
        (["adamw", "--write-baseline", "a", "--changed"], "and so no --changed"),
    ],
)
def test_wrong_usage(mapsto, words, said):
    code, _, err = mapsto("check", *words)
    assert code == 2
    assert said in err


def test_json_lines_on_stdout_leave_the_report_to_stderr(mapsto):
    code, out, err = mapsto("check", *gadgets("Good", "Raises"), "--laws", "works", "--json", "-")
    *records, last = map(json.loads, out.splitlines())
    assert (code, last["end"]["exit_code"]) == (1, 1)
    assert {r["subject"].rpartition(":")[2]: r["status"] for r in records} == {"Good": "pass", "Raises": "fail"}
    assert "2 verdicts on 2 mappings: 1 fail, 1 pass" in err


def test_of_several_what_is_bad_and_who_is_done_is_shown_as_it_comes(mapsto):
    _, out, _ = mapsto("check", *gadgets("Good", "Raises"), "--laws", "works,draws")
    shown = out.partition("\n\n")[0].splitlines()
    assert f"✗ gadget.works of {FILE}:Raises: fail: calling it raised ArithmeticError: nought" in shown
    assert {line.partition(" (")[0] for line in shown} >= {f"✓ {FILE}:Good: 2 pass", f"✗ {FILE}:Raises: 1 pass, 1 fail"}


def test_a_target_that_cannot_be_used_is_an_error_of_the_xml_too(mapsto, tmp_path):
    code, _, _ = mapsto("check", "optimizer/adamv", *gadgets("Good"), "--laws", "works", "--junit", tmp_path / "a.xml")
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    _is_junit(root)
    assert (code, root.get("tests"), root.get("errors"), root.get("failures")) == (1, "2", "1", "0")
    assert "did you mean" in root.find("testsuite[@name='optimizer/adamv']/testcase/error").get("message")


# -- a baseline --------------------------------------------------------------------------------------------------------
def test_known_failures_pass_and_new_ones_fail(mapsto, tmp_path):
    known, words = tmp_path / "known.yaml", ("--laws", "works,draws", "--limit", "0.05")
    code, out, err = mapsto("check", *gadgets("Good", "Raises", "CannotBeBuilt"), *words, "--write-baseline", known)
    assert (code, "2 known failures" in err) == (0, True), out
    file = Path(os.path.relpath(FILE, tmp_path)).as_posix()
    assert read_yaml(known.read_text()) == {
        f"{file}:CannotBeBuilt": {"gadget.works": "unknown"},
        f"{file}:Raises": {"gadget.works": "fail"},
    }
    code, out, _ = mapsto("check", *gadgets("Good", "Raises", "CannotBeBuilt"), *words, "--baseline", known)
    assert code == 0, out
    assert "2 known failure" in out
    assert "1 known failure" in next(line for line in out.splitlines() if line.startswith(f"✓ {FILE}:Raises"))
    code, out, _ = mapsto(
        "check",
        *gadgets("Raises", "Exits"),
        *words,
        "--baseline",
        known,
        "--junit",
        tmp_path / "a.xml",
        "--html",
        tmp_path / "a",
    )
    assert code == 1
    assert "1 unknown, 1 known failure, 2 pass" in out
    assert f"gadget.works of {file}:CannotBeBuilt matches nothing: nothing of that name was to be checked" in out
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    assert [c.find("skipped").get("type") for c in root.iter("testcase") if c.find("skipped") is not None] == ["known failure"]


def test_a_known_failure_that_passes_and_a_law_that_is_none_are_told(mapsto, tmp_path):
    known = tmp_path / "known.yaml"
    file = Path(os.path.relpath(FILE, tmp_path)).as_posix()
    known.write_text(f"{file}:Good:\n  gadget.works: fail\n  gadget.wroks: fail\n  gadget.draws: fail\n")
    code, out, _ = mapsto("check", *gadgets("Good"), "--laws", "works", "--baseline", known)
    assert code == 0
    assert f"{known}: gadget.works of {file}:Good fails no more (pass): take it out" in out
    assert f"{known}: gadget.wroks of {file}:Good matches nothing: no law gadget.wroks of it" in out
    assert "gadget.draws" not in out  # it was not asked for


def test_a_target_that_cannot_be_used_is_never_known(mapsto, tmp_path):
    known = tmp_path / "known.yaml"
    words = ["check", "optimizer/adamv", *gadgets("Good"), "--laws", "works"]
    assert mapsto(*words, "--write-baseline", known)[0] == 1
    assert read_yaml(known.read_text()) == {}
    assert mapsto(*words, "--baseline", known)[0] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no baseline"),
        ("- a\n", "is no entry"),
        ("a:\n  layer.layout: pass\n", "one of fail, unknown, vacuous is wanted"),
        ("a: [\n", "cannot be read"),
    ],
)
def test_a_baseline_that_is_none_is_one_clear_error(mapsto, tmp_path, text, said):
    if text is not None:
        (tmp_path / "known.yaml").write_text(text)
    code, out, err = mapsto("check", *gadgets("Hangs"), "--baseline", tmp_path / "known.yaml")
    assert (code, out) == (1, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_file_that_cannot_be_written_is_told_before_anything_is_judged(mapsto, tmp_path):
    code, out, err = mapsto("check", *gadgets("Hangs"), "--json", tmp_path / "no" / "a.json")
    assert (code, out) == (1, "")
    assert "a file in a folder that exists is wanted" in err


def test_an_unknown_law_names_the_nearest(mapsto):
    code, _, err = mapsto("check", *gadgets("Good"), "--laws", "layer.layuot")
    assert code == 1
    assert "did you mean 'layer.layout'?" in err


def test_a_law_is_explained(mapsto):
    code, out, _ = mapsto("check", "--explain", "L1")
    assert code == 0
    assert out.startswith("layer.gradients (L1), a law of layer")
    for part in ("\n\nWhy: ", "\n\nTo satisfy it: ", "\n\nReal bugs it catches: ", "T3, gradcheck's defaults", "P0: it gates"):
        assert part in out
    assert "mapsto check layer --laws layer.gradients" in out
    code, _, err = mapsto("check", "--explain", "layer.gradeints")
    assert (code, "did you mean 'layer.gradients'?" in err) == (1, True)


def test_laws_are_listed(mapsto):
    code, out, _ = mapsto("check", "--list", "--kind", "optimizer")
    assert code == 0
    assert all(line.startswith(("law ", "optimizer.")) for line in out.splitlines())
    code, out, _ = mapsto("check", "--list", "--gate", "schedule/step")
    assert out.startswith("schedule/step (schedule): ")
    assert "schedule.formula" in out
    assert "schedule.tensor_rates" not in out


def _started(tmp_path: Path, *words: object) -> subprocess.Popen[str]:
    """A check of a good gadget and of one that hangs, at the time when it does."""
    hangs = tmp_path / "hangs"
    command = [sys.executable, "-m", "mapsto", "check", *gadgets("Good", "Hangs"), "--laws", "works", *map(str, words)]
    running = subprocess.Popen(
        [*command, "--jobs", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "GADGET_HANGS": str(hangs)},
    )
    for _ in range(1200):
        if hangs.exists():
            return running
        time.sleep(0.05)
    running.kill()
    raise AssertionError("it did not start")


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_it_ends_the_workers_and_leaves_what_there_is(tmp_path, number):
    paths = {name: tmp_path / f"a.{name}" for name in ("json", "junit")}
    running = _started(tmp_path, *(word for name, path in paths.items() for word in (f"--{name}", path)))
    below = _below(running.pid)
    assert len(below) == 3  # the fork server, the worker and its twin
    assert psutil.Process(running.pid).is_running()
    for _ in range(600):  # what is judged is there while it goes on
        if text := paths["json"].read_text():
            break
        time.sleep(0.05)
    assert json.loads(text)["status"] == "pass"
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    assert "interrupted, 1 laws were not judged" in out
    assert "Traceback" not in err
    (record,), end = records_of(paths["json"])
    assert (record["status"], end["exit_code"], end["left"]) == ("pass", 128 + number, 1)
    cases = {c.get("name"): c for c in ElementTree.parse(paths["junit"]).iter("testcase")}
    assert cases.keys() == {"gadget.works", "interrupted"}
    assert cases["interrupted"].find("error") is not None
    assert psutil.wait_procs(below, timeout=20)[1] == []


def test_a_killed_checker_leaves_no_worker(tmp_path):
    running = _started(tmp_path)
    below = _below(running.pid)
    assert len(below) == 3  # the fork server, the worker and its twin
    running.kill()
    running.communicate(timeout=60)
    assert psutil.wait_procs(below, timeout=20)[1] == []


SPEC = f"""
from mapsto import Spec, use
from mapsto.core.recipes import load_file

load_file({str(FILE)!r})


def spec():
    table = use("arrays", input=[[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]] * 4, target=[0, 1, 1, 1] * 4)
    data = {{"train": {{"source": table, "transforms": [use("scale", factor=2.0)], "batch_size": 4, "shuffle": True}}}}
    return Spec(
        name="gates", model=use("torch.nn:Linear", in_features=2, out_features=2), data=data, epochs=1,
        task=use("regression", loss=use("huber", delta=0.5)), middleware=[use("clip_norm", max_norm=1.0)],
    )
"""


def test_a_spec_is_its_parts_with_their_arguments_and_the_program(mapsto, tmp_path):
    file = tmp_path / "gates.py"
    file.write_text(SPEC)
    laws = "layer.purity,loss.additivity,optimizer.groups,reader.shards,source.gather,transform.purity,middleware.neutral"
    code, out, _ = mapsto("check", file, "--laws", laws, "--json", tmp_path / "a.json")
    found = {r["subject"]: r for r in records_of(tmp_path / "a.json")[0]}
    assert {name: r["status"] for name, r in found.items() if r["status"] != "owes no law"} == {
        "model": "pass",
        "task.loss": "pass",
        "optimizer": "pass",
        "middleware.clip_norm": "pass",
        "data.train": "pass",
        "data.train.source": "pass",
        "data.train.transforms.0": "pass",
    }, out
    assert code == 0
    assert found["task.loss"]["reference"] == f"{file}#task.loss"
    assert {name for name, r in found.items() if r["status"] == "owes no law"} == {"task", "gates"}
    assert found["gates"]["kind"] == "program"


def test_a_part_of_a_spec_that_does_not_fit_is_told_and_the_others_are_judged(mapsto, tmp_path):
    file = tmp_path / "misfit.py"
    file.write_text(SPEC.replace("max_norm=1.0", "max_nrm=1.0"))
    code, out, _ = mapsto("check", file, "--laws", "optimizer.groups")
    assert code == 1
    assert "middleware.clip_norm unknown: target" in out
    assert "did you mean 'max_norm'?" in out
    assert "✓ groups" in out
