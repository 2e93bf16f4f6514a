"""YAML as people mean it: the scalars of YAML 1.2 and no others, read and written by the same rules.

YAML 1.1 reads `1e-3` and `010` as what nobody meant, `no` as false, `12:30` as 750 and dates as objects.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from .errors import SpecError
from .shown import OBEYED
from .typed import shortened

_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+|0o[0-7]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
)


DEEPEST = 64
"""Levels within each other that are read."""
MOST_ALIASED = 100_000
"""Values that aliases may stand for in all: ten lines of aliases of aliases would else be a billion."""
_PLAIN = (None, *(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")))


class _Loader(yaml.SafeLoader):
    """Plain data and nothing else: no tag makes a date, a set or bytes, and no text stands for far more than it holds."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own name and shape
    yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _PLAIN}  # noqa: RUF012

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._weight = self._aliased = 0
        self._weights: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node, weighed with all that stands within it, aliases for what they stand for."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark, is_alias = event.start_mark, isinstance(event, yaml.AliasEvent)
        before, self._weight, self._depth = self._weight, 1, self._depth + 1
        if self._depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"it is nested more than {DEEPEST} levels deep", mark)
        node = super().compose_node(parent, index)
        if not is_alias:
            self._weights[id(node)] = self._weight
        elif id(node) not in self._weights:  # what it stands for is not over yet
            raise yaml.composer.ComposerError(None, None, "an alias stands for what it is a part of", mark)
        else:
            self._weight = self._weights[id(node)]
            self._aliased += self._weight
            if self._aliased > MOST_ALIASED:
                raise yaml.composer.ComposerError(None, None, f"aliases stand for more than {MOST_ALIASED:,} values", mark)
        self._weight, self._depth = before + self._weight, self._depth - 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {shortened(key.value, 60)} stands twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            made = super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError) as error:  # such as `!!int x`, or a number of 10,000 digits
            kind = node.tag.rpartition(":")[2]
            said = f"{shortened(node.value, 40)} is no {kind}: {str(error).partition(';')[0]}"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark) from None
        if isinstance(made, int) and made.bit_length() > 1024:
            raise yaml.constructor.ConstructorError(None, None, "a number of too many digits", node.start_mark)
        if isinstance(made, str) and any("\ud800" <= sign <= "\udfff" for sign in made):
            raise yaml.constructor.ConstructorError(None, None, "half of a surrogate pair is no text", node.start_mark)
        return made


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    """Breaks that are not `\\n`, and what a terminal obeys, survive only as escapes, which double quotes alone have."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if OBEYED.search(value) else None)


_Dumper.add_representer(str, _text)
for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in _SCALARS:
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def read_yaml(text: str) -> Any:
    """Plain data from YAML. Raises SpecError with line and column where it is not YAML, a key stands twice, it is nested
    deeper than `DEEPEST`, or its aliases stand for themselves or for more than `MOST_ALIASED` values."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        raise SpecError(f"this cannot be read as YAML: {_said(error)}") from None
    except RecursionError:  # brackets that the scanner itself walks down
        raise SpecError(f"this cannot be read as YAML: it is nested more than {DEEPEST} levels deep") from None


def _said(error: yaml.YAMLError) -> str:
    """What PyYAML has to say, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    told = ((error.context, error.context_mark), (error.problem, error.problem_mark))
    return ": ".join(f"{text}{_at(mark)}" for text, mark in told if text)


def _at(mark: yaml.Mark | None) -> str:
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""


def write_yaml(data: Any) -> str:
    """YAML of plain data; `read_yaml` of it is the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
