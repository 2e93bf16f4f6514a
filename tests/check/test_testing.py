"""Laws in one's own test-suite: an item a law, skips with reasons, witnesses in the failure, nothing changed behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests import forked
from torch import nn

import mapsto
from mapsto.check.targets import named
from mapsto.core.errors import SpecError, UnknownName
from mapsto.core.laws import all_laws
from mapsto.core.wings import Framework
from mapsto.testing import LawBroken, in_words, judge_law, laws_of

SUITE = """
import mapsto
import torch
from torch import nn
from mapsto.testing import laws_of


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad


class Wrong(nn.Module):
    def forward(self, x):
        return Doubling.apply(x)


class Known(Wrong):
    pass


mapsto.example(Known, inputs=lambda size, generator: (torch.randn(size, 4, generator=generator),), expect={"L1": "see #1"})


@laws_of(nn.Linear(3, 2), Wrong, Known, only=["gradients", "causality"])
def test_laws(law):
    law()


@laws_of(nn.Linear(3, 2), only=["data_parallel"])
def test_laws_of_ranks(law):
    law()
"""


def test_each_law_is_an_item_in_a_suite_of_ones_own(loaded, tmp_path):
    (tmp_path / "test_own.py").write_text(SUITE)
    words = ["-m", "pytest", "-q", "-rsfx", "-W", "error", "-p", "no:cacheprovider", "test_own.py"]
    done = forked.run(loaded, *words, cwd=tmp_path, timeout=300)
    out = done.stdout
    assert done.returncode == 1
    assert "FAILED test_own.py::test_laws[Wrong-layer.gradients]" in out
    assert "law layer.gradients (L1)" in out
    assert "likely cause: its gradient is 1.5 of what it should be" in out
    assert "XFAIL test_own.py::test_laws[Known-layer.gradients] - see #1" in out
    assert "it does not declare `causal`" in out
    assert "2 processes judge layer.data_parallel, and they cannot find" in out  # of the instance
    assert "1 failed, 1 passed, 4 skipped, 1 xfailed" in out


def items(mark: pytest.MarkDecorator) -> dict[str, object]:
    return {p.id: p.values[0] for p in mark.args[1]}


def test_gate_and_names_choose():
    every, gate = items(laws_of("schedule/step")), items(laws_of("schedule/step", gate=True))
    assert set(gate) < set(every)
    assert set(items(laws_of("schedule/step", only=["R2"]))) == {"schedule/step-schedule.resume"}
    with pytest.raises(UnknownName, match=r"did you mean 'schedule\.resume'"):
        laws_of("schedule/step", only=["schedule.resmue"])


def test_a_test_of_nothing_is_refused():
    with pytest.raises(SpecError, match="a schedule owes no law named layer.layout"):
        laws_of("schedule/step", only=["layer.layout"])


class ChangesDtype(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.set_default_dtype(torch.float64)
        return x * 1.0


mapsto.example(ChangesDtype, inputs=lambda size, generator: (torch.randn(size, 4, generator=generator),))


def test_settings_are_put_back_and_whoever_changed_them_is_named():
    (law,) = items(laws_of(ChangesDtype, only=["layer.copies"])).values()
    with pytest.raises(LawBroken, match="default dtype"):
        law()
    assert torch.get_default_dtype() == torch.float32


def test_a_verdict_in_words_has_its_witness():
    made = judge_law("torch.nn:Linear", "layer.gradients", kind="layer")
    assert made.status == "pass"
    assert "torch.nn:Linear pass: law layer.gradients (L1)" in in_words(made, mapsto.core.laws.find_law("L1"))


SCRIPT = """
import torch
from mapsto.testing import judge_law

class Own(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

if __name__ == "__main__":
    print(judge_law(Own, "layer.data_parallel").status)
"""


def test_ranks_find_a_class_of_a_script(tmp_path: Path):
    (tmp_path / "own.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "own.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert (done.stdout.strip(), done.stderr) == ("pass", "")


def test_a_folder_of_a_distributions_name_is_no_run(tmp_path, monkeypatch):
    (tmp_path / "mapsto").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "source/arrays" in {found.label for found in named("mapsto", "source")}
    (tmp_path / "mapsto" / "spec.yaml").write_text("model: nothing")
    with pytest.raises(SpecError, match="spec.yaml"):
        named("mapsto")


def test_laws_of_a_wing_whose_framework_is_missing_are_left_out(monkeypatch):
    assert any(wing == "torch" for _, wing in all_laws(["torch"]))
    monkeypatch.setattr(Framework, "installed", False)
    assert {wing for _, wing in all_laws(["torch"])} == {None}
