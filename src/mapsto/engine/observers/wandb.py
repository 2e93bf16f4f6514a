"""Weights & Biases: metrics and the spec of a run, online or offline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ...core.doors import typed
from ...core.errors import require
from ...core.registry import decorator
from ..events import Event

observer = decorator("observer")


@observer("wandb")
class WeightsAndBiases:
    """Logs every metric of a run by step, the spec as its config, and how it ended.

    mode: `offline` writes to the run folder alone (`wandb sync` sends it later), `online` sends, `disabled` does nothing
    (None: what the environment variable WANDB_MODE says). A resumed run goes on under the same id.
    Raises MissingExtra where wandb is not installed.
    """

    @typed
    def __init__(
        self,
        project: str = "mapsto",
        *,
        name: str | None = None,
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        tags: list[str] | None = None,
        group: str | None = None,
    ) -> None:
        self._wandb = require("wandb", "wandb", "observer 'wandb'")
        self.options = {"project": project, "entity": entity, "mode": mode, "group": group, "tags": tags and list(tags)}
        self.name = name
        self.id: str | None = None
        self._run: Any = None

    def __call__(self, event: Event) -> None:
        if self._run is None:
            self._open(event)
        if event.name == "end":
            self._end(event)
        elif event.metrics:
            self._run.log(dict(event.metrics), step=event.step)

    def _open(self, event: Event) -> None:
        run = event.run
        self._run = self._wandb.init(
            **self.options,
            name=self.name or run.spec.name,
            id=self.id,
            resume="allow" if self.id else None,
            dir=str(run.folder),
            config={"spec": run.spec.to_data(live=True), **dict(run.summary)},
        )
        self.id = self._run.id

    def _end(self, event: Event) -> None:
        reason = str(event.detail.get("reason", "finished"))
        self._run.summary.update({"reason": reason, **event.metrics})
        self._finish(0 if reason in ("finished", "stopped") else 1)

    def _finish(self, code: int) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=code)

    def state_dict(self) -> dict[str, Any]:
        """The id of the run."""
        return {"id": self.id}

    def load_state_dict(self, data: Mapping[str, Any]) -> None:
        """Go on writing into the Weights & Biases run of that id."""
        self.id = data["id"]

    def close(self) -> None:
        """Finish a run that did not tell its end."""
        self._finish(1)
