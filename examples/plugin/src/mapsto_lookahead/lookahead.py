"""Lookahead: a middleware that wraps `update`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import mapsto
from mapsto.torch import State
from mapsto.torch.mesh.one import local

Update = Callable[[State, dict[str, Any]], dict[str, Any]]


# A program evaluates with one set of weights, so this and `ema` cannot stand in one plan: `provides` makes that an error
# that names both, when the program is built.
@mapsto.middleware("lookahead", provides="averaged_weights", before=("clip_norm", "clip_value", "gradient_noise"))
class Lookahead:
    """update -> update: after every `steps` of them slow <- slow + pull (fast - slow), and the fast weights start anew there.

    Evaluation runs with the slow weights; the optimizer's own state is kept (Zhang et al. 2019, algorithm 1). Raises SpecError.
    """

    def __init__(self, steps: int = 5, *, pull: float = 0.5) -> None:
        if steps < 1 or not 0 < pull <= 1:
            raise mapsto.SpecError(f"lookahead: wanted steps >= 1 and 0 < pull <= 1, got {steps} and {pull}")
        self.steps, self.pull = steps, pull

    def begin(self, state: State) -> None:
        """The slow weights start as the initial ones."""
        self.fast = dict(zip(state.names, (p.detach() for p in state.parameters), strict=True))
        self.slow = {name: weight.clone() for name, weight in self.fast.items()}

    def update(self, inner: Update) -> Update:
        """Around `update`, since that is what changes the weights."""

        def update(state: State, metrics: dict[str, Any]) -> dict[str, Any]:
            metrics = inner(state, metrics)
            if (state.step + 1) % self.steps == 0:  # state.step goes into checkpoints, so no count of one's own is needed
                slow, fast = _here(self.slow), _here(self.fast)
                torch._foreach_lerp_(slow, fast, self.pull)
                torch._foreach_copy_(fast, slow)
            return metrics

        return update

    @contextmanager
    def evaluation_weights(self, state: State) -> Iterator[None]:  # noqa: ARG002  # the signature that this method has
        """Within it the model holds the slow weights; the fast ones are put back whatever happens."""
        fast = _here(self.fast)
        kept = [weight.clone() for weight in fast]
        torch._foreach_copy_(fast, _here(self.slow))
        try:
            yield
        finally:
            torch._foreach_copy_(fast, kept)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The slow weights, by name; checkpoints hold the fast ones as the model's own."""
        return {"slow": dict(self.slow)}

    def load_state_dict(self, tree: dict[str, dict[str, Tensor]]) -> None:
        """Put them back."""
        if tree.keys() != {"slow"} or tree["slow"].keys() != self.slow.keys():
            found = {name: list(part) for name, part in tree.items()}
            raise mapsto.CheckpointError(f"lookahead: the checkpoint holds {found}, not the slow {list(self.slow)}")
        for name, weight in self.slow.items():
            weight.copy_(tree["slow"][name])


def _here(weights: dict[str, Tensor]) -> list[Tensor]:
    """The parts that lie on this rank: what is done element by element is the same on any mesh."""
    return [local(weight) for weight in weights.values()]


# what `mapsto check` tries it with: slow weights that move within its few steps; with a pull of 1 they are the fast ones
mapsto.example(Lookahead, args={"steps": 2}, neutral={"pull": 1.0})
