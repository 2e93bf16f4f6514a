"""Files of a run folder that are not what they should be: one sentence that names them, and nothing that waits."""

from __future__ import annotations

import json
import os

import pytest
from runs import fit, numpy_spec

from mapsto.core.errors import CheckpointError, SpecError
from mapsto.engine.checkpoints.manifest import MANIFEST, STATE, digest, measure, verify
from mapsto.engine.diagnosis import diagnose
from mapsto.engine.folder import RunFolder
from mapsto.engine.reading import opened, read_bytes, shaped
from mapsto.engine.record import read_run
from mapsto.engine.shapes import Event


@pytest.fixture(params=["pipe", "link", "link to itself", "directory", "device"])
def no_file(request, tmp_path):
    file = tmp_path / "there"
    if request.param == "pipe":
        os.mkfifo(file)
    elif request.param == "directory":
        file.mkdir()
    else:
        target = {"link": tmp_path / "elsewhere", "link to itself": file, "device": "/dev/zero"}[request.param]
        (tmp_path / "elsewhere").write_text("secret")
        file.symlink_to(target)
    return file


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT])
def test_what_is_no_regular_file_is_neither_read_nor_written(no_file, flags):
    with pytest.raises(CheckpointError, match=f"^{no_file} (is no regular file|is a link, and|cannot be opened: )"):
        opened(no_file, flags)
    assert not (no_file.parent / "elsewhere").exists() or (no_file.parent / "elsewhere").read_text() == "secret"


def test_a_regular_file_is_read_to_a_bound(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"0123456789")
    assert read_bytes(file, most=10) == b"0123456789"
    with pytest.raises(CheckpointError, match=f"{file} holds 10 bytes, and at most 9 are read"):
        read_bytes(file, most=9)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[]", "it: Input should be a valid dictionary"),
        (b"{}", "step: Field required"),
        (b'{"step": "3"}', "step: Input should be a valid integer"),
        (b'{"step": true}', "step: Input should be a valid integer"),
        (b'{"step": -1}', "step: Input should be greater than or equal to 0"),
        (b'{"step": 1, "metrics": [1]}', "metrics: Input should be a valid dictionary"),
        (b'{"step": 1, "detail": {"resumed": {"step": 1}}}', "detail.resumed.path: Field required"),
    ],
)
def test_what_is_of_another_shape_is_told_by_its_path(data, reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        shaped(data, Event)


def test_damaged_lines_are_left_out_and_named(tmp_path):
    fit(numpy_spec(), tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], b"\xff\n", b'{"step": "x"}\n', *lines[2:], b'{"step": 3, "na']))
    record = read_run(RunFolder(tmp_path / "run"))
    assert len(record.events) == len(lines)
    assert record.damaged == (f"{file}:3: it is not UTF-8 text (byte 0)", f"{file}:4: step: Input should be a valid integer")
    (finding,) = (found for found in diagnose(record).findings if found.name == "files_damaged")
    assert finding.values == {"damaged": list(record.damaged)}


def test_not_a_number_is_told_from_what_is_missing_and_old_files_are_read(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "spec.yaml").write_text("model: x\ndata: {}\n")
    folder.append({"name": "evaluate", "step": 1, "metrics": {"valid/loss": float("nan"), "valid/x": float("inf")}})
    folder.append({"name": "evaluate", "step": 2, "metrics": {"valid/loss": 0.5}})
    folder.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text.splitlines()[0])["metrics"] == {"valid/loss": "NaN", "valid/x": "Infinity"}
    old = '{"name": "evaluate", "step": 3, "metrics": {"valid/loss": NaN, "valid/x": -Infinity}}\n'
    (tmp_path / "metrics.jsonl").write_text(text + old)
    record = read_run(folder)
    assert [step for step, value in record.series["valid/loss"] if value != value] == [1, 3]
    assert record.series["valid/x"] == [(1, float("inf")), (3, float("-inf"))]
    assert record.best == (2, 0.5)


@pytest.mark.parametrize("name", ["../../spec.yaml", "/etc/hostname", "..", ".", "", "a/b"])
def test_a_manifest_lists_files_beside_it(tmp_path, name):
    _, result = fit(numpy_spec(), tmp_path / "run")
    manifest = json.loads((result.last / MANIFEST).read_bytes())
    manifest.pop("digest")
    manifest["files"][name] = measure(result.last / STATE)
    (result.last / MANIFEST).write_text(json.dumps({**manifest, "digest": digest(manifest)}))
    with pytest.raises(CheckpointError, match="is no name of a file beside it"):
        verify(result.last)


def test_a_tensor_file_that_no_manifest_lists_is_an_error(tmp_path):
    _, result = fit(numpy_spec(), tmp_path / "run")
    (result.last / "more.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="more.safetensors is none of the files that manifest.json lists"):
        verify(result.last)


def test_a_spec_that_is_no_text_is_named(tmp_path):
    (tmp_path / "spec.yaml").write_bytes(b"\xff")
    with pytest.raises(SpecError, match=rf"{tmp_path / 'spec.yaml'} is not UTF-8 text \(byte 0\)"):
        RunFolder(tmp_path).spec()
