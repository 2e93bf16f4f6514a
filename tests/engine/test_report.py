"""The report page: made from a folder alone, of any run, holding what it must and nothing that is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import runs
from runs import fit, numpy_spec
from test_observers import Blocks

from mapsto.core.errors import MissingExtra, SpecError
from mapsto.core.yaml_text import read_yaml, write_yaml
from mapsto.engine.folder import RunFolder
from mapsto.engine.report import read_run, write_report
from mapsto.engine.report.charts import POINTS, Series, lines, scatter, stacked, thinned
from mapsto.engine.report.compare import differing
from mapsto.engine.report.panels import confusion, laid_out, marked
from mapsto.engine.report.view import commands
from mapsto.engine.run import Run
from mapsto.tasks import panels

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}
REFERENCES = ("src", "href", "xlink:href", "action", "poster", "data", "srcset")


class Page(HTMLParser):
    """A page parsed: its texts, its references, its ids, and whether every element is closed where it must be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in REFERENCES and value]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace("\u200b", "").split())


def page(path) -> Page:
    """A page, checked to load nothing and to keep its ids apart."""
    found = Page(path.read_text(encoding="utf-8"))
    assert all(reference.startswith(("data:", "#")) for reference in found.references), found.references
    allowed = re.findall(r"'sha256-([^']+)'", found.source.partition("Content-Security-Policy")[2].partition("<title")[0])
    scripts = re.findall(r"<script>(.*?)</script>", found.source, re.S)
    assert [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts] == allowed
    assert len(allowed) == 2
    rest = re.sub(r"<script>.*?</script>", "", found.source, flags=re.S)
    assert not re.search(r"@import|url\((?!#)|<script|<iframe|<base", rest)
    assert len(found.ids) == len(set(found.ids))
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', found.source))
    assert used <= set(found.ids)
    return found


def folder(path, events=(), panels=(), **spec):
    """A run folder written by hand."""
    made = RunFolder(path)
    made.write_spec(numpy_spec(**spec))
    for event in events:
        made.append({"epoch": event["step"] / 10, "metrics": {}, "detail": {}, "time": 1e9 + event["step"], **event})
    made.close()
    made.write_panels(list(panels))
    return path


def log(step, **metrics):
    return {"name": "log", "step": step, "metrics": {k.replace("__", "/"): v for k, v in metrics.items()}}


START = {"name": "start", "step": 0}
END = {"name": "end", "step": 30, "detail": {"reason": "finished", "why": "30 steps are done"}}


# -- of real runs ------------------------------------------------------------------------------------------------------
def test_the_report_of_a_run_says_what_was_measured(tmp_path):
    _, result = fit(numpy_spec(name="three blobs"), tmp_path / "run")
    path = write_report(tmp_path / "run")
    assert path == tmp_path / "run" / "report.html"
    found = page(path)
    record = read_run(RunFolder(tmp_path / "run"))
    assert (record.status, record.steps) == ("finished", 13)
    step, value = record.best
    assert value == min(v for _, v in record.series["valid/loss"])
    assert result.best.name == f"step-{step:08d}"
    assert f"{value:.4g} best valid/loss step {step}" in found.text
    assert "finished" in found.text
    for label in ("train/loss", "valid/accuracy", "learning rate", "throughput", "time of a step", "norm", "memory"):
        assert label in found.text
    assert found.text.count(" best ") >= 1
    assert "mapsto report" in found.text
    assert "runs:Blobs" in found.text  # the spec
    assert np.__version__ in found.text  # the environment
    assert found.tags.count("svg") == 7


