"""The page on turns: its example runs, and every key of a turn stands in it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from mapsto.core.turns import Turn

PAGE = (Path(__file__).parents[2] / "docs" / "turns.md").read_text()


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/turns.md", "exec"), {"__name__": "docs_turns"})
    said = capsys.readouterr().out
    assert all(name in said for name in ("critic/loss", "generator/loss", "generator/grad_norm"))


def test_every_key_of_a_turn_stands_in_its_table() -> None:
    rows = "\n".join(re.findall(r"^\| `.*$", PAGE, re.MULTILINE))
    assert [f.name for f in dataclasses.fields(Turn) if f"`{f.name}`" not in rows] == []
