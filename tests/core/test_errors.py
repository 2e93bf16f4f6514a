from __future__ import annotations

from pathlib import Path

import pytest

from mapsto.core import errors
from mapsto.core.errors import MapstoError, MissingExtra, first_line, nearest, require


def test_every_error_is_the_users_to_mend() -> None:
    own = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(own) >= 9
    assert all(issubclass(e, MapstoError) for e in own)


@pytest.mark.parametrize(
    ("name", "allowed", "sentence"),
    [
        ("adamm", ["sgd", "adamw"], "allowed: adamw, sgd; did you mean 'adamw'?"),
        ("ADAMW", ["sgd", "adamw"], "allowed: adamw, sgd; did you mean 'adamw'?"),
        ("AdamW", ["adam", "adamw", "radam"], "allowed: adam, adamw, radam; did you mean 'adamw'?"),
        ("CLASS", ["Class", "class", "classes"], "allowed: Class, class, classes; did you mean 'Class'?"),
        ("classs", ["CLASS", "class"], "allowed: CLASS, class; did you mean 'class'?"),
        ("zzz", ["sgd", "adamw"], "allowed: adamw, sgd"),
        ("x", [], "nothing is allowed here"),
    ],
)
def test_nearest(name: str, allowed: list[str], sentence: str) -> None:
    assert nearest(name, allowed) == sentence


@pytest.mark.parametrize(
    ("message", "line"), [("one\ntwo", "one"), ("\n  one\n", "one"), ("", "TimeoutError"), (" \n", "TimeoutError")]
)
def test_the_first_line_of_an_error_that_says_nothing_is_its_kind(message: str, line: str) -> None:
    assert first_line(TimeoutError(message)) == line


def test_require() -> None:
    assert require("json", "x", "y").__name__ == "json"
    with pytest.raises(
        MissingExtra, match=r"^a Parquet source needs 'not_there', which is not installed: pip install 'mapsto\[arrow\]'$"
    ):
        require("not_there.parquet", "arrow", "a Parquet source")


def test_require_does_not_hide_what_else_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugneeds.py").write_text("import not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_there") as caught:
        require("plugneeds", "x", "y")
    assert not isinstance(caught.value, MissingExtra)