def test_the_report_needs_nothing_but_the_folder(tmp_path, monkeypatch):
    fit(numpy_spec(), tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    for name in ("runs", "numpy_wing"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "finished" in page(write_report(tmp_path / "moved")).text


def test_the_report_of_an_interrupted_run_says_how_to_go_on_and_of_the_resumed_one_where_it_began(tmp_path):
    def stop(event):
        if event.name == "evaluate":
            event.run.ask_to_stop("enough")

    fit(numpy_spec(), tmp_path / "run", observers=[stop])
    found = page(write_report(tmp_path / "run"))
    assert "stopped enough" in found.text
    assert f"mapsto train --resume {tmp_path / 'run'}" in found.text
    Run.resume(tmp_path / "run").fit()
    found = page(write_report(tmp_path / "run"))
    assert "Sessions (2)" in found.text
    assert "went on from" in found.text
    assert "finished" in found.text


def test_a_run_without_a_checkpoint_is_told_to_begin_again_and_offers_nothing_that_needs_one(tmp_path):
    path = folder(tmp_path / "run", [START, log(10, train__loss=1.0)])
    assert commands(read_run(RunFolder(path))) == [
        ("begin it again", f"mapsto train SPEC --run {path} --continue"),
        ("this page", f"mapsto report {path}"),
    ]
    path = folder(tmp_path / "live", [START])
    RunFolder(path).write_environment({"resumable_from_folder": False})
    assert [label for label, _ in commands(read_run(RunFolder(path)))] == ["this page"]


def test_the_commands_of_a_report_name_checkpoints_that_are_there(tmp_path):
    def told(path):
        return dict(commands(read_run(RunFolder(path))))

    where, _ = tmp_path / "run", fit(numpy_spec(), tmp_path / "run")
    assert told(where)["evaluate"] == f"mapsto evaluate {where} --checkpoint best"
    *_, before, last = sorted((where / "checkpoints").iterdir())
    (last / "manifest.json").write_text("{")
    assert told(where)["go on"].startswith(f"mapsto train --resume {before}")
    assert told(where)["evaluate"] == f"mapsto evaluate {where} --checkpoint {int(before.name.removeprefix('step-'))}"
    where, _ = tmp_path / "no best", fit(numpy_spec(checkpoint={"best": 0}), tmp_path / "no best")
    assert told(where)["evaluate"] == f"mapsto evaluate '{where}'"


def test_the_report_of_a_killed_run_survives_what_was_half_written(tmp_path):
    path = folder(tmp_path / "run", [START, log(10, train__loss=1.0)])
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"name": "log", "step": 20, "met')
    (path / "environment.json").write_text('{"versions": {')
    (path / "panels.json").write_text("[{")
    broken = path / "checkpoints" / "step-00000010"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    found = page(write_report(path))
    assert "unfinished" in found.text
    assert "still running, or was killed" in found.text
    assert "manifest.json is corrupt" in found.text


@pytest.mark.parametrize("events", [[], [START], [START, log(1, train__loss=1.0)], [log(1, train__loss=math.nan)]])
def test_a_run_that_hardly_began_has_a_report(tmp_path, events):
    found = page(write_report(folder(tmp_path / "run", events)))
    assert ("No metric was written yet" in found.text) == (
        not any(e["name"] == "log" and e["metrics"]["train/loss"] == 1 for e in events)
    )


def test_values_that_are_not_finite_are_told_and_break_nothing(tmp_path):
    values = [1.0, math.nan, math.inf, 0.5, -math.inf]
    events = [START, *(log(10 * i, train__loss=v, train__odd=math.nan) for i, v in enumerate(values)), END]
    events.append({"name": "evaluate", "step": 40, "metrics": {"valid/loss": math.nan}})
    found = page(write_report(folder(tmp_path / "run", events)))
    assert "train/loss was not finite at 3 of 5 records, first at step 10" in found.text
    assert "valid/loss was not finite at 1 of 1 records" in found.text
    assert "best valid/loss" not in found.text
    assert "nan" not in "".join(re.findall(r' d="([^"]*)"', found.source)).lower()


def test_metrics_that_are_no_numbers_are_gaps(tmp_path):
    odd = {"train__loss": "Tensor(3)", "time__step": "long", "time__data": None, "time__checkpoint": "1e"}
    run = folder(tmp_path / "run", [log(1, **odd), log(2, train__loss=2)])
    write_report(run)
    record = read_run(RunFolder(run))
    points = record.series["train/loss"]
    assert math.isnan(points[0][1])
    assert points[1] == (2, 2.0)


def test_the_time_of_all_sessions_is_told(tmp_path):
    events = [
        {**START, "time": 100.0},
        {**log(10), "time": 130.0},
        {"name": "start", "step": 10, "time": 1000.0},
        {**log(20), "time": 1045.0},
    ]
    path = folder(tmp_path / "run", events)
    with open(path / "metrics.jsonl", "a") as file:  # an evaluation that was asked for later has no time
        file.write(json.dumps({"name": "evaluate", "step": 20, "metrics": {"test/loss": 1.0}}) + "\n")
    record = read_run(RunFolder(path))
    assert record.seconds == 75.0
    assert record.series["test/loss"] == [(20, 1.0)]


def test_the_plan_and_the_sizes_of_the_run_are_shown(tmp_path):
    middleware = [{"use": "ema", "decay": 0.97}, "clip_norm"]
    path = folder(tmp_path / "run", [START, END], middleware=middleware, schedule={"use": "warmup"})
    summary = {
        "model": "Net",
        "schedule": "LambdaLR",
        "layers": [
            {"name": "body.0", "class": "Conv2d", "parameters": 1000, "trained": True},
            {"name": "head", "class": "Linear", "parameters": 1_249_000, "trained": False},
        ],
        "parameters": 1_250_000,
        "trainable": 1000,
        "optimizer": "AdamW",
        "middleware": ["clip_norm", "ema"],
    }
    RunFolder(path).write_environment({"summary": summary, "argv": ["mapsto", "train"], "commit": None, "seeds": {"run": 3}})
    text = page(write_report(path)).text
    assert "Net · 1.25M parameters · 1k trained · adam with warmup" in text  # as the spec names them
    assert text.index("clip_norm ema decay=0.97") > 0  # in the order of the plan, not of the spec
    assert "command mapsto train" in text
    assert "seeds · run 3" in text


def test_detached_observers_and_notes_of_a_resume_are_not_overlooked(tmp_path):
    resumed = {"step": 10, "path": "p", "notes": ["numpy was 1 and is 2 now"]}
    end = {**END, "detail": {"reason": "finished", "detached": {"mine": "ValueError: x"}}}
    events = [START, log(10, train__loss=1.0), {"name": "start", "step": 10, "detail": {"resumed": resumed}}, end]
    text = page(write_report(folder(tmp_path / "run", events))).text
    assert "mine raised and watched no more mine: ValueError: x" in text
    assert "at the resume from step 10: numpy was 1 and is 2 now" in text


# -- text that is not ours ---------------------------------------------------------------------------------------------
def test_text_of_data_metrics_and_spec_is_escaped(tmp_path):
    evil = '<script>alert(1)</script><img src="http://example.org/x" onerror=alert(1)>"\'&amp;'
    panels = [
        {"kind": "samples", "title": evil, "columns": [evil, "b"], "rows": [[evil, 1.5], [evil]]},
        {"kind": "confusion", "title": "c", "labels": [evil, "b"], "rows": [[1, 2], [0, 3]]},
        {"kind": "scatter", "title": evil, "x": evil, "y": "y", "points": [[1, 2]]},
        {"kind": evil, "values": [evil]},
    ]
    events = [
        START,
        log(10, **{f"train__{evil}": 1.0, "train__$x_{1}$": 2.0}),
        {**END, "detail": {"reason": "failed", "why": evil}},
    ]
    path = folder(tmp_path / "run", events, panels)
    (path / "spec.yaml").write_text(write_yaml({**read_yaml((path / "spec.yaml").read_text()), "name": evil}))
    found = page(write_report(path))
    assert found.tags.count("script") == 2  # the page's own
    assert found.tags.count("img") == 0
    assert found.text.count("<script>alert(1)</script>") >= 6
    assert "$x_{1}$" in found.text
    page(write_report([path, path], tmp_path / "two.html"))


def test_lone_surrogates_do_not_stop_the_page(tmp_path):
    panels = [{"kind": "samples", "title": "t", "columns": ["a"], "rows": [["\ud800 text"]]}]
    assert "text" in page(write_report(folder(tmp_path / "run", panels=panels))).text


def test_marks_of_direction_and_control_characters_are_spelt_out_on_the_page(tmp_path):
    panels = [{"kind": "samples", "title": "t", "columns": ["a"], "rows": [["x\x1b[31m\u202eneta"]]}]
    text = write_report(folder(tmp_path / "run", panels=panels)).read_text()
    assert r"x\x1b[31m\u202eneta" in text
    assert not {"\x1b", "\u202e"} & set(text)


# -- panels ------------------------------------------------------------------------------------------------------------
def test_confusion_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    true = rng.integers(0, 7, 500)
    predicted = np.where(rng.random(500) < 0.7, true, rng.integers(0, 7, 500))
    predicted[predicted == 5] = 4  # a class that is never predicted
    true[true == 6] = 0  # one that never occurs
    matrix = metrics.confusion_matrix(true, predicted, labels=range(7))
    found = confusion({"rows": matrix.tolist()})
    expected = metrics.precision_recall_fscore_support(true, predicted, labels=range(7), zero_division=0)
    for i, name in enumerate(("precision", "recall", "f1", "support")):
        assert [c[name] for c in found["classes"]] == pytest.approx(list(expected[i]))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, predicted))
    present = sorted(set(true))
    assert found["macro_f1"] == pytest.approx(
        metrics.f1_score(true, predicted, labels=present, average="macro", zero_division=0)
    )
    pairs = {(p["true"], p["predicted"]): p["count"] for p in found["pairs"]}
    assert all(matrix[int(t), int(p)] == n for (t, p), n in pairs.items())
    assert max(pairs.values()) == (matrix - np.diag(np.diag(matrix))).max()


