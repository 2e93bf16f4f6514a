"""Observers: what they show and write, what they keep over a resume, and what they say where something is amiss."""

from __future__ import annotations

import functools
import io
import json
import math
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from happenings import Happenings
from rich.console import Console
from runs import bits, fit, numpy_spec, saved

from mapsto.core.errors import MissingExtra, SpecError
from mapsto.core.registry import registry
from mapsto.engine.observers.early_stopping import EarlyStopping
from mapsto.engine.observers.mlflow import MLflow, flat
from mapsto.engine.observers.profile import PARTS, Profile, time_split, time_splits
from mapsto.engine.observers.progress import Progress, is_interactive
from mapsto.engine.observers.tensorboard import TensorBoard
from mapsto.engine.observers.wandb import WeightsAndBiases
from mapsto.engine.run import Run

NAMES = ("early_stopping", "mlflow", "profile", "progress", "tensorboard", "wandb")


@pytest.mark.parametrize("name", NAMES)
def test_each_is_registered_by_decorator_and_entry_point(name):
    target = registry.get("observer", name)
    assert registry.name_of("observer", target) == name
    assert [e.reference for e in registry.entries("observer") if e.name == name] == [
        f"{target.__module__}:{target.__qualname__}"
    ]


def test_the_observers_and_the_report_import_no_framework():
    modules = [f"mapsto.engine.observers.{n}" for n in NAMES] + ["mapsto.engine.report"]
    heavy = ("torch", "jax", "tensorflow", "matplotlib")
    code = f"import sys, {', '.join(modules)}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# -- early stopping ----------------------------------------------------------------------------------------------------
def stops_at(values, happen, observer) -> int | None:
    """The index of the value after which it first asks to stop."""
    for index, value in enumerate(values):
        observer(happen("evaluate", index + 1, {"valid/loss": value}))
        if happen.stops:
            return index
    return None


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([3.0, 2.0, 1.0, 0.5], {}, None),
        ([1.0, 1.1, 1.2, 1.3], {}, 3),
        ([1.0, 1.0, 1.0, 1.0], {"patience": 2}, 2),  # equal is not better
        ([1.0, 1.1, 0.9, 1.1, 1.2], {"patience": 2}, 4),  # what gets better begins the count anew
        ([1.0, 0.95, 0.91, 0.85], {"patience": 2, "min_delta": 0.1}, 2),  # 0.91 gains 0.09 on the best, which is still 1.0
        ([1.0, 0.75, 0.5, 0.25], {"patience": 1, "min_delta": 0.25}, 1),  # a gain of exactly min_delta is none
        ([1.0, 2.0, 3.0, 3.0], {"mode": "max", "patience": 1}, 3),
        ([math.nan, math.nan], {"patience": 2}, 1),
        ([1.0, math.nan, 0.5, math.nan, math.nan], {"patience": 2}, 4),
        ([1.0, math.inf], {"patience": 1}, 1),
    ],
)
def test_early_stopping_stops_when_patience_has_run_out(tmp_path, values, options, expected):
    assert stops_at(values, Happenings(tmp_path), EarlyStopping(**options)) == expected


def test_early_stopping_says_why(tmp_path):
    happen = Happenings(tmp_path)
    stops_at([1.0, 2.0], happen, EarlyStopping(patience=1, min_delta=0.5))
    assert happen.stops == ["valid/loss did not get below 1 (step 1) by more than 0.5 in 1 evaluation; it is 2 now"]
    happen = Happenings(tmp_path)
    stops_at([math.nan] * 3, happen, EarlyStopping())
    assert happen.stops == ["valid/loss was not a number in 3 evaluations"]


def test_early_stopping_goes_on_after_a_resume_as_if_never_interrupted(tmp_path):
    values = [1.0, 0.9, 0.95, 0.96, 0.97, 0.5]
    whole = stops_at(values, Happenings(tmp_path), EarlyStopping())
    for cut in range(1, 4):
        first, second = EarlyStopping(), EarlyStopping()
        assert stops_at(values[:cut], Happenings(tmp_path), first) is None
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert cut + stops_at(values[cut:], Happenings(tmp_path), second) == whole == 4
    forgetful = stops_at(values[3:], Happenings(tmp_path), EarlyStopping())
    assert forgetful is None  # without the state it would not have stopped


