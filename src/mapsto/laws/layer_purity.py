"""The law of what a pass of a layer leaves as it was: its inputs, itself, settings, random streams."""

from __future__ import annotations

from typing import Any

from ..core.law_wings import law_wings
from ..core.laws import Laws, Trial
from ..core.random import derive
from ..data.laws import streams
from .compare import same
from .drivers import LayerDriver

laws = Laws("layer", "model", driver=LayerDriver)


@laws.law(
    "L3",
    "purity",
    priority=0,
    tolerance="T0",
    why="Inputs that change under their owner, random numbers drawn in evaluation and settings left behind make "
    "other code wrong.",
    satisfy="Copy before writing (or state tags={'in_place'}); draw only in training (or state `stochastic`); put "
    "settings back.",
    catches=("pytorch#118959", "a layer that calls torch.manual_seed", "a sampler that draws in evaluation"),
)
def purity(trial: Trial) -> None:
    """A pass leaves inputs, mode, settings and (in evaluation) random streams, parameters and buffers as they were."""
    for training in (False, True):
        with trial.case(size=2, dtype="float32", mode="training" if training else "evaluation"), streams.kept():
            streams.seed(derive(trial.seed, "a state that nobody sets"))  # a layer that sets seed 0 would go unseen after 0
            _one_pure_pass(trial, training)


def _one_pure_pass(trial: Trial, training: bool) -> None:
    driver: LayerDriver = trial.driver
    layer, given = driver.build(trial, training=training), driver.inputs(trial, 2)
    before, settings, drawn = driver.snapshot(layer), _settings(), streams.states()
    try:
        with trial.component("a pass, forward and backward,"):
            passed, wrote = driver.bare(layer, given, trial.seed)
        moved = [name for name, state in streams.states().items() if state != drawn[name]]
        after, left = driver.snapshot(layer), _settings()
    finally:
        for wing, own in zip(law_wings(default=False), settings, strict=True):
            wing.put_back(own)
    if not trial.has("in_place"):
        trial.demand(not wrote, f"it wrote into its inputs ({', '.join(wrote)})", first={"tensor": min(wrote, default="")},
                     cause="an in-place operation on an input", measured=f"{len(wrote)} inputs", allowed="none")  # fmt: skip
        same(trial, "inputs after the pass", passed, given, cause="the input's memory was written")
    _streams_left(trial, given, moved, training)
    for part in before.keys() - {"buffers"}:
        same(trial, f"{part} after the pass", after[part], before[part], cause=f"the pass changed {part}")
    same(trial, "settings after the pass", left, settings, cause="the pass changed settings")
    if not training and not trial.has("stateful"):
        scratch = (after["buffers"].keys() - before["buffers"].keys()) & set(driver.unsaved(layer))  # a cache that was empty
        kept = {n: b for n, b in after["buffers"].items() if n not in scratch}
        same(trial, "buffers after evaluating", kept, before["buffers"],
             cause="a statistic that is updated in evaluation too; state tags={'stateful'} where this is meant")  # fmt: skip


def _settings() -> list[dict[str, Any]]:
    """The global settings of each framework that is loaded."""
    return [wing.globals() for wing in law_wings(default=False)]


def _streams_left(trial: Trial, given: tuple[Any, ...], moved: list[str], training: bool) -> None:
    """It drew from the framework's streams in training alone, from others nowhere, and set no seed."""
    own = [name for name in moved if name in streams.of_frameworks()]
    drew = [] if trial.has("stochastic") else sorted(set(moved) - set(own)) if training else moved
    mode = "training" if training else "evaluation"
    trial.demand(not drew, f"in {mode} it draws from a global random stream: {', '.join(drew)}",
                 first={"stream": drew[0] if drew else ""}, cause="an extra draw, or a seed that was set")  # fmt: skip
    if training and own and not trial.has("stochastic"):
        _no_seeding(trial, given, own)


def _no_seeding(trial: Trial, given: tuple[Any, ...], own: list[str]) -> None:
    """Two passes from different seeds must leave the framework's streams in different states: else the layer seeds them."""
    driver: LayerDriver = trial.driver
    ends = []
    with streams.kept():
        for seed in (1, 2):
            layer = driver.build(trial, training=True)
            streams.seed(seed)
            if not driver.draws(layer, given):
                return
            ends.append({name: streams.states()[name] for name in own})
    said = f"it leaves the random stream in the same state whatever the seed was: {', '.join(own)}"
    trial.demand(ends[0] != ends[1], said, first={"stream": own[0]}, cause="the layer sets a seed")