def test_ten_classes_are_a_table_and_a_hundred_a_picture(tmp_path):
    rng = np.random.default_rng(0)
    for count in (2, 10, 100):
        rows = (np.eye(count, dtype=int) * 20 + (rng.random((count, count)) < 0.1)).tolist()
        panel = {"kind": "confusion", "title": "Confusion matrix", "labels": [f"class {i}" for i in range(count)], "rows": rows}
        found = page(write_report(folder(tmp_path / str(count), panels=[panel])))
        assert f"class {count - 1}" in found.text
        assert ("img" in found.tags) == (count == 100)
        assert ("worst first" in found.text) == (count == 100)
        if count == 100:
            assert any(reference.startswith("data:image/png;base64,") for reference in found.references)


def test_the_picture_has_a_pixel_a_cell():
    import base64
    import io

    from matplotlib.image import imread

    rows = np.diag(np.arange(30)).astype(int)
    rows[3, 7] = 3
    image = confusion({"rows": rows.tolist()})["image"]
    pixels = imread(io.BytesIO(base64.b64decode(image.partition(",")[2])))
    assert pixels.shape == (30, 30, 4)
    assert pixels[3, 7, 0] > pixels[3, 7, 2]  # red: confused
    assert pixels[5, 5, 2] > pixels[5, 5, 0]  # blue: right
    assert pixels[7, 3, 3] == 0