def test_early_stopping_names_the_metrics_there_are(tmp_path):
    with pytest.raises(SpecError, match=r"gives no 'valid/acuracy'; allowed: .*did you mean 'valid/accuracy'"):
        EarlyStopping("valid/acuracy")(Happenings(tmp_path)("evaluate", 1, {"valid/loss": 1.0, "valid/accuracy": 0.5}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patience": 0}, "early_stopping.patience: 0 is out of range"),
        ({"min_delta": -1.0}, "early_stopping.min_delta: -1.0 is out of range"),
        ({"mode": "mx"}, "did you mean 'max'"),
    ],
)
def test_early_stopping_refuses_impossible_options(options, said):
    with pytest.raises(SpecError, match=said):
        EarlyStopping(**options)


def test_early_stopping_ends_a_run(tmp_path):
    spec = numpy_spec(
        observers=[{"use": "early_stopping", "metric": "valid/accuracy", "mode": "max", "patience": 1, "min_delta": 1.0}]
    )
    _, result = fit(spec, tmp_path / "run")
    assert (result.reason, result.steps) == ("stopped", 10)
    assert result.why.startswith("valid/accuracy did not get above")


# -- progress ----------------------------------------------------------------------------------------------------------
class Clock:
    """Ten seconds a reading."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


def shown(events, **options) -> str:
    """All that is printed for the events."""
    stream = io.StringIO()
    observer = Progress(console=Console(file=stream, width=120, **options), clock=Clock())
    for event in events:
        observer(event)
    observer.close()
    return stream.getvalue()


LOG = {"train/loss": 0.51234, "train/lr": 0.001, "time/step": 0.02, "time/data": 0.005, "throughput/records": 12_345.6}


def test_progress_prints_plain_lines_where_there_is_no_terminal(tmp_path):
    happen = Happenings(tmp_path)
    text = shown(
        [
            happen("start", 0),
            happen("log", 50, {**LOG, "train/time/loss": 0.01}),
            happen("evaluate", 50, {"valid/loss": 0.4, "valid/accuracy": 0.987, "time/evaluate": 1.5}),
            happen("checkpoint", 50, {"time/checkpoint": 0.1}, path=str(tmp_path / "step-00000050"), best=True),
            happen("epoch", 50, {"time/epoch": 3.0}),
            happen(
                "end",
                100,
                {},
                reason="finished",
                why="100 steps are done",
                last="last/path",
                best="best/path",
                go_on="not told",
            ),
        ]
    )
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == f"tried in {tmp_path}"
    assert "Net, 12.3k parameters, 12k of them trained on cpu, float32" in lines[1]
    assert "AdamW with LambdaLR" in lines[2]
    assert "ema > clip_norm" in lines[3]
    assert lines[5] == (
        "step  50/100  50 %  epoch 2.00  loss 0.5123  lr 0.001  12.3k records/s  20 ms/step  data 25 %  left 10 s"
    )
    assert lines[6] == "step  50/100  valid: loss 0.4  accuracy 0.987  (1.5 s)"
    assert lines[7] == "step  50/100  checkpoint step-00000050  (best so far)"
    assert lines[8].startswith("finished at step 100 after 20 s: 100 steps are done")
    assert "best/path" in text
    assert "not told" not in text  # a run that is finished needs no advice


def test_progress_tells_a_resume_and_how_to_go_on(tmp_path):
    happen = Happenings(tmp_path)
    resumed = {
        "step": 40,
        "path": "runs/a/checkpoints/step-00000040",
        "restored": ["program", "random"],
        "notes": ["numpy was 1"],
    }
    text = shown(
        [
            happen("checkpoint", 40, {}, path="runs/a/checkpoints/step-00000040"),  # a run tells this before the start
            happen("start", 40, resumed=resumed),
            happen(
                "end",
                60,
                {},
                reason="interrupted",
                why="SIGINT",
                last="p",
                go_on="mapsto train --resume runs/a",
                detached={"x": "E: y"},
            ),
        ]
    )
    assert "resumed     step 40 from runs/a/checkpoints/step-00000040: program, random" in text
    assert "numpy was 1" in text
    assert "interrupted at step 60 after 10 s: SIGINT" in text
    assert "go on with: mapsto train --resume runs/a" in text
    assert "observer x was detached: E: y" in text


def test_progress_says_how_to_go_on_after_a_failure_only_where_something_was_saved(tmp_path):
    happen = Happenings(tmp_path)
    assert f"go on with: mapsto train --resume {tmp_path}" in shown([happen("end", 5, {}, reason="failed", why="E", last="p")])
    assert "go on" not in shown([happen("end", 5, {}, reason="failed", why="E", last=None)])


def test_progress_draws_a_bar_on_a_terminal_and_takes_it_away(tmp_path, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    happen = Happenings(tmp_path)
    events = [happen("start", 0), happen("log", 50, LOG), happen("end", 100, {}, reason="finished")]
    text = shown(events, force_terminal=True)
    assert "━" in text
    assert "50/100" in text
    assert text.rstrip().splitlines()[-1].startswith("finished") or "finished at step 100" in text
    assert "\x1b[?25h" in text  # the cursor is shown again


@pytest.mark.parametrize(("name", "value"), [("CI", "1"), ("TERM", "dumb")])
def test_progress_is_plain_where_the_environment_says_so(monkeypatch, name, value):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True)
    assert is_interactive(console)
    monkeypatch.setenv(name, value)
    assert not is_interactive(console)


def test_metrics_that_look_like_markup_are_printed_as_they_are(tmp_path):
    happen = Happenings(tmp_path)
    assert "[red]x[/red] 1" in shown([happen("log", 1, {"train/[red]x[/red]": 1.0})])


def test_progress_starts_no_thread(tmp_path):
    import threading

    before = threading.active_count()
    observer = Progress(console=Console(file=io.StringIO(), force_terminal=True), live=True)
    observer(Happenings(tmp_path)("start", 0))
    assert threading.active_count() == before
    observer.close()


# -- profile -----------------------------------------------------------------------------------------------------------
def test_the_parts_of_a_step_add_up_to_it():
    metrics = {"time/step": 0.1, "time/data": 0.02, "train/time/loss": 0.03, "train/time/grad": 0.02, "train/time/update": 0.01}
    assert time_split(metrics) == pytest.approx({"data": 0.02, "loss": 0.03, "grad": 0.02, "update": 0.01, "other": 0.02})
    slow = {**metrics, "train/time/loss": 0.3}  # a sampled step slower than the mean of all steps
    split = time_split(slow)
    assert sum(split.values()) == pytest.approx(0.1)
    assert split["loss"] / split["grad"] == pytest.approx(15)
    assert time_split({"time/step": 0.1, "time/data": 0.2}) == {"data": 0.1, "loss": 0, "grad": 0, "update": 0, "other": 0}
    assert time_split({"time/data": 0.1}) == {}


def test_a_log_without_a_sampled_step_keeps_the_sample_before():
    logs = [(1, {"time/step": 0.1, "train/time/grad": 0.05}), (2, {"time/step": 0.2}), (3, {})]
    assert [(step, split["grad"]) for step, split in time_splits(logs)] == [(1, 0.05), (2, 0.05), (3, 0.05)][:2]


def test_profile_averages_over_steps_and_a_resume(tmp_path):
    logs = [(10, {"time/step": 0.1, "time/data": 0.05}), (40, {"time/step": 0.2, "time/data": 0.01}), (50, {"time/step": 0.4})]
    said: list[str] = []
    happen = Happenings(tmp_path)
    first, second = Profile(echo=None), Profile(echo=said.append)
    first(happen("start", 0))
    for step, metrics in logs[:2]:
        first(happen("log", step, metrics))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second(happen("start", 40))
    second(happen("log", *logs[2]))
    second(happen("evaluate", 50, {"time/evaluate": 2.0}))
    second(happen("end", 50))
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["steps"] == 50
    assert sum(found["seconds_per_step"].values()) == pytest.approx((10 * 0.1 + 30 * 0.2 + 10 * 0.4) / 50)
    assert found["seconds_per_step"]["data"] == pytest.approx((10 * 0.05 + 30 * 0.01) / 50)
    assert sum(found["share"].values()) == pytest.approx(1)
    assert set(found["share"]) == set(PARTS)
    assert found["seconds_between_steps"] == {"evaluate": 2.0}
    assert "add the middleware 'timing'" in said[0]


def test_profile_of_a_run(tmp_path):
    fit(numpy_spec(observers=[{"use": "profile"}]), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert found["steps"] == 13
    assert found["detailed"] is False
    assert set(found["seconds_between_steps"]) == {"evaluate", "checkpoint"}


# -- TensorBoard -------------------------------------------------------------------------------------------------------
def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by tag, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def written(folder, *names) -> dict[str, list[tuple[int, float]]]:
    """The same from metrics.jsonl, in the precision of event files."""
    import numpy as np

    found: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["name"] != "end":
            for name, value in record["metrics"].items():
                found.setdefault(name, []).append((record["step"], float(np.float32(value))))
    return found


def test_tensorboard_reads_back_what_the_run_wrote(tmp_path):
    pytest.importorskip("tensorboard")
    fit(numpy_spec(observers=["tensorboard"]), tmp_path / "run")
    found = scalars(tmp_path / "run" / "tensorboard")
    assert {"train/loss", "train/lr", "valid/loss", "valid/accuracy", "time/step"} <= set(found)
    assert found == written(tmp_path / "run")


def test_tensorboard_shows_no_step_twice_after_a_resume(tmp_path):
    """The first session is ahead of the checkpoint that the second goes on from, as after a kill."""
    pytest.importorskip("tensorboard")
    spec = numpy_spec(observers=["tensorboard"], checkpoint={"every": 3, "keep": None, "best": 0})
    folder = tmp_path / "run"
    fit(spec, folder)
    ahead = scalars(folder / "tensorboard")
    assert ahead["train/loss"][-1][0] == 13
    Run.resume(folder, checkpoint=6).fit()
    found = scalars(folder / "tensorboard")
    assert [step for step, _ in found["train/loss"]] == [4, 8, 12, 13]
    assert found["train/loss"] == ahead["train/loss"]  # the same trajectory
    for tag, points in found.items():
        assert len({step for step, _ in points}) == len(points), tag
    assert {t: p for t, p in found.items() if not t.startswith(("time/", "throughput/", "memory/"))} == {
        t: p for t, p in written(folder).items() if not t.startswith(("time/", "throughput/", "memory/"))
    }


def test_tensorboard_reads_past_a_torn_record(tmp_path):
    pytest.importorskip("tensorboard")
    happen = Happenings(tmp_path)
    first = TensorBoard()
    for event in (
        happen("start", 0),
        happen("log", 1, {"a": 1.0}),
        happen("log", 2, {"a": math.nan}),
        happen("log", 3, {"a": 3.0}),
    ):
        first(event)
    first.close()
    file = next((tmp_path / "tensorboard").iterdir())
    file.write_bytes(file.read_bytes()[:-7])  # killed while it wrote
    second = TensorBoard()
    for event in (happen("start", 1), happen("log", 2, {"a": 2.0})):
        second(event)
    second.close()
    assert scalars(tmp_path / "tensorboard") == {"a": [(1, 1.0), (2, 2.0)]}


def test_tensorboard_holds_the_spec_as_text(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    observer = TensorBoard(str(tmp_path / "elsewhere"))
    observer(Happenings(tmp_path)("start", 0))
    observer.close()
    accumulator = EventAccumulator(str(tmp_path / "elsewhere"))
    accumulator.Reload()
    text = accumulator.Tensors("spec")[0].tensor_proto.string_val[0].decode()
    assert "package:model" in text


# -- trackers that are not installed here: against doubles of the calls that are used ---------------------------------
class Recorder:
    """Takes any call and keeps it; `results` gives what some of them return."""

    def __init__(self, **results) -> None:
        self.calls: list[tuple[str, tuple, dict]] = []
        self.results = results

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **options):
            self.calls.append((name, args, options))
            return self.results.get(name)

        return call

    def named(self, name):
        return [(args, options) for called, args, options in self.calls if called == name]


@pytest.fixture
def wandb(monkeypatch):
    run = Recorder()
    run.id, run.summary = "abc", {}
    module = Recorder(init=run)
    module.run = run
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_logs_by_step_and_ends_with_its_reason(tmp_path, wandb):
    happen = Happenings(tmp_path)
    observer = WeightsAndBiases("project", mode="offline", tags=["a"])
    for event in (
        happen("start", 0),
        happen("log", 5, {"train/loss": 1.0}),
        happen("end", 9, {"train/loss": 0.5}, reason="stopped"),
    ):
        observer(event)
    observer.close()
    ((_, options),) = wandb.named("init")
    assert (options["project"], options["mode"], options["name"], options["dir"]) == (
        "project",
        "offline",
        "tried",
        str(tmp_path),
    )
    assert options["resume"] is None
    assert options["config"]["spec"]["model"] == {"use": "package:model"}
    assert wandb.run.named("log") == [(({"train/loss": 1.0},), {"step": 5})]
    assert wandb.run.summary == {"reason": "stopped", "train/loss": 0.5}
    assert wandb.run.named("finish") == [((), {"exit_code": 0})]


def test_wandb_goes_on_under_its_id_and_tells_a_run_that_broke_off(tmp_path, wandb):
    happen = Happenings(tmp_path)
    first, second = WeightsAndBiases(), WeightsAndBiases()
    first(happen("start", 0))
    first.close()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second(happen("start", 4))
    assert wandb.run.named("finish") == [((), {"exit_code": 1})]
    assert [(o["id"], o["resume"]) for _, o in wandb.named("init")] == [(None, None), ("abc", "allow")]


@pytest.fixture
def mlflow(monkeypatch):
    info = types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))
    client = Recorder(get_experiment_by_name=None, create_experiment="7", create_run=info)
    module = types.ModuleType("mlflow")
    module.MlflowClient = lambda tracking_uri: client
    entities = types.ModuleType("mlflow.entities")
    entities.Metric = lambda *fields: fields
    entities.Param = lambda key, value: (key, value)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return client


def test_mlflow_logs_parameters_once_and_metrics_by_step(tmp_path, mlflow):
    happen = Happenings(tmp_path, observers=[{"use": "x:y", **{f"option{i}": i for i in range(150)}}])
    first, second = MLflow(), MLflow()
    first(happen("start", 0))
    first(happen("log", 5, {"train/loss": 1.0}))
    first.close()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for event in (happen("start", 5), happen("log", 6, {"train/loss": 0.5}), happen("end", 9, {}, reason="interrupted")):
        second(event)
    assert mlflow.named("create_run") == [(("7",), {"run_name": "tried"})]
    batches = [o for _, o in mlflow.named("log_batch")]
    parameters = [p for b in batches for p in b.get("params", ())]
    assert max(len(b.get("params", ())) for b in batches) == 100
    assert ("model.use", "package:model") in parameters
    assert len(dict(parameters)) == len(parameters) > 150
    metrics = [(m[0], m[1], m[3]) for b in batches for m in b.get("metrics", ())]
    assert metrics == [("train/loss", 1.0, 5), ("train/loss", 0.5, 6)]
    assert mlflow.named("update_run") == [(("r1",), {"status": "RUNNING"})]
    assert mlflow.named("set_terminated") == [(("r1",), {"status": "FAILED"}), (("r1",), {"status": "KILLED"})]


def test_flat_paths_of_nested_data():
    assert dict(flat({"a": {"b": 1}, "c": [2, {"d": None}]})) == {"a.b": 1, "c.0": 2, "c.1.d": None}


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [(WeightsAndBiases, "wandb", "wandb"), (MLflow, "mlflow", "mlflow"), (TensorBoard, "tensorboard", "tensorboard")],
)
def test_what_is_not_installed_is_named_with_its_remedy(monkeypatch, make, module, extra):
    for name in [m for m in sys.modules if m.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Blocks(module), *sys.meta_path])
    with pytest.raises(MissingExtra, match=rf"observer '{module}' needs '{module}'.*pip install 'mapsto\[{extra}\]'"):
        make()


class Blocks:
    """A finder for which one package is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# -- all together ------------------------------------------------------------------------------------------------------
