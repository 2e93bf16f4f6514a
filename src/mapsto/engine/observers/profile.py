"""Profile: where the time of a step goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...core.json_text import write_json
from ...core.registry import decorator
from ..events import Event
from ..figures import share, short_time

observer = decorator("observer")

PARTS = ("data", "loss", "grad", "update", "other")
"""Waiting for data; the loss (forward); the gradient without it (backward); the optimizer's update; all the rest."""


def time_split(metrics: Mapping[str, float]) -> dict[str, float]:
    """Seconds a step by part, which add up to `time/step`; empty where that was not measured.

    `time/data` and `time/step` come from the loop; loss, grad and update from the middleware `timing`, without which
    there are only `data` and `other`. The middleware measures some steps and the loop all, so where its parts exceed what
    the loop leaves them they are scaled to it.
    """
    if not (step := metrics.get("time/step", 0.0)) > 0:
        return {}
    found = {name: _measured(metrics, name) for name in ("data", "loss", "grad", "update")}
    data = min(found["data"] or 0.0, step)
    loss, grad, update = (found[name] or 0.0 for name in ("loss", "grad", "update"))
    parts = {"loss": loss, "grad": grad, "update": update}
    scale = min(1.0, (step - data) / total) if (total := sum(parts.values())) else 1.0
    parts = {name: value * scale for name, value in parts.items()}
    return {"data": data, **parts, "other": max(step - data - sum(parts.values()), 0.0)}


def time_splits(logs: Iterable[tuple[int, Mapping[str, float]]]) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, split) of each log (step, metrics) that has one; a log in which no step was sampled keeps the sample before."""
    sampled: dict[str, float] = {}
    for step, metrics in logs:
        sampled |= {name: value for name, value in metrics.items() if name.startswith("train/time/")}
        if split := time_split({**sampled, **metrics}):
            yield step, split


def _measured(metrics: Mapping[str, float], name: str) -> float | None:
    value = metrics.get(f"train/time/{name}", metrics.get(f"time/{name}"))
    return None if value is None or value != value else max(value, 0.0)


@observer("profile")
class Profile:
    """Adds up where the time of the steps went; writes `profile.json` into the run folder and prints a table at the end.

    Seconds a step are averaged over all steps, those before a resume included. What is needed for loss, grad and update
    is the middleware `timing`. echo: what prints the lines (None: nothing is printed).
    """

    def __init__(self, *, echo: Any = print) -> None:
        self.echo = echo
        self.steps = 0
        self.seconds: dict[str, float] = {}
        self.between: dict[str, float] = {}
        self.detailed = False
        self._sampled: dict[str, float] = {}
        self._seen = 0

    def __call__(self, event: Event) -> None:
        if event.name == "start":
            self._seen = event.step
        elif event.name == "log":
            self._log(event)
        elif event.name in ("evaluate", "checkpoint"):
            took = event.metrics.get(f"time/{event.name}", 0.0)
            self.between[event.name] = self.between.get(event.name, 0.0) + took
        elif event.name == "end" and self.steps:
            (event.run.folder / "profile.json").write_text(write_json(self.summary(), indent=1) + "\n", encoding="utf-8")
            if self.echo is not None:
                self.echo(table(self.summary()))

    def _log(self, event: Event) -> None:
        taken, self._seen = event.step - self._seen, event.step
        self.detailed = self.detailed or _measured(event.metrics, "grad") is not None
        self._sampled |= {name: value for name, value in event.metrics.items() if name.startswith("train/time/")}
        split = time_split({**self._sampled, **event.metrics})
        if taken > 0 and split:
            self.steps += taken
            for name, value in split.items():
                self.seconds[name] = self.seconds.get(name, 0.0) + value * taken

    def summary(self) -> dict[str, Any]:
        """Means over the steps in seconds, their shares, and the seconds spent between steps."""
        whole = sum(self.seconds.values())
        return {
            "steps": self.steps,
            "seconds_per_step": {name: self.seconds[name] / self.steps for name in PARTS} if self.steps else {},
            "share": {name: self.seconds[name] / whole for name in PARTS} if whole else {},
            "seconds_between_steps": dict(self.between),
            "detailed": self.detailed,
        }

    def state_dict(self) -> dict[str, Any]:
        """The seconds of each phase, summed so far, for a checkpoint."""
        return {"steps": self.steps, "seconds": dict(self.seconds), "between": dict(self.between), "detailed": self.detailed}

    def load_state_dict(self, data: Mapping[str, Any]) -> None:
        """Go on adding to the sums that a checkpoint holds."""
        self.steps, self.detailed = data["steps"], data["detailed"]
        self.seconds, self.between = dict(data["seconds"]), dict(data["between"])


def table(summary: Mapping[str, Any]) -> str:
    """A profile as lines of text, with what it suggests."""
    means, shares = summary["seconds_per_step"], summary["share"]
    shown = [name for name in PARTS if summary["detailed"] or name in ("data", "other")]
    lines = [f"where the time of {summary['steps']:,} steps went ({short_time(sum(means.values()))} a step)"]
    for name in shown:
        label = "step" if name == "other" and not summary["detailed"] else name
        lines.append(f"  {label:<7} {short_time(means[name]):>9}  {share(shares[name]):>6}  {'#' * round(shares[name] * 40)}")
    lines += [f"  {name} between steps: {seconds:.1f} s in all" for name, seconds in summary["seconds_between_steps"].items()]
    if shares["data"] > 0.2:
        lines.append("  the step waits for data: give the reader workers or prefetch, or make its transforms cheaper")
    if not summary["detailed"]:
        lines.append("  add the middleware 'timing' to tell loss, grad and update apart")
    return "\n".join(lines)