def test_labels_that_do_not_fit_are_filled_up():
    assert confusion({"rows": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "labels": ["a"]})["labels"] == ["a", "1", "2"]


def test_a_matrix_without_records_has_no_shares(tmp_path):
    panel = {"kind": "confusion", "title": "empty", "rows": [[0, 0], [0, 0]]}
    assert "0 records" in page(write_report(folder(tmp_path / "run", panels=[panel]))).text


@pytest.mark.parametrize(
    "panel",
    [
        {"kind": "confusion", "rows": [[1, 2]]},
        {"kind": "confusion"},
        {"kind": "samples", "rows": 3, "columns": []},
        {"kind": "scatter", "points": [[1]]},
        {"kind": "unheard of", "values": [1, 2]},
        "not even a mapping",
    ],
)
def test_a_panel_that_cannot_be_read_is_shown_as_its_data(tmp_path, panel):
    assert laid_out([panel])[0]["kind"] == "other"
    assert (
        json.dumps(panel, indent=1).split()[-2].strip('"') in page(write_report(folder(tmp_path / "run", panels=[panel]))).text
    )


def test_samples_mark_what_was_predicted_wrong(tmp_path):
    assert marked("abcd", "abxd") == [("ab", False), ("c", True), ("d", False)]
    assert marked("cat", "dogs") == [("cat", True)]
    assert marked("cat", "cat") == [("cat", False)]
    panel = {"kind": "samples", "title": "Text", "columns": ["given", "true", "predicted"], "rows": [["g", "cat", "cut"]] * 101}
    found = page(write_report(folder(tmp_path / "run", panels=[panel])))
    assert found.tags.count("mark") == 100
    assert "1 more are left out" in found.text
    assert "u" in found.texts


def test_scatter_leaves_out_and_counts_what_is_not_finite(tmp_path):
    panel = {
        "kind": "scatter",
        "title": "Against",
        "x": "true",
        "y": "predicted",
        "points": [[0, 1], [math.nan, 2], [3, math.inf]],
    }
    text = page(write_report(folder(tmp_path / "run", panels=[panel]))).text
    assert "1 points; 2 not finite left out" in text
    assert laid_out([{**panel, "points": [[math.nan, 1]]}])[0]["svg"] is None


