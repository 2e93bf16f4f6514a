"""Going on with other data is an error that says what is other, and goes on only where somebody says that it may."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import runs
from runs import fit, numpy_spec, trajectory

import mapsto
from mapsto.core.errors import DataError, SpecError
from mapsto.data import JsonLines
from mapsto.engine import fingerprint as prints
from mapsto.engine.checkpoints.checkpoint import Checkpoints
from mapsto.engine.checkpoints.manifest import read_manifest
from mapsto.engine.fingerprint import digest_of, fingerprint
from mapsto.engine.folder import RunFolder
from mapsto.engine.record import read_run
from mapsto.engine.report.view import viewed
from mapsto.engine.run import Run


def row(i, target=None):
    return json.dumps({"input": [i / 7 + 0.01, 0.5, i % 4, 1.5], "target": i % 3 if target is None else target})


def rows(count, **changed):
    return "\n".join(row(i, changed.get(f"at{i}")) for i in range(count))


def lines_spec(**changes):
    train = {"source": {"use": "json_lines", "path": "a.jsonl"}, "batch_size": 8, "shuffle": True}
    return numpy_spec(data={"train": train}, **{"steps": 5, "checkpoint": {"every": 5, "keep": None}, **changes})


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """A run of five steps on a file of a hundred lines in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text(rows(100))
    fit(lines_spec(), tmp_path / "run")
    return tmp_path


def test_another_number_of_records_is_an_error_before_the_first_step(lines):
    before = (lines / "run/metrics.jsonl").read_bytes()
    Path("a.jsonl").write_text(rows(120))
    said = r"data\.train: records 100 -> 120; batches_per_epoch 13 -> 15; file a\.jsonl: size \d+ -> \d+\. .*--data-changed"
    with pytest.raises(DataError, match=said):
        Run.resume("run", "steps=9").fit()
    assert (lines / "run/metrics.jsonl").read_bytes() == before


def test_an_edited_label_is_seen_although_no_record_that_is_read_has_it(lines):
    """Of a small file every byte counts; the size is the same, and so may be the time."""
    time = Path("a.jsonl").stat().st_mtime_ns
    Path("a.jsonl").write_text(rows(100, at1=2))
    os.utime("a.jsonl", ns=(time, time))
    with pytest.raises(DataError, match=r"data\.train: file a\.jsonl: other contents of the same size\. "):
        Run.resume("run", "steps=9").fit()


def test_said_to_be_changed_it_goes_on_with_a_note_that_stays_in_the_report(lines):
    Path("a.jsonl").write_text(rows(100, at0=2))
    told = []
    result = Run.resume("run", "steps=9", data_changed=True, observers=[told.append]).fit()
    note = "the data were changed, as was said: data.train: contents at record 0; file a.jsonl: other contents of the same size"
    assert (result.steps, told[0].detail["resumed"]["notes"][1]) == (9, note)
    assert f"at the resume from step 5: {note}" in viewed(read_run(RunFolder("run")))["warnings"]
    told.clear()
    Run.resume("run", "steps=12", observers=[told.append]).fit()  # they are now the data of the run
    assert told[0].detail["resumed"]["notes"] == ["the run was 9 steps long and is 12 now"]
    assert RunFolder("run").environment()["data"] == read_manifest(lines / "run/checkpoints/step-00000012")["data"]


def test_a_copied_data_set_is_the_same_whenever_it_was_written(lines):
    os.utime("a.jsonl", (1, 1))
    told = []
    Run.resume("run", "steps=9", observers=[told.append]).fit()
    assert told[0].detail["resumed"]["notes"] == ["the run was 5 steps long and is 9 now"]


def test_of_a_file_too_large_to_be_read_another_time_is_told(lines, monkeypatch):
    monkeypatch.setattr(prints, "BYTES", 400)
    monkeypatch.setattr(prints, "BLOCK", 100)
    fit(lines_spec(), "large")
    size = Path("a.jsonl").stat().st_size
    os.utime("a.jsonl", (1, 1))
    told = []
    Run.resume("large", "steps=6", observers=[told.append]).fit()
    (note,) = [n for n in told[0].detail["resumed"]["notes"] if "a.jsonl" in n]
    assert note.startswith("data.train: file a.jsonl was written at another time; its size and the blocks")
    Path("a.jsonl").write_bytes(Path("a.jsonl").read_bytes().replace(b"0.01", b"0.02", 1))  # the first block is read
    assert Path("a.jsonl").stat().st_size == size
    with pytest.raises(DataError, match=r"contents at record 0; file a\.jsonl: other contents of the same size"):
        Run.resume("large", "steps=7").fit()


