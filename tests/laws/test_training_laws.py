"""What a training states and leaves out, and how the command line names it; its planted bugs are among the mutants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.mutants.training import Loop, evaluate, token_records

import mapsto
from mapsto.cli import main
from mapsto.testing import judge_law

LAWS = ["seeded", "accumulation", "clipping", "resume", "undisturbed", "order", "evaluation"]


def line(data, *, seed, batch_size, steps):
    """Least squares by numpy, in the order of the records."""
    w = np.random.default_rng(seed).normal(size=2)
    for step in range(steps):
        start = step * batch_size % len(data)
        for i in range(start, min(start + batch_size, len(data))):
            w = w - 0.1 * (w - data[i]["x"])
    return {"w": w}


POINTS = [{"x": np.array([i, i * i % 5.0])} for i in range(12)]


@pytest.mark.parametrize("law", LAWS)
def test_a_loop_that_takes_everything_keeps_every_law(law: str) -> None:
    loop = mapsto.example(Loop(), records=token_records(), evaluate=evaluate)
    verdict = judge_law(loop, f"training.{law}", kind="training")
    assert verdict.status == "pass", verdict.reason


@pytest.mark.parametrize(("law", "word"), [("accumulation", "accumulate"), ("clipping", "accumulate"), ("resume", "until"),
                                            ("undisturbed", "evaluate_every"), ("evaluation", "evaluation")])  # fmt: skip
def test_what_it_does_not_state_is_not_applicable(law: str, word: str) -> None:
    verdict = judge_law(mapsto.example(line, records=POINTS), f"training.{law}", kind="training")
    assert (verdict.status, f"it states no {word}" in verdict.reason) == ("not applicable", True), verdict.reason


@pytest.mark.parametrize("law", ["seeded", "order"])
def test_a_training_of_no_framework_is_judged(law: str) -> None:
    verdict = judge_law(mapsto.example(line, records=POINTS), f"training.{law}", kind="training")
    assert verdict.status == "pass", verdict.reason


def test_missing_records_are_asked_for() -> None:
    verdict = judge_law(lambda data, *, seed, batch_size, steps: {"w": np.zeros(1)}, "training.seeded", kind="training")
    assert verdict.status == "unknown"
    assert "records=[" in verdict.reason


def test_a_training_in_a_file_is_known_by_its_decorator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trainer_of_a_line.py"
    text = Path(__file__).read_text(encoding="utf-8")
    body = text[text.index("def line(") : text.index('@pytest.mark.parametrize("law", LAWS)')]
    file.write_text(f"import numpy as np\nimport mapsto\n\n{body}\nmapsto.training(mapsto.example(line, records=POINTS))\n")
    assert main(["check", f"{file}:line", "--trust", "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "training" in said
    assert "it states no accumulate" in said


@pytest.mark.parametrize("law", LAWS)
def test_the_loop_by_hand_of_the_examples_keeps_every_law(law: str) -> None:
    file = Path(__file__).parents[2] / "examples" / "trainers" / "plain_torch.py"
    verdict = judge_law(f"{file}:train", f"training.{law}", kind="training")
    assert verdict.status == "pass", verdict.reason
