"""What the page on middleware shows runs, and lists what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from programs import differing, program, run, same_weights, snapshot

from mapsto import registry, use

PAGE = (Path(__file__).parents[2] / "docs" / "kinds" / "middleware.md").read_text()
BLOCKS = dict(re.findall(r"```(python|yaml)\n(.*?)```", PAGE[: PAGE.index("## What comes")], re.DOTALL))
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def shown():
    space: dict = {}
    with pytest.MonkeyPatch.context() as patch:  # a recipe that another test loaded may have mappings of the same names
        patch.setattr(registry, "_decorated", {})
        for block in PYTHON:
            exec(block, space)
        yield space


def test_the_table_lists_what_there_is():
    listed = {n for line in PAGE.splitlines() if line.startswith("| `") for n in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert listed == {e.name for e in registry.entries("middleware") if e.reference.startswith("mapsto.torch.")}


def test_the_options_in_the_table_are_those_of_the_signatures():
    import inspect

    for line in PAGE.splitlines():
        if line.startswith("| `"):
            cells = [c.strip() for c in line.strip("|").split("|")]
            for name in re.findall(r"`(\w+)`", cells[0]):
                target = registry.get("middleware", name)
                assert re.findall(r"`(\w+)`", cells[3]) == list(inspect.signature(target).parameters), name
                wrapped = cells[1].replace("all four", "loss, grad, update, step").replace("–", "")
                assert sorted(wrapped.replace(",", "").split()) == sorted(target.__mapsto__.wraps), name


def test_the_stated_plan_is_the_plan():
    import yaml

    items = yaml.safe_load(BLOCKS["yaml"])["middleware"]
    made = program(*items)
    stated = re.search(r"Here the plan is (.*?)\.", PAGE, re.DOTALL).group(1)
    assert [p.name for p in made.plan] == re.findall(r"`(\w+)`", stated)
    run(made, 2)


def test_the_examples_keep_what_is_owed(shown):
    bare = program(optimizer=use("sgd", lr=0.1))
    run(bare, 4)
    for name, neutral, active in (("centralise", {"smallest": 9}, {}), ("lookahead", {"every": 99}, {"every": 2})):
        made = program(use(name, **neutral), optimizer=use("sgd", lr=0.1))
        run(made, 4)
        assert same_weights(bare, made)
        straight, first, second = (program(use(name, **active), optimizer=use("sgd", lr=0.1)) for _ in range(3))
        run(straight, 4), run(first, 1)
        assert not same_weights(bare, straight)
        second.restore(snapshot(first))
        run(second, 3)
        assert not differing(snapshot(straight), snapshot(second))
