"""Every command that the documents and the help texts show is one that the parser takes."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from mapsto.cli import entry

DOCS = Path(__file__).parents[2] / "docs"


def commands(text: str) -> list[str]:
    """Lines that begin with `mapsto VERB`, without what explains them."""
    found = (re.match(r"\s*mapsto (\S+.*)", line) for line in text.splitlines())
    lines = (re.split(r"\s{2,}|\s\| ", match[1])[0] for match in found if match)
    return [line for line in lines if line.split()[0] in entry.VERBS and not re.search(r"\b[A-Z]{4,}\b|\.\.\.", line)]


def documented() -> list[str]:
    texts = list[str]()
    for page in ("cli.md", "plugins.md", "check.md"):
        texts += re.findall(r"(?s)```\n(.*?)```", (DOCS / page).read_text())
    texts += [entry._EPILOG, *(importlib.import_module(f"mapsto.cli.{verb}").EPILOG for verb in entry.VERBS)]
    return sorted({command for text in texts for command in commands(text)})


def test_there_are_many():
    assert len(documented()) > 30


@pytest.mark.parametrize("command", documented())
def test_it_is_taken(command):
    verb, options = entry.parse(shlex.split(command))
    assert verb.run
    assert options.debug is False


def test_a_wrong_one_is_not():
    with pytest.raises(SystemExit):
        entry.parse(shlex.split("evaluate runs/first --jsn"))


def test_every_verb_and_exit_code_is_documented():
    page = (DOCS / "cli.md").read_text()
    assert all(f"\n## {verb}\n" in page for verb in entry.VERBS)
    assert all(f"\n| {code} | " in page for code in (0, entry.ERROR, entry.USAGE, entry.INTERRUPTED, 143, entry.CLOSED_PIPE))
