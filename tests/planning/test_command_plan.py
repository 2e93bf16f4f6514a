"""`mapsto plan`: a table in 100 columns, all figures as JSON, and one clear error for each wrong word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mapsto.cli import main

SPEC = """\
model: {use: "torch.nn:Linear", in_features: 64, out_features: 64}
task: regression
data:
  train: {source: {use: arrays, input: INPUT, target: INPUT}, batch_size: 4}
device: cpu
steps: 3
"""
TOTAL = 4 * (64 * 64 + 64)
"""Bytes of the parameters."""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "linear.yaml"
    path.write_text(SPEC.replace("INPUT", str([[0.0] * 64] * 8)))
    return str(path)


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = main(["plan", *words])
    except SystemExit as ended:
        code = int(str(ended.code))
    found = capsys.readouterr()
    return code, found.out, found.err


def test_meshes_are_ranked_in_a_table_and_written_as_json(
    spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    words = [spec, "--mesh", "shard=2", "--mesh", "replicate=2", "--mesh", "replicate=8", "--memory", "1MB"]
    code, out, err = say(capsys, *words, "--bandwidth", "1MB/s", "--json", str(file))
    assert code == 0
    assert "written" in err
    assert max(map(len, out.splitlines())) <= 100
    assert "one step of 4 records: input float32[64], target float32[64]" in out or "float64[64]" in out
    assert "memory a rank: 1 MB, of which 10% are kept free" in out
    assert "replicate=8: a global batch of 4 records leaves 4 of 8 data ranks without one" in out
    told = json.loads(file.read_text())
    fitting = {one["mesh"]["replicate"]: one for one in told["meshes"] if one["fits"]}
    assert [one["fits"] for one in told["meshes"]] == [True, True, False]
    best = fitting[2]
    assert best["held"]["parameters"] == TOTAL
    assert best["communicated"]["all-reduce"] == TOTAL + 24
    assert best["communication_seconds"] == pytest.approx(best["sent"] / 10**6, rel=1e-3)
    assert best["largest_micro_batch"] > 4
    assert told["memory"] == 10**6


def test_no_mesh_that_fits_is_1(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = say(capsys, spec, "--memory", "50KB")
    assert code == 1
    assert "one rank: needs" in out
    assert "too many" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--memory", "80"], "--memory: '80' is no size above 0; write a number and a unit such as 80GB"),
        (["--memory", "1GB", "--reserve", "1"], "--reserve: 1 is not a share of the memory"),
        (["--bandwidth", "fast"], "--bandwidth: 'fast' is no size above 0"),
        (["--mesh", "replicat=2"], "there is no axis 'replicat'"),
        (["--mesh", "shard=3", "--ranks", "8"], "shard 3 is 3 ranks"),
        (["--ranks", "0"], "--ranks: 0 is not a number of ranks"),
        (["--per-node", "0"], "--per-node: 0 is not a number of ranks"),
        (["--json", "/no/such/folder/plan.json"], "a file in a folder that exists is wanted"),
        (["optimizer.lr=x"], "optimizer.lr: 'x'"),
        (["mesh={servers: 1}"], "'servers' is not planned"),
    ],
)
def test_a_wrong_word_is_one_clear_error(spec: str, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = say(capsys, spec, *words)
    assert code == 1
    notice = f"{spec} names code that is not registered"  # told before that code is run, where it comes so far
    (error,) = [line for line in err.splitlines() if not line.startswith(notice)]
    assert told in error
    assert out == ""


def test_a_wing_that_steps_nothing_without_data_says_so(
    spec: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("mapsto.torch.wing.dry_run")
    code, out, err = say(capsys, spec, "--mesh", "replicate=2")
    assert (code, out) == (1, "")
    assert err.strip().splitlines()[-1] == (
        "error: wing: torch steps no program without data and machines (it has no `dry_run`), so its meshes are not planned"
    )