def test_with_all_observers_the_weights_are_bitwise_those_without(tmp_path):
    pytest.importorskip("tensorboard")
    console = Console(file=io.StringIO())
    watching = [Progress(console=console), TensorBoard(), Profile(echo=None), EarlyStopping(patience=9)]
    _, result = fit(numpy_spec(), tmp_path / "watched", observers=watching)
    fit(numpy_spec(), tmp_path / "alone")
    assert result.detached == {}
    programs = [bits(saved(tmp_path / name, 13)["program"]) for name in ("watched", "alone")]
    assert programs[0] == programs[1]
    fit(numpy_spec(seed=4), tmp_path / "other")
    assert bits(saved(tmp_path / "other", 13)["program"]) != programs[1]


def test_what_is_missing_is_told_before_the_run_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [Blocks("wandb"), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install 'mapsto\[wandb\]'"):
        fit(numpy_spec(observers=["wandb"]), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_examples_of_the_page_on_observers_work(tmp_path, capsys):
    page = Path(__file__).parents[2] / "docs" / "kinds" / "observer.md"
    made: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        exec(block.replace("@mapsto.observer\n", ""), made)
    watching = [functools.partial(made["shout"], above=0.1), made["StopWhenGood"](accuracy=0.1)]
    _, result = fit(numpy_spec(), tmp_path / "run", observers=watching)
    assert result.detached == {}
    assert result.why == "accuracy 0.1 was reached 2 times"
    assert "step 4: the loss is" in capsys.readouterr().out
