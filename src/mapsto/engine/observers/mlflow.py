"""MLflow: metrics and the spec of a run, in a tracking server, a database or a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from ...core.doors import typed
from ...core.errors import require
from ...core.registry import decorator
from ..events import Event

observer = decorator("observer")
STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED", "aborted": "KILLED"}


@observer("mlflow")
class MLflow:
    """Logs every metric of a run by step, the spec as its parameters, and how it ended.

    tracking_uri: such as `sqlite:///mlflow.db` or a server (None: what MLflow itself is set to). A resumed run goes on
    under the same id. MLflow's own active run is left alone. Raises MissingExtra where mlflow is not installed.
    """

    @typed
    def __init__(self, experiment: str = "mapsto", *, name: str | None = None, tracking_uri: str | None = None) -> None:
        self._mlflow = require("mlflow", "mlflow", "observer 'mlflow'")
        self._entities = require("mlflow.entities", "mlflow", "observer 'mlflow'")
        self.experiment, self.name, self.tracking_uri = experiment, name, tracking_uri
        self.id: str | None = None
        self._client: Any = None

    def __call__(self, event: Event) -> None:
        if self._client is None:
            self._open(event)
        if event.name == "end":
            self._end(STATUS.get(str(event.detail.get("reason", "finished")), "FAILED"))
        elif event.metrics:
            now = int(time.time() * 1000)
            metrics = [self._entities.Metric(name, float(value), now, event.step) for name, value in event.metrics.items()]
            self._client.log_batch(self.id, metrics=metrics)

    def _open(self, event: Event) -> None:
        self._client = self._mlflow.MlflowClient(tracking_uri=self.tracking_uri)
        if self.id is not None:
            self._client.update_run(self.id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(self.experiment)
        self.id = self._client.create_run(experiment, run_name=self.name or event.run.spec.name).info.run_id
        parameters = [self._entities.Param(key, str(value)[:500]) for key, value in flat(event.run.spec.to_data(live=True))]
        for first in range(0, len(parameters), 100):  # no more are taken at a time
            self._client.log_batch(self.id, params=parameters[first : first + 100])

    def _end(self, status: str) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.set_terminated(self.id, status=status)

    def state_dict(self) -> dict[str, Any]:
        """The id of the run."""
        return {"id": self.id}

    def load_state_dict(self, data: Mapping[str, Any]) -> None:
        """Go on writing into the MLflow run of that id."""
        self.id = data["id"]

    def close(self) -> None:
        """Terminate a run that did not tell its end."""
        self._end("FAILED")


def flat(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested plain data as (dotted path, leaf) pairs."""
    items: Any = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, (list, tuple)) else None
    if items is None:
        yield path, data
        return
    for key, value in items:
        yield from flat(value, f"{path}.{key}" if path else str(key))
