"""Events without a run, for what watches one."""

from __future__ import annotations

from mapsto import Spec
from mapsto.engine.events import Event, RunView


class Happenings:
    """Makes events of one run and keeps the reasons for which it was asked to stop."""

    def __init__(self, folder, total_steps: int = 100, **fields) -> None:
        self.stops: list[str] = []
        spec = Spec(**{"model": "package:model", "data": {"train": {"source": "arrays"}}, "name": "tried", **fields})
        summary = {
            "model": "Net",
            "parameters": 12_345,
            "trainable": 12_000,
            "dtypes": ["float32"],
            "device": "cpu",
            "optimizer": "AdamW",
            "schedule": "LambdaLR",
            "middleware": ["ema", "clip_norm"],
        }
        self.view = RunView(
            folder=folder,
            spec=spec,
            total_steps=total_steps,
            steps_per_epoch=25,
            summary=summary,
            weights=dict,
            ask_to_stop=self.stops.append,
        )

    def __call__(self, name: str, step: int, metrics=None, **detail) -> Event:
        return Event(name, step, step / 25, metrics or {}, self.view, detail)
