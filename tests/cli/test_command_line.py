"""The command line as a whole: help that teaches, exit codes, one message an error, nothing imported that is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mapsto import __version__, cli
from mapsto.cli import entry

VERBS = ["consolidate", "doctor", "evaluate", "list", "new", "plan", "predict", "report", "show", "train"]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mapsto", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )


def test_help_names_every_command_and_the_exit_codes(mapsto):
    said = mapsto("--help")
    assert said.code == 0
    assert all(f"  {verb} " in said.out for verb in VERBS)
    assert "exit codes: 0 done; 1 an error" in said.out
    assert mapsto().out == said.out  # no words ask for it too


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_command_has_examples_of_it(mapsto, verb):
    said = mapsto(verb, "--help")
    assert said.code == 0
    assert said.out.count(f"mapsto {verb}") >= 3
    assert "examples:" in said.out


def test_verbs_are_files():
    there = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
    assert set(entry.VERBS) <= there


def test_version(mapsto):
    assert mapsto("--version").out == f"mapsto {__version__}\n"


def test_an_unknown_command_names_the_nearest(mapsto):
    said = mapsto("trian", "spec.yaml")
    assert said.code == 2
    assert "there is no command 'trian'" in said.err
    assert "did you mean 'train'?" in said.err


def test_a_kind_in_capitals_names_the_right_one(mapsto):
    said = mapsto("show", "Optimizer/adamw")
    assert (said.code, "there is no kind 'Optimizer'" in said.err, "did you mean 'optimizer'?" in said.err) == (1, True, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--versoin"], "there is no option '--versoin'; allowed: --help, --version; did you mean '--version'?"),
        (["train", "a.yaml", "--Quite"], "there is no option '--Quite'; allowed: "),
        (["train", "a.yaml", "--RESUME=x"], "did you mean '--resume'?"),
        (["consolidate", "runs/x", "accuracy"], "'accuracy' is one word too many"),
        (["evaluate"], "the following arguments are required: RUN"),
        (["evaluate", "runs/x", "--checkpont", "1"], "did you mean '--checkpoint'?"),
        (["predict", "runs/x"], "the following arguments are required: --output"),
        (["train"], "say what to train"),
        (["train", "a.yaml", "--checkpoint", "3"], "--checkpoint goes with --resume RUN"),
        (["train", "a.yaml", "--resume", "runs/x"], "'a.yaml' is one too many"),
        (["train", "--resume", "runs/x", "--run", "runs/y"], "--run is for a new one"),
        (["show", "adamw", "lr=3"], "optimizer/adamw is one mapping"),
    ],
)
def test_wrong_usage_is_2_and_names_the_help(mapsto, words, told):
    said = mapsto(*words)
    assert said.code == 2
    assert told in said.err
    assert "--help" in said.err
    assert said.out == ""


def test_an_error_is_one_message_without_traceback(mapsto, spec):
    said = mapsto("train", spec, "optimizer.lrr=1")
    assert said.code == 1
    assert said.err.splitlines()[-1].startswith("error: optimizer.lrr: ")
    assert "did you mean 'lr'?" in said.err
    assert "Traceback" not in said.err


def test_debug_shows_where_it_was_raised(mapsto, spec, monkeypatch):
    assert "Traceback" in mapsto("train", spec, "optimizer.lrr=1", "--debug").err
    monkeypatch.setenv("MAPSTO_DEBUG", "1")
    said = mapsto("train", spec, "optimizer.lrr=1")
    assert said.code == 1
    assert "Traceback" in said.err
    monkeypatch.setenv("MAPSTO_DEBUG", "0")
    assert "Traceback" not in mapsto("train", spec, "optimizer.lrr=1").err


def test_an_error_of_the_system_is_told_with_a_hint(mapsto, tmp_path):
    (tmp_path / "file").write_text("")
    said = mapsto("new", "loss", "own", "--into", tmp_path / "file" / "below")
    assert said.code == 1
    assert "Not a directory" in said.err
    assert "--debug" in said.err


def test_what_a_recipe_raises_keeps_its_traceback(tmp_path):
    (tmp_path / "broken.py").write_text("def spec():\n    return 1 // 0\n")
    done = run("show", str(tmp_path / "broken.py"))
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert 'broken.py", line 2' in done.stderr


def test_ctrl_c_before_anything_runs_is_130(mapsto, tmp_path):
    (tmp_path / "stopped.py").write_text("def spec():\n    raise KeyboardInterrupt\n")
    said = mapsto("show", tmp_path / "stopped.py")
    assert said.code == 130
    assert said.err == "interrupted\n"


def test_a_closed_pipe_is_no_traceback():
    producer = subprocess.Popen([sys.executable, "-m", "mapsto", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert producer.stdout is not None
    assert producer.stderr is not None
    producer.stdout.close()
    assert producer.stderr.read() == b""
    producer.stderr.close()
    assert producer.wait(60) == 141


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list"], ["list", "--kinds", "--json"], ["train", "--help"]])
def test_no_framework_is_imported_for_it(words):
    code = (
        "import sys\nfrom mapsto.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pyarrow', 'matplotlib', 'jinja2', 'tensorboard'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_new_imports_no_framework(tmp_path):
    code = (
        "import sys\nfrom mapsto.cli import main\n"
        f"assert main(['new', 'layer', 'own', '--into', {str(tmp_path)!r}]) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