# -- charts ------------------------------------------------------------------------------------------------------------
def test_long_series_are_drawn_as_means_within_their_range():
    points = [(i, float(i % 10)) for i in range(10 * POINTS)]
    steps, means, lows, highs = thinned(points)
    assert len(steps) == len(means) == POINTS
    assert set(means) == {4.5}
    assert (set(lows), set(highs)) == ({0.0}, {9.0})
    assert thinned(points[:POINTS])[1] == [v for _, v in points[:POINTS]]
    gap = thinned([(i, math.nan if i < 100 else 1.0) for i in range(10 * POINTS)])
    assert math.isnan(gap[1][0])
    assert gap[1][-1] == 1.0


@pytest.mark.parametrize(
    "points", [[(0, 0.0)], [(5, -1.0), (5, 2.0)], [(0, 1e-30), (10**12, 1e30)], [(1, 7.0), (2, 7.0)], [(1, math.nan), (2, 1.0)]]
)
def test_charts_of_odd_series_can_be_drawn(points):
    for svg in (
        lines([Series("a", points)], "a"),
        lines([Series("a", points)], "a", zero=True),
        scatter([(p[0], p[0]) for p in points], "s"),
    ):
        assert svg.startswith("<svg viewBox")
        assert svg.count("<svg") == svg.count("</svg>") == 1


def test_charts_take_their_colours_from_the_page():
    svg = lines([Series("a", [(0, 1.0), (1, 2.0)], 0), Series("b", [(0, 2.0), (1, 1.0)], 1)], "a", mark=(1, 1.0))
    assert {"var(--s0)", "var(--s1)", "var(--ink)", "var(--faint)"} <= set(re.findall(r"var\(--\w+\)", svg))
    assert not re.findall(r"(?:fill|stroke): #(?!fff)[0-9a-f]{6}", svg)
    assert "var(--s3)" in stacked([1, 2], [(0, [1, 2]), (3, [2, 1])], "s")
    assert "var(--s3)" in stacked([1], [(0, [1]), (3, [2])], "s")


def test_a_loss_over_decades_is_drawn_on_a_logarithmic_axis():
    ticks = lambda points: re.findall(r"<text[^>]*>([^<]*)</text>", lines([Series("a", points)], "a"))  # noqa: E731
    assert {"0.01", "0.1", "1"} <= set(ticks([(i, 10.0 ** (-i / 10)) for i in range(30)]))
    assert "0.01" not in ticks([(i, 1 - i / 40) for i in range(30)])


# -- several runs ------------------------------------------------------------------------------------------------------
def test_several_runs_are_compared_on_one_page(tmp_path):
    fit(numpy_spec(), tmp_path / "one")
    fit(numpy_spec(optimizer={"use": "numpy_wing:adam", "lr": 0.2}, seed=5), tmp_path / "two")
    path = write_report([tmp_path / "one", tmp_path / "two"])
    assert path == tmp_path / "one" / "comparison.html"
    found = page(path)
    assert "2 runs compared" in found.text
    assert "optimizer.lr 0.05 0.2" in found.text
    assert "seed 3 5" in found.text
    losses = [read_run(RunFolder(tmp_path / n)).best[1] for n in ("one", "two")]
    winner = f"{min(losses):.4g}"
    assert f"<strong>{winner}</strong>" in found.source
    assert found.source.count("var(--s1)") > 2
    assert found.text.index("What differs") < found.text.index("What came of it") < found.text.index("Curves")
    delta = losses[1] - losses[0]
    assert f"{delta:+.3g}" in found.text
    assert "memory" not in found.text.partition("Curves")[0]


def test_data_and_layers_have_their_cards(tmp_path):
    path = folder(tmp_path / "run", [START, END])
    field = {"kind": "number", "dtype": "float32", "tail": [1, 8, 8], "low": -1.0, "high": 2.5, "mean": 0.5, "std": 1.0}
    classes = {"counts": [["cat", 30], ["dog", 10]], "distinct": 2, "records": 40}
    sets = {
        "test": {"records": 7, "read": 7},
        "train": {"records": 1240, "read": 40, "fields": {"input": field}, "classes": classes},
    }
    RunFolder(path).write_survey({"sets": sets})
    layers = [
        {"name": "body.0", "class": "Conv2d", "parameters": 10},
        {"name": "", "class": "Net", "parameters": 1234, "trained": False},
    ]
    RunFolder(path).write_environment({"summary": {"layers": layers}})
    text = page(write_report(path)).text
    assert "train 1,240 records · 40 of them looked at" in text
    assert text.index("train 1,240 records") < text.index("test 7 records")
    assert "input float32 [records, 1, 8, 8] -1 to 2.5 0.5 ± 1" in text
    assert "cat 30 75 % dog 10 25 %" in text
    assert "(the model's own) Net frozen 1,234" in text


