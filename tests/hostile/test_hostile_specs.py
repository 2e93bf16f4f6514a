"""5,000 hostile specs, drawn from a seed: each is taken or refused in one line, and none that can only be wrong is taken."""

from __future__ import annotations

import contextlib
import io
import random
import subprocess
import sys
import warnings

import pytest
from nonsense import damaged, nonsense

from mapsto.cli import main
from mapsto.core.errors import MapstoError
from mapsto.core.load_spec import load_spec
from mapsto.core.shown import OBEYED

SPECS = 2500
"""Of each sort."""


def taken(file) -> str:
    """Nothing where the spec is taken, else what it is refused with; any other error is the test's failure."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_spec(str(file)).check()
    except (MapstoError, OSError) as error:
        return str(error) or "nothing is said"
    return ""


def damaged_specs(tmp_path, seed, count, bounded) -> tuple[int, int]:
    rng, file, good = random.Random(seed), tmp_path / "spec.yaml", 0
    for _ in range(count):
        data = damaged(rng)
        file.write_bytes(data)
        with bounded(data):
            said = taken(file)
        good += not said
    return good, count


def test_damaged_texts(tmp_path, bounded):
    good, count = damaged_specs(tmp_path, 0, SPECS, bounded)
    assert 0 < good < count / 2  # some accidents do no harm


def test_no_nonsense_is_taken(tmp_path, bounded):
    rng, file = random.Random(1), tmp_path / "spec.yaml"
    wrong = []
    for _ in range(SPECS):
        text, what = nonsense(rng)
        file.write_text(text)
        with bounded(what):
            wrong += [] if taken(file) else [what]
    assert wrong == []


def test_the_command_line_says_one_error_and_shows_what_a_terminal_would_obey(tmp_path, bounded):
    rng, file = random.Random(2), tmp_path / "spec.yaml"
    for _ in range(150):
        file.write_bytes(damaged(rng))
        out, err = io.StringIO(), io.StringIO()
        with bounded(file), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["show", str(file)])
        assert code in (0, 1)
        assert err.getvalue().count("error: ") == code or "\n  " in err.getvalue()
        assert not OBEYED.search(out.getvalue() + err.getvalue())


@pytest.mark.slow
def test_no_nonsense_is_trained_by_the_command_line_itself(tmp_path):
    rng, file, wrong = random.Random(3), tmp_path / "spec.yaml", []
    for _ in range(150):
        text, what = nonsense(rng)
        file.write_text(text)
        command = [sys.executable, "-m", "mapsto", "train", str(file), "--run", str(tmp_path / "run")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        if (done.returncode, len(told)) != (1, 1) or "Traceback" in done.stderr or (tmp_path / "run").exists():
            wrong.append((what, done.returncode, done.stderr[-500:]))
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_damaged_texts_at_length(tmp_path, bounded, seed):
    damaged_specs(tmp_path, 100 + seed, SPECS * 2, bounded)
