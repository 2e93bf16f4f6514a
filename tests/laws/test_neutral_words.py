"""Laws of all wings speak no framework's words; what a framework calls it, its wing says beside."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mapsto.laws
from mapsto.check.needs import needs
from mapsto.check.words import in_words
from mapsto.core.laws import Law, Laws, Subject, Trial, all_laws, find_law, verdict
from mapsto.core.protocols import methods
from mapsto.laws.drivers import LayerDriver, ScheduleDriver
from mapsto.torch.laws import WORDS

ROOM = Path(mapsto.laws.__file__).parent
FRAMEWORKS = re.compile(
    r"torch|jax|flax|optax|keras|tensorflow|tf\.|\bnn\.|\bF\.|\bModule\b|detach|autograd|gradcheck|register_buffer|state_dict"
    r"|get_extra_state|named_parameters|no_grad|\.grad\b|\.item\(|\.to\(|requires_grad|\bjit\b|reduction=|logsigmoid|optim\."
)
"""Names that only users of one framework know."""
NEUTRAL = [law for law in all_laws().values() if law.wing is None and law.check.__module__.startswith("mapsto.laws.")]


def spoken(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of what a file may say: no docstrings, nor the names of real bugs, which are those of repositories."""
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "catches":
            silent |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.lineno, node.value


@pytest.mark.parametrize("file", sorted(ROOM.rglob("*.py")), ids=lambda file: file.stem)
def test_what_a_neutral_law_says_is_of_no_framework(file: Path) -> None:
    assert [(line, said) for line, said in spoken(ast.parse(file.read_text())) if FRAMEWORKS.search(said)] == []


@pytest.mark.parametrize("law", NEUTRAL, ids=lambda law: law.name)
def test_what_is_stated_of_a_neutral_law_is_of_no_framework(law: Law) -> None:
    assert not FRAMEWORKS.search(f"{law.statement} {law.why} {law.satisfy}")


def test_the_words_themselves_are_found() -> None:
    planted = 'def f(trial):\n    """torch is fine here."""\n    trial.fail("use .detach()", catches=("torch#1",))'
    assert [said for _, said in spoken(ast.parse(planted)) if FRAMEWORKS.search(said)] == ["use .detach()"]


def test_a_wing_says_it_in_its_own_words() -> None:
    assert WORDS.keys() <= {law.name for law in NEUTRAL}
    laws = Laws("layer")
    laws.law("Z1", "fails", priority=0, why="It must.", satisfy="Do.", statement="It fails.")(lambda trial: trial.fail("no"))
    subject = Subject(kind="layer", label="it", reference="", target=dict, wing="torch", words={"layer.fails": "torch.do"})
    made = verdict(Trial(subject, laws()[0]))
    assert "  to satisfy it: Do.\n  in torch: torch.do" in in_words(made, laws()[0])


# -- what they need of a driver ----------------------------------------------------------------------------------------
def test_what_a_law_needs_of_a_driver_is_read_from_its_code() -> None:
    assert needs(find_law("schedule.formula")) == ["build"]
    assert {"exact", "total", "parameters"} <= {*needs(find_law("layer.gradients"))}
    assert "settle" not in needs(find_law("layer.gradients"))
    assert needs(find_law("loss.degenerate"))[0] == "settle"
    assert needs(find_law("layer.layout")) == []  # of torch, which drives its own


@pytest.mark.parametrize("protocol", [LayerDriver, ScheduleDriver])
def test_every_method_is_needed_by_some_law(protocol: type) -> None:
    asked = {name for law in NEUTRAL if law.driver is protocol for name in needs(law)}
    assert methods(protocol).keys() - asked == set()