# -- moved -------------------------------------------------------------------------------------------------------------
def test_data_that_were_moved_are_found_by_a_path_and_known_by_their_fingerprint(lines, tmp_path):
    fit(lines_spec(steps=9), "whole")
    fit(
        lines_spec(steps=9),
        "part",
        observers=[lambda e: e.step == 5 and e.run.ask_to_stop("moved") if e.name == "checkpoint" else None],
    )
    Path("elsewhere").mkdir()
    shutil.move("a.jsonl", "elsewhere/b.jsonl")
    with pytest.raises(DataError, match="there is no file a.jsonl"):
        Run.resume("part").fit()
    told = []
    Run.resume("part", "data.train.source.path=elsewhere/b.jsonl", observers=[told.append]).fit()
    assert told[0].detail["resumed"]["notes"] == ["data.train.source.path is another place than it was"]
    assert trajectory(tmp_path / "part", 9) == trajectory(tmp_path / "whole", 9)
    assert Run.resume("part", "steps=10").fit().steps == 10  # the run knows the place now
    assert Run.resume("part", checkpoint=5).fit().steps == 10  # whose older checkpoints tell the place of before


def by_default(path: str = "a.jsonl"):
    return JsonLines(path)


def opened_by_itself(path: str = "a.jsonl"):
    open(path).close()
    return JsonLines(path)


@pytest.mark.parametrize("source", [by_default, opened_by_itself])
def test_data_that_were_moved_from_where_a_source_looks_by_default(lines, tmp_path, source):
    source = f"test_fingerprint:{source.__name__}"
    data = {"train": {"source": source, "batch_size": 8}}
    fit(numpy_spec(data=data, steps=5, checkpoint={"every": 5, "keep": None}), "own")
    shutil.move("a.jsonl", "b.jsonl")
    told = r"^data\.train\.source: .*a\.jsonl.*\n.*such as data\.train\.source\.path=/new/place"
    with pytest.raises(DataError, match=told):
        Run.resume("own", "steps=6").fit()
    assert Run.resume("own", "steps=6", "data.train.source.path=b.jsonl").fit().steps == 6


def test_at_the_new_place_other_data_are_an_error_and_no_place_is_a_change_of_the_spec(lines):
    Path("b.jsonl").write_text(rows(90))
    with pytest.raises(DataError, match=r"data\.train: records 100 -> 90"):
        Run.resume("run", "steps=9", "data.train.source.path=b.jsonl").fit()
    with pytest.raises(SpecError, match=r"data\.train\.source\.path: \"a\.jsonl\" there, \"c\.jsonl\" here"):
        Run.resume("run", "steps=9", "data.train.source.path=c.jsonl")
    assert Run.resume("run", "steps=9", "data.train.source.path=b.jsonl", data_changed=True).fit().steps == 9


def test_evaluation_needs_no_training_data_and_checks_those_that_were_moved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, count in (("train", 40), ("valid", 20)):
        Path(f"{name}.jsonl").write_text(rows(count))
    data = {n: {"source": {"use": "json_lines", "path": f"{n}.jsonl"}, "batch_size": 8} for n in ("train", "valid")}
    _, done = fit(numpy_spec(data=data), "run")
    found = Run.resume("run").evaluate("valid")
    Path("train.jsonl").unlink()
    Path("valid.jsonl").rename("held.jsonl")
    moved = "data.valid.source.path=held.jsonl"
    assert Run.resume("run", moved).evaluate("valid") == found
    assert found["loss"] == done.metrics["valid/loss"]
    assert len(list(Run.resume("run", moved).predict("valid"))) == 3
    Path("held.jsonl").write_text(rows(20, at0=2))
    for act in (
        lambda **o: Run.resume("run", moved, **o).evaluate("valid"),
        lambda **o: Run.resume("run", moved, **o).predict("valid"),
    ):
        with pytest.raises(DataError, match=r"data\.valid: contents at record 0"):
            act()
        act(data_changed=True)