@pytest.mark.parametrize(
    "sets", [[], {"train": 3}, {"train": {"fields": [], "classes": {"counts": [[1], "ab", ["x", None]]}, "records": "many"}}]
)
def test_a_survey_that_is_damaged_stops_no_page(tmp_path, sets):
    path = folder(tmp_path / "run", [START, END])
    RunFolder(path).write_survey({"sets": sets})
    RunFolder(path).write_environment({"summary": {"layers": [3, {"parameters": "x"}], "model": "Net"}})
    assert "Net" in page(write_report(path)).text


# -- more panels -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_a_picture_is_a_png_that_others_read(shape):
    from PIL import Image

    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    uri = panels.png(array)
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))
    assert np.array_equal(read, array.reshape(read.shape))
    assert uri == panels.png(array / 255)


def test_pictures_curves_and_bars_are_shown(tmp_path):
    shown = [
        panels.images(
            "Worst", [np.zeros((4, 4)), np.ones((4, 4, 3))], ["a cat <taken for> a dog"], [[((0.25, 0, 0.5, 1), "cat")]]
        ),
        panels.curves(
            "ROC", "false positives", "true positives", {"cat": [(0, 0), (0.5, np.nan), (1, 1)], "dog": [(0, 1)]}, diagonal=True
        ),
        panels.bars("F1", {"cat": 0.5, "dog": 1.0, "odd": float("nan")}),
    ]
    found = page(write_report(folder(tmp_path / "run", [START, END], shown)))
    assert found.tags.count("img") == 2
    assert "a cat <taken for> a dog" in found.text
    assert 'style="left:25.00%;top:0.00%;width:25.00%;height:100.00%"' in found.source
    assert "false positives" in found.source
    assert 'dog</td><td class="num">1</td>' in found.source
    assert "width:50.0%" in found.source


@pytest.mark.parametrize(
    "image", ["http://example.org/x.png", "data:image/svg+xml;base64,PHN2Zz4=", 'data:image/png;base64,AA" onload="x']
)
def test_a_picture_from_elsewhere_is_shown_as_data(tmp_path, image):
    found = page(
        write_report(folder(tmp_path / "run", [START, END], [{"kind": "images", "title": "t", "items": [{"image": image}]}]))
    )
    assert found.tags.count("img") == 0


def test_specs_differ_by_path_and_part():
    specs = [
        {"a": {"b": 1}, "middleware": [{"use": "ema", "decay": 0.9}]},
        {"a": {"b": 1}, "middleware": [{"use": "clip_norm"}]},
    ]
    assert differing(specs) == [
        ("middleware.ema.use", ["ema", "-"]),
        ("middleware.ema.decay", ["0.9", "-"]),
        ("middleware.clip_norm.use", ["-", "clip_norm"]),
    ]
    assert differing([specs[0], specs[0]]) == []


# -- where something is amiss ------------------------------------------------------------------------------------------
def test_what_is_no_run_folder_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"is not the folder of a run: it has no spec\.yaml"):
        write_report(tmp_path / "nothing")
    with pytest.raises(SpecError, match="at least one"):
        write_report([])


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_what_is_not_installed_is_named_with_its_remedy(tmp_path, monkeypatch, package):
    path = folder(tmp_path / "run")
    for name in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Blocks(package), *sys.meta_path])
    with pytest.raises(MissingExtra, match=rf"the report needs '{package}'.*pip install 'mapsto\[report\]'"):
        write_report(path)
    assert not (path / "report.html").exists()


def test_the_page_is_replaced_whole(tmp_path):
    path = folder(tmp_path / "run")
    write_report(path)
    write_report(path)
    assert sorted(p.name for p in path.iterdir() if "report" in p.name) == ["report.html"]


def test_the_helper_of_these_tests_finds_what_it_looks_for(tmp_path):
    """The control: a page that loads something, or leaves an element open, does not pass."""
    for source in ('<img src="https://example.org/x.png">', "<style>a{background:url(x.png)}</style>", "<p>open"):
        (tmp_path / "bad.html").write_text(source)
        with pytest.raises(AssertionError):
            page(tmp_path / "bad.html")
    assert runs.Blobs(3)[np.arange(3)]["target"].tolist() == [0, 1, 2]
