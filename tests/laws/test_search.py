"""A search finds inputs that break what is stated where those that a law feeds do not, keeps and tries them again."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mapsto.check.targets import of_reference
from mapsto.core.laws import Trial, Verdict, find_law, verdict

TEXT = '''
import numpy as np
import torch
import mapsto

class Step(torch.nn.Module):
    """Between 3 and 5, where no other input is, it is {share} of what it states."""
    def forward(self, x):
        return torch.where((x > 3) & (x < 5), x * {share}, x)

mapsto.example(Step, inputs=lambda size, generator: (0.3 * torch.randn(size, 2, generator=generator),), reference=lambda x: x)

@mapsto.transform
def shorter(batch):
    return {{**batch, "text": [t.replace("7", "{other}") for t in batch["text"]]}}

mapsto.example(shorter, inputs=lambda size, generator: ({{"text": ["ab c"] * size, "kept": np.arange(size)}},),
               reference=lambda batch: {{"text": batch["text"]}})
'''


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def of(name: str, law: str, *, search: float = 0.0, share: float = 1.01, other: str = "1") -> Verdict:
        path = tmp_path / "searched_parts.py"
        path.write_text(TEXT.format(share=share, other=other))
        module = ModuleType("searched_parts")
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "searched_parts", module)
        exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
        subject = of_reference(f"searched_parts:{name}", None)
        return verdict(Trial(subject, find_law(law), search=search))

    return of


@pytest.mark.parametrize(("name", "law"), [("Step", "layer.reference"), ("shorter", "transform.reference")])
def test_what_is_found_is_shrunk_kept_and_tried_again(judge: Any, tmp_path: Path, name: str, law: str) -> None:
    assert judge(name, law).status == "pass"
    found = judge(name, law, search=120)  # of which the first that is found ends it
    assert found.status == "fail"
    assert found.witness is not None
    assert "found by a search; kept in" in found.reason
    kind = law.partition(".")[0]
    with np.load(tmp_path / "regressions" / f"{name}.{kind}.npz") as kept:
        arrays = [kept[key] for key in kept.files]
    assert all(len(a) == 1 for a in arrays)  # the smallest of the sizes
    again = judge(name, law)
    assert again.status == "fail"
    assert again.witness is not None
    assert again.witness.case["inputs"] == "regressions 0"
    assert judge(name, law, share=1.0, other="7").status == "pass"  # once it is mended


def test_nothing_is_found_or_kept_of_a_right_one(judge: Any, tmp_path: Path) -> None:
    found = judge("Step", "layer.reference", share=1.0, search=1.0)
    assert found.status == "pass"
    assert found.counts["inputs searched"] > 10
    assert not (tmp_path / "regressions").exists()


def test_a_file_that_cannot_be_read_is_told(judge: Any, tmp_path: Path) -> None:
    (tmp_path / "regressions").mkdir()
    (tmp_path / "regressions" / "Step.layer.npz").write_bytes(b"PK\x03\x04")
    found = judge("Step", "layer.reference")
    assert found.status == "unknown"
    assert "cannot be read" in found.reason
