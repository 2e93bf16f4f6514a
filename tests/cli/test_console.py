"""What is printed: control characters in names and messages are shown, not obeyed, whichever way they come."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console
from rich.text import Text

from mapsto.cli import console
from mapsto.core.shown import shown

EVIL = "a\x1b[31mred\x1b[0m\x9b2J\u202eb\r\x07"
SHOWN = r"a\x1b[31mred\x1b[0m\x9b2J\u202eb\r\x07"


def test_control_characters_are_spelt_out_and_lines_stay_lines():
    assert shown(EVIL) == SHOWN
    assert shown("lines\n\tof text, äöü 字 🙂") == "lines\n\tof text, äöü 字 🙂"
    assert shown("\ud800") == r"\ud800"


@pytest.mark.parametrize(
    "say",
    [
        console.write,
        console.note,
        console.fail,
        console.heading,
        lambda text: console.table(("name",), [(text,)]),
        lambda text: console.write_json({text: text}),
        lambda text: console.console().print(Text(text)),
        lambda text: console.screen().print(Text(text, "red")),
        lambda text: console.screen().print(text, markup=False),
    ],
)
def test_every_way_of_printing_shows_them(say, capsys):
    say(EVIL)
    out, err = capsys.readouterr()
    assert "red" in out + err
    assert not set("\x1b\x9b\u202e\r\x07") & set(out + err)


def test_cells_and_headings_are_of_one_line(capsys):
    console.table(("name",), [("a\nerror: forged",)])
    console.heading("a\nerror: forged")
    assert capsys.readouterr().out == "name\na\\nerror: forged\na\\nerror: forged\n"


def test_a_terminal_s_own_control_sequences_pass(monkeypatch):
    """The control: what rich itself says to a terminal is obeyed, what a text says is not."""
    made = console._shows(Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80))
    made.print(Text(EVIL, "bold red"))
    said = made.file.getvalue()
    assert "\x1b[1;31m" in said
    assert SHOWN.removesuffix(r"\r\x07") in said  # of those two rich itself makes nothing


def test_markup_in_a_name_is_no_markup(mapsto, spec, tmp_path):
    spec.write_text(spec.read_text().replace("name: gates", "name: '[red]gates[bold]'"))
    assert "[red]gates[bold] in " in mapsto("train", spec, "--run", tmp_path / "run", "steps=1").out


def test_warnings_and_errors_that_nobody_handles_show_them_too():
    code = (
        "import logging, sys\n"
        "from mapsto.cli.console import own_last_words\n"
        "own_last_words()\n"
        "logging.getLogger('mapsto').warning('observer %s', sys.argv[1])\n"
        "raise RuntimeError(sys.argv[1])\n"
    )
    evil = EVIL.replace("\x00", "")
    done = subprocess.run([sys.executable, "-c", code, evil], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"observer {SHOWN}" in done.stderr
    assert f"RuntimeError: {SHOWN}" in done.stderr
    assert "\x1b" not in done.stderr


def test_wrong_usage_shows_them(mapsto):
    said = mapsto("trian\x1b[31m")
    assert said.code == 2
    assert r"trian\x1b[31m" in said.err
    assert "\x1b" not in said.err