# -- readers of any kind -----------------------------------------------------------------------------------------------
class Own:
    """A reader of one's own that keeps the contract and has no source."""

    records, batches_per_epoch = 40, 4

    def __init__(self, shift=0.0, noise=None, at=None):
        self.shift, self.noise, self.at = shift, noise, at

    def epoch(self, position):
        return position // 4

    def batch(self, position, shard=0, shards=1):
        x = mapsto.generator(7, "own", position).normal(size=(10, 4))
        if self.at is None or position == self.at:
            x = x + self.shift
        if self.noise is not None:
            x = x + self.noise.normal(size=x.shape)
        own = np.arange(10)[10 * shard // shards : 10 * (shard + 1) // shards]
        return {"input": x[own], "target": own % 3}

    def stream(self, start=0, stop=None):
        return mapsto.data.Stream(self, start, stop)


class Streamed:
    """Only what a run on one process asks of a reader."""

    records, batches_per_epoch = 40, 4

    def __init__(self, inner):
        self.inner = inner

    def stream(self, start=0, stop=None):
        return self.inner.stream(start, stop)


@pytest.mark.parametrize("wrap", [lambda own: own, Streamed])
def test_a_reader_of_ones_own_is_known_by_its_batches(wrap):
    before = fingerprint(wrap(Own()))
    assert before == fingerprint(wrap(Own()))
    assert (before["records"], before["fields"]) == (40, {"input": "float64 [4]", "target": "int64 []"})
    found, notes = prints.changes(before, fingerprint(wrap(Own(shift=1.0, at=3))))
    assert (found, notes) == (["the batch at position 3"], [])


def test_records_that_are_drawn_anew_at_each_reading_prove_nothing():
    before, now = (fingerprint(Own(noise=np.random.default_rng(seed))) for seed in (0, 1))
    assert prints.again(Own(noise=np.random.default_rng(2)), before, now)
    pure = fingerprint(Own()), fingerprint(Own(shift=1.0))
    assert not prints.again(Own(shift=1.0), *pure)


def test_the_cost_is_bounded_whatever_the_size():
    source = runs.Blobs(10**12)
    reader = mapsto.data.Batches(source, 256, shuffle=True)
    source.read.clear()
    found = fingerprint(reader)
    assert len(found["contents"]) == prints.RECORDS
    assert len(source.read) == prints.RECORDS
    assert {0, 10**12 - 1} <= {int(i) for i in found["contents"]}


def test_a_mixture_and_a_folder_are_known_by_all_their_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "a.txt").write_text(f"{name}\nof two\n")
    folder = mapsto.data.TextFolder(tmp_path / "texts")
    mixed = mapsto.data.Mixture([folder, folder], [1, 1], 2)
    for reader in (mapsto.data.Batches(folder, 2), mixed):
        before = fingerprint(reader)
        assert [f["name"] for f in before["files"]["spread"]] == ["a.txt", "a.txt"]
        (tmp_path / "texts/one/a.txt").write_text("eno\nof two\n")
        found, _ = prints.changes(before, fingerprint(reader))
        assert found[-1] == "file a.txt: other contents of the same size"
        (tmp_path / "texts/one/a.txt").write_text("one\nof two\n")
        assert prints.changes(before, fingerprint(reader))[0] == []


def test_another_order_of_the_same_records_is_seen():
    source = runs.Blobs(50)
    before, now = (fingerprint(mapsto.data.Batches(source, 9, shuffle=True, seed=seed)) for seed in (0, 1))
    assert prints.changes(before, now) == (["the order of the records"], [])


def test_a_file_that_a_transform_reads_is_seen(tmp_path):
    words = tmp_path / "words.json"
    transform = {"use": "tokenise_words", "vocabulary": str(words)}
    part = mapsto.use("batches", source={"use": "runs:Blobs"}, transforms=[transform])
    reader = mapsto.data.Batches(runs.Blobs(50), 9)
    words.write_text('["a"]')
    before = fingerprint(reader, part)
    words.write_text('["b"]')
    assert prints.changes(before, fingerprint(reader, part))[0] == ["file words.json: other contents of the same size"]


def test_a_digest_takes_whatever_a_batch_may_hold():
    torch = pytest.importorskip("torch")
    ragged = [np.arange(2), np.arange(3)]
    values = [ragged, ["a", b"b"], np.array(["x", None], object), torch.zeros(2, dtype=torch.bfloat16), torch.tensor(1), object]
    digests = [digest_of({"input": value}) for value in values]
    assert len(set(digests)) == len(values)
    assert digest_of({"input": ragged}) != digest_of({"input": ragged[::-1]})
    assert digest_of({"input": torch.zeros(2, dtype=torch.bfloat16)}) == digests[3]


def test_a_record_that_cannot_be_read_is_the_error_of_the_step_that_needs_it(tmp_path):
    class Torn(runs.Blobs):
        vectorised = True

        def __getitem__(self, indices):
            if 49 in indices:
                raise OSError("torn")
            return super().__getitem__(indices)

    data = {"train": {"source": Torn(), "batch_size": 7}}
    run, result = fit(numpy_spec(data=data, steps=7), tmp_path / "run")
    assert result.steps == 7
    told = read_manifest(run.checkpoints.find("last"))["data"]["train"]["contents"]["49"]
    assert told == "unreadable (OSError)"


def test_a_checkpoint_of_before_there_were_fingerprints_goes_on_with_a_note(tmp_path, monkeypatch):
    begin = Checkpoints.begin

    def without(self, step, tree, about, **options):
        return begin(self, step, tree, {k: v for k, v in about.items() if k != "data"}, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "begin", without)
        fit(numpy_spec(steps=4), tmp_path / "run")
    told = []
    assert Run.resume(tmp_path / "run", "steps=5", observers=[told.append]).fit().steps == 5
    assert "the checkpoint does not tell what its data were, so nothing was compared" in told[0].detail["resumed"]["notes"]
