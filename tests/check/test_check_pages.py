"""The pages on checking: their examples run, and the page of laws is the one that the registry gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mapsto
from mapsto.check import catalogue
from mapsto.cli import entry
from mapsto.core.laws import all_laws, example_of
from mapsto.core.registry import registry
from mapsto.core.yaml_text import read_yaml
from mapsto.testing import judge_law

DOCS = Path(__file__).parents[2] / "docs"


def test_the_examples_of_the_page_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_decorated", dict(registry._decorated))
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "check.md").read_text(), re.M | re.S)
    assert len(blocks) == 4
    names: dict[str, object] = {"__name__": "page_check"}
    for block in blocks:
        exec(compile(block, "check.md", "exec"), names)
    made = judge_law(names["Mix"], "layer.gradients", kind="layer")
    assert made.status == "pass"
    assert example_of(names["Mix"]).args["width"] == 4
    items = names["test_laws"].pytestmark[0].args[1]
    assert "Linear-layer.layout" in [item.id for item in items]
    assert [law.name for law in names["laws"]()] == ["layer.keeps_shape"]


def test_the_page_of_laws_is_current():
    said = "write it anew: mapsto check --list --markdown > docs/laws.md"
    assert (DOCS / "laws.md").read_text() == catalogue.page(list(all_laws().values())), said


def test_every_law_says_what_it_must():
    for law in all_laws().values():
        assert law.why.strip(), law.name
        assert law.satisfy.strip(), law.name
        assert law.seconds > 0, law.name
        assert set(law.kinds) <= set(mapsto.registry.kinds()), law.name


def test_ids_are_unique_within_a_kind():
    seen: dict[tuple[str, str], str] = {}
    for law in all_laws().values():
        for kind in law.kinds:
            assert seen.setdefault((kind, law.id), law.name) == law.name


def test_the_commands_of_the_workflow_and_of_the_hook_are_taken():
    blocks = re.findall(r"^```yaml\n(.*?)^```", (DOCS / "check.md").read_text(), re.M | re.S)
    known, workflow, configured = map(read_yaml, blocks)
    assert set(known["layers.py:Gate"].values()) <= {"fail", "unknown", "vacuous"}
    steps = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step]
    commands = [re.sub(r"\$\{\{.*?\}\}", "main", step) for step in steps if step.startswith("mapsto ")]
    (offered,) = read_yaml((DOCS.parent / ".pre-commit-hooks.yaml").read_text())
    (repo,) = configured["repos"]
    (used,) = repo["hooks"]
    assert used["id"] == offered["id"]
    commands.append(" ".join([offered["entry"], *used["args"]]))
    assert len(commands) == 3
    for command in commands:
        _, options = entry.parse(command.split()[1:])
        assert options.targets == ["layers.py:Gate", "recipe.py"]
