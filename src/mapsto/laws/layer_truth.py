"""Laws of what the author of a layer or model states of its values: a reference, and relations between its calls."""

from __future__ import annotations

from typing import Any

from ..core.calls import called, defaults_of
from ..core.laws import Laws, NotApplicable, Trial, Undecided
from ..core.random import derive
from .compare import differs
from .drivers import LayerDriver
from .search import searched
from .truth import agrees, drawn_or_hard, holds, in_float32, options, stated, varied

laws = Laws("layer", "model", driver=LayerDriver)

SIZES = (3, 1, 2, 7)


@laws.law(
    "L15",
    "reference",
    priority=0,
    tolerance="T5",
    why="A layer with right gradients, shapes and state may compute another formula, and nothing else can tell.",
    satisfy="State it once more in NumPy: mapsto.example(it, reference=lambda x, state, eps: ...), in other words.",
    catches=("Liger-Kernel#74", "how-to-train-your-gpt#6", "an epsilon outside of the root", "heads split the wrong way"),
)
@searched
def reference(trial: Trial) -> None:
    """Outputs equal those of the stated `reference` in float64: drawn and hard inputs, several sizes, plausible options."""
    driver: LayerDriver = trial.driver
    driver.settle(trial)
    truth = stated(trial, trial.example.more.get("reference"), "reference")
    sizes = [n for n in SIZES if n in trial.example.dynamic] or list(trial.example.dynamic[:1])
    seen: list[Any] = []
    for more, demanded in options(trial, truth):
        with varied(trial, more) as args:
            for size in sizes if not more else sizes[:1]:
                try:
                    driver.exact(trial, size)
                    layer, given = driver.used(trial, size, "float64")
                except (NotApplicable, Undecided):
                    raise
                except Exception:
                    if demanded:
                        raise
                    break  # options that do not go together
                state, named = driver.state(layer), defaults_of(trial.subject.target, args)
                for name, inputs in drawn_or_hard(trial, given, size):
                    try:
                        due = called(truth, inputs, state=state, **named)
                        got = driver.call(layer, inputs, derive(trial.seed, "reference"))
                    except Exception:
                        if name == "as drawn":
                            raise
                        continue  # outside of the domain of one of them

                    def rough(inputs: Any = inputs, state: Any = state, named: Any = named) -> Any:
                        return called(truth, in_float32(inputs), state=in_float32(state), **named)

                    agrees(trial, got, due, rough=rough)
                    seen.append(got)
    trial.control("other inputs give other outputs", any(differs(s, seen[0]) for s in seen))


@laws.law(
    "L16",
    "relations",
    priority=0,
    tolerance="T5",
    why="What a layer is for is often a symmetry; broken, it trains all the same, and answers by the order of its input.",
    satisfy="Break none of the relations that it states: mapsto.example(it, relations=(equivariant_under(permuted(1)),)).",
    catches=("pytorch_geometric#57", "GraphGPS#40", "se3-transformer-public#3", "deepchem#420"),
)
@searched
def relations(trial: Trial) -> None:
    """The stated `relations` (mapsto.laws.relations) hold in float64, on drawn and on hard inputs."""
    driver: LayerDriver = trial.driver
    driver.settle(trial)
    size = next((n for n in SIZES if n in trial.example.dynamic), trial.example.dynamic[0])
    for relation in stated(trial, trial.example.more.get("relations"), "relations"):
        driver.exact(trial, size)
        layer, given = driver.used(trial, size, "float64")

        def outputs(x: Any, layer: Any = layer) -> Any:
            return driver.call(layer, tuple(x), derive(trial.seed, "relation"))

        holds(trial, relation, outputs, given, size)
